"""Tensors of a file that are not read yet: what is asked for is read, in blocks."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array

from jaxinterp import files, mapped

_CHUNK_BYTES = 4 << 20  # read at once, so that a change of type or axes never doubles a tensor
_WORKERS = min(4, os.cpu_count() or 1)  # blocks at once: NumPy lets go of the interpreter
_LINE_BYTES, _TILE = 64, 1024  # a tile that changes the order of axes: a cache line by so many

Region = tuple[slice, ...]


class Lazy(NamedTuple):
    """A tensor that is read in parts.

    Attributes:
        name: what the file calls it, for messages.
        shape: its shape.
        dtype: the type it is read in.
        read: `(one slice for each axis) -> array`. Slices have bounds and no steps.
        order: its axes from the slowest to the fastest one in the file; None for as they come.
        fill: `(out, slices) -> bool`: reads a part straight to where it is wanted, and tells
            whether it could; None for tensors that are computed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Region], np.ndarray]
    order: tuple[int, ...] | None = None
    fill: Callable[[np.ndarray, Region], bool] | None = None


def open_safetensors(path: Path) -> dict[str, Lazy]:
    """The tensors of a safetensors file, mapped.

    Raises:
        ValueError: the file is missing, truncated, or not safetensors.
    """
    return {name: held(name, array) for name, array in files.map_arrays(path).items()}


