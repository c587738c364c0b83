"""Apply a function to the neighbourhood of every point, a block of points at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.row_blocks import map_row_blocks

T = TypeVar("T")

# Numbers of the gathered neighbourhoods held at once: 2 MiB in float32, which stay in a CPU's
# cache, and 256 MiB, which keep an accelerator busy.
_CACHED, _HELD = 2**19, 2**26


def map_neighborhoods(
    function: Callable[[Float[Array, "k d"]], T],
    points: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    *,
    working: int = 0,
) -> T:
    """`function` of each point's neighbours relative to the point, results stacked over points.

    Args:
        function: from (k, d) offsets `x_j - x_i`, nearest first, to a pytree of arrays.
        points: (n, d) rows.
        indices: (n, k) neighbours.
        working: numbers that `function` holds at once, where that is more than (k, k) and (k, d).

    Returns:
        The results with a leading axis of length n.

    Raises:
        ValueError: neighbours of another number of points.
    """
    if len(points) != len(indices):
        raise ValueError(
            f"indices hold the neighbours of {len(indices)} points, and there are {len(points)}: "
            "give a row for each point"
        )
    return map_blocks_of_neighborhoods(jax.vmap(function), points, points, indices, working=working)


def map_blocks_of_neighborhoods(
    function: Callable[[Float[Array, "b k d"]], T],
    origins: Float[Array, "m d"],
    points: Float[Array, "n d"],
    indices: Int[Array, "m k"],
    *,
    working: int = 0,
) -> T:
    """As `map_neighborhoods`, of a function that takes (b, k, d) offsets from b origins at once."""
    number, k = indices.shape
    held = _CACHED if jax.default_backend() == "cpu" else _HELD
    size = max(1, min(number, held // max(k * k, k * points.shape[1], working)))

    def of_block(some: Array, near: Array) -> T:
        return function(points[near] - some[:, None, :])

    return map_row_blocks(of_block, (origins, indices), size, in_flight=1)


def complete(indices: Int[Array, "n k"]) -> Bool[Array, " n"]:
    """Points with k neighbours: `k_nearest` ends with the own index where some are missing."""
    return indices[:, -1] != jnp.arange(len(indices), dtype=indices.dtype)


def gram(offsets: Float[Array, "k d"]) -> Float[Array, "k k"]:
    """Inner products of the offsets, at full float32 precision."""
    return jnp.matmul(offsets, offsets.T, precision="highest")


def centred(offsets: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Offsets from their mean."""
    return offsets - jnp.mean(offsets, axis=0, keepdims=True)
