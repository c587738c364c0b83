"""Neighbourhoods as large as the density stays constant: k*, ABIDE and k*-GRIDE."""

from functools import partial
from statistics import NormalDist
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.binomial import OPTIMAL_SHARE, binomial_counts
from jaxinterp.geometry.dimension.estimate import (
    DimensionEstimate,
    check_distances,
    mean_over,
    usable,
)
from jaxinterp.geometry.dimension.gride import ratio_likelihood
from jaxinterp.geometry.dimension.two_nn import two_nn


class AdaptiveEstimate(NamedTuple):
    """A dimension together with the neighbourhood sizes it was read from."""

    estimate: DimensionEstimate
    sizes: Int[Array, " n"]  # k* of every point
    at_limit: Float[Array, ""]  # share of usable points whose k* was cut by the neighbours given
    change: Float[Array, ""]  # of the dimension in the last iteration, relative


@partial(jax.jit, static_argnames=("alpha",))
def constant_density_sizes(
    distances: Float[Array, "n k"],
    indices: Int[Array, "n k"],
    dimension: Float[Array, ""],
    *,
    alpha: float = 1e-6,
) -> Int[Array, " n"]:
    r"""The largest neighbourhood of every point over which the density passes for constant.

    Rank k passes if point i and its neighbour k + 1 have the same density by a likelihood-ratio
    test: `-2k [ln V_i + ln V_j - 2 ln(V_i + V_j) + ln 4] <= chi2_1(1 - alpha)`, `V = r_k^d`. k* is
    the rank at which the first test fails, counted from 3. Cost: O(n k).

    Args:
        distances: (n, k) from `k_nearest`.
        indices: (n, k) from `k_nearest`.
        dimension: the exponent d of the volumes.
        alpha: level of each test.

    Returns:
        (n,) ranks between 3 and k - 1.

    Raises:
        ValueError: unless 0 < alpha < 1.

    Reference: Rodriguez, d'Errico, Facco, Laio, JCTC 14 (2018), section 2.2; Di Noia, Macocco,
        Glielmo, Laio, Mira, Beyond the noise: intrinsic dimension estimation with optimal
        neighbourhood identification (2024).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is the level of a test, in (0, 1), got {alpha}")
    ranks = jnp.arange(3, distances.shape[1] - 1)
    own = distances[:, ranks - 1]
    theirs = distances[indices[:, ranks], (ranks - 1)[None, :]]
    positive = (own > 0) & (theirs > 0) & jnp.isfinite(own) & jnp.isfinite(theirs)
    difference = dimension * jnp.log(jnp.where(positive, own / theirs, 1.0))
    # ln V_i + ln V_j - 2 ln(V_i + V_j) + ln 4 = -2 ln cosh((ln V_i - ln V_j) / 2)
    half = jnp.abs(difference) / 2
    log_cosh = half + jnp.log1p(jnp.exp(-2 * half)) - jnp.log(2.0)
    # Outside JAX: float32 has no quantile 1 - 5e-7, and a threshold 0.4 % too high moves k*.
    threshold = NormalDist().inv_cdf(alpha / 2) ** 2
    passed = 4 * ranks[None, :] * log_cosh <= threshold
    return 3 + jnp.sum(lax.cumprod(passed.astype(jnp.int32), axis=1), axis=1)


def adaptive_dimension(
    distances: Float[Array, "n k"],
    indices: Int[Array, "n k"],
    *,
    method: Literal["binomial", "gride"] = "binomial",
    alpha: float = 1e-6,
    iterations: int = 5,
) -> AdaptiveEstimate:
    r"""Intrinsic dimension on the largest constant-density neighbourhoods: ABIDE or k*-GRIDE.

    Alternates `constant_density_sizes` with the binomial estimator at `ratio = 0.2032^(1/d)`
    (ABIDE), or with GRIDE at n2 = k*, n1 = k*/2, from the TwoNN line fit on.

    Estimand: the dimension at the scale of k* neighbours, above that of the noise. Bias: low on
    curved and bounded sets, more than TwoNN (a 10-sphere reads 8.0 at n = 2500). Cost: O(n k) an
    iteration.

    Args:
        distances: (n, k) from `k_nearest`; k bounds the neighbourhoods, 100 is usual.
        indices: (n, k) from `k_nearest`.
        method: see above.
        alpha: level of the density tests.
        iterations: alternations.

    Returns:
        `AdaptiveEstimate`. A large `at_limit` asks for more neighbours.

    Raises:
        ValueError: with fewer than 5 neighbours, on an unknown method, an alpha outside (0, 1) or
            invalid distances.

    Reference: Di Noia et al. (2024), as above, algorithm 1.
    """
    if method not in ("binomial", "gride"):
        raise ValueError(f"method must be binomial or gride, got {method!r}")
    distances = check_distances(distances, 5)
    return _adaptive(distances, indices, method, alpha, iterations)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _adaptive(
    distances: Array, indices: Array, method: str, alpha: float, iterations: int
) -> AdaptiveEstimate:
    def update(_: Array, carry: tuple[DimensionEstimate, Array, Array]) -> tuple:
        estimate = carry[0]
        sizes = constant_density_sizes(distances, indices, estimate.value, alpha=alpha)
        if method == "binomial":
            ratio = jnp.minimum(OPTIMAL_SHARE ** (1 / estimate.value), 0.975)
            new = binomial_counts(distances, sizes, ratio, indices)
        else:
            outer = jnp.minimum(sizes + sizes % 2, distances.shape[1] // 2 * 2)
            pick = partial(jnp.take_along_axis, distances, axis=1)
            near, far = pick(outer[:, None] // 2 - 1)[:, 0], pick(outer[:, None] - 1)[:, 0]
            ranks = outer.astype(distances.dtype)
            new = ratio_likelihood(near, far, ranks / 2, ranks, indices, trim=True)
        return new, sizes, jnp.abs(new.value / estimate.value - 1)

    start = two_nn(distances, indices=indices, method="line")
    sizes = jnp.full(distances.shape[0], 2, int)  # TwoNN's
    carry = start, sizes, jnp.full_like(start.value, jnp.inf)
    estimate, sizes, change = lax.fori_loop(0, iterations, update, carry)
    at_limit = (sizes >= distances.shape[1] - 1).astype(distances.dtype)
    at_limit = mean_over(at_limit, usable(distances))
    return AdaptiveEstimate(estimate, sizes, at_limit, change)
