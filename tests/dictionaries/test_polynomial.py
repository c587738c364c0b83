from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries.base import Codes, densify
from jaxinterp.dictionaries.polynomial import (
    orthonormal_columns,
    pair_interaction,
    polynomial,
    polynomial_decode,
    strongest_pairs,
    strongest_triples,
    triple_interaction,
)
from jaxinterp.dictionaries.topk import topk

WIDTH, D, RANKS = 12, 10, (10, 4, 3)


@cache
def params():
    dictionary = polynomial(topk, RANKS, width=WIDTH, k=3)
    sample = np.random.default_rng(1).normal(size=(50, D)).astype(np.float32)
    made = jax.jit(dictionary.init)(jax.random.key(0), sample)
    # Of a size that interactions stand well above rounding.
    return made | {"quadratic": 3 * made["quadratic"], "cubic": 9 * made["cubic"]}


@cache
def at_one():
    """Interactions of latents of size one, compiled."""
    return jax.jit(pair_interaction), jax.jit(triple_interaction)


def written(*latents, sizes=None):
    """What the decoder writes for some latents, in float64 from its definition."""
    p = {name: np.asarray(value, np.float64) for name, value in params().items()}
    z = np.zeros(WIDTH)
    z[list(latents)] = 1.0 if sizes is None else sizes
    a = z @ p["projection"]
    y = p["decoder_bias"] + a @ p["linear"]
    y = y + p["quadratic_scale"] * (a[: RANKS[1]] ** 2 @ p["quadratic"])
    return y + p["cubic_scale"] * (a[: RANKS[2]] ** 3 @ p["cubic"])


def test_decoding_is_the_polynomial_for_codes_of_either_form():
    codes = Codes(jnp.asarray([[1.5, 0.7, 0.0]]), jnp.asarray([[4, 9, 0]]))
    expected = written(4, 9, sizes=[1.5, 0.7])
    sparse = polynomial_decode(params(), codes)[0]
    np.testing.assert_allclose(sparse, expected, atol=1e-5)
    dense = polynomial_decode(params(), densify(codes, WIDTH))[0]
    np.testing.assert_allclose(dense, expected, atol=1e-5)


def test_interactions_are_what_no_part_writes_alone():
    pair = written(2, 7) - written(2) - written(7) + written()
    np.testing.assert_allclose(pair_interaction(params(), 2, 7), pair, atol=1e-5)
    assert np.linalg.norm(pair) > 0.1
    sizes = (0.5, 2.0)
    sized = written(2, 7, sizes=sizes) - written(2, sizes=0.5) - written(7, sizes=2.0) + written()
    np.testing.assert_allclose(pair_interaction(params(), 2, 7, sizes=sizes), sized, atol=1e-5)
    subsets = [((1, 5, 8), 1), ((1, 5), -1), ((1, 8), -1), ((5, 8), -1)]
    subsets += [((1,), 1), ((5,), 1), ((8,), 1), ((), -1)]
    triple = sum(sign * written(*latents) for latents, sign in subsets)
    np.testing.assert_allclose(triple_interaction(params(), 1, 5, 8), triple, atol=1e-5)
    assert np.linalg.norm(triple) > 0.05


def test_the_strongest_pairs_and_triples_are_those_of_a_search():
    pair, triple = at_one()
    lengths = {
        (i, j): np.linalg.norm(pair(params(), i, j))
        for i in range(WIDTH)
        for j in range(i + 1, WIDTH)
    }
    expected = sorted(lengths, key=lambda key: -lengths[key])[:5]
    found = strongest_pairs(params(), 5)
    assert [tuple(row) for row in found.latents] == expected
    np.testing.assert_allclose(found.strength, [lengths[key] for key in expected], rtol=1e-5)
    silent = expected[0][0]
    others = strongest_pairs(params(), 5, sizes=jnp.ones(WIDTH).at[silent].set(0.0))
    assert silent not in others.latents
    among = [0, 3, 4, 6, 11]
    triples = {
        (i, j, k): np.linalg.norm(triple(params(), i, j, k))
        for i in among
        for j in among
        for k in among
        if i < j < k
    }
    best = max(triples, key=lambda key: triples[key])
    found = strongest_triples(params(), 100, among)
    assert tuple(found.latents[0]) == best
    assert len(found.latents) == len(triples) == 10


