"""Rules that read a dimension off the eigenvalues of a covariance, global or of a neighbourhood.

Each takes descending eigenvalues (D,) and vmaps over a leading axis of neighbourhoods. They measure
the dimension of the linear span: on a curved set use them on neighbourhoods only.
"""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Real

from jaxinterp.geometry.eigenvalues import symmetric_eigenvalues
from jaxinterp.geometry.neighborhoods import centred, gram, map_blocks_of_neighborhoods
from jaxinterp.geometry.points import of_points


@of_points
@jax.jit
def covariance_spectrum(points: Float[Array, "n d"]) -> Float[Array, " r"]:
    """Descending covariance eigenvalues, `r = min(n, d)` of them, divisor n - 1.

    Cost: O(n d min(n, d)). Eigenvalues below rounding are set to zero.
    """
    return _positive(jnp.linalg.eigvalsh(_smaller_product(points)), min(points.shape))


@of_points
@jax.jit
def local_spectra(points: Float[Array, "n d"], indices: Int[Array, "m k"]) -> Float[Array, "m r"]:
    """Descending covariance eigenvalues of every neighbourhood, `r = min(k, d)` of them.

    The neighbours are centred on their own mean; the point itself is not among them. A row of
    `indices` is a neighbourhood, of whatever points: all k count, those that stand for a missing
    neighbour too. `shard_map` over rows spreads the work, on a CPU over as many cores as there are
    virtual devices.
    Cost: O(m k d min(k, d)); the smaller of the (k, k) and (d, d) matrices is decomposed.
    """
    size = min(indices.shape[1], points.shape[1])

    def of_block(near: Array) -> Array:
        values = symmetric_eigenvalues(jax.vmap(_smaller_product)(near))
        return jax.vmap(_positive, (0, None))(values, size)

    return map_blocks_of_neighborhoods(of_block, points[indices[:, 0]], points, indices)


def fukunaga_olsen(eigenvalues: Float[Array, " r"], *, share: float = 0.05) -> Int[Array, ""]:
    """Number of eigenvalues above `share` times the largest.

    Reference: Fukunaga, Olsen, IEEE Transactions on Computers C-20 (1971).
    """
    return jnp.sum(eigenvalues > share * eigenvalues[0])


def largest_gap(eigenvalues: Float[Array, " r"]) -> Int[Array, ""]:
    """Position of the largest ratio of successive eigenvalues; a gap to zero wins.

    1 for a single eigenvalue, 0 if all are zero.
    """
    # The last eigenvalue has no gap behind it: 0, below every ratio.
    position = 1 + jnp.argmax(jnp.pad(_gaps(eigenvalues), (0, 1)))
    return jnp.minimum(position, jnp.sum(eigenvalues > 0))


def variance_ratio(eigenvalues: Float[Array, " r"], *, share: float = 0.95) -> Int[Array, ""]:
    """Smallest number of eigenvalues that hold `share` of the variance, 0 if all are zero.

    Raises:
        ValueError: unless 0 < share <= 1.
    """
    if not isinstance(share, Tracer) and not 0 < share <= 1:
        raise ValueError(f"share is a part of the variance, in (0, 1], got {share}")
    # A rounded cumulative share may end below 1.
    number = 1 + jnp.sum(_cumulative(eigenvalues) < share)
    return jnp.minimum(number, jnp.sum(eigenvalues > 0))


def participation_ratio(eigenvalues: Float[Array, " r"]) -> Float[Array, ""]:
    """`(sum lambda)^2 / sum lambda^2`, 0 if all are zero.

    Bias: low for n not much above d, `1/PR ~ 1/PR_true + 1/n`.
    """
    # In shares of the largest, whose squares neither vanish nor overflow.
    largest = jnp.max(eigenvalues)
    shares = eigenvalues / jnp.where(largest == 0, 1.0, largest)
    return jnp.sum(shares) ** 2 / jnp.where(largest == 0, 1.0, jnp.sum(shares**2))


def kaiser(eigenvalues: Float[Array, " r"]) -> Int[Array, ""]:
    """Number of eigenvalues above their mean."""
    return jnp.sum(eigenvalues > jnp.mean(eigenvalues))


def broken_stick(eigenvalues: Float[Array, " r"]) -> Int[Array, ""]:
    """Number of leading shares above those of a randomly broken stick; 0 on isotropic data.

    `lambda_j / sum lambda > (1/r) sum_{i >= j} 1/i` for all leading j.
    """
    number = eigenvalues.shape[0]
    inverse = 1 / jnp.arange(1, number + 1, dtype=eigenvalues.dtype)
    stick = jnp.cumsum(inverse[::-1])[::-1] / number
    total = jnp.sum(eigenvalues)
    shares = eigenvalues / jnp.where(total > 0, total, 1.0)
    return jnp.sum(jnp.cumprod((shares >= stick).astype(jnp.int32)))


def fan(
    eigenvalues: Float[Array, " r"],
    *,
    noise_share: float = 0.95,
    gap: float = 10.0,
    share: float = 0.8,
) -> Int[Array, ""]:
    """First gap above `gap` or first cumulative share above `share`, noise subtracted.

    The noise is the mean of the eigenvalues from the first cumulative share above `noise_share` on.

    Reference: Fan, Gu, Qiao, Zhang, Intrinsic dimension estimation of data by principal component
        analysis (2010), algorithm 1.
    """
    number = eigenvalues.shape[0]
    tail = jnp.cumsum((_cumulative(eigenvalues) > noise_share).astype(jnp.int32)) > 0
    noise = jnp.sum(jnp.where(tail, eigenvalues, 0.0)) / jnp.maximum(jnp.sum(tail), 1)
    cleaned = eigenvalues - noise
    denominator = jnp.where(cleaned[1:] == 0, jnp.finfo(cleaned.dtype).tiny, cleaned[1:])
    wide = jnp.concatenate([cleaned[:-1] / denominator > gap, jnp.zeros(1, bool)])
    enough = jnp.cumsum(cleaned) / jnp.sum(cleaned) > share
    return jnp.minimum(1 + jnp.argmax(wide | enough), number)


def _smaller_product(points: Array) -> Array:
    """The covariance or the equally scaled Gram matrix, whichever is smaller."""
    rows = centred(points)
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    return gram(rows) / (points.shape[0] - 1)


def _positive(ascending: Array, size: int) -> Array:
    """Descending eigenvalues, those below rounding set to zero."""
    values = ascending[::-1]
    rounding = size * jnp.finfo(values.dtype).eps * values[0]
    return jnp.where(values <= rounding, 0.0, values)  # NaN stays NaN


def _gaps(eigenvalues: Array) -> Array:
    below = eigenvalues[1:]
    ratio = eigenvalues[:-1] / jnp.where(below > 0, below, 1.0)
    return jnp.where(below > 0, ratio, jnp.where(eigenvalues[:-1] > 0, jnp.inf, 0.0))


def _cumulative(eigenvalues: Array) -> Real[Array, " r"]:
    total = jnp.sum(eigenvalues)
    return jnp.cumsum(eigenvalues) / jnp.where(total > 0, total, 1.0)
