"""Activation rows on a disk or in an object store: written by many, read in any order.

    store.json                      what the rows are
    chunks/<writer>/<first row>     rows, in the form of `chunks`

A chunk is put in one atomic, durable operation, and that is the whole protocol: a chunk that is
there is complete, whatever was killed and when. Every writer has a name and numbers its own rows,
so writers share nothing and need no locks, and one that was stopped goes on behind its last row.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from jaxinterp.activations import chunks
from jaxinterp.activations.chunks import PLACE, Field
from jaxinterp.activations.reader import Reader

PINS = ("model", "sites", "tokenizer", "data", "normalisation")
Location = str | Path | ts.KvStore

_META = "store.json"
_FORMAT = "jaxinterp activations 1"
_CHUNK_BYTES = 1 << 24
_SLAB_BYTES = 1 << 18


def create(
    url: Location, meta: Mapping[str, Any], *, writer: str = "0", chunk_bytes: int = _CHUNK_BYTES
) -> "Writer":
    """Opens a store for writing, or goes on with the one that is there.

    Args:
        url: a folder, a URL that tensorstore knows (`gs://`, `s3://`, `file://`, `memory://`), or
            an open `tensorstore.KvStore`.
        meta: what the rows are, as JSON values; `PINS` must be among the names (None where there
            is nothing to say). A store of something else is refused.
        writer: this writer's name. Processes that write at once need different names; a run that
            goes on after a stop needs the name it had.
        chunk_bytes: the size of a chunk, about.

    Raises:
        ValueError: names missing in `meta`, a store with other `meta` (each field is named with
            both values), or a damaged store.
        OSError: the store can't be written.
    """
    missing = [name for name in PINS if name not in meta]
    if missing:
        raise ValueError(f"meta does not say {', '.join(missing)}: give each, or None")
    # Keys are listed in the order of their bytes, and "." and ".." are no names of a folder.
    if not re.fullmatch(r"[\w.-]+", writer, re.ASCII) or set(writer) == {"."}:
        raise ValueError(f"writer name {writer!r}: use letters a to z, digits, '.', '_' and '-'")
    wanted = _as_json(meta)
    store = _open(url)
    try:
        there = store.read(_META).result()
        if there.state == "missing":
            value = json.dumps({"format": _FORMAT, "meta": wanted}, indent=2)
            store.write(_META, value, if_equal=there.stamp.generation).result()
    except (ValueError, OSError) as error:
        raise OSError(f"{store.url} can't be written ({error}): choose another place") from error
    found = _read_meta(store)
    _refuse_other(store, found, wanted, {*found, *wanted})
    return Writer(store, writer, chunk_bytes)


class Writer:
    """One writer's handle on a store: what `append` was given is durable when it returns.

    Attributes:
        rows: rows that this writer has in the store, over all of its runs.
        fields: what a row of each field is; empty before the first row.
    """

    def __init__(self, store: ts.KvStore, name: str, chunk_bytes: int):
        """Finds the place behind this writer's last row; see `create`."""
        found = chunks.find(store, f"chunks/{name}/")
        self.rows = sum(chunk.header.rows for chunk in found)
        fields = found[0].header.fields if found else {}
        self.fields: dict[str, Field] = {n: f for n, f in fields.items() if n != PLACE}
        self._store, self._name, self._chunk_bytes = store, name, chunk_bytes
        self._absent = store.read("absent").result().stamp.generation

    def append(self, arrays: Mapping[str, Any]) -> None:
        """Adds rows and returns when they are durable.

        A call makes at least one chunk, so collect some tens of megabytes for it: small chunks
        are slow to read and mix less well. After a failure, `rows` says what is in the store.

        Args:
            arrays: field -> rows (n, ...), the same n in all; numpy or jax arrays.

        Raises:
            ValueError: fields, dtypes or shapes that differ from those of the rows before, or
                different numbers of rows.
            OSError: the rows can't be written: a full disk, or two writers of one name.
        """
        given = {name: np.asarray(array) for name, array in arrays.items()}
        fields = {name: chunks.field_of(name, array) for name, array in given.items()}
        rows = _common_rows(given)
        if self.fields and fields != self.fields:
            raise ValueError(
                f"rows of {chunks.told(fields)} do not fit {self._store.url}, which holds rows of "
                f"{chunks.told(self.fields)}: choose another store"
            )
        sizes = [field.row_bytes for field in fields.values()]
        slab = max(1, _SLAB_BYTES // max(sizes))
        pieces = min(rows, -(-rows * sum(sizes) // self._chunk_bytes))
        pending = None
        for piece in range(pieces):
            begin, end = rows * piece // pieces, rows * (piece + 1) // pieces
            order = np.random.default_rng((self.rows, begin)).permutation(end - begin)
            packed = chunks.pack({n: a[begin:end] for n, a in given.items()}, order, slab)
            self._acknowledge(pending)  # it was written while this chunk was packed
            key = f"chunks/{self._name}/{self.rows:012d}"
            pending = end - begin, key, self._store.write(key, packed, if_equal=self._absent)
        self._acknowledge(pending)
        self.fields = fields

    def _acknowledge(self, pending: tuple[int, str, ts.Future] | None) -> None:
        if pending is None:
            return
        rows, key, future = pending
        try:
            conflict = not future.result().generation
        except (ValueError, OSError) as error:
            raise OSError(
                f"{self._store.url}{key} can't be written ({error}): make room or give access and "
                f"go on; the {self.rows} rows before it are safe"
            ) from error
        if conflict:
            raise OSError(
                f"{self._store.url}{key} was written by another process: give each its own "
                "writer name"
            )
        self.rows += rows


def open_store(url: Location, expect: Mapping[str, Any] | None = None) -> Reader:
    """Opens a store for reading; rows that are added later are not seen.

    Args:
        url: as for `create`.
        expect: fields of `meta` that must have these values; None to take what is there.

    Raises:
        ValueError: no store, a store of something else (each field is named with both values), or
            a damaged or missing chunk (named).
    """
    store = _open(url)
    meta = _read_meta(store)
    _refuse_other(store, meta, _as_json(expect or {}), expect or {})
    return Reader(store, meta)


def _open(url: Location) -> ts.KvStore:
    if isinstance(url, ts.KvStore):
        return url
    place = str(url)
    if "://" not in place:
        place = Path(place).expanduser().absolute().as_uri()
    try:
        return ts.KvStore.open(place if place.endswith("/") else f"{place}/").result()
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{url} is neither a folder nor a URL of a kind that tensorstore knows ({error})"
        ) from error


def _as_json(meta: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(meta)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta is not made of JSON values ({error}): {dict(meta)}") from error


def _read_meta(store: ts.KvStore) -> dict[str, Any]:
    found = store.read(_META).result()
    if found.state == "missing":
        raise ValueError(f"no activation store at {store.url}: harvest one first")
    try:
        value = json.loads(found.value)
        if value["format"] != _FORMAT:
            raise ValueError(f"its format is {value['format']!r}, not {_FORMAT!r}")
        return value["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{store.url}{_META} can't be read ({error})") from error


def _refuse_other(
    store: ts.KvStore, found: Mapping[str, Any], wanted: Mapping[str, Any], names: Iterable[str]
) -> None:
    different = sorted(name for name in names if found.get(name) != wanted.get(name))
    if different:
        told = "; ".join(
            f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in different
        )
        raise ValueError(f"{store.url} holds other activations ({told}): choose another store")


def _common_rows(arrays: Mapping[str, np.ndarray]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if not lengths:
        raise ValueError("no fields to append: give at least one array")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"fields with different numbers of rows: {told}")
    return next(iter(lengths.values()))
