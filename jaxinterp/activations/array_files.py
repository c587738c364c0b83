"""Activations that somebody brings: `.npy`, `.npz`, safetensors and parquet files as arrays.

`.npy` and safetensors files are mapped, so that only the rows that are asked for are read; the
other two are compressed and are read whole.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp import files

_ONE = "activations"  # what the array of a file that names none is called


def open_arrays(path: str | Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Opens the arrays of a file, one row per activation.

    Args:
        path: `.npy` (its one array is called "activations"), `.npz`, `.safetensors` or `.parquet`,
            where an array is a column of lists, or else all columns of floats side by side.
        names: which arrays; None for all that are (n, d) floats.

    Returns:
        Arrays (n, d), by name.

    Raises:
        ValueError: no such file, one that can't be read, an array that is missing (those that
            there are are listed) or is not (n, d) floats.
    """
    path = Path(path).expanduser()
    known = {".npy": _npy, ".npz": _npz, ".safetensors": files.map_arrays, ".parquet": _parquet}
    if path.suffix not in known:
        raise ValueError(f"{path}: activations are read from {', '.join(known)} files")
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: give a file with activations in it")
    arrays = known[path.suffix](path)
    missing = sorted(set(names or ()) - set(arrays))
    if missing:
        raise ValueError(f"{path} has no array {', '.join(missing)}; it has {', '.join(arrays)}")
    if names is None:
        names = [name for name, array in arrays.items() if _problem(array) is None]
        if not names:
            told = "; ".join(f"{name} is {_problem(array)}" for name, array in arrays.items())
            raise ValueError(f"{path} has no (n, d) floats: {told or 'it has no arrays'}")
    for name in names:
        problem = _problem(arrays[name])
        if problem:
            raise ValueError(f"{path}: {name} is {problem}; rows of activations are (n, d) floats")
    return {name: arrays[name] for name in names}


def _problem(array: np.ndarray) -> str | None:
    told = f"{array.dtype} of shape {array.shape}"
    if not array.dtype.isnative:
        return f"{told} in another byte order than this machine's"
    fits = array.ndim == 2 and array.shape[1] > 0 and jnp.issubdtype(array.dtype, jnp.floating)
    return None if fits else told


def _npy(path: Path) -> dict[str, np.ndarray]:
    try:
        return {_ONE: np.load(path, mmap_mode="r", allow_pickle=False)}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} can't be read as .npy: {error}") from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} can't be read as .npz: {error}") from error


def _parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError("parquet files need pyarrow: pip install 'jaxinterp[hub]'") from error
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} can't be read as parquet: {error}") from error
    found, singles, holes = {}, {}, {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.combine_chunks()
        if column.null_count:
            if pa.types.is_floating(column.type) or _is_list(column.type):
                holes[name] = column.null_count
            continue
        if pa.types.is_floating(column.type):
            singles[name] = values.to_numpy(zero_copy_only=False)
        elif _is_list(column.type) and pa.types.is_floating(column.type.value_type):
            flat = values.flatten().to_numpy(zero_copy_only=False)
            lengths = np.diff(_offsets(values))
            if len(set(lengths.tolist())) > 1:
                raise ValueError(
                    f"{path}: the rows of {name} have {lengths.min()} to {lengths.max()} values; "
                    "activations of one site have one width"
                )
            width = int(lengths[0]) if len(lengths) else 0
            found[name] = flat.reshape(len(values), width)
    if holes and not found:  # left out, they would change the width without a word
        told = ", ".join(f"{name} in {count} rows" for name, count in holes.items())
        raise ValueError(
            f"{path} has no value for {told}: fill them, or drop those rows or columns"
        )
    if singles and not found:
        found[_ONE] = np.stack(list(singles.values()), axis=1)
    return found or {name: np.asarray(table[name]) for name in table.column_names}


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _offsets(values: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(values.type):
        return np.arange(len(values) + 1) * values.type.list_size
    return values.offsets.to_numpy()
