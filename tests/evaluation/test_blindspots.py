"""Planted differences between two sides, in codes of either form."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries.base import Codes
from jaxinterp.evaluation import blindspots


def test_a_suppressed_and_an_exaggerated_concept_stand_out():
    """50 concepts of 2000 pairs, one lowered by 3 in the mean and one raised by 3."""
    rng = np.random.default_rng(0)
    real = rng.exponential(size=(2000, 50)) + 4.0
    generated = rng.exponential(size=(2000, 50)) + 4.0
    generated[:, 7] -= 3.0
    generated[:, 30] += 3.0
    generated[5] = real[5]  # learned by heart
    found = blindspots(jnp.asarray(real, jnp.float32), jnp.asarray(generated, jnp.float32), 50)
    skew = np.asarray(found.skew)
    assert skew[7] < 0.1
    assert skew[30] > 0.9
    np.testing.assert_allclose(skew[[7, 30]], 1 / (1 + np.exp([3.0, -3.0])), atol=0.01)
    assert np.abs(np.delete(skew, [7, 30]) - 0.5).max() < 0.03
    np.testing.assert_allclose(
        found.distance, np.linalg.norm(generated - real, axis=1), rtol=1e-4, atol=1e-5
    )
    assert int(found.distance.argmin()) == 5


def test_sparse_codes_give_what_dense_ones_give(rng):
    sides, dense = [], []
    for _ in range(2):
        z = rng.exponential(size=(30, 12)) * (rng.random((30, 12)) < 0.4)
        order = np.argsort(-z, axis=1)[:, :8]
        z = z * (z >= np.take_along_axis(z, order[:, -1:], 1))
        kept = np.take_along_axis(z, order, 1)
        sides.append(Codes(jnp.asarray(kept, jnp.float32), jnp.asarray(order)))
        dense.append(jnp.asarray(z, jnp.float32))
    for a, b in zip(blindspots(*sides, 12), blindspots(*dense, 12), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_sides_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="3 real and 2 generated rows"):
        blindspots(jnp.ones((3, 4)), jnp.ones((2, 4)), 4)
    with pytest.raises(ValueError, match="0 real and 0 generated"):
        blindspots(jnp.ones((0, 4)), jnp.ones((0, 4)), 4)
