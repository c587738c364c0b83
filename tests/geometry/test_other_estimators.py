"""Ground truths of the estimators that have no usable peer."""

import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats

from jaxinterp import geometry
from jaxinterp.geometry.dimension.danco import NeighborStatistics
from jaxinterp.geometry.dimension.fisher_separability import lambert_w
from jaxinterp.geometry.dimension.root import positive_root
from jaxinterp.geometry.eigenvalues import symmetric_eigenvalues

KEY = jax.random.key(0)


def uniform(number, dimension):
    return jax.random.uniform(jax.random.key(dimension), (number, dimension))


def test_root_and_its_derivative():
    root = jax.jit(lambda a: positive_root(lambda x: a - x**3, a))
    np.testing.assert_allclose(root(jnp.asarray(8.0)), 2.0, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(root)(jnp.asarray(8.0)), 1 / 12, rtol=1e-4)
    np.testing.assert_allclose(jax.vmap(root)(jnp.asarray([1.0, 1e6])), [1.0, 100.0], rtol=1e-5)


def test_lambert_w():
    w = jnp.asarray([1e-3, 0.3, 1.0, 10.0, 60.0])
    np.testing.assert_allclose(lambert_w(w * jnp.exp(w)), w, rtol=1e-5)


def test_eigenvalues_and_their_gradient():
    factor = jax.random.normal(KEY, (5, 12, 9))
    matrices = jnp.matmul(factor, factor.swapaxes(1, 2), precision="highest")
    exact = np.linalg.eigvalsh(np.asarray(matrices, np.float64))
    values = symmetric_eigenvalues(matrices)
    np.testing.assert_allclose(values, exact, atol=3e-6 * exact.max())
    grad = jax.grad(lambda m: jnp.sum(symmetric_eigenvalues(m)[:, -1] ** 2))(matrices)
    top = np.linalg.eigh(np.asarray(matrices, np.float64))[1][:, :, -1]
    expected = 2 * exact[:, -1, None, None] * top[:, :, None] * top[:, None, :]
    np.testing.assert_allclose(grad, expected, atol=1e-3 * np.abs(expected).max())
    assert jnp.array_equal(symmetric_eigenvalues(jnp.ones((2, 1, 1))), jnp.ones((2, 1)))


def test_local_spectra_hold_the_matrices_of_few_points():
    points = jax.ShapeDtypeStruct((4000, 48), "float32")
    indices = jax.ShapeDtypeStruct((4000, 60), "int32")
    compiled = jax.jit(geometry.local_spectra).lower(points, indices).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * 4000 * 48 * 48 * 4


def test_heterogeneous_segments_a_union():
    line = jnp.zeros((300, 8)).at[:, 0].set(3 * uniform(300, 1)[:, 0])
    box = jnp.zeros((300, 8)).at[:, 1:6].set(uniform(300, 5) + 2)
    found = geometry.k_nearest(jnp.concatenate([line, box]), 16)
    mixture = geometry.heterogeneous_dimension(found.distances, found.indices)
    assert 0.9 < mixture.dimensions[0] < 1.2
    assert 4.0 < mixture.dimensions[1] < 5.4
    assert jnp.mean(mixture.membership[:300, 0] > 0.5) > 0.97
    assert jnp.mean(mixture.membership[300:, 1] > 0.5) > 0.97
    assert mixture.change < 1e-4
    local = geometry.levina_bickel(found.distances).per_point
    assert 0.9 < jnp.median(local[:300]) < 1.2
    assert 4.0 < jnp.median(local[300:]) < 5.4


@pytest.mark.parametrize("alpha", [pytest.param(1e-6, marks=pytest.mark.slow), 0.01])
def test_sizes_of_constant_density_against_float64(alpha):
    """All sizes equal those of the test as it is written, on a density that falls by 1e4."""
    found = geometry.k_nearest(jax.random.exponential(KEY, (600, 3)) ** 2, 120)
    sizes = geometry.constant_density_sizes(
        found.distances, found.indices, jnp.asarray(2.8), alpha=alpha
    )
    volumes = np.asarray(found.distances, np.float64) ** 2.8
    threshold = scipy.stats.chi2.isf(alpha, 1)
    for i, size in enumerate(sizes):
        for rank in range(3, 120):
            own, theirs = volumes[i, rank - 1], volumes[found.indices[i, rank], rank - 1]
            likelihood = math.log(own * theirs) - 2 * math.log(own + theirs) + math.log(4)
            if rank == 119 or -2 * rank * likelihood > threshold:
                break
        assert size == rank, i
    assert 8 < jnp.median(sizes) < 110
    with pytest.raises(ValueError, match="got 0.0"):
        geometry.constant_density_sizes(found.distances, found.indices, jnp.asarray(2.8), alpha=0.0)


