import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxinterp import geometry
from jaxinterp.geometry import (
    gride,
    k_nearest,
    k_nearest_sharded,
    levina_bickel,
    method_of_moments,
    two_nn,
)

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize(
    ("points", "k"),
    [
        pytest.param(jax.random.normal(KEY, (800, 16)) + 40, 10, marks=pytest.mark.slow),
        (jax.random.randint(KEY, (1600, 3), 0, 9).astype(jnp.float32), 12),  # ties and duplicates
        (jax.random.normal(KEY, (64, 5)), 20),  # more neighbours than a device has rows
        (jax.random.normal(KEY, (16384, 4)), 3),  # two-stage selection on every device
    ],
)
def test_equals_one_device(mesh, points, k):
    rows = jax.NamedSharding(mesh, jax.P("data"))
    sharded = k_nearest_sharded(jax.device_put(points, rows), k, mesh=mesh, axis="data")
    single = k_nearest(points, k)
    assert jnp.array_equal(sharded.indices, single.indices)
    assert jnp.array_equal(sharded.duplicates, single.duplicates)
    np.testing.assert_allclose(sharded.distances, single.distances, rtol=1e-6)
    assert sharded.indices.sharding.is_equivalent_to(rows, 2)


def test_masked_padding(mesh):
    points = jax.random.normal(KEY, (100, 3))
    padded = jnp.concatenate([points, jnp.zeros((4, 3))])
    found = k_nearest_sharded(padded, 5, mesh=mesh, axis="data", valid=jnp.arange(104) < 100)
    assert jnp.array_equal(found.indices[:100], k_nearest(points, 5).indices)
    assert jnp.all(jnp.isinf(found.distances[100:]))


def test_cosine(mesh):
    points = jax.random.normal(KEY, (160, 6))
    found = k_nearest_sharded(points, 5, mesh=mesh, axis="data", metric="cosine")
    assert jnp.array_equal(found.indices, k_nearest(points, 5, metric="cosine").indices)


def test_rows_must_divide(mesh):
    with pytest.raises(ValueError, match="pad them to 104"):
        k_nearest_sharded(jnp.zeros((100, 3)), 5, mesh=mesh, axis="data")


ESTIMATORS = {
    "two_nn": lambda found: two_nn(found.distances, indices=found.indices),
    "levina_bickel": lambda found: levina_bickel(found.distances, k=20, indices=found.indices),
    "gride": lambda found: gride(found.distances, n1=2),
    "method_of_moments": lambda found: method_of_moments(found.distances),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_of_spread_neighbours_are_those_of_one_device(mesh, name):
    """What is per point stays where the points are."""
    rows = jax.NamedSharding(mesh, jax.P("data"))
    points = jax.random.normal(jax.random.key(0), (512, 3)) @ jnp.eye(3, 16)
    spread = k_nearest_sharded(jax.device_put(points, rows), 20, mesh=mesh, axis="data")
    found = ESTIMATORS[name](spread)
    expected = ESTIMATORS[name](k_nearest(points, 20))
    for ours, one in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-4)
    assert 2.5 < float(found.value) < 3.6
    assert found.per_point.sharding.is_equivalent_to(rows, 1)


def test_local_spectra_spread_over_devices_are_those_of_one(mesh):
    """Batches of matrices given to LAPACK on several devices at once make jaxlib wait for ever."""
    points = jax.random.normal(KEY, (800, 32)) + 40
    indices = geometry.k_nearest(points, 50).indices
    specs = {"in_specs": (P(), P("data")), "out_specs": P("data")}
    spread = jax.jit(jax.shard_map(geometry.local_spectra, mesh=mesh, check_vma=False, **specs))
    np.testing.assert_array_equal(spread(points, indices), geometry.local_spectra(points, indices))
