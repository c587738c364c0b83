"""Products are asked for at full float32: by default a TPU and a GPU round what goes into them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxinterp import geometry
from jaxinterp.activations.moments import _device_sums, _pairs
from jaxinterp.activations.normalise import times
from jaxinterp.geometry.dimension.danco import ball_statistics
from tests.programs import equations

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (60, 4))
NEAR = jnp.stack([jnp.roll(jnp.arange(60), -j) for j in range(1, 13)], axis=1)

FUNCTIONS = {
    "k_nearest": lambda x: geometry.k_nearest(x, 5),
    "distance_matrix": geometry.distance_matrix,
    "neighbor_counts": lambda x: geometry.neighbor_counts(x, jnp.ones(2)),
    "local_spectra": lambda x: geometry.local_spectra(x, NEAR),
    "covariance_spectrum": geometry.covariance_spectrum,
    "expected_simplex_skewness": lambda x: geometry.expected_simplex_skewness(x, NEAR),
    "angle_based": lambda x: geometry.angle_based(x, NEAR),
    "tight_locality": lambda x: geometry.tight_locality(x, NEAR),
    "danco": lambda x: geometry.danco(x, ball_statistics(KEY, number=60, largest=3)),
    "fisher_separability": geometry.fisher_separability,
    "magnitude": lambda x: geometry.magnitude_dimension(
        geometry.distance_matrix(x), jnp.geomspace(0.1, 10, 5)
    ),
    "soft": lambda x: geometry.soft_dimension(geometry.distance_matrix(x)),
    "linear_cka": lambda x: geometry.linear_cka(x, x[:, :2]),
    "svcca": lambda x: geometry.svcca(x, x[:, :2]),
    "relative": lambda x: geometry.relative_representation(x, x[:7]),
    "intrinsic_dimension": geometry.intrinsic_dimension,
    "whitening": lambda x: times(x, jnp.eye(4)),
    "moments": lambda x: _device_sums(x, _pairs),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_product_is_at_full_precision(name):
    program = jax.make_jaxpr(FUNCTIONS[name])(X).jaxpr
    found = [e for e in equations(program) if e.primitive.name == "dot_general"]
    assert found
    rounded = [str(e) for e in found if e.params["precision"] != (lax.Precision.HIGHEST,) * 2]
    assert not rounded
