"""GRIDE: the dimension from the ratio of two neighbour distances of any rank, and its ladder."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import (
    DimensionEstimate,
    ScaleScan,
    check_distances,
    error_of_mean,
    mean_over,
)
from jaxinterp.geometry.dimension.root import HIGHEST, positive_root
from jaxinterp.geometry.dimension.two_nn import log_ratio


def gride(
    distances: Float[Array, "n k"],
    *,
    n1: int = 1,
    n2: int | None = None,
    indices: Int[Array, "n k"] | None = None,
    trim: bool = True,
) -> DimensionEstimate:
    r"""Generalised-ratio intrinsic dimension (GRIDE) at one scale.

    Estimand: as TwoNN, with the density constant over n2 neighbours. `mu = r_{n2} / r_{n1}` has
        density
    `d (mu^d - 1)^(n2-n1-1) / (B(n2-n1, n1) mu^((n2-1)d+1))`; the estimate is the root in d of
    `(N-1)/d + (n2-n1-1) sum ln mu / (1 - mu^-d) - (n2-1) sum ln mu = 0`. n1 = 1, n2 = 2 is TwoNN.

    Bias: low, increasingly with n1 in high d; the noise of the data inflates small n1. Error: the
    sandwich of the likelihood's information and the scores' covariance among neighbours.
    Cost: 40 passes over n.

    Args:
        distances: (n, k >= n2). Points with `r_{n1} = 0` or infinite distances are not used.
        n1: rank of the nearer neighbour.
        n2: rank of the further one, `2 n1` by default.
        indices: the neighbours, for an error that allows for shared neighbourhoods.
        trim: leave out ratios above `q50 + 20 (q95 - q50)`, which come from near-duplicates.

    Returns:
        `DimensionEstimate`; `per_point` is the one-point `1 / ln mu` scaled to be unbiased pooled.
        No usable point: value 0 with infinite error. A dimension above 1e4, as of equal distances:
        value and error infinite.

    Raises:
        ValueError: unless 1 <= n1 < n2 <= k, or on invalid distances.

    Reference: Denti, Doimo, Laio, Mira, Scientific Reports 12 (2022), equations 5-9.
    """
    n2 = 2 * n1 if n2 is None else n2
    if not 1 <= n1 < n2:
        raise ValueError(f"ranks must satisfy 1 <= n1 < n2, got n1={n1}, n2={n2}")
    distances = check_distances(distances, n2)
    near, far = distances[:, n1 - 1], distances[:, n2 - 1]
    ranks = jnp.asarray([n1, n2], distances.dtype)
    return ratio_likelihood(near, far, ranks[0], ranks[1], indices, trim=trim)


def gride_ladder(
    distances: Float[Array, "n k"],
    *,
    indices: Int[Array, "n k"] | None = None,
    trim: bool = True,
) -> ScaleScan:
    """GRIDE at n1 = 1, 2, 4, ... with n2 = 2 n1, as far as the distances reach.

    A plateau over n1 is a dimension; a fall towards small radii is noise, a steady fall with n1 is
    the finite-sample bias of high dimensions. All rungs are one vmapped root search.

    Args:
        distances: (n, k), giving `log2(k)` rungs.
        indices: the neighbours, for errors that allow for shared neighbourhoods. Above n1 of about
            16 the errors still miss the correlation of far points and are a lower bound.
        trim: as in `gride`.

    Returns:
        `ScaleScan` over n1; `radii` are means of `(r_{n1} + r_{n2}) / 2`.

    Raises:
        ValueError: with fewer than 2 columns, or on invalid distances.

    Reference: Denti, Doimo, Laio, Mira, Scientific Reports 12 (2022), section 3.
    """
    distances = check_distances(distances, 2)
    rungs = distances.shape[1].bit_length() - 1
    n1 = 2 ** jnp.arange(rungs)
    near, far = distances[:, n1 - 1].T, distances[:, 2 * n1 - 1].T
    many = jax.vmap(partial(ratio_likelihood, trim=trim), in_axes=(0, 0, 0, 0, None))
    rank = n1.astype(distances.dtype)
    estimates = many(near, far, rank, 2 * rank, indices)
    finite = jnp.isfinite(far)
    radii = jnp.sum(jnp.where(finite, (near + far) / 2, 0.0), axis=1)
    radii = radii / jnp.maximum(jnp.sum(finite, axis=1), 1)
    return ScaleScan(rank, radii, estimates.value, estimates.stderr)


@partial(jax.jit, static_argnames=("trim",))
def ratio_likelihood(
    near: Float[Array, " n"],
    far: Float[Array, " n"],
    n1: Float[Array, "*n"],
    n2: Float[Array, "*n"],
    indices: Int[Array, "n k"] | None,
    *,
    trim: bool,
) -> DimensionEstimate:
    """The GRIDE likelihood for ranks that may differ from point to point."""
    used = (near > 0) & jnp.isfinite(far)
    ratio = log_ratio(near, far, used)
    if trim:
        quantiles = jnp.nanquantile(
            jnp.where(used, jnp.exp(ratio), jnp.nan), jnp.asarray([0.5, 0.95])
        )
        used = used & (jnp.exp(ratio) <= quantiles[0] + 20 * (quantiles[1] - quantiles[0]))
    # A tie gets the smallest positive ratio: its score is then finite and drops out.
    ratio = jnp.maximum(jnp.where(used, ratio, 1.0), jnp.finfo(ratio.dtype).eps)
    count = jnp.sum(used)

    def scores(dimension: Array) -> Array:
        """Derivative of each point's log-likelihood."""
        inner = (n2 - n1 - 1) * ratio / -jnp.expm1(-dimension * ratio)
        return 1 / dimension + inner - (n2 - 1) * ratio

    def equation(dimension: Array) -> Array:
        return jnp.sum(jnp.where(used, scores(dimension), 0.0)) - 1 / dimension

    value = positive_root(equation, ratio)
    half = jnp.minimum(value * ratio / 2, 40.0)
    information = 1 / value**2 + (n2 - n1 - 1) * (ratio / (2 * jnp.sinh(half))) ** 2
    stderr = error_of_mean(scores(value), used, indices) / mean_over(information, used)
    per_point = jnp.where(used, value * mean_over(ratio, used) / ratio, jnp.nan)
    # Where the likelihood still rises at the end of the search it has no maximum.
    bounded = equation(jnp.full_like(value, HIGHEST)) < 0
    enough = count > 1
    value = jnp.where(bounded, value, jnp.inf)
    stderr = jnp.where(enough & bounded, stderr, jnp.inf)
    return DimensionEstimate(jnp.where(enough, value, 0.0), stderr, per_point, count)
