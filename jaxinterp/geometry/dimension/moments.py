"""Estimators from moments of a neighbourhood's radii: method of moments and MADA."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import DimensionEstimate, check_distances, usable
from jaxinterp.geometry.dimension.levina_bickel import Pooling, pool


def method_of_moments(
    distances: Float[Array, "n k_max"],
    *,
    k: int | None = None,
    indices: Int[Array, "n k_max"] | None = None,
    pooling: Pooling = "mean",
) -> DimensionEstimate:
    """Method-of-moments intrinsic dimension.

    Estimand: the dimension of a manifold whose density is constant over k neighbours, where the
        mean
    radius of a ball is `r d / (d + 1)`: `d_i = m / (r_{i,k} - m)`, m the mean of `r_{i,1..k}`.

    Bias: high by about `(d + 1) / k` because the k-th neighbour is among the k, low in high d and
    for large k. Cost: O(n k) after the neighbours.

    Args:
        distances: (n, k_max >= k). Points with `r_1 = 0` or infinite distances are not used.
        k: neighbours, at least 2; all columns by default.
        indices: the neighbours, for an error that allows for shared neighbourhoods.
        pooling: "mean", "median", or "inverse", the harmonic mean.

    Returns:
        `DimensionEstimate` with `per_point` `d_i`. No usable point: value 0 with infinite error.

    Raises:
        ValueError: if k < 2, on an unknown pooling, or on invalid distances.

    Reference: Amsaleg et al., Extreme-value-theoretic estimation of local intrinsic
        dimensionality, Data Mining and Knowledge Discovery 32 (2018), section 5.2.
    """
    k = distances.shape[-1] if k is None else k
    if k < 2:
        raise ValueError(f"k must be at least 2, got {k}")
    return _moments(check_distances(distances, k)[:, :k], indices, pooling)


@partial(jax.jit, static_argnames=("pooling",))
def _moments(distances: Array, indices: Array | None, pooling: Pooling) -> DimensionEstimate:
    used = usable(distances)
    safe = jnp.where(used[:, None], distances, 1.0)
    mean = jnp.mean(safe, axis=1)
    gap = jnp.mean(safe[:, -1:] - safe, axis=1)
    return pool(gap / mean, used, indices, pooling)


def mada(
    distances: Float[Array, "n k_max"],
    *,
    k: int | None = None,
    inner: int | None = None,
    indices: Int[Array, "n k_max"] | None = None,
    pooling: Pooling = "mean",
) -> DimensionEstimate:
    """Manifold-adaptive intrinsic dimension from two radii.

    Estimand: the dimension of a manifold whose density is constant over k neighbours:
    `d_i = ln(k / inner) / ln(r_{i,k} / r_{i,inner})`.

    Bias: high for small k (the mean of an inverse), low in high d. Cost: O(n) after the neighbours.

    Args:
        distances: (n, k_max >= k). Points with `r_inner = 0` or infinite distances are not used.
        k: outer rank; all columns by default.
        inner: inner rank, `k // 2` by default.
        indices: the neighbours, for an error that allows for shared neighbourhoods.
        pooling: "mean", "median", or "inverse", the harmonic mean.

    Returns:
        `DimensionEstimate` with `per_point` `d_i`. No usable point: value 0 with infinite error.

    Raises:
        ValueError: unless 1 <= inner < k, on an unknown pooling, or on invalid distances.

    Reference: Farahmand, Szepesvari, Audibert, Manifold-adaptive dimension estimation, ICML (2007),
        equation 3.
    """
    k = distances.shape[-1] if k is None else k
    inner = k // 2 if inner is None else inner
    if not 1 <= inner < k:
        raise ValueError(f"ranks must satisfy 1 <= inner < k, got inner={inner}, k={k}")
    distances = check_distances(distances, k)
    return _two_radii(distances[:, inner - 1], distances[:, k - 1], k / inner, indices, pooling)


@partial(jax.jit, static_argnames=("ratio", "pooling"))
def _two_radii(
    near: Array, far: Array, ratio: float, indices: Array | None, pooling: Pooling
) -> DimensionEstimate:
    used = (near > 0) & jnp.isfinite(far)
    growth = jnp.where(used, far, 1.0) / jnp.where(used, near, 1.0)
    return pool(jnp.log(growth) / jnp.log(ratio), used, indices, pooling)