def test_sizes_are_those_the_dimension_was_read_from():
    one, two = jax.random.split(KEY)
    distances = jnp.cumsum(jax.random.exponential(one, (80, 20)), axis=1) ** 0.5
    distances = jnp.where(jnp.arange(80)[:, None] < 60, distances, jnp.inf)
    indices = jax.random.randint(two, (80, 20), 0, 60)
    result = geometry.adaptive_dimension(distances, indices, iterations=1, alpha=0.05)
    start, last = geometry.two_nn(distances, method="line").value, result.estimate.value
    sizes = geometry.constant_density_sizes(distances, indices, start, alpha=0.05)
    assert jnp.array_equal(result.sizes, sizes)
    later = geometry.constant_density_sizes(distances, indices, last, alpha=0.05)
    assert not jnp.array_equal(result.sizes, later)
    # Rows that are not valid pass every test.
    np.testing.assert_allclose(result.at_limit, jnp.mean(sizes[:60] == 19), rtol=1e-6)
    assert jnp.mean(sizes == 19) > result.at_limit + 0.05


def test_constant_points_and_equal_distances():
    constant, corners = jnp.ones((40, 40)), jnp.eye(40)
    for points, value in ((constant, 0.0), (corners, jnp.inf)):
        for estimate in (
            geometry.extrapolated_likelihood(points, KEY, smallest=2, largest=4, samples=2),
            geometry.knn_graph_dimension(points, KEY, k=3, steps=2),
        ):
            assert estimate.value == value
            assert jnp.isinf(estimate.stderr)
    balls = NeighborStatistics(jnp.arange(1.0, 4.0), jnp.ones(3), jnp.ones(3))
    danco = geometry.danco(constant, balls, k=3)
    assert danco.value == 0
    assert jnp.all(jnp.isinf(danco.divergences))
    indices = (jnp.arange(40)[:, None] + jnp.arange(1, 4)[None, :]) % 40
    for distances, dimensions in ((jnp.zeros((40, 3)), 0.0), (jnp.ones((40, 3)), 1e4)):
        mixture = geometry.heterogeneous_dimension(distances, indices)
        np.testing.assert_allclose(mixture.dimensions, dimensions)
        np.testing.assert_allclose(mixture.membership, 0.5, rtol=1e-5)


