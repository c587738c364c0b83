"""Exact values, degenerate data and errors of the estimators that read distances."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxinterp import geometry

KEY = jax.random.key(0)
ESTIMATORS = {
    "two_nn": geometry.two_nn,
    "line": functools.partial(geometry.two_nn, method="line"),
    "censored": functools.partial(geometry.two_nn, method="censored"),
    "hill": geometry.levina_bickel,
    "mean": functools.partial(geometry.levina_bickel, pooling="mean"),
    "median": functools.partial(geometry.levina_bickel, pooling="median"),
    "moments": geometry.method_of_moments,
    "mada": geometry.mada,
    "gride": functools.partial(geometry.gride, n1=3),
    "mind": geometry.mind,
    "binomial": functools.partial(geometry.binomial, k=12, ratio=0.8),
}


def model_distances(dimension, number=20000, k=12):
    """Distances exactly as the models suppose: a Poisson process around every point."""
    steps = jax.random.exponential(KEY, (number, k))
    return jnp.cumsum(steps, axis=1) ** (1 / dimension)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dimension", [0.7, 3.0, 40.0])
def test_unbiased_under_the_model(name, dimension):
    if name == "binomial" and dimension == 40.0:
        pytest.skip("0.8^40 of 11 neighbours: no inner ball is occupied")
    estimate = ESTIMATORS[name](model_distances(dimension))
    # Means of inverse gamma variables are too high by a known factor; medians and moments nearly.
    factor = {"mean": 11 / 10, "median": 11 / 10.67}.get(name, 1.0)
    slack = 0.3 if name in {"moments", "mada"} else 0.01
    assert abs(float(estimate.value) / dimension / factor - 1) < slack + 4 * float(
        estimate.stderr / estimate.value
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in {"two_nn", "hill", "gride"} else pytest.mark.slow)
        for n in ESTIMATORS
    ],
)
def test_scale_permutation_jit_and_vmap(name):
    estimate, distances = ESTIMATORS[name], model_distances(4.0, 500)
    value = estimate(distances).value
    np.testing.assert_allclose(estimate(1e6 * distances).value, value, rtol=1e-5)
    np.testing.assert_allclose(estimate(1e-6 * distances).value, value, rtol=1e-5)
    np.testing.assert_allclose(estimate(distances[::-1]).value, value, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(estimate)(distances).value, value, rtol=1e-6)
    stack = jnp.stack([distances, distances[:, :] ** 0.5])
    many = jax.vmap(estimate)(stack).value
    np.testing.assert_allclose(many, [value, estimate(stack[1]).value], rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_zero_and_missing_distances_are_left_out(name):
    estimate, distances = ESTIMATORS[name], model_distances(4.0, 500)
    spoiled = distances.at[:40].set(0.0).at[40:60].set(jnp.inf)
    expected = estimate(distances[60:])
    found = estimate(spoiled)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-4)
    assert found.n_used == expected.n_used


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_to_estimate(name):
    found = ESTIMATORS[name](jnp.zeros((30, 12)))
    assert found.value == 0
    assert jnp.isinf(found.stderr)
    assert found.n_used == 0


@pytest.mark.parametrize("name", ["two_nn", "hill", "moments", "mada", "gride", "mind"])
def test_equal_distances_are_an_infinite_dimension(name):
    found = ESTIMATORS[name](jnp.ones((30, 12)))
    assert jnp.isinf(found.value)
    assert jnp.isinf(found.stderr)


def test_median_next_to_infinite_dimensions():
    """11 dimensions of 1 and 9 without limit: between the two only the inverses have a mean."""
    distances = jnp.stack([jnp.where(jnp.arange(20) < 11, 0.5, 1.0), jnp.ones(20)], axis=1)
    median = geometry.mada(distances, k=2, pooling="median")
    np.testing.assert_allclose(median.value, 1.0, rtol=1e-6)
    np.testing.assert_allclose(median.stderr, 5 * np.sqrt(9 * 11 / 20) / 20, rtol=1e-5)
    median = geometry.mada(distances.at[:2, 0].set(1.0), k=2, pooling="median")
    assert jnp.isinf(median.value)
    assert jnp.isinf(median.stderr)


def test_error_of_the_posterior():
    distances = model_distances(3.0, 100, k=2)
    ratio = jnp.log(distances[:, 1] / distances[:, 0])
    strong = {"method": "bayes", "prior": (1000.0, 333.0)}
    estimate = geometry.two_nn(distances, **strong)
    np.testing.assert_allclose(estimate.stderr, 1100**0.5 / (333 + jnp.sum(ratio)), rtol=1e-5)
    # Points in the order of their ratios, each a neighbour of the two behind it.
    behind = (jnp.arange(100)[:, None] + jnp.arange(1, 3)[None, :]) % 100
    shared = geometry.two_nn(distances[jnp.argsort(ratio)], indices=behind, **strong)
    assert 1.8 < shared.stderr / estimate.stderr < 5**0.5


def test_dtype_under_x64():
    def all_of(distances, indices, matrix):
        return (
            [geometry.two_nn(distances, method=m) for m in ("line", "censored", "bayes")],
            [geometry.mind(distances), geometry.levina_bickel(distances, pooling="median")],
            geometry.adaptive_dimension(distances, indices),
            geometry.adaptive_dimension(distances, indices, method="gride"),
            geometry.heterogeneous_dimension(distances, indices),
            geometry.persistent_homology_dimension(matrix, KEY),
            geometry.magnitude_dimension(matrix, matrix[0]),
            geometry.intrinsic_dimension(distances, scan_neighbors=2),
            geometry.decimation(distances, KEY, smallest=30),
        )

    shapes = ((100, 12), jnp.float32), ((100, 12), jnp.int32), ((100, 100), jnp.float32)
    with jax.enable_x64(True):
        results = jax.eval_shape(all_of, *(jax.ShapeDtypeStruct(*one) for one in shapes))
    assert jnp.float64 not in {leaf.dtype for leaf in jax.tree.leaves(results)}


@pytest.mark.parametrize("name", ["two_nn", "hill", "gride", "mind"])
def test_gradient(name):
    estimate, distances = ESTIMATORS[name], model_distances(4.0, 200)
    direction = distances * jax.random.normal(jax.random.key(1), distances.shape) * 0.1

    @jax.jit
    def value(step):
        return estimate(distances + step * direction).value

    slope = jax.jvp(value, (0.0,), (1.0,))[1]
    numeric = (value(1e-3) - value(-1e-3)) / 2e-3
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (-jnp.ones((5, 12)), "non-negative"),
        (jnp.full((5, 12), jnp.nan), "NaN"),
        (jnp.arange(60.0).reshape(5, 12)[:, ::-1], "ascend"),
    ],
)
def test_bad_distances(name, distances, message):
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name](distances)


def test_bad_options(monkeypatch):
    # The types of this run's checker would refuse an unknown word first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    distances = model_distances(2.0, 20)
    indices = jnp.zeros(distances.shape, jnp.int32)
    mixture = geometry.heterogeneous_dimension

    def half_samples(samples):
        return geometry.half_sample_error(distances, KEY, samples=samples, estimate=jnp.mean)

    for call, message in [
        (lambda: geometry.two_nn(distances[:, :1]), "2 neighbours, got 1"),
        (lambda: geometry.two_nn(distances, discard=1.0), "got 1.0"),
        (lambda: geometry.levina_bickel(distances, k=0), "got 0"),
        (lambda: geometry.levina_bickel(distances, k=30), "30 neighbours"),
        (lambda: geometry.gride(distances, n1=4, n2=4), "n2=4"),
        (lambda: geometry.mada(distances, k=1), "k=1"),
        (lambda: geometry.binomial(distances, k=5, ratio=1.0), "got 1.0"),
        (lambda: geometry.mind(distances, k=0), "got 0"),
        (lambda: geometry.method_of_moments(distances, k=1), "got 1"),
        (lambda: geometry.levina_bickel(distances, pooling="max"), "or median, got 'max'"),
        (lambda: geometry.method_of_moments(distances, pooling="max"), "or median, got 'max'"),
        (lambda: geometry.mada(distances, pooling="max"), "or median, got 'max'"),
        (lambda: geometry.angle_based(distances, indices, pooling="max"), "or median, got 'max'"),
        (lambda: mixture(distances, indices, components=0), "got 0 and 3"),
        (lambda: mixture(distances, indices, neighbors=0), "got 2 and 0"),
        (lambda: mixture(-distances, indices), "non-negative"),
        (lambda: half_samples(1), "samples is 1"),
        (lambda: geometry.decimation(distances, KEY, smallest=0), "smallest is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        geometry.two_nn(jnp.ones(5))


def test_ladder_sees_the_scale_of_noise():
    line = jnp.linspace(0, 1, 2000)[:, None] * jnp.asarray([[1.0, 0.0, 0.0]])
    points = line + 1e-3 * jax.random.normal(KEY, (2000, 3))
    scan = geometry.gride_ladder(geometry.k_nearest(points, 128).distances)
    assert scan.values[0] > 2.2
    assert scan.values[-1] < 1.15
    assert jnp.all(jnp.diff(scan.radii) > 0)


def test_a_scan_of_neighbours_sees_the_scale_of_noise():
    line = jax.random.uniform(KEY, (800, 1)) * jnp.asarray([[1.0, 0.0]])
    near = geometry.k_nearest(line + 2e-3 * jax.random.normal(KEY, (800, 2)), 65)
    scan = geometry.neighbor_scan(geometry.levina_bickel, near.distances, indices=near.indices)
    assert scan.scales.tolist() == [4, 8, 16, 32, 64]
    assert scan.values[0] > 1.5 > 1.2 > scan.values[-1]
    assert jnp.all(jnp.diff(scan.radii) > 0)
    one = geometry.levina_bickel(near.distances, k=8, indices=near.indices)
    assert (scan.values[1], scan.stderrs[1]) == (one.value, one.stderr)
    np.testing.assert_allclose(scan.radii[1], near.distances[:, 7].mean(), rtol=1e-6)
    some = geometry.neighbor_scan(geometry.mind, near.distances, sizes=(5, 20))
    assert some.scales.tolist() == [5, 20]
    with pytest.raises(ValueError, match="no numbers of neighbours to scan, out of 4"):
        geometry.neighbor_scan(geometry.mada, near.distances[:, :4])


@pytest.mark.slow
def test_decimation_sees_the_scale_of_noise():
    line = jax.random.uniform(KEY, (1600, 1)) * jnp.asarray([[1.0, 0.0]])
    points = line + 7e-4 * jax.random.normal(KEY, (1600, 2))
    scan = geometry.decimation(points, jax.random.key(1))
    assert scan.scales[0] == 1600
    assert scan.values[0] > 1.5
    assert scan.values[-1] < 1.2
    assert jnp.all(scan.stderrs < 0.2)
    with pytest.raises(ValueError, match="fewer than"):
        geometry.decimation(points[:50], KEY)


def test_local_estimates_tell_a_line_from_a_box():
    along = jax.random.uniform(KEY, (400, 1)) * jnp.ones((1, 10))
    box = jax.random.uniform(jax.random.key(1), (400, 10)) * (jnp.arange(10) < 5)[None]
    points = jnp.concatenate([along, box + 5.0])
    near = geometry.k_nearest(points, 128).indices
    field = geometry.local_estimates(points, near)
    np.testing.assert_allclose(jnp.mean(field.value[:400]), 1.0302, atol=1e-3)
    # 3.8854 by scikit-dimension, neighbourhood by neighbourhood: low, as 128 points are few.
    np.testing.assert_allclose(jnp.mean(field.value[400:]), 3.8854, atol=1e-3)
    alone = geometry.two_nn(geometry.k_nearest(points[near[7]], 2).distances, method="line")
    np.testing.assert_allclose(field.value[7], alone.value, rtol=1e-4)
    np.testing.assert_allclose(field.stderr[7], alone.stderr, rtol=1e-3)


def test_profile_is_a_loop():
    clouds = jax.random.normal(KEY, (2, 2, 200, 3))

    def estimate(points):
        return geometry.two_nn(geometry.k_nearest(points, 2).distances)

    many = geometry.profile(estimate, clouds)
    assert many.value.shape == (2, 2)
    np.testing.assert_allclose(many.value[1, 0], estimate(clouds[1, 0]).value, rtol=1e-6)
    together = geometry.profile(estimate, clouds, at_once=3)  # three, and the one that is left
    np.testing.assert_allclose(together.value, many.value, rtol=1e-6)
    with pytest.raises(ValueError, match=r"points of shape \(2, 2, 200, 3\) contain NaN"):
        geometry.profile(estimate, clouds.at[1, 0, 5].set(jnp.nan))
    with pytest.raises(ValueError, match="at_once is 0"):
        geometry.profile(estimate, clouds, at_once=0)
