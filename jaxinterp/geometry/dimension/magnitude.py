"""Magnitude dimension: how the effective number of points grows with the scale."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class MagnitudeDimension(NamedTuple):
    """The largest growth rate of magnitude, and the profile it was read from."""

    value: Float[Array, ""]
    scale: Float[Array, ""]  # inverse length at which the growth is largest
    magnitudes: Float[Array, " s"]
    slopes: Float[Array, " s"]


@partial(jax.jit, static_argnames=("ridge",))
def magnitude_dimension(
    distances: Float[Array, "n n"], scales: Float[Array, " s"], *, ridge: float = 1e-6
) -> MagnitudeDimension:
    r"""Magnitude dimension of a finite metric space.

    Estimand: `d ln Mag / d ln t`, `Mag(t) = 1' Z^-1 1` with `Z_ij = exp(-t r_ij)`, the effective
        number of
    points at inverse length t; 0 for small and large t, near the dimension of the set in between.
    The slope is exact: with `w = Z^-1 1` it is `t w'(r * Z)w / Mag`. The value is its maximum.

    Bias: low for few points, whose plateau is short. Z is conditioned badly for small t: `ridge` is
    added to its diagonal. Cost: s Cholesky factorisations of O(n^3).

    Args:
        distances: (n, n) Euclidean distances without duplicates.
        scales: inverse lengths, positive, for example `geomspace(0.1, 100) / median distance`.
        ridge: relative to the unit diagonal.

    Returns:
        `MagnitudeDimension`.

    Reference: Leinster, Willerton, On the asymptotic magnitude of subsets of Euclidean space,
        Geometriae Dedicata 164 (2013); Andreeva et al., Metric space magnitude and generalisation
        in neural networks, TAG-ML (2023), section 3.
    """
    number = distances.shape[0]

    def at_scale(scale: Array) -> tuple[Array, Array]:
        similarity = jnp.exp(-scale * distances)
        factor = jnp.linalg.cholesky(similarity + ridge * jnp.eye(number))
        weights = jax.scipy.linalg.cho_solve((factor, True), jnp.ones(number))
        magnitude = jnp.sum(weights)
        slope = jnp.matmul(distances * similarity, weights, precision="highest")
        growth = jnp.vdot(weights, slope, precision="highest")
        return magnitude, scale * growth / magnitude

    magnitudes, slopes = lax.map(at_scale, scales)
    best = jnp.argmax(slopes)
    return MagnitudeDimension(slopes[best], scales[best], magnitudes, slopes)
