"""Maximum likelihood (Levina-Bickel, Hill): the dimension from all of k neighbour distances."""

from functools import partial
from typing import Literal

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

Pooling = Literal["inverse", "mean", "median"]


def levina_bickel(
    distances: Float[Array, "n k_max"],
    *,
    k: int | None = None,
    indices: Int[Array, "n k_max"] | None = None,
    pooling: Pooling = "inverse",
    unbiased: bool = False,
) -> DimensionEstimate:
    r"""Maximum-likelihood intrinsic dimension from k neighbours.

    Estimand: the dimension of a manifold whose density is constant over k neighbours, where
    neighbours form a Poisson process. Per point, `d_i = (k - 1) / sum_{j<k} ln(r_{i,k} / r_{i,j})`.
    Pooled over points:

    - "inverse": `1 / mean(1 / d_i)`, the likelihood of all points together;
    - "mean", "median" of the `d_i`. The mean is `(k - 1) / (k - 2)` times too high.

    Bias: low, increasingly so in d and k (boundaries, curvature); high under fine noise. Cost:
    O(n k) after the neighbours.

    Args:
        distances: (n, k_max >= k) from `k_nearest`. Points with `r_1 = 0` or infinite are not used.
        k: neighbours used, at least 2 (3 if `unbiased`); all columns by default.
        indices: the neighbours, for an error that allows for shared neighbourhoods; without them
            points are taken as independent and the error is about 0.8 times the true one.
        pooling: see above.
        unbiased: k - 2 in place of k - 1 in `d_i`, its exact mean under the model.

    Returns:
        `DimensionEstimate`; `per_point` is `d_i`. No usable point: value 0 with infinite error.
        All ratios 1: value and error infinite.

    Raises:
        ValueError: on a too small k, an unknown pooling, or invalid distances.

    Reference: Levina, Bickel, NeurIPS (2004), equations 8-9; MacKay, Ghahramani, Comments on
        "Maximum likelihood estimation of intrinsic dimension" (2005), for "inverse".
    """
    k = distances.shape[-1] if k is None else k
    if k < 2 + unbiased:
        raise ValueError(f"k must be at least {2 + unbiased}, got {k}")
    distances = check_distances(distances, k)[:, :k]
    return _levina_bickel(distances, indices, pooling, unbiased)


@partial(jax.jit, static_argnums=(2, 3))
def _levina_bickel(
    distances: Array, indices: Array | None, pooling: Pooling, unbiased: bool
) -> DimensionEstimate:
    used = usable(distances)
    safe = jnp.where(used[:, None], distances, 1.0)
    inverse = jnp.sum(jnp.log(safe[:, -1:] / safe[:, :-1]), axis=1)
    inverse = inverse / (distances.shape[1] - 1 - unbiased)
    return pool(inverse, used, indices, pooling)


def pool(
    inverse: Float[Array, " n"], used: Array, indices: Array | None, pooling: Pooling
) -> DimensionEstimate:
    """Combine per-point inverse dimensions into one estimate with its error."""
    if pooling not in ("inverse", "mean", "median"):
        raise ValueError(f"pooling must be inverse, mean or median, got {pooling!r}")
    count = jnp.sum(used)
    positive = inverse > 0
    per_point = jnp.where(positive, 1 / jnp.where(positive, inverse, 1.0), jnp.inf)
    finite = jnp.where(used & positive, per_point, 0.0)
    if pooling == "inverse":
        mean = mean_over(inverse, used)
        value = jnp.where(mean > 0, 1 / jnp.where(mean > 0, mean, 1.0), jnp.inf)
        stderr = error_of_mean(inverse, used, indices) * value**2
    elif pooling == "mean":
        value = mean_over(jnp.where(used, per_point, 0.0), used)
        stderr = error_of_mean(finite, used, indices)
    else:
        levels = jnp.asarray([0.4, 0.5, 0.6], inverse.dtype)
        quantiles = jnp.nanquantile(jnp.where(used, per_point, jnp.nan), levels)
        # Next to an infinite dimension only the inverses can be interpolated.
        inverses = jnp.nanquantile(jnp.where(used, inverse, jnp.nan), 1 - levels)
        low, value, high = jnp.where(jnp.isfinite(quantiles), quantiles, 1 / inverses)
        # The influence of a point on a median is its sign over twice the density there.
        width = jnp.where(jnp.isfinite(high), high - low, value**2 / low)
        inverse_density = width / 0.2
        stderr = error_of_mean((per_point > value) * inverse_density, used, indices)
    stderr = jnp.where((count > 1) & jnp.isfinite(value), stderr, jnp.inf)
    per_point = jnp.where(used, per_point, jnp.nan)
    return DimensionEstimate(jnp.where(count > 0, value, 0.0), stderr, per_point, count)