def test_the_projection_goes_back_to_the_sign_fixed_qr():
    u = params()["projection"] + 0.05 * jax.random.normal(jax.random.key(3), (WIDTH, RANKS[0]))
    q, r = np.linalg.qr(np.asarray(u, np.float64))
    expected = q * np.sign(np.diag(r))[None]
    np.testing.assert_allclose(orthonormal_columns(u), expected, atol=1e-5)


def test_the_gradient_stays_on_the_constraint_and_reaches_what_makes_the_atoms():
    dictionary, p = polynomial(topk, RANKS, width=WIDTH, k=3), params()
    p = dictionary.project(p)
    by_atom = jax.random.normal(jax.random.key(4), (WIDTH, D))
    zeros = jax.tree.map(jnp.zeros_like, p)
    step = dictionary.tangent(p, zeros | {"decoder": by_atom})
    u, small = p["projection"], 1e-3
    both = u.T @ step["projection"]
    np.testing.assert_allclose(both + both.T, 0, atol=1e-5)
    assert float(jnp.abs(step["projection"]).max()) > 0.1

    # The derivative along any direction that keeps the constraint.
    keys = jax.random.split(jax.random.key(5), 3)
    turn = jax.random.normal(keys[0], (RANKS[0], RANKS[0]))
    out = jax.random.normal(keys[1], u.shape)
    along = {"projection": u @ (turn - turn.T) + out - u @ (u.T @ out)}
    along["linear"] = jax.random.normal(keys[2], p["linear"].shape)

    def follow(scale):
        moved = {name: p[name] + scale * along[name] for name in along}
        return dictionary.project(p | moved)["decoder"]

    gained = ((follow(small) - follow(-small)) * by_atom).sum() / (2 * small)
    told = [float((step[name] * along[name]).sum()) for name in along]
    assert min(map(abs, told)) > 1
    np.testing.assert_allclose(gained, sum(told), rtol=1e-2)


def test_a_polynomial_of_the_codes_is_fitted_where_a_linear_decoder_is_not():
    rng = np.random.default_rng(0)
    z = rng.uniform(0.5, 1.5, (2000, WIDTH)) * (rng.random((2000, WIDTH)) < 0.25)
    p = params()
    x = np.asarray(polynomial_decode(p, jnp.asarray(z, jnp.float32)), np.float64)
    a = z @ np.asarray(p["projection"], np.float64)

    def explained(features):
        design = np.concatenate([features, np.ones((len(x), 1))], 1)
        left = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
        return 1 - (left**2).sum() / ((x - x.mean(0)) ** 2).sum()

    assert explained(z) < 0.97
    assert explained(np.concatenate([a, a[:, : RANKS[1]] ** 2, a[:, : RANKS[2]] ** 3], 1)) > 0.9999


@pytest.mark.parametrize("ranks", [(4, 5, 2), (13, 2, 2), (4, 0, 1), (4, 4)])
def test_ranks_that_do_not_fit_are_refused(ranks):
    with pytest.raises(ValueError, match=r"ranks \("):
        polynomial(topk, ranks, width=WIDTH, k=3)


def test_first_atoms_have_about_unit_length():
    dictionary = polynomial(topk, (32, 8, 8), width=256, k=3)
    p = jax.jit(dictionary.init)(jax.random.key(0), jnp.ones((4, 24)))
    lengths = jnp.linalg.norm(p["decoder"], axis=1)
    assert 0.9 < float(lengths.mean()) < 1.1
    np.testing.assert_allclose(p["encoder"], p["decoder"])