def test_bad_options_of_graphs_and_halves():
    points = uniform(100, 3)
    for options, message in [
        ({"steps": 1}, "got 1, 4, 1.0"),
        ({"repeats": 1}, "got 5, 1, 1.0"),
        ({"power": 0.0}, "got 5, 4, 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            geometry.knn_graph_dimension(points, KEY, **options)
    for options, message in [
        ({"samples": 1}, "samples is 1"),
        ({"degree": -1}, "degree is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            geometry.extrapolated_likelihood(points, KEY, **options)


def test_rules_of_short_and_empty_spectra():
    one, none = jnp.ones(1), jnp.zeros(1)
    assert geometry.largest_gap(one) == geometry.minka_rank(one, samples=10) == 1
    assert geometry.largest_gap(none) == geometry.minka_rank(none, samples=10) == 0
    assert geometry.variance_ratio(none) == 0
    # 49 shares of 1/49 add up to less than 1 in float32.
    assert geometry.variance_ratio(jnp.ones(49), share=1.0) == 49
    with pytest.raises(ValueError, match="got 2.0"):
        geometry.variance_ratio(none, share=2.0)


def test_danco_is_not_capped_at_k():
    balls = geometry.ball_statistics(KEY, number=700, largest=14)
    points = jnp.pad(uniform(700, 12), ((0, 0), (0, 3)))
    assert abs(int(geometry.danco(points, balls).value) - 12) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [3])
def test_graph_and_extrapolated_and_skewness(dimension):
    points = uniform(800, dimension)
    graph = geometry.knn_graph_dimension(points, KEY)
    assert abs(float(graph.value) / dimension - 1) < 0.15
    limit = geometry.extrapolated_likelihood(points, KEY)
    assert abs(float(limit.value) - dimension) < 0.1 * dimension + 3 * float(limit.stderr)
    indices = geometry.k_nearest(points, 60).indices
    projected = geometry.expected_simplex_skewness(points, indices, version="b")
    assert abs(float(projected.value) / dimension - 1) < 0.1
    angles = geometry.angle_based(points, indices)
    assert abs(float(angles.value) / dimension - 1) < 0.15


def test_magnitude():
    # Points far apart count one each; points close together count as one.
    distances = geometry.distance_matrix(uniform(300, 2))
    result = geometry.magnitude_dimension(distances, jnp.geomspace(1e-2, 1e4, 30))
    np.testing.assert_allclose(result.magnitudes[-1], 300, rtol=1e-3)
    np.testing.assert_allclose(result.magnitudes[0], 1, atol=0.02)
    assert 1.3 < result.value < 2.0
    logs = jnp.log(result.magnitudes)
    numeric = (logs[2:] - logs[:-2]) / (2 * jnp.log(1e6) / 29)
    np.testing.assert_allclose(result.slopes[1:-1], numeric, atol=0.12)


def test_magnitude_of_points_on_a_line():
    """Whose rounded distances make no positive definite matrix."""
    points = uniform(300, 1) * jnp.ones((1, 3))
    result = geometry.magnitude_dimension(
        geometry.distance_matrix(points), jnp.geomspace(0.2, 200.0, 30)
    )
    place = np.sort(np.asarray(points, np.float64)[:, 0]) * 3**0.5
    for scale, magnitude in zip(np.geomspace(0.2, 200.0, 30), result.magnitudes, strict=True):
        exact = 1 + np.sum(np.tanh(scale * np.diff(place) / 2))
        np.testing.assert_allclose(magnitude, exact, rtol=1e-2)
    assert abs(float(result.value) - 0.95) < 0.05


def test_lattice_against_the_euclidean_limit():
    points = jax.random.randint(KEY, (1500, 2), 0, 60)
    result = geometry.lattice_dimension(points, inner=3, outer=6)
    assert abs(float(result.value) - 2) < 0.2
    # Many points a site: others on a point's own site must be counted.
    line = points.at[:, 1].set(0)
    assert abs(float(geometry.lattice_dimension(line, inner=2, outer=4).value) - 1) < 0.06
    same = geometry.lattice_dimension(0 * points, inner=3, outer=6)
    assert same.value == 0
    assert jnp.isinf(same.stderr)
    with pytest.raises(ValueError, match="got 3, 3"):
        geometry.lattice_dimension(points, inner=3, outer=3)


def test_soft_dimension_orders_and_differentiates():
    values = [
        float(geometry.soft_dimension(geometry.distance_matrix(uniform(400, d))).value)
        for d in (1, 2, 4)
    ]
    assert abs(values[0] - 1) < 0.12
    assert abs(values[1] - 2) < 0.25
    assert 3 < values[2] < 4.3

    @jax.jit
    def dimension(points):
        return geometry.soft_dimension(geometry.distance_matrix(points)).value

    points = jax.random.normal(KEY, (100, 6))
    grad = jax.grad(dimension)(points)
    # Scale-invariant to rounding: the gradient is orthogonal to the points.
    assert abs(float(jnp.sum(grad * points))) < 1e-4 * float(jnp.linalg.norm(grad)) * 25
    direction = grad / jnp.linalg.norm(grad)
    slope = (dimension(points + 0.02 * direction) - dimension(points - 0.02 * direction)) / 0.04
    np.testing.assert_allclose(slope, jnp.linalg.norm(grad), rtol=2e-2)
    with pytest.raises(ValueError, match="neighbors"):
        geometry.soft_dimension(jnp.zeros((5, 5)))


def test_soft_dimension_of_duplicates_has_finite_gradient():
    points = jnp.concatenate([jnp.zeros((5, 2)), jax.random.normal(KEY, (30, 2))])
    grad = jax.grad(lambda p: geometry.soft_dimension(geometry.distance_matrix(p)).value)(points)
    assert jnp.all(jnp.isfinite(grad))


def test_soft_dimension_leaves_duplicates_and_masked_points_out():
    distinct = jax.random.normal(KEY, (30, 3))
    copies = jnp.repeat(jax.random.normal(jax.random.key(1), (4, 3)), 12, axis=0)
    alone = geometry.soft_dimension(geometry.distance_matrix(distinct))
    matrix = geometry.distance_matrix(jnp.concatenate([copies, distinct]))
    valid = jnp.arange(78) >= 48
    for found in (
        geometry.soft_dimension(matrix, valid=jnp.ones(78, bool)),
        geometry.soft_dimension(matrix.at[:48].set(jnp.inf), valid=valid),
    ):
        assert found.n_used == 30
        np.testing.assert_allclose(found.value, alone.value, rtol=1e-4)
        np.testing.assert_allclose(found.stderr, alone.stderr, rtol=1e-3)
    nothing = geometry.soft_dimension(matrix, valid=~valid)
    assert nothing.value == 0
    assert jnp.isinf(nothing.stderr)


def test_parallel_analysis_finds_three_factors():
    loadings = jnp.kron(jnp.eye(3), jnp.ones((1, 6)))
    factors = jax.random.normal(KEY, (500, 3)) @ loadings
    points = factors + jax.random.normal(jax.random.key(2), (500, 18))
    assert geometry.parallel_analysis(points, KEY, permutations=20) == 3
    noise = points[:, :18] - factors
    assert geometry.parallel_analysis(noise, KEY, permutations=20) <= 1


def ball(key, number, dimension):
    one, two = jax.random.split(key)
    normal = jax.random.normal(one, (number, dimension))
    radius = jax.random.uniform(two, (number, 1)) ** (1 / dimension)
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True) * radius


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 3])
def test_skewness_of_higher_order(order):
    points = jnp.pad(ball(KEY, 400, 12), ((0, 0), (0, 4)))
    everyone = jnp.broadcast_to(jnp.arange(400), (400, 400))
    found = geometry.expected_simplex_skewness(points, everyone, order=order)
    assert abs(float(found.per_point[0]) / 12 - 1) < 0.05
    # All subsets, where there are few enough, against determinants in float64.
    rows = np.asarray(points[:18], np.float64)
    rows = rows - rows.mean(0)
    subsets = [rows[list(c)] for c in itertools.combinations(range(18), order + 1)]
    volumes = [math.sqrt(max(np.linalg.det(v @ v.T), 0)) for v in subsets]
    weights = [np.prod(np.linalg.norm(v, axis=1)) for v in subsets]
    value = sum(volumes) / sum(weights)
    found = geometry.expected_simplex_skewness(points, everyone[:, :18], order=order)
    n = found.per_point[0]
    low, high = (_expected(m, order) for m in (math.floor(n), math.floor(n) + 1))
    np.testing.assert_allclose(low + (n - math.floor(n)) * (high - low), value, rtol=1e-4)


