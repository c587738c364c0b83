"""What dictionaries with other atoms, decoders, budgets, priors or discrete codes promise."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import dictionaries, parallel
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import base, formats, registry
from jaxinterp.dictionaries.base import Codes, latents
from jaxinterp.dictionaries.sharding import sharded

D, WIDTH, ROWS = 12, 32, 128
ARCHETYPAL = {"part": "archetypal", "candidates": 40}
# Variant, options, and the variance explained that 150 steps must reach.
CASES = {
    "archetypal topk": ("topk", {"k": 4, "atoms": ARCHETYPAL}, 0.9),
    "archetypal batch_topk": ("batch_topk", {"k": 4, "atoms": ARCHETYPAL}, 0.85),
    "archetypal jumprelu": (
        "jumprelu",
        {"weight": 0.02, "bandwidth": 0.2, "atoms": ARCHETYPAL | {"choose": "sampled"}},
        0.7,
    ),
    "polynomial topk": ("polynomial", {"recipe": "topk", "ranks": [12, 8, 6], "k": 4}, 0.85),
    "polynomial batch_topk": (
        "polynomial",
        {"recipe": "batch_topk", "ranks": [12, 8, 6], "k": 4},
        0.8,
    ),
    "feature_choice": ("feature_choice", {"k": 4, "choose_from": 75}, 0.75),
    "mutual_choice": ("mutual_choice", {"k": 4}, 0.85),
    "variational": (
        "variational",
        {"k": 4, "weight": 1e-4, "spread": {"part": "learned_spread", "first": -4.0}},
        0.85,
    ),
    "variational_mean": ("variational_mean", {"k": 4}, 0.9),
    "structured": (
        "structured",
        {"weight": 0.05, "anneal_from": 20, "anneal_until": 120, "plateaus": 5},
        0.95,
    ),
    "predictive": ("predictive", {"groups": [4, 4, 4]}, 0.99),
    "dependency_sparse": ("dependency_sparse", {"hidden": 24}, 0.8),
    "vector_quantised": ("vector_quantised", {"books": 4}, 0.5),
    "latent_quantised": ("latent_quantised", {"levels": 4}, 0.9),
    "finite_scalar": ("finite_scalar", {"levels": 4}, 0.9),
    "binary": ("binary", {"code_weight": 0.1}, 0.5),
    "row_normalised": ("row_normalised", {"recipe": "topk", "k": 4}, 0.8),
    "matching_pursuit": ("matching_pursuit", {"k": 4}, 0.9),
    "orthogonal_pursuit": ("orthogonal_pursuit", {"k": 4, "signed": True}, 0.9),
}
# Tests that compile much: the others say it again.
FAST = {"latent_quantised"}
each = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CASES]
)


@cache
def dictionary_of(name):
    variant, options, _ = CASES[name]
    return registry.build(variant, options | {"width": WIDTH})


@cache
def learner_of(name):
    return dictionaries.learner(dictionary_of(name), optax.adam(1e-2))


@cache
def step_of(name):
    return jax.jit(learner_of(name).step)


@cache
def rows(key, n=ROWS):
    """Two of 24 fixed directions at a time, around a mean, with a little noise."""
    directions = base.unit_rows(jax.random.normal(jax.random.key(42), (24, D)))
    which, size, noise = jax.random.split(jax.random.key(key), 3)
    chosen = jax.lax.top_k(jax.random.uniform(which, (n, 24)), 2)[1]
    x = jnp.einsum("nk,nkd->nd", 1 + jax.random.uniform(size, (n, 2)), directions[chosen])
    return x + 0.5 + 0.02 * jax.random.normal(noise, x.shape)


@cache
def trained(name):
    state, step = jax.jit(learner_of(name).init)(jax.random.key(0), rows(0)), step_of(name)
    for i in range(150):
        state, _ = step(state, rows(1 + i % 10))
    return state


@each
def test_training_explains_held_out_rows(name):
    dictionary, params, x = dictionary_of(name), trained(name).params, rows(99)
    error = x - dictionary.decode(params, dictionary.encode(params, x))
    explained = 1 - jnp.square(error).sum() / jnp.square(x - x.mean(0, keepdims=True)).sum()
    assert float(explained) > CASES[name][2]


@each
def test_codes_of_a_row_are_its_own_in_any_shape(name):
    dictionary, params, x = dictionary_of(name), trained(name).params, rows(5, 12)

    def reconstruct(x):
        return dictionary.decode(params, dictionary.encode(params, x))

    beside_large = reconstruct(x.at[6:].mul(100.0))
    np.testing.assert_allclose(reconstruct(x)[:6], beside_large[:6], atol=1e-5)
    np.testing.assert_allclose(reconstruct(x[0]), reconstruct(x)[0], atol=1e-5)
    cube = reconstruct(x.reshape(3, 4, D))
    np.testing.assert_allclose(cube.reshape(12, D), reconstruct(x), atol=1e-5)


@each
def test_steps_are_finite_at_ties_and_zeros_and_keep_the_constraints(name):
    dictionary, state = dictionary_of(name), trained(name)
    for key, value in dictionary.project(state.params).items():
        np.testing.assert_allclose(value, state.params[key], atol=2e-5, err_msg=key)
    params = dict(state.params)
    for key in {"encoder", "decoder"} & set(params):
        params[key] = params[key].at[:4].set(0.0).at[4:8].set(params[key][8])
    x = jnp.broadcast_to(params["decoder_bias"][None], (ROWS, D)).at[64:].set(1.0)
    after, info = step_of(name)(state._replace(params=params), x)
    for key, value in (after.params | info).items():
        assert bool(jnp.isfinite(value).all()), key


@each
def test_a_file_gives_back_the_same_dictionary(name, tmp_path):
    params = trained(name).params
    variant, options, _ = CASES[name]
    formats.save(tmp_path, variant, options | {"width": WIDTH}, params)
    dictionary, read, _ = formats.load(tmp_path)
    assert set(read) == set(params)
    for key, value in params.items():
        np.testing.assert_array_equal(read[key], value, err_msg=key)
    x = rows(5, 12)
    expected = dictionary_of(name).encode(params, x)
    jax.tree.map(np.testing.assert_array_equal, dictionary.encode(read, x), expected)


@each
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(name, tmp_path):
    def go_on(state, first, last):
        for i in range(first, last):
            state, _ = step_of(name)(state, rows(1 + i % 10))
        return state

    state = trained(name)
    half = go_on(state, 0, 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, half)
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(state)
    a, b = go_on(half, 3, 6), go_on(restored, 3, 6)
    for key, value in a.params.items():
        np.testing.assert_array_equal(value, b.params[key], err_msg=key)
    assert int(b.step) == int(state.step) + 6


@each
def test_a_step_on_eight_devices_is_a_step_on_one(name):
    """Two steps: the second reads what the first has left on the mesh."""
    mesh = parallel.make_mesh("data=2,model=4")
    ours = learner_of(name)
    state = trained(name)
    on_mesh = sharded(ours, mesh)
    placed = dictionaries.sharding.place(state, mesh)
    step = jax.jit(on_mesh.step)
    for i in range(2):
        state, info = step_of(name)(state, rows(i))
        placed, placed_info = step(placed, on_mesh.place(rows(i)))
    for key, value in state.params.items():
        np.testing.assert_allclose(placed.params[key], value, atol=1e-5, err_msg=key)
    np.testing.assert_array_equal(placed.stats.silent, state.stats.silent)
    np.testing.assert_allclose(placed_info["loss"], info["loss"], rtol=1e-5)
    split = {"mixture", "relaxation", "projection", "low_rank", "density", "variance", "decoder"}
    split |= {"values", "encoder"}
    for key in split & set(placed.params):
        assert placed.params[key].addressable_shards[0].data.shape[0] == WIDTH // 4, key


@each
def test_a_compiled_step_is_the_eager_step(name):
    state, x = trained(name), rows(3)
    a, a_info = learner_of(name).step(state, x)
    b, b_info = step_of(name)(state, x)
    for key in a.params:
        np.testing.assert_allclose(a.params[key], b.params[key], atol=1e-5, err_msg=key)
    np.testing.assert_allclose(a_info["loss"], b_info["loss"], rtol=1e-5)


@pytest.mark.slow
def test_sparse_codes_stay_sparse():
    for name in ("archetypal topk", "polynomial topk", "variational"):
        codes = jax.eval_shape(dictionary_of(name).encode, trained(name).params, rows(5, 12))
        assert isinstance(latents(codes), Codes)
