"""The search behind `neighbors`: the nearest keys of a block of queries, exact and ordered.

One step takes a block of queries and a block of keys. Squared distances come from one matrix
product, `|k|^2 - 2 q.k` of centred points, and only propose candidates; the candidates' distances
are then recomputed by subtraction, which is exact to rounding however far the cloud lies from the
origin. Results are ordered by (distance, index), so they do not depend on how queries and keys were
blocked.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.selection import ascending_places, largest_places

Metric = Callable[[Array, Array], Array]

# Candidates kept beyond k: ranks that float32 cancellation may have swapped at the boundary.
SPARE_CANDIDATES = 8
# Below this many keys one plain top-k is cheaper than selecting groups of keys first.
_SMALLEST_GROUPED_BLOCK = 2048
# Numbers of gathered keys that stay in a core's cache, and that any accelerator has room for.
_CACHED, _HELD = 2**18, 2**28
_MANY_COORDINATES = 256


class Keys(NamedTuple):
    """A block of keys laid out for the search; the leading axes may enumerate several blocks."""

    points: Float[Array, "*blocks m d"]  # as given, in index order
    grouped: Float[Array, "*blocks m d"]  # centred, permuted so that a group is a strided column
    squares: Float[Array, "*blocks m"]  # squared norms of `grouped`, infinite for absent keys
    start: Int[Array, "*blocks"]  # index of the first key of the block


def queries_per_step(number_of_keys: int, d: int, metric: Metric | None) -> int:
    """Few enough that their scores stay in a CPU's cache, many enough to fill an accelerator.

    On a CPU a product lays out all keys anew in every step, which many coordinates make costly:
    then more queries share it. Few where scores come from a function, which may hold all
    coordinates of all pairs.
    """
    if metric is not None:
        return 128
    if jax.default_backend() == "cpu":
        return 512 if d >= _MANY_COORDINATES else 128
    return max(128, min(4096, _HELD // number_of_keys))


def group_size(number_of_keys: int, keep: int) -> int:
    """Keys per group, near the optimum sqrt(m / keep) of the two-stage selection."""
    if number_of_keys < _SMALLEST_GROUPED_BLOCK:
        return 1
    return 2 ** max(0, round(math.log2(math.sqrt(number_of_keys / keep))))


def prepare_keys(
    points: Float[Array, "m d"],
    centre: Float[Array, " d"],
    valid: Bool[Array, " m"],
    start: Int[Array, ""],
    group: int,
) -> Keys:
    """Centre a block of keys and permute it: group `j` is `j g ... j g + g - 1`, stored strided."""

    def permute(rows: Array) -> Array:
        return rows.reshape(-1, group, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

    centred = points - centre[None, :]
    squares = jnp.where(valid, jnp.sum(centred * centred, axis=-1), jnp.inf)
    return Keys(points, permute(centred), permute(squares), start)


def smallest(scores: Float[Array, "b m"], keep: int, group: int) -> tuple[Array, Array]:
    """The `keep` smallest scores of each row with their key numbers, in the order of these.

    Of equal scores those of the lowest numbers.

    Two stages, because selecting among all keys costs several times the matrix product on a CPU:
    the `keep` groups of smallest minimum contain all the winners (each group of smaller minimum
    holds a smaller key), then the winners are selected among the `keep * group` members.
    """
    if group == 1:
        number = largest_places(-scores, keep)
        return _picked(scores, number), number
    rows, number_of_keys = scores.shape
    stride = number_of_keys // group
    minima = scores.reshape(rows, group, stride).min(axis=1)
    chosen = largest_places(-minima, keep)
    member = jnp.arange(group)[None, None, :]
    stored = (member * stride + chosen[:, :, None]).reshape(rows, keep * group)
    number = (member + group * chosen[:, :, None]).reshape(rows, keep * group)
    members = _picked(scores, stored)
    position = largest_places(-members, keep)
    return _picked(members, position), _picked(number, position)


def _picked(rows: Array, places: Int[Array, "b k"]) -> Array:
    return jnp.take_along_axis(rows, places, axis=1)


def merge(
    first: tuple[Array, Array], second: tuple[Array, Array], keep: int
) -> tuple[Array, Array]:
    """The `keep` smallest (distance, index) pairs of two lists."""
    distances = jnp.concatenate([first[0], second[0]], axis=1)
    indices = jnp.concatenate([first[1], second[1]], axis=1)
    distances, indices = lax.sort((distances, indices), dimension=1, num_keys=2)
    return distances[:, :keep], indices[:, :keep]


def squared_distances(
    queries: Float[Array, "b d"], points: Float[Array, "n d"], chosen: Int[Array, "b k"]
) -> Float[Array, "b k"]:
    """`|q_i - x_{j(i,a)}|^2` by subtraction, of as many rows at once as there is room for."""

    def of_one(row: tuple[Array, Array]) -> Array:
        query, some = row
        difference = query[None, :] - points[some]
        return jnp.sum(difference * difference, axis=-1)

    def within(numbers: int) -> Callable[[tuple[Array, Array]], Array]:
        size = max(1, numbers // (chosen.shape[1] * points.shape[1]))
        if size >= len(queries):
            return jax.vmap(of_one)
        return partial(lax.map, of_one, batch_size=size)

    rows = queries, chosen
    if chosen.size * points.shape[1] <= _CACHED:
        return jax.vmap(of_one)(rows)
    return lax.platform_dependent(rows, cpu=within(_CACHED), default=within(_HELD))


def nearest_in_block(
    queries: Float[Array, "b d"],
    centre: Float[Array, " d"],
    query_numbers: Int[Array, " b"],
    keys: Keys,
    *,
    keep: int,
    group: int,
    metric: Metric | None,
) -> tuple[Float[Array, "b keep"], Int[Array, "b keep"]]:
    """The `keep` nearest keys of one block, squared distance (or `metric`) and index, ordered.

    A key whose index equals the query's number is the query itself and is left out; pass -1 as
    number where there is no such key. Cost: 2 b m d flops.
    """
    stride = keys.squares.shape[0] // group
    if metric is None:
        product = jnp.matmul(queries - centre[None, :], keys.grouped.T, precision="highest")
        scores = keys.squares[None, :] - 2 * product
    else:
        one_query = jax.vmap(metric, in_axes=(None, 0))
        grouped = keys.grouped + centre[None, :] if group > 1 else keys.points
        scores = jax.vmap(one_query, in_axes=(0, None))(queries, grouped)
        scores = jnp.where(jnp.isinf(keys.squares)[None, :], jnp.inf, scores)
    own = query_numbers - keys.start
    own = jnp.where((own >= 0) & (own < stride * group), own % group * stride + own // group, -1)
    scores = jnp.where(own[:, None] == jnp.arange(stride * group)[None, :], jnp.inf, scores)
    values, number = smallest(scores, keep, group)
    distances = values if metric else squared_distances(queries, keys.points, number)
    distances = jnp.where(jnp.isinf(values), jnp.inf, distances)
    # In the order of the numbers until here, so equal distances stay in it.
    order = ascending_places(distances)
    return _picked(distances, order), _picked(number + keys.start, order)


def nearest(
    queries: Float[Array, "q d"],
    numbers: Int[Array, " q"],
    centre: Float[Array, " d"],
    keys: Keys,
    best: tuple[Array, Array] | None,
    *,
    k: int,
    rows: int,
    group: int,
    metric: Metric | None,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k nearest keys of all queries, merged into what was found before.

    Args:
        queries: as given, not centred.
        numbers: index of each query among the keys, -1 for none.
        centre: point that is subtracted before products are taken.
        keys: with one leading axis of blocks, from `prepare_keys`.
        best: (q, k) distances and indices found in other keys, or None.
        k: neighbours.
        rows: queries per step.
        group: as given to `prepare_keys`.
        metric: function of two points, or None for squared Euclidean distance.

    Returns:
        (q, k) distances and indices, infinite and of the largest int32 where there were no more
        keys.
    """
    number, blocks = queries.shape[0], keys.start.shape[0]
    length = -(-number // rows) * rows
    keep = min(k + SPARE_CANDIDATES, keys.squares.shape[1] // group)
    search = partial(nearest_in_block, keep=keep, group=group, metric=metric)

    def split(leaf: Array) -> Array:
        padded = jnp.pad(leaf, ((0, length - number),) + ((0, 0),) * (leaf.ndim - 1))
        return padded.reshape(-1, rows, *leaf.shape[1:])

    def of_rows(arguments: tuple) -> tuple[Array, Array]:
        some, own, found = arguments

        def step(found: tuple[Array, Array] | None, block: Keys) -> tuple[tuple, None]:
            new = search(some, centre, own, block)
            if found is None and keep >= k:
                return (new[0][:, :k], new[1][:, :k]), None
            if found is None:
                found = no_neighbors(rows, k, queries.dtype)
            return merge(found, new, k), None

        if blocks == 1:
            return step(found, jax.tree.map(lambda leaf: leaf[0], keys))[0]
        found = no_neighbors(rows, k, queries.dtype) if found is None else found
        return lax.scan(step, found, keys)[0]

    # Two blocks of queries in flight: the selection of one runs beside the product of the other.
    arguments = jax.tree.map(split, (queries, numbers, best))
    _, found = lax.scan(lambda _, some: (None, of_rows(some)), None, arguments, unroll=2)
    return found[0].reshape(length, k)[:number], found[1].reshape(length, k)[:number]


def no_neighbors(rows: int, k: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """A list without entries, to merge into."""
    last = jnp.iinfo(jnp.int32).max
    return jnp.full((rows, k), jnp.inf, dtype), jnp.full((rows, k), last, jnp.int32)
