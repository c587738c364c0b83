import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxinterp.geometry import bias_corrected, explain, intrinsic_dimension, k_nearest, two_nn

from .clouds import DIMENSIONS, cloud, reference

KEY = jax.random.key(0)


def test_better_than_every_peer_on_24_manifolds():
    """The best single peer's mean relative error is 11 %; that of the correction alone is tested.

    `intrinsic_dimension` corrects TwoNN's likelihood estimate, whose peers' values are at hand.
    """
    errors = [
        float(bias_corrected(jnp.asarray(reference()[name, "TwoNN_mle_df0"]), 2500)) / true - 1
        for name, (true, _) in DIMENSIONS.items()
    ]
    raw = [reference()[name, "TwoNN_mle_df0"] / true - 1 for name, (true, _) in DIMENSIONS.items()]
    assert np.mean(np.abs(raw)) > 0.1
    assert np.mean(np.abs(errors)) < 0.06


@pytest.mark.parametrize("name", ["M10d_Cubic", pytest.param("M7_Roll", marks=pytest.mark.slow)])
def test_known_dimension(name):
    result = intrinsic_dimension(jnp.asarray(cloud(name)))
    assert abs(float(result.value) / DIMENSIONS[name][0] - 1) < 0.09
    assert result.interval[0] < result.value < result.interval[1]
    assert bool(result.warnings.saturated) == (name == "M10d_Cubic")


@pytest.mark.slow
def test_bias_curve_against_fresh_balls():
    for dimension, number in ((4, 500), (40, 2000)):
        one, two = jax.random.split(jax.random.key(dimension))
        normal = jax.random.normal(one, (number, dimension))
        radius = jax.random.uniform(two, (number, 1)) ** (1 / dimension)
        ball = normal / jnp.linalg.norm(normal, axis=1, keepdims=True) * radius
        estimate = two_nn(k_nearest(ball, 2).distances)
        corrected = float(bias_corrected(estimate.value, number))
        slack = 0.04 + 3 * float(estimate.stderr / estimate.value)
        assert abs(corrected / dimension - 1) < slack, (dimension, corrected)


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [8, 2])
def test_coverage_of_the_intervals(dimension):
    """90 % intervals hold the estimator's own mean in 85-95 % of fresh samples."""

    def one(key):
        points = jax.random.normal(key, (500, dimension))
        result = intrinsic_dimension(points, scan_neighbors=17)
        return result.value, result.interval

    keys = jax.random.split(jax.random.key(5), 400)
    values, intervals = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    inside = (intervals[:, 0] < jnp.mean(values)) & (jnp.mean(values) < intervals[:, 1])
    assert 0.85 <= float(jnp.mean(inside)) <= 0.95


def test_invariance():
    points = jnp.asarray(cloud("M13a_Scurve", 1000))
    rotation = jnp.linalg.qr(jax.random.normal(KEY, (3, 3)))[0]
    base = intrinsic_dimension(points)
    for moved in (points @ rotation, points * 1e6, points * 1e-6, points + 1e3, points[::-1]):
        np.testing.assert_allclose(intrinsic_dimension(moved).value, base.value, rtol=5e-3)
    doubled = intrinsic_dimension(jnp.concatenate([points, points[:300]]))
    np.testing.assert_allclose(doubled.value, base.value, rtol=1e-5)
    assert bool(doubled.warnings.duplicates)
    assert any("repeat others" in text for text in explain(doubled))


@pytest.mark.slow
def test_float32_equals_float64():
    points = cloud("M8_Nonlinear", 800)
    single = intrinsic_dimension(jnp.asarray(points), scan_neighbors=2)
    with jax.enable_x64(True):
        wide = jnp.asarray(points.astype(np.float64))
        double = intrinsic_dimension(wide, scan_neighbors=2)
        assert double.value.dtype == jnp.float64
    np.testing.assert_allclose(single.value, double.value, rtol=5e-3)


def test_warnings_and_degenerate_clouds():
    flat = intrinsic_dimension(jax.random.uniform(KEY, (1000, 3)))
    assert not any(bool(warning) for warning in flat.warnings)
    assert explain(flat) == []
    line = jax.random.uniform(KEY, (1000, 1)) * jnp.asarray([[1.0, 0.0, 0.0]])
    noisy = intrinsic_dimension(line + 1e-3 * jax.random.normal(KEY, (1000, 3)))
    assert bool(noisy.warnings.scale_dependent)
    few = intrinsic_dimension(jax.random.normal(KEY, (20, 2)), scan_neighbors=2)
    assert bool(few.warnings.few_points)
    constant = intrinsic_dimension(jnp.ones((1000, 3)))
    assert constant.value == 0
    assert jnp.isinf(constant.stderr)
    assert bool(constant.warnings.duplicates)
    line = intrinsic_dimension(jax.random.normal(KEY, (500, 1)), scan_neighbors=2)
    assert abs(float(line.value) - 1) < 0.2


def test_bad_input():
    with pytest.raises(ValueError, match="at least 10 points"):
        intrinsic_dimension(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="NaN"):
        intrinsic_dimension(jnp.full((20, 3), jnp.nan))
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 95"):
        intrinsic_dimension(jax.random.normal(KEY, (20, 3)), level=95.0)
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        intrinsic_dimension(jnp.zeros(30))
