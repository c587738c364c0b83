"""Fisher separability: the dimension of the sphere on which points are as separable."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.points import of_points

DEFAULT_MARGINS = tuple(round(0.6 + 0.02 * step, 2) for step in range(20))


class Separability(NamedTuple):
    """Separability of a cloud and the dimension it corresponds to, by margin."""

    value: Float[Array, ""]  # the dimension at `margin`
    margin: Float[Array, ""]
    profile: Float[Array, " m"]  # dimension at every margin, nan where no pair is inseparable
    inseparable: Float[Array, " m"]  # mean probability that another point is inseparable
    components: Int[Array, ""]  # principal components kept


@of_points
@partial(jax.jit, static_argnames=("margins", "conditioning", "block"))
def fisher_separability(
    points: Float[Array, "n d"],
    *,
    margins: tuple[float, ...] = DEFAULT_MARGINS,
    conditioning: float = 10.0,
    block: int = 256,
) -> Separability:
    r"""Intrinsic dimension by Fisher separability (FisherS).

    Estimand: the dimension n of the uniform sphere with the same mean probability p that `x.y >= a
        x.x`
    after centring, whitening the components with `lambda > lambda_1 / conditioning` and projecting
    to the unit sphere: `n(a) = W(-ln(1-a^2) / (2 pi p^2 a^2 (1-a^2))) / -ln(1-a^2)`, W the Lambert
    function, read at the margin nearest 0.9 of the largest margin with p > 0.

    Bias: tracks the linear span (a 10-sphere reads 11), fails on skewed densities; a global number
    without a sampling error. Cost: O(n^2 (d + margins)).

    Args:
        points: (n, d) rows.
        margins: values of a, between 0 and 1, ascending.
        conditioning: largest ratio of kept eigenvalues.
        block: rows of products held at once.

    Returns:
        `Separability`. All points separable at every margin, or fewer than 2 distinct points:
        value 0.

    Raises:
        ValueError: if a margin is outside (0, 1).

    Reference: Albergante, Bac, Zinovyev, Estimation of the effective dimension of data by Fisher
        separability, IJCNN (2019), equations 3-6.
    """
    if not all(0 < margin < 1 for margin in margins):
        raise ValueError(f"margins must lie between 0 and 1, got {margins}")
    number = points.shape[0]
    rows = points - jnp.mean(points, axis=0, keepdims=True)
    covariance = jnp.matmul(rows.T, rows, precision="highest") / (number - 1)
    variances, axes = jnp.linalg.eigh(covariance)
    kept = (variances > variances[-1] / conditioning) & (variances > 0)
    scale = jnp.where(kept, lax.rsqrt(jnp.where(kept, variances, 1.0)), 0.0)
    rows = jnp.matmul(rows, axes * scale[None, :], precision="highest")
    length = jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))
    rows = rows / jnp.where(length > 0, length, 1.0)
    level = jnp.asarray(margins, rows.dtype)

    def count(block_rows: tuple[Array, Array]) -> Array:
        some, start = block_rows
        product = jnp.matmul(some, rows.T, precision="highest")
        own = (start + jnp.arange(block))[:, None] == jnp.arange(number)[None, :]
        product = jnp.where(own, -jnp.inf, product)
        return jnp.stack([jnp.sum(product >= one, axis=1) for one in level])

    padded = -(-number // block) * block
    blocks = jnp.pad(rows, ((0, padded - number), (0, 0))).reshape(-1, block, rows.shape[1])
    counts = lax.map(count, (blocks, block * jnp.arange(len(blocks))))
    probability = jnp.sum(counts, axis=(0, 2)) / (number * (number - 1.0))

    some = probability > 0
    log_margin = -jnp.log1p(-(level**2))
    safe = jnp.where(some, probability, 1.0)
    profile = lambert_w(log_margin / (2 * jnp.pi * safe**2 * level**2 * (1 - level**2)))
    profile = jnp.where(some, profile / log_margin, jnp.nan)
    largest = jnp.max(jnp.where(some, level, 0.0))
    chosen = jnp.argmin(jnp.where(some, jnp.abs(level - 0.9 * largest), jnp.inf))
    nothing = jnp.where(jnp.isnan(variances[-1]), jnp.nan, 0.0)
    value = jnp.where(jnp.any(some), profile[chosen], nothing)
    return Separability(value, level[chosen], profile, probability, jnp.sum(kept))


def lambert_w(argument: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Principal branch of the Lambert function, `w e^w = argument`, for positive arguments."""
    logarithm = jnp.log(argument)
    start = jnp.where(logarithm > 1, logarithm - jnp.log(jnp.maximum(logarithm, 1.0)), 0.5)

    def newton(_: Array, w: Array) -> Array:
        # On w + ln w = ln z, which does not overflow.
        return jnp.maximum(w * (1 + logarithm - jnp.log(w)) / (1 + w), 1e-6)

    return lax.fori_loop(0, 12, newton, start)
