"""A dimension that is smooth in the points, for use inside a loss."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxinterp.geometry.dimension.estimate import DimensionEstimate, error_of_mean
from jaxinterp.geometry.dimension.root import positive_root
from jaxinterp.geometry.points import of_distances

_LOWEST = 1e-4  # of the soft radii, in units of a point's mean distance


@of_distances
@partial(jax.jit, static_argnames=("neighbors",))
def soft_dimension(
    distances: Float[Array, "n n"],
    *,
    neighbors: float = 10.0,
    valid: Bool[Array, " n"] | None = None,
) -> DimensionEstimate:
    r"""Smooth local dimension from Gaussian neighbourhoods of a given effective size.

    Estimand: `d_i = d ln N_i / d ln e` where `N_i(e) = sum_{j != i} exp(-r_ij^2 / 2 e^2)` is the
        number
    of points within a soft radius e, at the e_i with `N_i(e_i) = neighbors`:
    `d_i = sum_j w_ij r_ij^2 / e_i^2 / sum_j w_ij`. On a d-dimensional manifold N grows as `e^d`.
    Gradients flow through e_i too, so that the value is exactly scale-invariant and its gradient
    cannot be followed by shrinking the points.

    Bias: low above d of about 5, since a Gaussian radius reaches far: use it to compare and to
    regularise, not to report. Cost: 40 passes over the n^2 distances.

    Args:
        distances: (n, n), from `distance_matrix`.
        neighbors: effective neighbourhood size, below n - 1.
        valid: (n,) mask of the points that exist; all by default.

    Returns:
        `DimensionEstimate`, the mean of `d_i`. A point with `neighbors` or more others within 1e-4
        of its mean distance, its duplicates, has no e_i: it is left out, as a neighbour too. No
        usable point: value 0 with infinite error.

    Raises:
        ValueError: unless 0 < neighbors < n - 1.

    Reference: Coifman, Shkolnisky, Sigworth, Singer, IEEE TIP 17 (2008), section III; Hinton,
        Roweis, Stochastic neighbor embedding, NeurIPS (2002), for the choice of e_i.
    """
    number = distances.shape[0]
    if not 0 < neighbors < number - 1:
        raise ValueError(f"neighbors must be between 0 and n - 1 = {number - 1}, got {neighbors}")
    apart = ~jnp.eye(number, dtype=bool)

    def relative_to_mean(row: Array, others: Array) -> Array:
        row = jnp.where(others, row, 0.0)
        mean = jnp.sum(row) / jnp.maximum(jnp.sum(others), 1)
        return row / jnp.where(mean > 0, mean, 1.0)

    def weights(relative: Array, others: Array, radius: Array | float) -> Array:
        return jnp.where(others, jnp.exp(-(relative**2) / (2 * radius**2)), 0.0)

    def crowded(row: Array, others: Array) -> Array:
        relative = relative_to_mean(row, others)
        return jnp.sum(weights(relative, others, _LOWEST)) >= neighbors

    def of_row(row: Array, others: Array) -> Array:
        relative = relative_to_mean(row, others)
        radius = positive_root(
            lambda e: neighbors - jnp.sum(weights(relative, others, e)),
            row,
            lowest=_LOWEST,
            highest=1e3,
        )
        weight = weights(relative, others, radius)
        total = jnp.sum(weight)
        return jnp.sum(weight * relative**2) / (radius**2 * jnp.where(total > 0, total, 1.0))

    valid = jnp.ones(number, bool) if valid is None else valid
    present = valid & ~jax.vmap(crowded)(distances, apart & valid[:, None] & valid[None, :])
    other = apart & present[:, None] & present[None, :]
    used = present & (jnp.sum(other, axis=1) > neighbors)
    values = jax.vmap(of_row)(distances, other)
    count = jnp.sum(used)
    value = jnp.sum(jnp.where(used, values, 0.0)) / jnp.maximum(count, 1)
    hidden = jnp.where(other, lax.stop_gradient(distances), jnp.inf)
    indices = lax.top_k(-hidden, min(16, number - 1))[1]
    stderr = error_of_mean(values, used, indices)
    return DimensionEstimate(value, stderr, jnp.where(used, values, jnp.nan), count)
