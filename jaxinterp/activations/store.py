"""Activation rows on disk: numbered chunks, each written whole or not at all.

A chunk is one safetensors file with whatever arrays the writer put in it. A chunk that is there
is complete; a writer that was stopped continues at the first number that is missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp import files

_META = "store.json"


def create(folder: Path, meta: Mapping[str, Any]) -> int:
    """Opens a store for writing, or goes on with the one that is there.

    Args:
        folder: made if it is not there.
        meta: what the rows are (model, sites, data, seed); a store of something else is refused.

    Returns:
        The number of the chunk to write next.

    Raises:
        ValueError: the folder holds a store with other `meta` (the fields are named).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _META).exists():
        found = files.read_json(folder / _META)
        different = sorted(k for k in {*found, *meta} if found.get(k) != meta.get(k))
        if different:
            told = "; ".join(f"{k}: {found.get(k)!r}, not {meta.get(k)!r}" for k in different)
            raise ValueError(f"{folder} holds other activations ({told}): choose another folder")
    else:
        files.write_json(folder / _META, dict(meta))
    return len(chunks(folder))


def chunks(folder: Path) -> list[Path]:
    """The complete chunks from number 0 on, in order."""
    found = []
    while (path := _chunk_path(folder, len(found))).exists():
        found.append(path)
    return found


def write(folder: Path, number: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes one chunk."""
    files.write_arrays(_chunk_path(folder, number), arrays)


def read(folder: Path, name: str) -> np.ndarray:
    """One array over all chunks, joined along its first axis.

    Raises:
        ValueError: no chunks, a damaged chunk, or no array of this name.
    """
    parts = []
    for path in chunks(folder):
        arrays = files.read_arrays(path)
        if name not in arrays:
            raise ValueError(f"{path} has no array {name!r}; it has {', '.join(arrays)}")
        parts.append(arrays[name])
    if not parts:
        raise ValueError(f"{folder} has no activations: harvest some first")
    return np.concatenate(parts)


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:05d}.safetensors"
