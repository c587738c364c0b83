"""MiND: maximum likelihood of the nearest distance relative to the k + 1-th."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import (
    DimensionEstimate,
    check_distances,
    error_of_mean,
    mean_over,
    usable,
)
from jaxinterp.geometry.dimension.root import HIGHEST, positive_root


def mind(
    distances: Float[Array, "n k_max"],
    *,
    k: int | None = None,
    integer: bool = False,
    indices: Int[Array, "n k_max"] | None = None,
) -> DimensionEstimate:
    r"""Minimum-neighbour-distance intrinsic dimension, MiND_MLk or (integer) MiND_MLi.

    Estimand: the dimension of a manifold whose density is constant over k + 1 neighbours.
    `rho = r_1 / r_{k+1}` has density `k d rho^(d-1) (1 - rho^d)^(k-1)`, maximised over real or over
    integer d. No upper limit is imposed: the ambient dimension is not known here, clip if it is.

    Bias: low in high d, as TwoNN, with a smaller variance. Cost: 40 passes over n.

    Args:
        distances: (n, k_max >= k + 1). Points with `r_1 = 0` or infinite distances are not used.
        k: inner neighbours; all columns but the last by default.
        integer: the likeliest integer in place of the likeliest number.
        indices: the neighbours, for an error that allows for shared neighbourhoods.

    Returns:
        `DimensionEstimate`; `per_point` is nan (one ratio has no finite maximum when `rho -> 1`).
        No usable point: value 0 with infinite error. A dimension above 1e4, as of equal distances:
        value and error infinite.

    Raises:
        ValueError: if k < 1, or on invalid distances.

    Reference: Rozza, Lombardi, Ceruti, Casiraghi, Campadelli, Machine Learning 89 (2012), section
        4.
    """
    k = distances.shape[-1] - 1 if k is None else k
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return _mind(check_distances(distances, k + 1)[:, : k + 1], indices, integer)


@partial(jax.jit, static_argnames=("integer",))
def _mind(distances: Array, indices: Array | None, integer: bool) -> DimensionEstimate:
    k = distances.shape[1] - 1
    used = usable(distances)
    safe = jnp.where(
        used[:, None], distances, jnp.arange(1.0, k + 2, dtype=distances.dtype)[None, :]
    )
    # A tie of the first and the last distance would put infinity into the likelihood.
    log_rho = jnp.log(safe[:, 0] / safe[:, -1])
    log_rho = jnp.minimum(log_rho, -jnp.finfo(log_rho.dtype).eps)

    def likelihood(dimension: Array) -> Array:
        tail = jnp.log(-jnp.expm1(dimension * log_rho))
        points = jnp.log(k * dimension) + (dimension - 1) * log_rho + (k - 1) * tail
        return mean_over(points, used)

    def scores(dimension: Array) -> Array:
        return 1 / dimension + log_rho + (k - 1) * log_rho / -jnp.expm1(-dimension * log_rho)

    def equation(dimension: Array) -> Array:
        return mean_over(scores(dimension), used)

    value = positive_root(equation, log_rho)
    information = 1 / value**2 + (k - 1) * (log_rho / (2 * jnp.sinh(value * log_rho / 2))) ** 2
    stderr = error_of_mean(scores(value), used, indices) / mean_over(information, used)
    if integer:
        # The likelihood is concave: its best integer is next to its maximum.
        low = jnp.maximum(jnp.floor(value), 1.0)
        value = jnp.where(likelihood(low + 1) > likelihood(low), low + 1, low)
    # Where the likelihood still rises at the end of the search it has no maximum.
    bounded = equation(jnp.full_like(value, HIGHEST)) < 0
    count = jnp.sum(used)
    enough = count > 1
    return DimensionEstimate(
        jnp.where(enough, jnp.where(bounded, value, jnp.inf), 0.0),
        jnp.where(enough & bounded, stderr, jnp.inf),
        jnp.full(used.shape, jnp.nan, distances.dtype),
        count,
    )
