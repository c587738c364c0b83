"""Binomial estimator (BIDE): the dimension from counts in two balls of known radius ratio."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import (
    DimensionEstimate,
    check_distances,
    error_of_mean,
    mean_over,
)

# The ratio rho at which the Fisher information of the binomial is largest solves rho^d = 0.2032.
OPTIMAL_SHARE = 0.2032


def binomial(
    distances: Float[Array, "n k_max"],
    *,
    k: int,
    ratio: float = 0.5,
    indices: Int[Array, "n k_max"] | None = None,
) -> DimensionEstimate:
    r"""Binomial intrinsic dimension at a fixed number of neighbours.

    Estimand: the dimension of a manifold whose density is constant over the k neighbours. Of the k
    - 1 points inside `r_{i,k}`, each lies within `ratio * r_{i,k}` with probability `ratio^d`; with
    n_i the number that do, `d = ln(mean n_i / (k - 1)) / ln ratio`.

    Bias: none from the model (exact binomial), low in high d from the finite ball. Undefined when
    no point lies in an inner ball: raise `ratio`; `0.2032^(1/d)` is the most informative one.
    Cost: O(n k) after the neighbours.

    Args:
        distances: (n, k_max >= k). Points with `r_k = 0` or infinite distances are not used.
        k: neighbours, at least 2.
        ratio: inner over outer radius, between 0 and 1.
        indices: the neighbours, for an error that allows for shared neighbourhoods.

    Returns:
        `DimensionEstimate`; `per_point` is nan where the inner ball is empty. All inner balls
        empty: value and error infinite. No usable point: value 0 with infinite error.

    Raises:
        ValueError: if k < 2, the ratio is not in (0, 1), or on invalid distances.

    Reference: Macocco, Glielmo, Grilli, Laio, Physical Review Letters 130 (2023), equations 3-6.
    """
    if k < 2:
        raise ValueError(f"k must be at least 2, got {k}")
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must be between 0 and 1, got {ratio}")
    distances = check_distances(distances, k)
    ranks = jnp.full(distances.shape[0], k)
    return binomial_counts(distances, ranks, jnp.asarray(ratio, distances.dtype), indices)


@partial(jax.jit)
def binomial_counts(
    distances: Float[Array, "n k_max"],
    ranks: Int[Array, " n"],
    ratio: Float[Array, ""],
    indices: Int[Array, "n k_max"] | None,
) -> DimensionEstimate:
    """The binomial estimate for outer ranks that may differ from point to point."""
    radius = jnp.take_along_axis(distances, ranks[:, None] - 1, axis=1)
    used = (radius[:, 0] > 0) & jnp.isfinite(radius[:, 0])
    column = jnp.arange(distances.shape[1])[None, :]
    inner = (distances <= ratio * radius) & (column < ranks[:, None] - 1)
    inside = jnp.sum(inner, axis=1).astype(distances.dtype)
    outside = (ranks - 1).astype(distances.dtype)
    share = mean_over(inside, used) / mean_over(outside, used)
    safe = jnp.where(share > 0, share, 0.5)
    value = jnp.where(share > 0, jnp.log(safe) / jnp.log(ratio), jnp.inf)
    # Delta method for the logarithm of a ratio of means.
    influence = (inside - safe * outside) / (safe * mean_over(outside, used) * jnp.log(ratio))
    count = jnp.sum(used)
    valid = (count > 1) & (share > 0)
    some = used & (inside > 0)
    per_point = jnp.log(jnp.where(some, inside / outside, 0.5)) / jnp.log(ratio)
    return DimensionEstimate(
        jnp.where(count > 1, value, 0.0),
        jnp.where(valid, error_of_mean(influence, used, indices), jnp.inf),
        jnp.where(some, per_point, jnp.nan),
        count,
    )