def _expected(n, order):
    log = math.lgamma
    return math.exp((order + 1) * log(n / 2) - order * log((n + 1) / 2) - log((n - order) / 2))


def test_skewness_of_degenerate_neighbourhoods():
    indices = jnp.broadcast_to(jnp.arange(30), (30, 30))
    line = jnp.zeros((30, 4)).at[:, 0].set(uniform(30, 1)[:, 0])
    found = geometry.expected_simplex_skewness(line, indices, order=2)
    assert abs(float(found.value) - 2) < 0.01  # it cannot read less than its order
    same = geometry.expected_simplex_skewness(jnp.ones((30, 4)), indices, order=2)
    assert same.n_used == 0
    assert jnp.isinf(same.stderr)
    for wrong in ({"order": 0}, {"order": 30}, {"order": 2, "version": "b"}, {"version": "c"}):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
            geometry.expected_simplex_skewness(line, indices, **wrong)


def test_kritchman_nadler_level_and_power():
    keys = jax.random.split(KEY, 300)

    def rank(key, strength):
        one, two = jax.random.split(key)
        points = jax.random.normal(one, (120, 40))
        points = points.at[:, :3].add(strength * jax.random.normal(two, (120, 3)))
        spectrum = geometry.covariance_spectrum(points)
        return geometry.kritchman_nadler_rank(spectrum, samples=120, variables=40)

    noise = jax.lax.map(lambda key: rank(key, 0.0), keys)
    assert 0.01 < jnp.mean(noise > 0) < 0.09
    signal = jax.lax.map(lambda key: rank(key, 2.0), keys)
    assert jnp.mean(signal == 3) > 0.9
    # Fewer rows than columns, and nothing at all.
    wide = jax.random.normal(KEY, (30, 100)) + 4 * jax.random.normal(KEY, (30, 1))
    spectrum = geometry.covariance_spectrum(wide)
    assert geometry.kritchman_nadler_rank(spectrum, samples=30, variables=100) == 1
    assert geometry.kritchman_nadler_rank(0 * spectrum, samples=30, variables=100) == 0
    with pytest.raises(ValueError, match="level must be one of"):
        geometry.kritchman_nadler_rank(spectrum, samples=30, variables=100, level=0.2)


