"""Exact k-nearest neighbours, the one place where the geometry package computes distances.

One call feeds every distance-based estimator: they read columns of `Neighbors.distances`.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from jaxinterp.geometry.neighbor_search import (
    SPARE_CANDIDATES,
    Metric,
    group_size,
    nearest,
    prepare_keys,
    queries_per_step,
    squared_distances,
)
from jaxinterp.geometry.points import check_points, of_points, power_of_two
from jaxinterp.selection import WORD

NamedMetric = Literal["euclidean", "cosine"]

_KEYS_PER_STEP = 32_768


class Neighbors(NamedTuple):
    """The k nearest other points of every point, nearest first."""

    distances: Float[Array, "n k"]  # inf where a point has fewer than k valid neighbours
    indices: Int[Array, "n k"]
    duplicates: Int[Array, " n"]  # kept neighbours closer than the rounding of the coordinates


def k_nearest(
    points: Real[Array, "n d"],
    k: int,
    *,
    metric: NamedMetric | Metric = "euclidean",
    valid: Bool[Array, " n"] | None = None,
    block: tuple[int, int] | None = None,
) -> Neighbors:
    r"""Exact k nearest neighbours of every point among the others.

    `r_{i,1} <= ... <= r_{i,k}`, the k smallest of `|x_i - x_j|` over `j != i`; ties go to the lower
    index. Candidates come from a float32 (float64 if given) matrix product of centred points at
    `precision="highest"`; the distances of k + 8 candidates are recomputed by subtraction.

    Duplicates: a point is never its own neighbour, but an equal row is a neighbour at distance
    zero. Such neighbours are kept and counted in `duplicates`, together with those closer than the
    rounding of the coordinates; estimators leave out points whose first distance is zero and report
    how many they used. To drop repeated rows first, pass `valid=first_occurrences(points)`.

    Cost: 2 n^2 d flops plus selection; memory O(n k + block). Differentiable in `points` at fixed
    neighbours, with a zero gradient at distance zero.

    Args:
        points: (n, d) rows. bfloat16, float16 and integers are computed in float32. Values must be
            finite: checked when called outside jit, undefined inside.
        k: number of neighbours, 1 <= k < n.
        metric: "euclidean"; "cosine", `1 - cos`, in [0, 2]; or a function of two (d,) vectors
            giving a scalar, which is evaluated for all pairs.
        valid: (n,) mask of the rows that exist; the others are nobody's neighbour and get infinite
            distances and their own index.
        block: queries and keys per step; None for 128 queries on a CPU, 512 where d >= 256, and
            4,096 on an accelerator, and for 32,768 keys.

    Returns:
        `Neighbors` with (n, k) distances in the units of `points`, (n, k) indices, (n,) counts.

    Raises:
        ValueError: on a wrong rank, k < 1, k >= n, an unknown metric or non-finite values.
    """
    points = check_points(points, k)
    if valid is None:
        valid = jnp.ones(points.shape[0], bool)
    if block is None:
        function = metric if callable(metric) else None
        block = queries_per_step(_KEYS_PER_STEP, points.shape[1], function), _KEYS_PER_STEP
    distances, indices, duplicates = _k_nearest(points, valid, k, metric, block)
    return Neighbors(distances, indices, duplicates)


@of_points
@partial(jax.jit, static_argnames=("metric",))
def pair_distances(
    points: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    *,
    metric: NamedMetric | Metric = "euclidean",
) -> Float[Array, "n k"]:
    """Distances from every point to chosen others, by subtraction; differentiable.

    `|x_i - x_{j(i,a)}|`, with a zero gradient at distance zero. Cost: O(n k d) time, O(k d) memory
    a block.

    Args:
        points: (n, d) rows.
        indices: (n, k) row numbers.
        metric: as in `k_nearest`.

    Returns:
        (n, k) distances.
    """
    points, function = as_metric(points, metric)
    if function is not None:
        of_one = jax.vmap(function, in_axes=(None, 0))
        batch = max(1, min(points.shape[0], 2**21 // max(1, indices.shape[1] * points.shape[1])))
        rows = points, indices
        return lax.map(lambda row: of_one(row[0], points[row[1]]), rows, batch_size=batch)
    squares = squared_distances(points, points, indices)
    if metric == "cosine":
        return squares / 2
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


@of_points
@jax.jit
def distance_matrix(
    points: Float[Array, "n d"], valid: Bool[Array, " n"] | None = None
) -> Float[Array, "n n"]:
    """All distances, from one product of centred points at `precision="highest"`.

    The error of a squared distance is rounding times the squared norms: use it where distances are
    not much smaller than the cloud, `k_nearest` elsewhere. The diagonal is exactly zero.
    Cost: 2 n^2 d flops, n^2 memory.

    Args:
        points: (n, d) rows.
        valid: (n,) mask of the rows that exist; the distances of others mean nothing.

    Returns:
        (n, n) distances.
    """
    weight = jnp.ones(points.shape[0], bool) if valid is None else valid
    total = jnp.sum(jnp.where(weight[:, None], points, 0.0), axis=0, keepdims=True)
    centred = points - total / jnp.maximum(jnp.sum(weight), 1)
    # Padding far away would spoil the products' common scale.
    centred = jnp.where(weight[:, None], centred, 0.0)
    scale = lax.stop_gradient(power_of_two(jnp.max(jnp.abs(centred))))
    centred = centred / scale
    product = jnp.matmul(centred, centred.T, precision="highest")
    norms = jnp.diagonal(product)
    squares = norms[:, None] + norms[None, :] - 2 * product
    apart = ~((squares <= 0) | jnp.eye(points.shape[0], dtype=bool))  # NaN stays NaN
    return scale * jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


@of_points
@partial(jax.jit, static_argnames=("block",))
def neighbor_counts(
    points: Float[Array, "n d"], radii: Float[Array, " r"], *, block: int = 256
) -> Int[Array, "n r"]:
    """Number of other points closer than each radius, for every point.

    Squared distances come from one matrix product of centred points. Where its rounding could reach
    a thousandth of a squared radius, as between tight clusters far apart, they are differences,
    squared and added up, which takes four to ten times as long on a CPU.

    Cost: 2 n^2 d flops; memory O(block n).

    Args:
        points: (n, d) rows.
        radii: (r,) radii in the units of the points.
        block: rows per step.

    Returns:
        (n, r) counts of distances strictly below the radii.
    """
    number = points.shape[0]
    centred = points - jnp.mean(points, axis=0, keepdims=True)
    norms = jnp.sum(centred * centred, axis=1)
    rounding = 4 * jnp.finfo(points.dtype).eps * jnp.max(norms)
    far = rounding > 1e-3 * jnp.min(radii) ** 2

    def from_product(some: Array) -> Array:
        product = jnp.matmul(some, centred.T, precision="highest")
        return jnp.sum(some * some, axis=1)[:, None] + norms[None, :] - 2 * product

    def by_subtraction(some: Array) -> Array:
        return lax.map(lambda row: jnp.sum((centred - row[None, :]) ** 2, axis=1), some)

    def count(rows: tuple[Array, Array]) -> Array:
        some, start = rows
        squares = lax.cond(far, by_subtraction, from_product, some)
        own = (start + jnp.arange(block))[:, None] == jnp.arange(number)[None, :]
        squares = jnp.where(own, jnp.inf, squares)
        return jnp.stack([jnp.sum(squares < one**2, axis=1) for one in radii], axis=1)

    length = -(-number // block) * block
    blocks = jnp.pad(centred, ((0, length - number), (0, 0))).reshape(-1, block, points.shape[1])
    counts = lax.map(count, (blocks, block * jnp.arange(length // block)))
    return counts.reshape(length, -1)[:number]


def as_metric(points: Array, metric: NamedMetric | Metric) -> tuple[Array, Metric | None]:
    """Points whose Euclidean distance is the metric, or the points and the metric's function."""
    if metric == "cosine":
        square = jnp.sum(points * points, axis=1, keepdims=True)
        return points * lax.rsqrt(jnp.where(square > 0, square, 1.0)), None
    if metric == "euclidean":
        return points, None
    if isinstance(metric, str) or not callable(metric):
        raise ValueError(f"metric must be 'euclidean', 'cosine' or a function, got {metric!r}")
    return points, metric


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _search(
    points: Array, valid: Array, k: int, metric: NamedMetric | Metric, block: tuple[int, int]
) -> tuple[Array, Array, Array]:
    points, function = as_metric(points, metric)
    weight = valid.astype(points.dtype)[:, None]
    mean = jnp.sum(points * weight, axis=0) / jnp.maximum(jnp.sum(weight), 1)
    spread = jnp.max(jnp.abs(points - mean[None, :]) * weight)
    scale, centre = unit_and_centre(mean, spread, function)

    number = points.shape[0]
    columns = min(block[1], number)
    group = 1 if function is not None else group_size(columns, k + SPARE_CANDIDATES)
    # Whole words of group minima, which are selected sooner.
    columns += -columns % (group if group == 1 else WORD * group)
    blocks = -(-number // columns)
    padded = jnp.pad(points / scale, ((0, blocks * columns - number), (0, 0)))
    present = jnp.pad(valid, (0, blocks * columns - number)).reshape(blocks, columns)
    starts = columns * jnp.arange(blocks, dtype=jnp.int32)
    keys = jax.vmap(prepare_keys, (0, None, 0, 0, None))(
        padded.reshape(blocks, columns, -1), centre, present, starts, group
    )
    numbers = jnp.arange(number, dtype=jnp.int32)
    rows = min(block[0], number)
    found = nearest(
        points / scale, numbers, centre, keys, None, k=k, rows=rows, group=group, metric=function
    )
    return finish(found, points / scale, numbers, valid, scale, centre, metric)


def unit_and_centre(
    mean: Array, spread: Array, function: Metric | None
) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    """A power of two by which to divide the points, and the centre in that unit.

    A power of two so that squares neither overflow nor vanish and no digit changes. The centre is
    rounded to a coarse grid: integer data stay exact and their ties are found.
    """
    if function is not None:
        return jnp.ones_like(spread), jnp.zeros_like(mean)
    scale = power_of_two(spread)
    return scale, jnp.round(mean / scale * 8) / 8


def finish(
    found: tuple[Array, Array],
    queries: Array,
    numbers: Array,
    valid: Array,
    scale: Array,
    centre: Array,
    metric: NamedMetric | Metric,
) -> tuple[Array, Array, Array]:
    """From squared distances in the search's unit to distances, duplicates and empty entries."""
    squares, indices = found
    complete = jnp.isfinite(squares) & valid[:, None]
    indices = jnp.where(complete, indices, numbers[:, None])
    rounding = jnp.finfo(squares.dtype).eps * jnp.linalg.norm(queries - centre[None, :], axis=1)
    if callable(metric):
        distances, rounding = squares, jnp.zeros_like(rounding)
    elif metric == "cosine":
        distances, rounding = squares * scale**2 / 2, rounding**2 * scale**2 / 2
    else:
        distances, rounding = jnp.sqrt(squares) * scale, rounding * scale
    distances = jnp.where(complete, distances, jnp.inf)
    return distances, indices, jnp.sum(distances <= rounding[:, None], axis=1)


@_search.defjvp
def _search_jvp(
    k: int, metric: NamedMetric | Metric, block: tuple[int, int], primals: tuple, tangents: tuple
) -> tuple[tuple, tuple]:
    points, valid = primals
    distances, indices, duplicates = _search(points, valid, k, metric, block)
    _, tangent = jax.jvp(
        lambda moved: pair_distances(moved, indices, metric=metric), (points,), (tangents[0],)
    )
    tangent = jnp.where(jnp.isfinite(distances), tangent, 0.0)
    zeros = [jnp.zeros(one.shape, jax.dtypes.float0) for one in (indices, duplicates)]
    return (distances, indices, duplicates), (tangent, *zeros)


_k_nearest = jax.jit(_search, static_argnums=(2, 3, 4))
