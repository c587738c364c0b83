"""What every autoencoder variant promises, whatever it is made of."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import dictionaries
from jaxinterp.dictionaries import base, formats, registry
from jaxinterp.dictionaries.base import Codes, densify

D, WIDTH, ROWS = 16, 48, 256


class Case(NamedTuple):
    variant: str
    options: dict
    explained: float  # variance explained that 200 steps must reach


CASES = {
    "relu": Case("relu", {"weight": 0.3}, 0.9),
    "relu-hoyer-tied": Case(
        "relu",
        {"weight": 0.05, "penalty": "hoyer", "scores": "tied", "atoms": "unit"},
        0.95,
    ),
    "p_anneal": Case(
        "p_anneal", {"weight": 0.05, "anneal_from": 20, "anneal_until": 180, "plateaus": 5}, 0.95
    ),
    "gated": Case("gated", {"weight": 0.1}, 0.95),
    "jumprelu": Case("jumprelu", {"weight": 0.02, "bandwidth": 0.2}, 0.95),
    "jumprelu-log": Case(
        "jumprelu",
        {
            "weight": 0.1,
            "penalty": {"part": "towards_mean_count", "target": 5},
            "bandwidth": 0.2,
            "threshold": "logarithmic",
            "kernel": "triangle",
            "scores": "uncentred",
            "pre_activation_weight": 1e-4,
        },
        0.95,
    ),
    "topk": Case("topk", {"k": 4}, 0.84),
    "topk-mlp": Case("topk", {"k": 4, "scores": {"part": "mlp", "hidden": 64}}, 0.87),
    "abs_topk": Case("abs_topk", {"k": 4}, 0.81),
    "multi_topk": Case("multi_topk", {"k": 4}, 0.84),
    "decaying_topk": Case("decaying_topk", {"k": 4, "first_k": 12, "decay_steps": 100}, 0.77),
    "group_max": Case("group_max", {"k": 6}, 0.83),
    "batch_topk": Case("batch_topk", {"k": 4}, 0.78),
    "matching_pursuit": Case("matching_pursuit", {"k": 4}, 0.9),
    "orthogonal_pursuit": Case("orthogonal_pursuit", {"k": 4}, 0.9),
    "matryoshka": Case(
        "matryoshka", {"recipe": "batch_topk", "prefixes": [8, 24, WIDTH], "k": 4}, 0.79
    ),
    "matryoshka-topk": Case("matryoshka", {"recipe": "topk", "prefixes": [8, WIDTH], "k": 4}, 0.79),
    "matryoshka-gated": Case(
        "matryoshka", {"recipe": "gated", "prefixes": [8, WIDTH], "weight": 0.1}, 0.95
    ),
}
# Dictionaries that their own files test.
RELATIVES = {
    "batch_topk_crosscoder",
    "binary",
    "cross_layer_batch_topk",
    "cross_layer_jumprelu",
    "cross_layer_topk",
    "crosscoder",
    "dependency_sparse",
    "feature_choice",
    "finite_scalar",
    "itda",
    "l1_crosscoder",
    "latent_quantised",
    "mutual_choice",
    "polynomial",
    "row_normalised",
    "predictive",
    "skip_transcoder",
    "structured",
    "temporal",
    "transcoder",
    "variational",
    "variational_mean",
    "vector_quantised",
}
OPTIMIZER = optax.adam(1e-2)
# The others are of the same parts in other combinations.
FAST = {"relu", "jumprelu", "gated", "topk", "batch_topk", "matryoshka", "matching_pursuit"}
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CASES]
)
# Tests that compile much: other parts in the same variant would say nothing new.
each_variant = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in {"relu", "batch_topk"} else pytest.mark.slow)
        for n in CASES
        if "-" not in n
    ],
)


def test_every_variant_is_under_contract():
    assert {case.variant for case in CASES.values()} | RELATIVES == set(registry.VARIANTS)


def options(name):
    return CASES[name].options | {"width": WIDTH}


@cache
def dictionary_of(name):
    return registry.build(CASES[name].variant, options(name))


@cache
def step_of(name):
    return jax.jit(dictionaries.learner(dictionary_of(name), OPTIMIZER).step)


@cache
def rows(key, n=ROWS):
    """Three of 32 fixed directions at a time, around a mean, with a little noise."""
    directions = base.unit_rows(jax.random.normal(jax.random.key(42), (32, D)))
    which, size, noise = jax.random.split(jax.random.key(key), 3)
    chosen = jax.lax.top_k(jax.random.uniform(which, (n, 32)), 3)[1]
    x = jnp.einsum("nk,nkd->nd", 1 + jax.random.uniform(size, (n, 3)), directions[chosen])
    return x + 0.5 + 0.02 * jax.random.normal(noise, x.shape)


@cache
def trained(name):
    """The state after 200 steps, and the last step's report."""
    learner = dictionaries.learner(dictionary_of(name), OPTIMIZER)
    state, step = jax.jit(learner.init)(jax.random.key(0), rows(0)), step_of(name)
    for i in range(200):
        state, info = step(state, rows(1 + i % 20))
    return state, info


