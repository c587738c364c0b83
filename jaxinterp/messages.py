"""What processes tell each other, as bytes and back: plain values only, so nothing is unpickled.

A message is the length of a JSON text (8 bytes), that text, and the bytes of all arrays in order.
Values that JSON has are themselves; the others are objects with one key that names their kind.
"""

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

_LENGTH = 8  # bytes of the length in front
_KINDS = "biufc"  # of arrays: truth values, whole, real and complex numbers
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def pack(value: Any) -> bytes:
    """A value as bytes; `unpack` gives it back with every type, and every bit of a number.

    Args:
        value: None, bool, int, float, str, NumPy arrays and numbers (bfloat16 too), and lists,
            tuples and dicts of these.

    Raises:
        ValueError: anything else, a subclass of these too; the type is named.
    """
    buffers: list[bytes] = []
    text = json.dumps(_described(value, buffers)).encode()
    return b"".join([len(text).to_bytes(_LENGTH, "little"), text, *buffers])


def unpack(message: bytes) -> Any:
    """The value of a message that `pack` made.

    Raises:
        ValueError: bytes that `pack` did not make.
    """
    start = _LENGTH + int.from_bytes(message[:_LENGTH], "little")

    def take(dtype: np.dtype, shape: list[int]) -> np.ndarray:
        nonlocal start
        begin, start = start, start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(message[begin:start], dtype).reshape(shape).copy()

    try:
        value = _value(json.loads(message[_LENGTH:start]), take)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a message of {len(message)} bytes can't be read ({error})") from error
    if start != len(message):
        raise ValueError(f"a message of {len(message)} bytes, of which {start} were said to come")
    return value


def _described(value: Any, buffers: list[bytes]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_described(part, buffers) for part in value]
    if kind is tuple:
        return {"tuple": [_described(part, buffers) for part in value]}
    if kind is dict:
        return {"dict": [[_described(part, buffers) for part in pair] for pair in value.items()]}
    if kind is np.ndarray or isinstance(value, np.generic):
        array = np.asarray(value)
        if array.dtype.kind in _KINDS or array.dtype == _BFLOAT16:
            buffers.append(array.tobytes())
            name = "bfloat16" if array.dtype == _BFLOAT16 else array.dtype.str
            return {"array" if kind is np.ndarray else "number": [name, list(array.shape)]}
        raise ValueError(f"an array of {array.dtype} can't be told to another process")
    raise ValueError(
        f"a {kind.__name__} can't be told to another process: give numbers, text, NumPy arrays, "
        "lists, tuples or dicts"
    )


def _value(told: Any, take: Callable[[np.dtype, list[int]], np.ndarray]) -> Any:
    if isinstance(told, list):
        return [_value(part, take) for part in told]
    if not isinstance(told, dict):
        return told
    ((kind, content),) = told.items()
    if kind == "tuple":
        return tuple(_value(part, take) for part in content)
    if kind == "dict":
        return {_value(name, take): _value(part, take) for name, part in content}
    if kind not in ("array", "number"):
        raise ValueError(f"a value of the kind {kind!r}")
    name, shape = content
    array = take(_BFLOAT16 if name == "bfloat16" else np.dtype(name), shape)
    return array if kind == "array" else array[()]
