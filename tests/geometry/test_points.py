"""What every function of points makes of unusual ones: types, units, duplicates, missing rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import geometry

RNG = np.random.default_rng(0)
WHOLE = RNG.integers(0, 200, (120, 6))
INDICES = geometry.k_nearest(jnp.asarray(WHOLE), 12).indices

FUNCTIONS = {
    "covariance_spectrum": geometry.covariance_spectrum,
    "local_spectra": lambda x: geometry.local_spectra(x, INDICES),
    "pair_distances": lambda x: geometry.pair_distances(x, INDICES),
    "distance_matrix": geometry.distance_matrix,
    "neighbor_counts": lambda x: geometry.neighbor_counts(x, jnp.asarray([60.0, 90.0])),
    "angle_based": lambda x: geometry.angle_based(x, INDICES),
    "tight_locality": lambda x: geometry.tight_locality(x, INDICES),
    "expected_simplex_skewness": lambda x: geometry.expected_simplex_skewness(x, INDICES),
    "fisher_separability": geometry.fisher_separability,
    "parallel_analysis": lambda x: geometry.parallel_analysis(x, jax.random.key(0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_type_is_computed_in_float32(name):
    function = FUNCTIONS[name]
    expected = jax.tree.leaves(function(jnp.asarray(WHOLE, jnp.float32)))
    for dtype in (jnp.uint8, jnp.int32, jnp.bfloat16):  # which hold these numbers exactly
        for found, wanted in zip(
            jax.tree.leaves(function(jnp.asarray(WHOLE, dtype))), expected, strict=True
        ):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    broken = jnp.asarray(WHOLE, jnp.float32).at[7, 2].set(jnp.nan)
    with pytest.raises(ValueError, match=r"points of shape \(120, 6\) contain NaN"):
        function(broken)
    with pytest.raises(ValueError, match="points must be"):
        function(broken[0])


@pytest.mark.parametrize(
    "function",
    [
        geometry.decimation,
        geometry.knn_graph_dimension,
        geometry.extrapolated_likelihood,
        lambda x, key: geometry.half_sample_error(x, key, estimate=lambda half: half.mean()),
        lambda x, key: geometry.danco(x, None),
    ],
)
def test_estimates_of_estimates_refuse_what_is_not_finite(function):
    broken = jnp.asarray(WHOLE, jnp.float32).at[7, 2].set(jnp.nan)
    with pytest.raises(ValueError, match=r"points of shape \(120, 6\) contain NaN"):
        function(broken, jax.random.key(0))


@pytest.mark.parametrize(
    "function",
    [
        geometry.minimum_spanning_tree,
        geometry.soft_dimension,
        lambda matrix: geometry.persistent_homology_dimension(matrix, jax.random.key(0)),
        lambda matrix: geometry.magnitude_dimension(matrix, jnp.ones(3)),
    ],
)
def test_a_matrix_with_nan_is_refused(function):
    matrix = geometry.distance_matrix(jnp.asarray(WHOLE)).at[3, 5].set(jnp.nan)
    with pytest.raises(ValueError, match=r"distances of shape \(120, 120\) contain NaN"):
        function(matrix)


def test_points_may_be_given_by_name():
    found = geometry.pair_distances(points=jnp.asarray(WHOLE), indices=INDICES)
    np.testing.assert_array_equal(found, geometry.pair_distances(jnp.asarray(WHOLE), INDICES))
    with pytest.raises(TypeError, match="points"):
        geometry.pair_distances(indices=INDICES)


def test_what_is_no_number_does_not_become_zero_under_a_trace():
    broken = jnp.asarray(WHOLE, jnp.float32).at[7, 2].set(jnp.nan)
    spectrum = jax.jit(geometry.covariance_spectrum)(broken)
    assert jnp.isnan(geometry.participation_ratio(spectrum))
    assert jnp.isnan(jax.jit(geometry.distance_matrix)(broken)[7, 8])
    assert jnp.isnan(jax.jit(geometry.fisher_separability)(broken).value)


def test_units_change_no_dimension():
    points = jnp.asarray(RNG.normal(size=(120, 3)) @ RNG.normal(size=(3, 6)), jnp.float32)
    spectra = geometry.local_spectra(points, INDICES)
    ratio = jax.vmap(geometry.participation_ratio)(spectra)
    skewness = geometry.expected_simplex_skewness(points, INDICES).value
    matrix = geometry.distance_matrix(points)
    for scale in (2.0**-40, 2.0**40, 2.0**60):
        scaled = points * scale
        assert jnp.array_equal(geometry.distance_matrix(scaled), matrix * scale)
        found = geometry.expected_simplex_skewness(scaled, INDICES).value
        np.testing.assert_allclose(found, skewness, rtol=1e-5)
        if scale < 2.0**60:  # beyond, the eigenvalues are no float32 numbers
            found = geometry.local_spectra(scaled, INDICES)
            np.testing.assert_allclose(
                found / scale**2, spectra, atol=1e-6 * float(spectra.max()), rtol=1e-5
            )
            found = jax.vmap(geometry.participation_ratio)(found)
            np.testing.assert_allclose(found, ratio, rtol=1e-4)


def test_counts_of_tight_clusters_far_apart():
    centres = 300 * RNG.normal(size=(20, 8))
    points = (centres[:, None] + 0.05 * RNG.uniform(size=(20, 30, 8))).reshape(-1, 8)
    points = points.astype(np.float32)
    radii = np.float32([0.04, 0.06])
    apart = np.linalg.norm(points[:, None].astype(float) - points[None].astype(float), axis=2)
    exact = (apart[:, :, None] < radii).sum(1) - 1
    found = geometry.neighbor_counts(jnp.asarray(points), jnp.asarray(radii))
    assert np.abs(found - exact).sum() <= 2e-3 * exact.sum()


def test_points_without_all_their_neighbours_are_not_used():
    valid = jnp.arange(120) < 40
    points = jnp.asarray(WHOLE, jnp.float32)
    few = geometry.k_nearest(points, 50, valid=valid).indices
    enough = geometry.k_nearest(points, 12, valid=valid).indices
    alone = geometry.k_nearest(points[:40], 12).indices
    for function in (geometry.tight_locality, geometry.expected_simplex_skewness):
        found = function(points, few)
        assert (found.value, found.n_used) == (0, 0)
        assert jnp.isinf(found.stderr)
        found, wanted = function(points, enough), function(points[:40], alone)
        assert found.n_used == wanted.n_used == 40
        np.testing.assert_allclose(found.value, wanted.value, rtol=1e-5)


def test_the_gradient_by_angles_is_finite_at_duplicates():
    points = jnp.asarray(WHOLE, jnp.float32).at[1].set(jnp.asarray(WHOLE[0], jnp.float32))
    indices = geometry.k_nearest(points, 12).indices
    gradient = jax.grad(lambda x: geometry.angle_based(x, indices).value)(points)
    assert jnp.isfinite(gradient).all()


def test_narrow_integers_do_not_wrap():
    points = RNG.integers(0, 30, (200, 4))
    wanted = geometry.lattice_dimension(jnp.asarray(points, jnp.int32), inner=4, outer=8)
    found = geometry.lattice_dimension(jnp.asarray(points, jnp.uint8), inner=4, outer=8)
    assert found.value == wanted.value
    bits = jnp.asarray(points[:, :1] < jnp.arange(0, 30, 2)[None])
    wanted = geometry.lattice_dimension(bits.astype(jnp.int32), inner=2, outer=4).value
    assert geometry.lattice_dimension(bits, inner=2, outer=4).value == wanted
