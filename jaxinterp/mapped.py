"""Files as arrays: views of a map to look into, and to say by what is to be read of the file.

To touch a map costs a fault for every few pages, and memory of this process. What is read goes
straight to where it is wanted.
"""

import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

_CUT = "{} was cut while it was read: get it again"


class _Map(mmap.mmap):
    """A map of a whole file that holds the file open too."""

    path: Path
    descriptor: int


def bytes_of(path: Path) -> np.ndarray:
    """The bytes of a file, mapped. Views of them in any type, shape and order can be `read`.

    Raises:
        ValueError: the file is missing or empty.
    """
    try:
        with path.open("rb") as file:
            pages = _Map(file.fileno(), 0, access=mmap.ACCESS_READ)
            pages.path, pages.descriptor = path, os.dup(file.fileno())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    weakref.finalize(pages, os.close, pages.descriptor)
    return np.frombuffer(pages, np.uint8)


def read(part: np.ndarray) -> np.ndarray:
    """A view of a map as an array in memory, in the view's order of axes; others as they are.

    Raises:
        ValueError: the file was cut after it was mapped.
    """
    pages = _map_of(part)
    if pages is None:
        return part
    out = np.empty_like(part, subok=False)
    if not read_into(out, part):
        if os.fstat(pages.descriptor).st_size < len(pages):  # to touch what is gone is a bus error
            raise ValueError(_CUT.format(pages.path))
        out[...] = part
        if hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)  # the system still has them, this process has not
    return out


def read_into(out: np.ndarray, part: np.ndarray) -> bool:
    """Fills an array from the file that `part` is a view of, without touching the map.

    Args:
        out: where the bytes go.
        part: what is wanted, of the shape of `out`.

    Returns:
        Whether it was done. Not where `part` is no view of a map, where its bytes or those of `out`
        lie apart, or where type or order of the two differ.

    Raises:
        ValueError: the file was cut after it was mapped.
    """
    pages = _map_of(part)
    order = sorted(range(part.ndim), key=lambda axis: -part.strides[axis])
    into, of = out.transpose(order), part.transpose(order)
    together = into.flags.c_contiguous and of.flags.c_contiguous
    if pages is None or not together or out.dtype != part.dtype or not hasattr(os, "preadv"):
        return False
    left = into.reshape(-1).view(np.uint8).data
    at = part.ctypes.data - np.frombuffer(pages, np.uint8).ctypes.data
    while left:
        done = os.preadv(pages.descriptor, [left], at)
        if not done:
            raise ValueError(_CUT.format(pages.path))
        left, at = left[done:], at + done
    return True


def _map_of(array: np.ndarray) -> _Map | None:
    """The map of a file that an array is a view of."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, _Map) else None
