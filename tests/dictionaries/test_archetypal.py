from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from jaxinterp.dictionaries import base, scores
from jaxinterp.dictionaries.archetypal import archetypal, k_means, sampled
from jaxinterp.dictionaries.atoms import unit
from jaxinterp.dictionaries.base import densify
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.sweep import sweep
from jaxinterp.dictionaries.topk import topk
from jaxinterp.evaluation.stability import agreement, interval


def random_params(key, width=6, candidates=9, d=4):
    """Off the constraints: entries of both signs, a row without positive ones, long rows."""
    keys = jax.random.split(key, 4)
    return {
        "mixture": jax.random.normal(keys[0], (width, candidates)).at[0].set(-1.0),
        "candidates": jax.random.normal(keys[1], (candidates, d)),
        "relaxation": jax.random.normal(keys[2], (width, d)).at[1].set(0.0),
        "log_scale": jnp.asarray(0.3),
        "decoder": jnp.zeros((width, d)),
    }


def test_atoms_codes_and_reconstructions_equal_overcomplete():
    stored = load_file(Path(__file__).parent / "fixtures" / "archetypal.safetensors")
    stored = {name: jnp.asarray(value) for name, value in stored.items()}
    width, d = stored["encoder"].shape
    dictionary = topk(width, 4, atoms=partial(archetypal, 32, radius=0.5))
    names = ("candidates", "mixture", "relaxation", "log_scale", "encoder", "encoder_bias")
    params = {name: stored[name] for name in names}
    params = dictionary.project(params | {"decoder_bias": jnp.zeros(d)})
    np.testing.assert_allclose(params["decoder"], stored["atoms"], atol=1e-5)
    codes = dictionary.encode(params, stored["x"])
    np.testing.assert_allclose(densify(codes, width), stored["codes"], atol=1e-5)
    np.testing.assert_allclose(dictionary.decode(params, codes), stored["x_hat"], atol=1e-5)


def test_atoms_lie_within_the_radius_of_the_hull():
    kind = archetypal(9, radius=0.7)
    params = kind.project(random_params(jax.random.key(0)))
    np.testing.assert_allclose(params["mixture"].sum(1), 1, atol=1e-6)
    assert float(params["mixture"].min()) >= 0
    np.testing.assert_allclose(params["mixture"][0], 1 / 9, rtol=1e-6)  # nothing positive was left
    lengths = np.linalg.norm(params["relaxation"], axis=1)
    assert lengths.max() <= 0.7 + 1e-6
    assert lengths[1] == 0
    away = params["decoder"] * np.exp(-0.3) - params["mixture"] @ params["candidates"]
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), lengths, atol=1e-5)
    again = kind.project(params)
    for name, value in params.items():
        np.testing.assert_allclose(again[name], value, atol=1e-6, err_msg=name)
    none = archetypal(9, radius=0.0).project(random_params(jax.random.key(0)))
    assert float(jnp.abs(none["relaxation"]).max()) == 0


def test_the_gradient_is_that_of_the_atoms_by_what_makes_them():
    kind = archetypal(9, radius=10.0)
    params = kind.project(random_params(jax.random.key(1)))
    params["mixture"] = params["mixture"].at[0].set(1 / 9)
    target = jax.random.normal(jax.random.key(2), (6, 4))

    def loss(made):
        mixture = made["mixture"] / made["mixture"].sum(1, keepdims=True)
        atoms = jnp.exp(made["log_scale"]) * (mixture @ params["candidates"] + made["relaxation"])
        return jnp.sin(atoms * target).sum()

    expected = jax.grad(loss)({n: params[n] for n in ("mixture", "relaxation", "log_scale")})
    by_atom = jnp.cos(params["decoder"] * target) * target
    zeros = jax.tree.map(jnp.zeros_like, params)
    ours = kind.tangent(params, zeros | {"decoder": by_atom})
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)
    assert not any(bool(ours[name].any()) for name in ("decoder", "candidates"))


@pytest.mark.slow
def test_candidates_are_points_that_all_keys_share():
    points = jax.random.normal(jax.random.key(0), (200, 5)) * 7
    a, b = (archetypal(30).init(jax.random.key(key), 40, points) for key in (1, 2))
    np.testing.assert_array_equal(a["candidates"], b["candidates"])
    assert bool((a["mixture"] != b["mixture"]).any())
    np.testing.assert_allclose(np.linalg.norm(a["candidates"], axis=1).mean(), 1, rtol=1e-5)
    drawn = np.asarray(sampled(jax.random.key(3), points, 30))
    nearest = np.abs(drawn[:, None] - np.asarray(points)[None]).max(2).argmin(1)
    np.testing.assert_array_equal(np.asarray(points)[nearest], drawn)
    assert len(set(nearest)) == 30


def test_k_means_finds_separate_groups():
    centres = 10 * np.eye(6, dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=(40, 6, 6), scale=0.1).astype(np.float32)
    points = jnp.asarray((centres[None] + noise).reshape(-1, 6))
    found = np.asarray(k_means(jax.random.key(0), points, 6))
    order = np.argmax(found, axis=1)
    assert set(order) == set(range(6))
    np.testing.assert_allclose(found, (centres[None] + noise).mean(0)[order], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": 0}, "candidates=0"),
        ({"candidates": 5, "radius": -1.0}, "radius=-1.0"),
        ({"candidates": 50}, "candidates=50 of a sample of 20 points"),
    ],
)
def test_impossible_atoms_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        archetypal(**options).init(jax.random.key(0), 8, jnp.ones((20, 3)))


def random_encoder():
    """Scores whose first rows say nothing about the atoms, as those of the peer."""
    plain = scores.linear()

    def init(key, params, sample):
        rows = jax.random.normal(key, params["decoder"].shape)
        return {"encoder": base.unit_rows(rows), "encoder_bias": jnp.zeros(len(rows))}

    return scores.Scores(init, plain.affine)


@pytest.mark.slow
def test_archetypal_dictionaries_agree_more_than_free_ones_of_the_same_quality():
    d, width, features, seeds, steps, n = 12, 20, 16, 4, 600, 4000
    atoms = base.unit_rows(jax.random.normal(jax.random.key(0), (features, d)))
    which, size = jax.random.split(jax.random.key(1))
    chosen = jax.lax.top_k(jax.random.uniform(which, (n, features)), 3)[1]
    sizes = jax.random.uniform(size, (n, 3), minval=0.5, maxval=1.5)
    x = jnp.einsum("nk,nkd->nd", sizes, atoms[chosen])
    x = x - x.mean(0, keepdims=True)

    def trained(kind):
        dictionary = topk(width, 3, atoms=kind, scores=random_encoder, aux_weight=0.0)
        ours = learner(dictionary, optax.adam(3e-3))
        many = sweep(lambda _: ours, jnp.arange(seeds))
        keys = jax.random.split(jax.random.key(2), seeds)
        draws = jax.random.randint(jax.random.key(3), (steps, 512), 0, n)
        state = jax.jit(many.init)(keys, x)
        state, info = jax.jit(lambda s: jax.lax.scan(lambda s, i: many.step(s, x[i]), s, draws))(
            state
        )
        return many.params(state)["decoder"], float(info["variance_explained"][-50:].mean())

    free, explained_free = trained(unit)
    near_hull, explained = trained(partial(archetypal, 80))
    gain = interval(agreement(near_hull).matched).mean - interval(agreement(free).matched).mean
    assert gain >= 0.1
    assert abs(explained - explained_free) < 0.05