def dense(codes):
    return densify(codes, WIDTH) if isinstance(codes, Codes) else codes


def explained(dictionary, params, x):
    error = x - dictionary.decode(params, dictionary.encode(params, x))
    return float(1 - jnp.square(error).sum() / jnp.square(x - x.mean(0, keepdims=True)).sum())


@every
def test_training_explains_held_out_rows_with_few_latents(name):
    state, info = trained(name)
    dictionary, x = dictionary_of(name), rows(999)
    assert explained(dictionary, state.params, x) > CASES[name].explained
    l0 = float((dense(dictionary.encode(state.params, x)) != 0).sum(1).mean())
    assert 0.5 < l0 < WIDTH / 2
    assert {"variance_explained", "l0", "dead", "loss"} <= set(info)


@every
def test_codes_of_a_row_do_not_depend_on_the_rest_of_the_batch(name):
    dictionary, params = dictionary_of(name), trained(name)[0].params
    x = rows(5, 12)
    together = dense(dictionary.encode(params, x))
    alone = jnp.concatenate([dense(dictionary.encode(params, row[None])) for row in x])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    beside_large = dense(dictionary.encode(params, x.at[6:].mul(100.0)))
    np.testing.assert_allclose(together[:6], beside_large[:6], atol=1e-5)


@every
def test_encode_and_decode_take_any_leading_shape(name):
    dictionary, params = dictionary_of(name), trained(name)[0].params
    x = rows(5, 12)
    flat = dictionary.decode(params, dictionary.encode(params, x))
    cube = dictionary.decode(params, dictionary.encode(params, x.reshape(3, 4, D)))
    np.testing.assert_allclose(cube.reshape(12, D), flat, atol=1e-5)
    one = dictionary.decode(params, dictionary.encode(params, x[0]))
    np.testing.assert_allclose(one, flat[0], atol=1e-5)


@pytest.mark.parametrize("name", [p for p in every.args[1] if "pursuit" not in p.values[0]])
def test_a_row_of_nan_shows_in_its_reconstruction_and_nowhere_else(name):
    """But for a pursuit, which finds no atom and writes nothing."""
    dictionary, params = dictionary_of(name), trained(name)[0].params
    x = rows(5, 12).at[3].set(jnp.nan)
    bad = jnp.isnan(dictionary.decode(params, dictionary.encode(params, x)))
    np.testing.assert_array_equal(bad.all(1), jnp.arange(12) == 3)
    np.testing.assert_array_equal(bad.any(1), jnp.arange(12) == 3)


@each_variant
def test_a_compiled_step_is_the_eager_step(name):
    state, x = trained(name)[0], rows(3)
    a, a_info = dictionaries.learner(dictionary_of(name), OPTIMIZER).step(state, x)
    b, b_info = step_of(name)(state, x)
    for key in a.params:
        np.testing.assert_allclose(a.params[key], b.params[key], atol=1e-5, err_msg=key)
    np.testing.assert_array_equal(a.stats.silent, b.stats.silent)
    np.testing.assert_allclose(a_info["loss"], b_info["loss"], rtol=1e-5)


