"""What a trainer reads from: batches of activation rows, one after another, resumable exactly.

A feed is a pair of functions over a small state. The state is a pytree of numpy arrays that a
checkpoint holds; going on from a saved state gives the batches that an unbroken run would have had.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from jaxinterp.activations.array_files import open_arrays
from jaxinterp.activations.reader import Reader

Rows = Float[Array, "n d"] | Float[np.ndarray, "n d"]
State = Any
_PIECE = 1 << 16  # rows that are looked at together when an array is checked


class Feed(NamedTuple):
    """A stream of batches.

    Attributes:
        init: `() -> state` before the first batch.
        next: `state -> (state, batch)`; a batch is rows `(b, d)`, or a dict of them by site.
            The state that was passed in stays valid: going on from it gives the same batch.
    """

    init: Callable[[], State]
    next: Callable[[State], tuple[State, Any]]


def batch_rows(n: int, *, batch: int, seed: int, step: int) -> Int[np.ndarray, " batch"]:
    """Which of n rows make the batch of a step, when every epoch visits each row once.

    The epochs' permutations are laid end to end and cut into batches, so that no row is left out
    where `batch` does not divide n; such a batch reads from two epochs.

    Args:
        n: rows there are; at least `batch`.
        batch: rows in a batch.
        seed: with the epoch's number, all that the order depends on.
        step: batches before this one.

    Returns:
        Row numbers.
    """
    epoch, place = divmod(step * batch, n)
    rows = _epoch_order(n, seed, epoch)[place : place + batch]
    if len(rows) < batch:
        rows = np.concatenate([rows, _epoch_order(n, seed, epoch + 1)[: batch - len(rows)]])
    return rows


@lru_cache(maxsize=2)
def _epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def from_array(
    x: Rows | Mapping[str, Rows],
    *,
    batch: int,
    seed: int,
    sharding: NamedSharding | None = None,
) -> Feed:
    """Batches of rows that are in memory, in an order that depends on `seed` and the epoch alone.

    Args:
        x: rows (n, d) in host or device memory, or a dict of such arrays by site whose rows belong
            together.
        batch: rows in a batch.
        seed: of the order.
        sharding: where a batch goes, on devices of any process, all of which hold the same rows
            in host memory; a process gathers only the rows of its own devices. None for a batch
            wherever the rows are.

    Returns:
        The feed; its state is the number of batches so far.

    Raises:
        ValueError: fewer rows than a batch, sites with different numbers of rows, or a value that
            is not finite (the row is named).
    """
    fields = dict(x) if isinstance(x, Mapping) else {"": x}
    n = _common_length(fields)
    for name, rows in fields.items():
        for start in range(0, n, _PIECE):
            check_finite(rows[start : start + _PIECE], name, np.arange(start, n))

    def chosen(column: Rows, rows: Int[np.ndarray, " batch"]) -> Any:
        if sharding is None:
            return column[rows]

        def part(place: Any) -> np.ndarray:
            return np.asarray(column[rows[place[0]]][:, *place[1:]])

        return jax.make_array_from_callback((len(rows), *column.shape[1:]), sharding, part)

    def take(rows: Int[np.ndarray, " batch"]) -> Any:
        whole = dict(x) if isinstance(x, Mapping) else x
        return jax.tree.map(lambda column: chosen(column, rows), whole)

    return _from_rows(take, n, batch, seed)


def from_file(
    path: str | Path, *, batch: int, seed: int, names: str | Sequence[str] | None = None
) -> Feed:
    """Batches of rows from a `.npy`, `.npz`, safetensors or parquet file.

    Args:
        path: see `array_files.open_arrays`.
        batch: rows in a batch.
        seed: of the order, which is that of `from_array`.
        names: the array to read; several for batches that are dicts; None for the only one.

    Returns:
        The feed; its state is the number of batches so far.

    Raises:
        ValueError: a file that can't be read, arrays that are missing or do not fit together, or
            several where none was named; as it reads, a value that is not finite.
    """
    alone = names is None or isinstance(names, str)
    arrays = open_arrays(path, (names,) if isinstance(names, str) else names)
    if names is None and len(arrays) > 1:
        raise ValueError(f"{path} has several arrays, {', '.join(arrays)}: name those to read")
    n = _common_length(arrays)

    def take(rows: Int[np.ndarray, " batch"]) -> Any:
        found = {name: np.asarray(array[rows]) for name, array in arrays.items()}
        for name, values in found.items():
            check_finite(values, f"{name} in {path}", rows)
        return found.popitem()[1] if alone else found

    return _from_rows(take, n, batch, seed)


def from_store(
    reader: Reader,
    sites: str | Sequence[str],
    *,
    batch: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> Feed:
    """Shuffled batches from a store, which may be far larger than memory.

    Args:
        reader: an open store.
        sites: the field to read; several for batches that are dicts of rows that belong together.
        batch: rows in a batch.
        seed: of the order.
        share: (i, n): this process' part of the store.

    Returns:
        The feed; its state is the number of batches so far and the store's fingerprint.

    Raises:
        ValueError: no such field or too few rows; a state of the store before rows were added; as
            it reads, a damaged chunk or a value that is not finite.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    opened: list[tuple[int, Iterator]] = []  # the iterator that is open, and the step it is at

    def batches(step: int) -> Iterator[dict[str, np.ndarray]]:
        return reader.batches(names, batch=batch, seed=seed, start=step, share=share)

    def init() -> State:
        return {"step": np.zeros((), np.int64), "fingerprint": np.asarray(reader.fingerprint)}

    def following(state: State) -> tuple[State, Any]:
        step = int(state["step"])
        if int(state["fingerprint"]) != reader.fingerprint:
            raise ValueError(
                "the store has other rows than when this feed began: open it as it was then, or "
                "begin a new run"
            )
        rest = opened[0][1] if opened and opened[0][0] == step else batches(step)
        found = next(rest)
        opened[:] = [(step + 1, rest)]
        for name, rows in found.items():
            check_finite(rows, f"batch {step} of {name}", np.arange(batch))
        new = {"step": np.asarray(step + 1), "fingerprint": state["fingerprint"]}
        return new, found[names[0]] if isinstance(sites, str) else found

    batches(0)  # refuses what can't be read before any work
    return Feed(init, following)