def held(name: str, array: Any) -> Lazy:
    """An array that is in memory, or mapped, as a lazy tensor."""
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])

    def read(region: Region) -> np.ndarray:
        return mapped.read(np.asarray(array[region]))  # with no axis, NumPy gives a number

    def fill(out: np.ndarray, region: Region) -> bool:
        return mapped.read_into(out, np.asarray(array[region]))

    return Lazy(name, array.shape, array.dtype, read, tuple(order), fill)


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message, the first of them where a file has very many."""
    shown = sorted(names)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(name[:60] for name in shown[:most]) + rest


def whole(lazy: Lazy) -> np.ndarray:
    """All of a tensor, in its own type."""
    return np.asarray(lazy.read(tuple(slice(0, n) for n in lazy.shape)))


def transposed(lazy: Lazy, order: Sequence[int] | None = None) -> Lazy:
    """The same tensor with its axes in another order.

    Args:
        lazy: a tensor.
        order: which of its axes each new axis is; None turns the order round.
    """
    axes = tuple(range(len(lazy.shape)))[::-1] if order is None else tuple(order)

    back = tuple(axes.index(i) for i in range(len(axes)))  # where each of the old axes is now

    def read(region: Region) -> np.ndarray:
        return lazy.read(tuple(region[i] for i in back)).transpose(axes)

    def fill(out: np.ndarray, region: Region) -> bool:
        asked = tuple(region[i] for i in back)
        return lazy.fill is not None and lazy.fill(out.transpose(back), asked)

    order = None if lazy.order is None else tuple(back[i] for i in lazy.order)
    shape = tuple(lazy.shape[i] for i in axes)
    return lazy._replace(shape=shape, read=read, order=order, fill=fill)


def changed(
    lazy: Lazy, change: Callable[[np.ndarray, Region], np.ndarray], dtype: Any = None
) -> Lazy:
    """A tensor of the same shape whose parts are computed from the same parts of another.

    Args:
        lazy: a tensor.
        change: `(part, region) -> part`.
        dtype: type of the result; None for that of the tensor.
    """
    kind = lazy.dtype if dtype is None else np.dtype(dtype)

    def read(region: Region) -> np.ndarray:
        return np.asarray(change(lazy.read(region), region)).astype(kind, copy=False)

    return lazy._replace(dtype=kind, read=read, fill=None)


def by_rows(lazy: Lazy, rows: Callable[[slice], np.ndarray]) -> Lazy:
    """A tensor in place of another, whose rows are computed, all of each at once.

    Args:
        lazy: what it comes from: gives its name, type and number of rows.
        rows: `which -> rows`.
    """

    def read(region: Region) -> np.ndarray:
        return rows(region[0])[(slice(None), *region[1:])].astype(lazy.dtype)

    shape = (lazy.shape[0], *rows(slice(0, 1)).shape[1:])
    return lazy._replace(shape=shape, read=read, order=None, fill=None)


def times(lazy: Lazy, factors: Any) -> Lazy:
    """A tensor times factors that broadcast over it; multiplied in float64, rounded once."""
    factors = np.asarray(factors, np.float64)
    factors = factors.reshape((1,) * (len(lazy.shape) - factors.ndim) + factors.shape)

    def change(part: np.ndarray, region: Region) -> np.ndarray:
        asked = zip(region, factors.shape, strict=True)
        own = factors[tuple(s if n > 1 else slice(None) for s, n in asked)]
        # Into memory in the part's own order of axes: nothing of twice its size is made.
        out = np.empty_like(part)
        return np.multiply(part, own, out=out, dtype=np.float64, casting="unsafe")

    return changed(lazy, change)


def row_norms(lazy: Lazy) -> np.ndarray:
    """Euclidean length of each row, in float64, without holding the tensor."""
    return np.sqrt(_summed(lazy, lambda part, _: np.square(part).reshape(len(part), -1).sum(1)))


def products(lazy: Lazy, vector: np.ndarray) -> np.ndarray:
    """Product of each row of a matrix with a vector, in float64, without holding the matrix."""
    return _summed(lazy, lambda part, region: part @ vector[region[1]])


def _summed(lazy: Lazy, reduce: Callable[[np.ndarray, Region], np.ndarray]) -> np.ndarray:
    """One number for each row, added up over blocks in the order in which the file has them."""
    total = np.zeros(lazy.shape[0])
    for region in _blocks(lazy, lazy.shape, total.itemsize):
        total[region[0]] += reduce(lazy.read(region).astype(np.float64), region)
    return total


def place(lazy: Lazy, dtype: Any, sharding: NamedSharding | None = None) -> Array:
    """Reads a tensor onto the default device, or its slices onto the devices of a mesh.

    Args:
        lazy: a tensor.
        dtype: type to keep.
        sharding: where each slice goes; None for all on the default device.

    Returns:
        The array. Beyond it, host memory holds one chunk, and with a mesh each slice that this
        process' devices need, once.
    """
    dtype = np.dtype(dtype)
    if sharding is None:
        # Unlike `jnp.asarray`, this takes the memory over.
        return jax.device_put(_read(lazy, tuple(slice(0, n) for n in lazy.shape), dtype))
    done: dict[tuple[int, ...], np.ndarray] = {}

    def once(region: Region | None) -> np.ndarray:
        bounds = [
            s.indices(n)[:2]
            for s, n in zip(
                region or tuple(slice(None) for _ in lazy.shape), lazy.shape, strict=True
            )
        ]
        key = tuple(i for pair in bounds for i in pair)  # devices that hold the same part share it
        if key not in done:
            done[key] = _read(lazy, tuple(slice(*pair) for pair in bounds), dtype)
        return done[key]

    return jax.make_array_from_callback(lazy.shape, sharding, once)


def _read(lazy: Lazy, region: Region, dtype: np.dtype) -> np.ndarray:
    """A part in another type and order, a few blocks at a time into memory that JAX takes over."""
    out = files.aligned_empty([s.stop - s.start for s in region], dtype)
    itemsize = max(dtype.itemsize, lazy.dtype.itemsize)

    def copy(block: Region) -> None:
        asked = tuple(
            slice(r.start + b.start, r.start + b.stop) for r, b in zip(region, block, strict=True)
        )
        into = out[(*block, ...)]  # the dots keep an array where there is no axis
        if lazy.fill is None or not lazy.fill(into, asked):
            _copy(into, lazy.read(asked))

    blocks = list(_blocks(lazy, out.shape, itemsize))
    if len(blocks) == 1:
        copy(blocks[0])
        return out
    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(copy, blocks):  # raises what a block raised
            pass
    return out


def _blocks(lazy: Lazy, shape: Sequence[int], itemsize: int) -> Iterator[Region]:
    """Blocks of `_CHUNK_BYTES` that lie together in the file, in the file's order."""
    order = range(len(shape)) if lazy.order is None else lazy.order
    left, spans = max(1, _CHUNK_BYTES // itemsize), {}
    for axis in reversed(order):
        step = max(1, min(shape[axis], left))
        left //= step
        spans[axis] = [slice(i, min(i + step, shape[axis])) for i in range(0, shape[axis], step)]
    for chosen in itertools.product(*(spans[axis] for axis in order)):
        block = dict(zip(order, chosen, strict=True))
        yield tuple(block[axis] for axis in range(len(shape)))


def _copy(out: np.ndarray, part: np.ndarray) -> None:
    """`out[...] = part`, in tiles that fit the caches where the two have their axes in turn."""
    longer = [axis for axis in range(part.ndim) if part.shape[axis] > 1]
    fastest = min(longer, key=lambda axis: part.strides[axis], default=0)
    if len(longer) < 2 or fastest == longer[-1]:
        out[...] = part
        return
    axes = [*(a for a in longer if a not in (fastest, longer[-1])), fastest, longer[-1]]
    rest = [axis for axis in range(part.ndim) if axis not in longer]
    out, part = (array.transpose([*rest, *axes]) for array in (out, part))
    line = max(1, _LINE_BYTES // out.itemsize)
    for index in np.ndindex(part.shape[:-2]):
        into, of = out[index], part[index]
        for i in range(0, of.shape[0], _TILE):
            for j in range(0, of.shape[1], line):
                into[i : i + _TILE, j : j + line] = of[i : i + _TILE, j : j + line]
