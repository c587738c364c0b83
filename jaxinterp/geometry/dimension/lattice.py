"""Intrinsic dimension of integer data (I3D), binary data included."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxinterp.geometry.dimension.estimate import DimensionEstimate
from jaxinterp.geometry.dimension.root import positive_root


def lattice_dimension(
    points: Integer[Array, "n d"] | Bool[Array, "n d"], *, inner: int, outer: int, block: int = 64
) -> DimensionEstimate:
    r"""Intrinsic dimension of points on a lattice, from counts in two taxicab balls.

    Estimand: the dimension d of a lattice with locally constant density, where counts in balls of
    L1 radius l are proportional to the number of lattice points in them, continued to real d: `V(d,
    l) = sum_j 2^j C(d, j) C(l, j)`. Solves
    `mean n / mean k = V(d, inner) / V(d, outer)` for the numbers n, k of other points within the
    radii, those on the point's own site included.

    Bias: low when balls reach the boundary. Error: delta method over points taken as independent.
    For bits the L1 distance is the Hamming distance; choose radii well below its mean. Cost: O(n^2
    d).

    Args:
        points: (n, d) integers or bits; duplicates are legitimate.
        inner: inner radius, at least 1.
        outer: outer radius.
        block: rows per step.

    Returns:
        `DimensionEstimate`; `per_point` is nan. No pair within the inner radius, or none between
        the radii: value 0 with infinite error.

    Raises:
        ValueError: unless 1 <= inner < outer.

    Reference: Macocco, Glielmo, Grilli, Laio, Intrinsic dimension estimation for discrete metrics,
        Physical Review Letters 130 (2023), equations 3-5.
    """
    if not 1 <= inner < outer:
        raise ValueError(f"radii must satisfy 1 <= inner < outer, got {inner}, {outer}")
    # Differences of narrow or unsigned integers would wrap around.
    points = points.astype(jnp.promote_types(points.dtype, jnp.int32))
    return _lattice_dimension(points, inner, outer, block)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _lattice_dimension(points: Array, inner: int, outer: int, block: int) -> DimensionEstimate:
    number = points.shape[0]

    def count(row: Array) -> tuple[Array, Array]:
        distance = jnp.sum(jnp.abs(points - row[None, :]), axis=1)
        return jnp.sum(distance <= inner) - 1, jnp.sum(distance <= outer) - 1

    near, far = (
        one.astype(jnp.float32) for one in lax.map(count, points, batch_size=min(block, number))
    )
    valid = (jnp.sum(near) > 0) & jnp.any(far > near)
    share = jnp.mean(near) / jnp.maximum(jnp.mean(far), 1e-9)

    def ratio(dimension: Array) -> Array:
        return _ball(dimension, inner) / _ball(dimension, outer)

    target = jnp.where(valid, share, 0.5)
    value = positive_root(lambda d: ratio(d) - target, target, lowest=1e-2, highest=1e3)
    slope = jax.grad(ratio)(value)
    spread = jnp.std(near - share * far) / jnp.maximum(jnp.mean(far), 1e-9)
    stderr = jnp.abs(spread / jnp.sqrt(number) / jnp.where(slope == 0, 1.0, slope))
    return DimensionEstimate(
        jnp.where(valid, value, 0.0),
        jnp.where(valid, stderr, jnp.inf),
        jnp.full(number, jnp.nan),
        jnp.asarray(number),
    )


def _ball(dimension: Float[Array, ""], radius: int) -> Float[Array, ""]:
    """Lattice points within an L1 radius, the recurrence of 2^j C(d, j) C(l, j) summed over j."""
    term, total = jnp.ones_like(dimension), jnp.ones_like(dimension)
    for j in range(radius):
        term = term * 2 * (dimension - j) * (radius - j) / (j + 1) ** 2
        total = total + term
    return total
