"""Matching pursuit: energy, prefixes, repeats, and the autoencoder made of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import dictionaries
from jaxinterp.dictionaries import matching
from jaxinterp.dictionaries.base import Codes
from tests.dictionaries.pursuits import WIDTH, D, dense, residual_of, world


@pytest.mark.parametrize("signed", [False, True])
def test_matching_codes_keep_the_energy_and_every_prefix_is_a_code(signed):
    x, atoms = world()
    codes = matching.matching_codes(x, atoms, 12, signed=signed)
    residual = residual_of(codes, x, atoms)
    energy = jnp.square(codes.values).sum(1) + jnp.square(residual).sum(1)
    np.testing.assert_allclose(energy, jnp.square(x).sum(1), rtol=1e-5)
    before = jnp.square(x).sum(1)
    for t in range(1, 12):
        prefix = Codes(codes.values[:, :t], codes.indices[:, :t])
        left = residual_of(prefix, x, atoms)
        last = (left * atoms[codes.indices[:, t - 1]]).sum(1)
        np.testing.assert_allclose(last, 0, atol=1e-5)  # orthogonal to the atom just chosen
        after = jnp.square(left).sum(1)
        assert bool((after < before).all())
        before = after
    short = matching.matching_codes(x, atoms, 5, signed=signed)
    np.testing.assert_array_equal(short.indices, codes.indices[:, :5])
    np.testing.assert_allclose(short.values, codes.values[:, :5], atol=1e-5)
    assert bool((codes.values < 0).any()) is signed


def test_repeats_are_merged_and_the_strongest_comes_first():
    codes = Codes(jnp.array([[3.0, 1.0, 2.5, -4.0, 0.0]]), jnp.array([[5, 2, 5, 7, 0]]))
    merged = matching.merge_repeats(codes)
    np.testing.assert_array_equal(merged.values, [[5.5, -4.0, 1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(merged.indices[:, :3], [[5, 7, 2]])
    np.testing.assert_array_equal(dense(merged, 8), dense(codes, 8))


def test_shorter_and_longer_codes_come_from_the_same_parameters():
    x, atoms = world()
    params = {"decoder": atoms, "decoder_bias": jnp.full(D, 0.1)}

    @partial(jax.jit, static_argnums=0)
    def left_and_used(k, tolerance):
        dictionary = dictionaries.matching_pursuit(WIDTH, k, tolerance=tolerance)
        codes = dictionary.encode(params, x)
        left = jnp.linalg.norm(x - dictionary.decode(params, codes), axis=1)
        return left, (codes.values > 0).sum(1)

    short, middle, long = (np.asarray(left_and_used(k, 0.0)[0]) for k in (2, 6, 20))
    assert (short > middle).all()
    assert (middle > long).all()
    left, used = map(np.asarray, left_and_used(20, 4.0))  # each row as many as it needs
    assert (left <= 4.0).all()
    assert (used == 0).any()
    assert used.max() > 3
    assert (short[used > 2] > 4.0).all()
    assert (short[used <= 2] <= 4.0).all()


def test_hierarchy_is_decoded_where_one_look_is_not_enough():
    """Children that lean towards their parent: pursuit of 8 steps against top-2, true atoms."""
    rng = np.random.default_rng(0)
    d, families, children = 64, 4, 3
    frame = np.linalg.qr(rng.normal(size=(d, d)))[0]
    parents, free = frame[:families], frame[families:]
    kids = []
    for family in range(families):
        common, *own = free[family * (children + 1) : (family + 1) * (children + 1)]
        for direction in own:  # pairwise cosine 0.6, orthogonal to every parent
            child = np.sqrt(0.6) * common + np.sqrt(0.4) * direction + 0.45 * parents[family]
            kids.append(child / np.linalg.norm(child))
    atoms = jnp.asarray(np.concatenate([parents, kids]), jnp.float32)
    family, which = rng.integers(families, size=2000), rng.integers(children, size=2000)
    x = rng.uniform(1, 2, (2000, 1)) * parents[family]
    x += rng.uniform(0.3, 0.6, (2000, 1)) * np.stack(kids)[family * children + which]
    x = jnp.asarray(x, jnp.float32)

    def missed(codes):
        left = jnp.square(residual_of(codes, x, atoms)).sum()
        return float(left / jnp.square(x - x.mean(0, keepdims=True)).sum())

    one_look = dictionaries.top_k_scores(x, atoms, jnp.zeros(len(atoms)), 2)
    assert missed(matching.matching_codes(x, atoms, 8)) < 0.02
    assert missed(one_look) > 0.1