@pytest.mark.parametrize("width", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_bits_of_independent_fair_bits(width):
    """Frozen bits add nothing, and errors cover."""
    keys = jax.random.split(jax.random.key(3), 80)

    def fit(key):
        bits = jax.random.bernoulli(key, shape=(400, width)).astype(jnp.int32)
        bits = jnp.concatenate([bits, jnp.ones((400, 20), jnp.int32)], axis=1)
        return geometry.bits_dimension(geometry.hamming_histograms(bits))

    found = jax.lax.map(fit, keys)
    assert jnp.all(found.converged)
    spread = float(jnp.std(found.value, ddof=1))
    assert abs(float(jnp.mean(found.value)) - width) < 3 * spread / 80**0.5 + 0.02 * width
    # 80 samples know the spread to 8 %.
    assert 0.75 < float(jnp.median(found.stderr)) / spread < 1.3
    assert abs(float(jnp.mean(found.slope))) < 0.1


def test_errors_of_dependent_bits():
    """Bits that equal the bit before them, but for one in five."""

    def fit(key):
        one, two = jax.random.split(key)
        flips = (
            jax.random.bernoulli(one, 0.2, (200, 60))
            .at[:, 0]
            .set(jax.random.bernoulli(two, shape=(200,)))
        )
        return geometry.bits_dimension(geometry.hamming_histograms(jnp.cumsum(flips, axis=1) % 2))

    found = jax.lax.map(fit, jax.random.split(KEY, 60))
    spread = float(jnp.std(found.value, ddof=1))
    assert 0.75 < float(jnp.median(found.stderr)) / spread < 1.35


BITS = json.loads((Path(__file__).parent / "fixtures/bits_dadapy.json").read_text())


@pytest.mark.parametrize("name", BITS)
def test_bits_against_dadapy(name):
    """Same minimum of the same divergence.

    The peer's moves are multiples of the parameters, so that a slope near 0, that of fair bits,
    hardly moves: there it stops short, at a higher divergence.
    """
    case = BITS[name]
    number, width = case["shape"]
    packed = np.frombuffer(bytes.fromhex(case["bits"]), np.uint8)
    bits = np.unpackbits(packed)[: number * width].reshape(number, width)
    found = geometry.bits_dimension(geometry.hamming_histograms(jnp.asarray(bits, jnp.int32)))
    assert found.largest == case["largest"]
    rtol = 2e-3 if name == "fair" else 1e-4
    np.testing.assert_allclose(found.value, case["value"], rtol=rtol)
    np.testing.assert_allclose(found.slope, case["slope"], atol=5 * rtol)
    np.testing.assert_allclose(found.divergence, case["divergence"], atol=5e-7)


def test_hamming_histograms_and_bad_bits():
    bits = jax.random.bernoulli(KEY, shape=(50, 12)).astype(jnp.int32)
    histograms = geometry.hamming_histograms(bits, block=7)
    pairs = np.sum(np.asarray(bits)[:, None] != np.asarray(bits)[None], axis=2)
    for row, counts in zip(pairs, histograms, strict=True):
        assert np.array_equal(np.bincount(row, minlength=13) - np.eye(13, dtype=int)[0], counts)
    same = geometry.bits_dimension(geometry.hamming_histograms(jnp.ones((20, 5), jnp.int32)))
    assert same.value == 0
    assert jnp.isinf(same.stderr)
    assert not same.converged
    with pytest.raises(ValueError, match="share is a quantile"):
        geometry.bits_dimension(histograms, share=0.0)
