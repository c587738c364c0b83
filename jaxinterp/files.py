"""Writing files whole or not at all, and reading them back."""

import json
import math
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxinterp import mapped

_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}
_DTYPES |= {"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A temporary name beside `path` to write to: moved into place at the end, or removed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and moves it into place."""
    with whole(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that a person can read; numbers that are not finite become null."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON that a person can read; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        ValueError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as JSON: {error}") from error


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file under a temporary name and moves it into place."""
    # ascontiguousarray would give a scalar an axis.
    contiguous = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    with whole(path) as partial:
        save_file(contiguous, partial, metadata=dict(notes or {}))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        ValueError: the file is missing, truncated, or not safetensors.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing, truncated or not safetensors ({error})") from error


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Maps every tensor of a safetensors file; of types that NumPy has, the others are left out.

    Raises:
        ValueError: the file is missing, truncated, or not safetensors.
    """
    try:
        with safe_open(path, framework="np"):  # checks the header and the file's length
            pass
    except (OSError, SafetensorError) as error:
        problem = "is truncated or not safetensors" if path.is_file() else "is missing"
        raise ValueError(f"{path} {problem} ({error})") from error
    raw = mapped.bytes_of(path)
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    found = {}
    for name, tensor in header.items():
        if tensor["dtype"] in _DTYPES:
            start, stop = (8 + length + at for at in tensor["data_offsets"])
            dtype = np.dtype(_DTYPES[tensor["dtype"]])
            found[name] = raw[start:stop].view(dtype).reshape(tensor["shape"])
    return found


def aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Uninitialised memory on a 64-byte boundary, which JAX on CPU takes over without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
