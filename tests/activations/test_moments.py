"""Moments against NumPy in float64, on data whose mean dwarfs its spread."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinterp.activations.moments import coordinate_moments, estimate, merge, moments
from jaxinterp.parallel import global_batch, make_mesh

D = 7


@pytest.fixture
def far(rng):
    """Spread 1, mean a thousand times that: squares minus squared means fail here in float32."""
    return (rng.normal(size=(4000, D)) * np.arange(1, D + 1) + 3000.0).astype(np.float32)


def oracle(x):
    wide = np.asarray(x, np.float64)
    centred = wide - wide.mean(0)
    return (
        wide.mean(0),
        centred.T @ centred,
        np.linalg.norm(wide, axis=1).sum(),
        np.abs(wide).max(0),
    )


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_moments_of_one_pass_equal_those_of_two(far, place):
    found = estimate(place(piece) for piece in np.split(far, [1, 300, 300, 2011]))
    mean, scatter, length, peak = oracle(far)
    tolerance = 1e-12 if place is np.asarray else 3e-6
    assert found.count == len(far)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12 if place is np.asarray else 1e-9)
    scale = np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
    np.testing.assert_allclose(found.scatter / scale, scatter / scale, atol=tolerance)
    np.testing.assert_allclose(found.length, length, rtol=1e-6)
    np.testing.assert_array_equal(found.peak, peak)
    assert all(part.dtype == np.float64 for part in found)


def test_an_origin_that_float32_rounds_costs_nothing(rng):
    """Around 10^6 float32 steps by 1/16: the chunk's own mean is off by a part of the spread."""
    x = (0.5 * rng.normal(size=(1000, D)) + 1e6 * np.linspace(1, 3, D)).astype(np.float32)
    mean, scatter, _, _ = oracle(x)
    found = moments(jnp.asarray(x))
    np.testing.assert_allclose(found.mean - 1e6, mean - 1e6, atol=1e-3, rtol=1e-9)
    np.testing.assert_allclose(np.diag(found.scatter), np.diag(scatter), rtol=1e-5)


def test_coordinates_alone_are_the_diagonal(far):
    full, single = moments(far), coordinate_moments(far)
    np.testing.assert_allclose(single.variance(), full.variance(), rtol=1e-12)
    np.testing.assert_allclose(full.variance(), far.astype(np.float64).var(0), rtol=1e-9)
    np.testing.assert_allclose(full.mean_square(), (far.astype(np.float64) ** 2).sum(1).mean())
    with pytest.raises(ValueError, match="variance of each coordinate only"):
        single.covariance()
    with pytest.raises(ValueError, match="don't merge"):
        merge(full, single)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=3), st.floats(-1e4, 1e4), st.integers(0, 9)
)
def test_merging_is_associative_and_commutes(sizes, offset, seed):
    draw = np.random.default_rng(seed)
    a, b, c = (moments(draw.normal(size=(n, 3)) + offset * i) for i, n in enumerate(sizes))
    left, right, swapped = merge(merge(a, b), c), merge(a, merge(b, c)), merge(c, merge(b, a))
    for one, two, three in zip(left, right, swapped, strict=True):
        size = np.abs(one).max() + 1e-9
        np.testing.assert_allclose(one / size, two / size, atol=1e-10)
        np.testing.assert_allclose(one / size, three / size, atol=1e-10)


def test_bad_rows_are_named(far):
    far[17, 3] = np.inf
    far[40, 1] = np.nan
    for place in (np.asarray, jnp.asarray):
        with pytest.raises(ValueError, match=r"2 of 4000 .* not finite, the first at 17"):
            moments(place(far))
    with pytest.raises(ValueError, match="no activation rows"):
        estimate([np.zeros((0, 3), np.float32)])
    with pytest.raises(ValueError, match="no activation rows"):
        moments(np.zeros((0, 3), np.float32))


def test_bfloat16_rows_are_summed_in_float32(far):
    found = moments(jnp.asarray(far - 3000.0, jnp.bfloat16))
    rounded = np.asarray(jnp.asarray(far - 3000.0, jnp.bfloat16), np.float64)
    np.testing.assert_allclose(found.mean, rounded.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.variance(), rounded.var(0), rtol=1e-5)


def test_rows_on_several_devices_have_the_same_moments(rng):
    x = (rng.normal(size=(64, 5)) @ rng.normal(size=(5, 5)) + 100).astype(np.float32)
    spread = global_batch(x, make_mesh("data=8"))
    assert len(spread.addressable_shards) == 8
    for ours, expected in zip(moments(spread), moments(x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
