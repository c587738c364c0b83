"""Stated errors against the spread over fresh samples."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxinterp import geometry

CLOUDS = {
    "square": lambda key: jax.random.uniform(key, (400, 2)),
    "normal5": lambda key: jax.random.normal(key, (400, 5)),
    "cube10": lambda key: jax.random.uniform(key, (400, 10)),
}
ESTIMATORS = {
    "likelihood": geometry.two_nn,
    "line": functools.partial(geometry.two_nn, method="line"),
    "censored": functools.partial(geometry.two_nn, method="censored"),
    "hill": functools.partial(geometry.levina_bickel, k=20),
    "hill_mean": functools.partial(geometry.levina_bickel, k=20, pooling="mean"),
    "hill_median": functools.partial(geometry.levina_bickel, k=20, pooling="median"),
    "gride4": functools.partial(geometry.gride, n1=4),
    "mind": functools.partial(geometry.mind, k=10),
    "moments": functools.partial(geometry.method_of_moments, k=20),
    "mada": functools.partial(geometry.mada, k=20),
    "binomial": functools.partial(geometry.binomial, k=16, ratio=0.7),
}


@pytest.mark.parametrize(
    "cloud",
    [
        "normal5",
        pytest.param("square", marks=pytest.mark.slow),
        pytest.param("cube10", marks=pytest.mark.slow),
    ],
)
def test_spread_over_samples(cloud):
    def estimate(key):
        points = CLOUDS[cloud](key)
        found = geometry.k_nearest(points, 20)
        results = [e(found.distances, indices=found.indices) for e in ESTIMATORS.values()]
        radii = jnp.median(found.distances[:, jnp.asarray([9, 19])], axis=0)
        counts = geometry.neighbor_counts(points, radii)
        results.append(geometry.correlation_integral(counts, radii))
        return jnp.stack([r.value for r in results]), jnp.stack([r.stderr for r in results])

    keys = jax.random.split(jax.random.key(1), 160)
    values, errors = jax.jit(lambda keys: jax.lax.map(estimate, keys))(keys)
    ratios = jnp.mean(errors, axis=0) / jnp.std(values, axis=0)
    for name, ratio in zip([*ESTIMATORS, "correlation"], ratios, strict=True):
        # 160 samples know the spread to 6 %; errors may be cautious, not bold.
        assert 0.85 < ratio < 1.6, (name, float(ratio))


def test_independence_is_bold():
    """Without indices the error ignores shared neighbours: the reason for asking for them."""
    found = geometry.k_nearest(jax.random.normal(jax.random.key(0), (2000, 5)), 20)
    alone = geometry.levina_bickel(found.distances)
    shared = geometry.levina_bickel(found.distances, indices=found.indices)
    assert shared.value == alone.value
    assert 1.15 < shared.stderr / alone.stderr < 2.5


def test_half_samples():
    def value(points):
        return geometry.two_nn(geometry.k_nearest(points, 2).distances).value

    keys = jax.random.split(jax.random.key(2), 60)
    spread = jnp.std(jax.lax.map(lambda key: value(jax.random.normal(key, (300, 4))), keys))
    points = jax.random.normal(jax.random.key(3), (300, 4))
    error = geometry.half_sample_error(points, jax.random.key(4), samples=60, estimate=value)
    assert 0.65 < error / spread < 1.5
