"""Reading a store of activation rows: by number, or as an endless stream of shuffled batches."""

import itertools
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from jaxinterp.activations import chunks, shuffle
from jaxinterp.activations.chunks import Chunk, Field

_POOL_BYTES = 1 << 27
_READS = 64  # slabs that are on their way at once


class Reader:
    """The rows that were in a store when it was opened (`store.open_store`).

    Attributes:
        meta: what the rows are.
        rows: number of rows, over all writers.
        fields: what a row of each field is: its dtype's name and its shape.
        fingerprint: of how the rows lie; the same as long as no rows are added.
    """

    def __init__(self, store: ts.KvStore, meta: Mapping[str, Any]):
        """Reads the headers of all chunks."""
        self._store, self._chunks = store, chunks.find(store, "chunks/")
        headers = [chunk.header for chunk in self._chunks]
        self._starts = np.cumsum([0, *(header.rows for header in headers)])
        slabs = [(c, s, h.rows_in(s)) for c, h in enumerate(headers) for s in range(h.slabs)]
        self._slabs = np.asarray(slabs, np.int64).reshape(-1, 3)
        self.meta, self.rows = dict(meta), int(self._starts[-1])
        fields = headers[0].fields if headers else {}
        self.fields = {name: field for name, field in fields.items() if name != chunks.PLACE}
        self.fingerprint = zlib.crc32(repr(self._chunks).encode())

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop (exclusive; None for the end) of a field, as they were appended.

        Raises:
            ValueError: no such field or rows, or a damaged chunk (named).
        """
        stop = self.rows if stop is None else stop
        if not 0 <= start <= stop <= self.rows:
            told = f"rows {start} to {stop - 1}"
            raise ValueError(f"{told} of {self._store.url}, which has {self.rows} rows")
        return self.take(name, np.arange(start, stop))

    def take(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of these numbers of a field; reads the slabs that hold them.

        Raises:
            ValueError: no such field or rows, a mask instead of numbers, a damaged chunk (named).
        """
        field, rows = self._asked((name,))[name], np.asarray(rows)
        if rows.size and not np.issubdtype(rows.dtype, np.integer):
            hint = ": np.flatnonzero(mask) gives those of a mask" if rows.dtype == bool else ""
            raise ValueError(f"row numbers are integers, not {rows.dtype}{hint}")
        rows = rows.astype(np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            told = f"rows {rows.min()} to {rows.max()}"
            raise ValueError(f"{told} of {self._store.url}, which has {self.rows} rows")
        found = np.empty(len(rows), np.dtype((np.void, field.row_bytes)))
        holder = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(holder):
            mine, chunk = np.flatnonzero(holder == number), self._chunks[number]
            places = self._stored(chunk, chunks.PLACE, np.arange(chunk.header.slabs))
            place = places.view(np.uint32)[rows[mine] - self._starts[number]]
            slabs = np.unique(place // chunk.header.slab)
            found[mine] = self._stored(chunk, name, slabs)[place]
        return field.rows(found)

    def _stored(self, chunk: Chunk, name: str, slabs: np.ndarray) -> np.ndarray:
        """The rows of a chunk in the order of storage, filled in only where `slabs` says."""
        header = chunk.header
        runs = np.split(slabs, np.flatnonzero(np.diff(slabs) > 1) + 1)
        asked = [
            chunks.ask(self._store, chunk, name, int(run[0]), int(run[-1]) + 1) for run in runs
        ]
        rows = np.empty(header.rows, np.dtype((np.void, header.fields[name].row_bytes)))
        for run, finish in zip(runs, asked, strict=True):
            for slab, part in zip(run, finish(), strict=True):
                rows[slab * header.slab :][: len(part)] = part
        return rows

    def batches(
        self,
        names: Sequence[str],
        *,
        batch: int,
        seed: int,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        pool_bytes: int = _POOL_BYTES,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Shuffled batches without end; every epoch gives each row once (see `shuffle`).

        Epochs are laid end to end, so a batch may read from two. The batches depend on the
        arguments and the store's `fingerprint` only, so that with `start` they go on exactly as
        an unbroken iterator would. About three times `pool_bytes` of memory are used.

        Args:
            names: fields to read; their rows belong together.
            batch: rows in a batch.
            seed: of the order.
            start: batches to leave out.
            share: (i, n) for the i-th of n processes, each of which reads a part of its own.
            pool_bytes: bytes that are shuffled together.

        Raises:
            ValueError: no such field, too few rows, or a damaged chunk (named).
        """
        fields, slabs = self._asked(names), self._slabs[share[0] :: share[1]]
        sizes = slabs[:, 2]
        if batch < 1 or sizes.sum() < batch:
            raise ValueError(f"{sizes.sum()} rows of {self._store.url} for a batch of {batch}")
        per_slab = int(sizes.max()) * sum(field.row_bytes for field in fields.values())

        def read(numbers: np.ndarray, places: np.ndarray) -> shuffle.Rows:
            return self._pool(fields, slabs[numbers], places)

        most = max(1, pool_bytes // per_slab)
        return shuffle.stream(read, sizes, most=most, batch=batch, seed=seed, start=start)

    def _pool(
        self, fields: Mapping[str, Field], slabs: np.ndarray, places: np.ndarray
    ) -> shuffle.Rows:
        """Reads slabs, each (chunk, slab, rows), and puts their i-th row at places[i]."""
        found = {
            name: np.empty(len(places), np.dtype((np.void, field.row_bytes)))
            for name, field in fields.items()
        }
        ends = np.cumsum(slabs[:, 2])
        asked = (
            (name, i, chunks.ask(self._store, self._chunks[chunk], name, slab, slab + 1))
            for i, (chunk, slab, _) in enumerate(slabs.tolist())
            for name in fields
        )
        coming = deque(itertools.islice(asked, _READS))
        while coming:
            name, i, finish = coming.popleft()
            coming.extend(itertools.islice(asked, 1))
            found[name][places[ends[i] - slabs[i, 2] : ends[i]]] = finish()[0]
        return {name: field.rows(found[name]) for name, field in fields.items()}

    def _asked(self, names: Sequence[str]) -> dict[str, Field]:
        if not self.fields:
            raise ValueError(f"{self._store.url} has no rows: harvest some first")
        for name in names:
            if name not in self.fields:
                have = ", ".join(self.fields)
                raise ValueError(f"{self._store.url} has no field {name!r}; it has {have}")
        return {name: self.fields[name] for name in names}