@each_variant
def test_seeds_in_one_program_are_the_seeds_one_by_one(name):
    learner = dictionaries.learner(dictionary_of(name), OPTIMIZER)
    keys = jax.random.split(jax.random.key(8), 2)
    init = jax.jit(jax.vmap(learner.init, in_axes=(0, None)))
    first = init(keys, rows(0))
    step = jax.jit(jax.vmap(learner.step, in_axes=(0, None)))
    states = first
    for i in range(2):
        states, infos = step(states, rows(i))
    for member in range(2):
        state = jax.tree.map(lambda leaf, member=member: leaf[member], first)
        assert not bool((state.params["decoder"] == first.params["decoder"][1 - member]).any())
        for i in range(2):
            state, info = step_of(name)(state, rows(i))
        np.testing.assert_allclose(infos["loss"][member], info["loss"], rtol=1e-4)
        for parameter, value in state.params.items():
            np.testing.assert_allclose(
                states.params[parameter][member], value, atol=1e-4, err_msg=parameter
            )


@every
def test_a_step_is_finite_at_ties_and_zeros(name):
    """Equal latents, atoms and encoders of zero, rows at the origin of the scores, equal rows."""
    state = trained(name)[0]
    params = dict(state.params)
    for key in {"encoder", "decoder", "hidden"} & set(params):
        params[key] = params[key].at[:4].set(0.0).at[4:8].set(params[key][8])
    x = jnp.broadcast_to(params["decoder_bias"][None], (ROWS, D)).at[100:].set(1.0)
    after, info = step_of(name)(state._replace(params=params), x)
    for key, value in after.params.items():
        assert bool(jnp.isfinite(value).all()), key
    for key, value in info.items():
        assert bool(jnp.isfinite(value).all()), key


@every
def test_tangent_steps_stay_on_the_constraint(name):
    dictionary, params = dictionary_of(name), trained(name)[0].params
    on = dictionary.project(params)
    for key in on:
        np.testing.assert_allclose(dictionary.project(on)[key], on[key], atol=1e-6, err_msg=key)
        np.testing.assert_allclose(on[key], params[key], atol=1e-5, err_msg=f"{key} after training")
    direction = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), on)
    tangent = dictionary.tangent(on, direction)
    small = 1e-3
    moved = jax.tree.map(lambda p, t: p + small * t, on, tangent)
    back = dictionary.project(moved)
    np.testing.assert_allclose(back["decoder"], moved["decoder"], atol=D * small**2)
    again = dictionary.tangent(on, tangent)
    np.testing.assert_allclose(again["decoder"], tangent["decoder"], atol=1e-5)


@each_variant
def test_bfloat16_activations_give_nearly_the_same_loss(name):
    dictionary, state = dictionary_of(name), trained(name)[0]
    x = rows(7)

    def loss(x):
        value, info = dictionary.loss(state.params, state.stats, x, x, jax.random.key(0))
        assert value.dtype == jnp.float32
        return float(value)

    assert abs(loss(x.astype(jnp.bfloat16)) / loss(x) - 1) < 0.05


@every
def test_activations_of_another_dimension_are_refused(name):
    dictionary, state = dictionary_of(name), trained(name)[0]
    x = jnp.ones((4, D + 1))
    with pytest.raises(ValueError, match="dimension 17 for a dictionary of dimension 16"):
        dictionary.encode(state.params, x)
    with pytest.raises(ValueError, match="dimension 17"):
        dictionary.loss(state.params, state.stats, x, x, jax.random.key(0))


@pytest.mark.parametrize("variant", ["topk", "abs_topk", "multi_topk", "group_max", "batch_topk"])
@pytest.mark.parametrize("k", [0, WIDTH + 1])
def test_impossible_numbers_of_latents_are_refused(variant, k):
    with pytest.raises(ValueError, match=f"k={k}.*width={WIDTH}"):
        registry.build(variant, {"width": WIDTH, "k": k})


@every
def test_a_file_gives_back_the_same_dictionary(name, tmp_path):
    state = trained(name)[0]
    formats.save(tmp_path, CASES[name].variant, options(name), state.params)
    dictionary, params, _ = formats.load(tmp_path)
    assert set(params) == set(state.params)
    for key, value in state.params.items():
        np.testing.assert_array_equal(params[key], value, err_msg=key)
        assert params[key].dtype == value.dtype
    x = rows(5, 12)
    expected = dictionary_of(name).encode(state.params, x)
    jax.tree.map(np.testing.assert_array_equal, dictionary.encode(params, x), expected)
    ours, theirs = (
        jax.make_jaxpr(d.loss)(state.params, state.stats, x, x, jax.random.key(0))
        for d in (dictionary, dictionary_of(name))
    )
    assert len(ours.eqns) == len(theirs.eqns)  # the loss is there again, not only the codes
