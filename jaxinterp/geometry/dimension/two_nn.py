"""TwoNN: the dimension from the ratio of the first two neighbour distances."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import gammainc
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import (
    DimensionEstimate,
    check_distances,
    error_of_mean,
    usable,
)


def two_nn(
    distances: Float[Array, "n k"],
    *,
    indices: Int[Array, "n k"] | None = None,
    method: Literal["likelihood", "line", "censored", "bayes"] = "likelihood",
    discard: float = 0.1,
    prior: tuple[float, float] = (1.0, 0.0),
) -> DimensionEstimate:
    r"""TwoNN intrinsic dimension.

    Estimand: the dimension of a manifold whose density is constant over the first two neighbours.
    Then `x_i = ln(r_{i,2} / r_{i,1})` is exponential with rate d. With `x_(j)` sorted, N points
    used and `m = int((1 - discard) N)`:

    - "likelihood": `d = (N - 1) / sum x`, unbiased for independent ratios;
    - "line": least squares through the origin of `-ln(1 - j/N)` on `x_(j)`, j <= m; half as
    precise;
    - "censored": `d = (m - 1) / (sum_{j<=m} x_(j) + (N - m) x_(m))`, robust to the largest ratios;
    - "bayes": posterior mean `(a + N) / (b + sum x)` under a Gamma(a, b) prior on d. b is compared
      with `N / d`, so that b > 0 pulls high dimensions down. The error is that of the posterior,
      `sqrt(a + N) / (b + sum x)`, times what shared neighbourhoods add to that of "likelihood".

    Bias: low above d of about 10 (a cube of 20 dimensions reads 15.5 at n = 2500), low at
    boundaries, high under noise finer than the manifold. Cost: O(n log n) after the neighbours.

    Args:
        distances: (n, k >= 2) from `k_nearest`. Points with `r_1 = 0` or infinite are not used.
        indices: the neighbours, for an error that allows for shared neighbourhoods; without them
            ratios are taken as independent and the error is about 0.8 times the true one.
        method: see above.
        discard: fraction of largest ratios left out by "line" and "censored".
        prior: (a, b) of "bayes".

    Returns:
        `DimensionEstimate`; `per_point` is `1 / x_i`. No usable point: value 0 with infinite error.
        All ratios 1 (a regular grid): value and error infinite.

    Raises:
        ValueError: on an unknown method, discard outside [0, 1), or invalid distances.

    Reference: Facco, d'Errico, Rodriguez, Laio, Scientific Reports 7 (2017), equations 4-6;
        Denti, Doimo, Laio, Mira, Scientific Reports 12 (2022), section 2 (likelihood, posterior).
    """
    if method not in ("likelihood", "line", "censored", "bayes"):
        raise ValueError(f"method must be likelihood, line, censored or bayes, got {method!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard is a fraction in [0, 1), got {discard}")
    distances = check_distances(distances, 2)[:, :2]
    return _two_nn(distances, indices, method, discard, prior)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _two_nn(
    distances: Array,
    indices: Array | None,
    method: str,
    discard: float,
    prior: tuple[float, float],
) -> DimensionEstimate:
    used = usable(distances)
    count = jnp.sum(used)
    ratio = log_ratio(distances[:, 0], distances[:, 1], used)
    ordered = jnp.sort(jnp.where(used, ratio, jnp.inf))
    rank = jnp.arange(1, ordered.shape[0] + 1)
    # Rounding first: 0.9 * 10 must keep 9 points in float32 too.
    kept = jnp.floor(jnp.round((1 - discard) * count, 3)).astype(rank.dtype)
    inside = rank <= kept
    total = jnp.sum(jnp.where(used, ratio, 0.0))
    # Quotients of integers would be float64 under x64, whatever the distances are.
    inner = jnp.minimum(kept / jnp.maximum(count, 1), 1 - 1 / (2 * count + 2))
    cut = -jnp.log1p(-inner.astype(ratio.dtype))
    if method == "likelihood":
        top, bottom = count - 1.0, total
    elif method == "bayes":
        top, bottom = prior[0] + count, prior[1] + total
    elif method == "censored":
        ordered = jnp.where(rank <= count, ordered, 0.0)
        largest = ordered[jnp.maximum(kept - 1, 0)]
        top = kept - 1.0
        bottom = jnp.sum(jnp.where(inside, ordered, 0.0)) + (count - kept) * largest
    else:
        inside = inside & (rank < count)
        below = jnp.where(inside, rank, 0) / jnp.maximum(count, 1)
        level = -jnp.log1p(-below.astype(ratio.dtype))
        ordered = jnp.where(inside, ordered, 0.0)
        top, bottom = jnp.sum(ordered * level), jnp.sum(ordered * ordered)
    value = jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1.0), jnp.inf)
    value = jnp.where(count > 1, value, 0.0)

    # First-order influence of each point on the estimate, relative to d; z is exponential(1).
    exponential = ratio * jnp.where(jnp.isfinite(value), value, 0.0)
    capped = jnp.minimum(exponential, cut)
    if method == "line":
        influence = capped**2 / (4 * gammainc(3.0, cut))
    elif method == "censored":
        influence = ((exponential <= cut) - capped) / -jnp.expm1(-cut)
    else:
        influence = exponential
    error = error_of_mean(influence, used, indices)
    if method == "bayes":
        independent = error_of_mean(influence, used)
        varied = (count > 1) & (independent > 0)
        shared = jnp.where(varied, error / jnp.where(varied, independent, 1.0), 1.0)
        error = shared / jnp.sqrt(top)
    stderr = value * error
    per_point = jnp.where(used, 1 / ratio, jnp.nan)
    stderr = jnp.where((count > 1) & jnp.isfinite(value), stderr, jnp.inf)
    return DimensionEstimate(value, stderr, per_point, count)


def log_ratio(near: Array, far: Array, used: Array) -> Array:
    """`ln(far / near)` where used, else 0; accurate for ratios close to one."""
    near = jnp.where(used, near, 1.0)
    far = jnp.where(used, far, 1.0)
    return jnp.log1p((far - near) / near)