def _from_rows(take: Callable[[np.ndarray], Any], n: int, batch: int, seed: int) -> Feed:
    """A feed over rows that can be read in any order; its state is the step."""
    if batch < 1:
        raise ValueError(f"batch is {batch}: it must be at least 1")
    if n < batch:
        raise ValueError(f"{n} rows for a batch of {batch}: harvest more tokens or lower the batch")

    def init() -> State:
        return np.zeros((), np.int64)

    def following(state: State) -> tuple[State, Any]:
        step = int(state)
        return np.asarray(step + 1), take(batch_rows(n, batch=batch, seed=seed, step=step))

    return Feed(init, following)


def _common_length(fields: Mapping[str, Any]) -> int:
    lengths = {name: len(column) for name, column in fields.items()}
    if not lengths:
        raise ValueError("no sites to feed from: give at least one array")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the sites have different numbers of rows: {told}")
    return next(iter(lengths.values()))


def check_finite(rows: Any, name: str, where: Int[np.ndarray, " n"]) -> None:
    """Refuses rows with NaN or infinity.

    Args:
        rows: (n, d).
        name: of the site, for the message; may be empty.
        where: the number of each row.

    Raises:
        ValueError: naming the first row that is not finite.
    """
    whole = jnp if isinstance(rows, jax.Array) else np
    if bool(whole.isfinite(rows).all()):
        return
    bad = int(np.asarray(~whole.isfinite(rows).all(axis=-1)).argmax())
    of = f" of {name}" if name else ""
    raise ValueError(
        f"row {int(where[bad])}{of} holds NaN or infinity: find its origin, or leave it out"
    )
