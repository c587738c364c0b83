"""What a dimension estimator returns, what it checks, and its standard error."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.geometry.points import is_known

# Neighbours whose scores are treated as dependent; more only adds noise to the error.
_DEPENDENT_NEIGHBORS = 16


class DimensionEstimate(NamedTuple):
    """A dimension, its standard error, one value per point where there is one, the points used."""

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    per_point: Float[Array, " n"]  # nan where the point was not used
    n_used: Int[Array, ""]


class ScaleScan(NamedTuple):
    """The same estimate at several scales, finest first."""

    scales: Float[Array, " s"]  # what the scan varies: a neighbour rank or a number of points
    radii: Float[Array, " s"]  # mean neighbour distance the estimate reads, in units of the points
    values: Float[Array, " s"]
    stderrs: Float[Array, " s"]


def check_distances(distances: Array, columns: int) -> Array:
    """Validate sorted neighbour distances; values are looked at only outside jit.

    Args:
        distances: (n, k) distances, ascending along a row.
        columns: the number of neighbours the caller reads.

    Returns:
        The distances, in float32 at least.

    Raises:
        ValueError: on a wrong rank, too few columns, negative, NaN or unsorted distances.
    """
    if distances.ndim != 2:
        raise ValueError(f"distances must be (n, k), got shape {distances.shape}")
    if distances.shape[1] < columns:
        raise ValueError(
            f"needs the distances of {columns} neighbours, got {distances.shape[1]}; "
            f"call k_nearest with k={columns} or more"
        )
    distances = jnp.asarray(distances, jnp.promote_types(distances.dtype, jnp.float32))
    if is_known(distances):
        values = np.asarray(distances)
        if np.isnan(values).any() or (values < 0).any():
            worst = np.nanmin(values) if (values < 0).any() else "NaN"
            raise ValueError(f"distances must be non-negative numbers, got {worst}")
        if (values[:, 1:] < values[:, :-1]).any():
            raise ValueError("distances must ascend along each row: sort them, nearest first")
    return distances


def usable(distances: Float[Array, "n k"]) -> Bool[Array, " n"]:
    """Points that enter an estimate: all k distances finite and the first one positive."""
    return (distances[:, 0] > 0) & jnp.isfinite(distances[:, -1])


def mean_over(values: Float[Array, " n"], used: Bool[Array, " n"]) -> Float[Array, ""]:
    """Mean of the used values, 0 if there are none."""
    return jnp.sum(jnp.where(used, values, 0.0)) / jnp.maximum(jnp.sum(used), 1)


def error_of_mean(
    scores: Float[Array, " n"], used: Bool[Array, " n"], indices: Int[Array, "n k"] | None = None
) -> Float[Array, ""]:
    r"""Standard error of the mean of per-point scores that neighbours share.

    `var = sum_{i,j} w_ij e_i e_j / n^2`, `e` the centred scores, `w_ij = 1` if i = j or one of the
    two is among the first 16 neighbours of the other, else 0: neighbourhoods overlap, so scores of
    neighbours are correlated. Never below the independent error `sum e_i^2 / n^2`, which is all
    there is without `indices`.

    On uniform and Gaussian clouds of 2 to 20 dimensions the result is 0.9 to 1.4 times the spread
    over fresh samples; the independent error is about 0.8 times it. Cost: O(n k^2).

    Args:
        scores: (n,) contributions whose mean is the estimate, to first order.
        used: (n,) mask of the points that count.
        indices: (n, k) neighbours of each point, nearest first.

    Returns:
        The standard error; infinite with fewer than two points.

    Reference: the spatial form of Conley, GMM estimation with cross sectional dependence (1999).
    """
    count = jnp.sum(used)
    centred = jnp.where(used, scores - mean_over(scores, used), 0.0)
    square = jnp.sum(centred * centred)
    total = square
    if indices is not None:
        near = indices[:, :_DEPENDENT_NEIGHBORS]
        own = jnp.arange(near.shape[0], dtype=near.dtype)[:, None, None]
        mutual = jnp.any(near[near] == own, axis=2)
        # Each unordered pair counts twice: once from either side, or twice from one.
        weight = jnp.where(mutual, 1.0, 2.0) * (near != own[:, :, 0])
        total = square + jnp.sum(centred[:, None] * weight * centred[near])
    error = jnp.sqrt(jnp.maximum(total, square)) / jnp.maximum(count, 1)
    return jnp.where(count > 1, error, jnp.inf)
