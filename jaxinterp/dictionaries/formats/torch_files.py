"""Torch's zip files of tensors (`.pt`), read and written without torch.

Such a file holds a pickle beside the bytes of the tensors. The pickle is read by `pickles`, which
runs nothing: beside containers, the rules here let it ask for tensors of floating, integer and bool
types, strided as they were saved, and for an empty `collections.OrderedDict` and `torch.Size`.
Nothing that it asks for makes more than the file holds. Tensors come as views of the mapped file.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxinterp import files, mapped
from jaxinterp.dictionaries.formats import pickles, zipped
from jaxinterp.dictionaries.formats.pickles import Name

_LARGEST_PROGRAM = 4 << 20  # bytes; that of a state dict of a hundred tensors has 20 kB
_MOST_AXES = 16
_ALIGNMENT = 64  # of a tensor's bytes in the file, as torch has it
_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# Types by torch's names, for storages that do not tell theirs.
_TYPES = {
    **{"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": ml_dtypes.bfloat16},
    **{"int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?"},
    **{"uint16": "<u2", "uint32": "<u4", "uint64": "<u8"},
}


@dataclass(frozen=True)
class _Storage:
    """The bytes of one or several tensors; dtype None where each tensor tells its own."""

    data: np.ndarray
    dtype: np.dtype | None


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a torch file that holds a state dict, a dict of nothing but tensors.

    Args:
        path: the file.

    Returns:
        Read-only views of the mapped file by name.

    Raises:
        ValueError: the file is missing, truncated or not one of torch's zip files; it asks for
            anything but tensors and plain containers, which is told by name; or it holds anything
            but a dict of tensors.
    """
    raw = mapped.bytes_of(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is truncated or not a zip file. Torch before 1.6, and since then only if "
            "asked, wrote bare pickles, which are not opened: load it where it comes from and save "
            "it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
        program, storage = _bytes_of(raw, members, "data.pkl"), _storages(raw, members)
        held = pickles.run(program, _CALLS, _MENTIONED, storage)
        if not isinstance(held, dict):
            raise ValueError(f"it holds a {type(held).__name__}, not a dict of tensors")
        for name, value in held.items():
            if not (isinstance(name, str) and isinstance(value, np.ndarray)):
                raise ValueError(f"it holds a {type(value).__name__} as {str(name)[:80]!r}")
    except zipped.DAMAGED as error:
        told = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a state dict of torch: {told}") from error
    return held


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict that torch opens (with `weights_only` too), whole or not at all.

    Args:
        path: the file.
        tensors: arrays of the types that torch has, by name.

    Raises:
        ValueError: an array of another type.
    """
    kinds = {dtype: kind for kind, dtype in _STORAGES.items()}
    for name, array in tensors.items():
        if array.dtype not in kinds:
            raise ValueError(f"{name} has type {array.dtype}, which torch's files do not have")
    with files.whole(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _add(archive, "data.pkl", _program(tensors, kinds))
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(tensors.values()):
            _add(archive, f"data/{key}", np.ravel(array).view(np.uint8).data)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """One uncompressed member whose bytes begin at a multiple of `_ALIGNMENT`."""
    info = zipfile.ZipInfo(f"archive/{name}")
    info.file_size = memoryview(data).nbytes
    assert archive.fp is not None
    wide = 20 * (info.file_size * 1.05 > zipfile.ZIP64_LIMIT)  # what `open` adds for long members
    missing = -(archive.fp.tell() + 30 + len(info.filename) + wide + 4) % _ALIGNMENT
    info.extra = b"FB" + missing.to_bytes(2, "little") + b"Z" * missing
    with archive.open(info, "w") as file:
        file.write(data)


def _program(tensors: Mapping[str, np.ndarray], kinds: Mapping[np.dtype, str]) -> bytes:
    """The pickle of a dict of tensors, each in a storage of its own, numbered as they come."""
    out = [b"\x80\x02}("]
    for key, (name, array) in enumerate(tensors.items()):
        strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
        out += [
            _text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage") + f"ctorch\n{kinds[array.dtype]}\n".encode(),
            _text(str(key)) + _text("cpu") + _integer(array.size) + b"tQ",
            _integer(0) + _sizes(array.shape) + _sizes(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join([*out, b"u."])


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def _sizes(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(_integer(value) for value in values) + b"t"


def _bytes_of(raw: np.ndarray, members: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    found = [full for full in members if full.split("/", 1)[1:] == [name]]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} members named */{name}")
    data = zipped.member(raw, members[found[0]])
    if len(data) > _LARGEST_PROGRAM:
        raise ValueError(f"its {name} has {len(data)} bytes: more than any dictionary needs")
    return data.tobytes()


def _storages(raw: np.ndarray, members: Mapping[str, zipfile.ZipInfo]) -> Callable[[Any], _Storage]:
    """What gives the bytes that the program asks for by a persistent id."""
    top = next(name for name in members if name.endswith("/data.pkl")).removesuffix("data.pkl")
    if f"{top}byteorder" in members:
        order = _bytes_of(raw, members, "byteorder")
        if order != b"little":
            raise ValueError(f"its numbers are {order[:20]!r}-endian")

    def storage(asked: Any) -> _Storage:
        if not (isinstance(asked, tuple) and len(asked) == 5 and asked[0] == "storage"):
            raise ValueError("a persistent id is not that of a tensor's storage")
        _, kind, key, _, count = asked
        if not (isinstance(kind, Name) and isinstance(key, str) and _is_size(count)):
            raise ValueError("a persistent id is not that of a tensor's storage")
        dtype = _STORAGES.get(kind.name)
        if dtype is None and kind != Name("torch.storage", "UntypedStorage"):
            raise ValueError(f"{kind.module}.{kind.name} is no storage")
        if f"{top}data/{key}" not in members:
            raise ValueError(f"it lacks the bytes of storage {key[:20]!r}")
        data = zipped.member(raw, members[f"{top}data/{key}"])
        if data.nbytes != count * (dtype.itemsize if dtype else 1):
            raise ValueError(f"storage {key[:20]!r} has {data.nbytes} bytes, not those of {count}")
        return _Storage(data, dtype)

    return storage


def _tensor(*arguments: Any) -> np.ndarray:
    """The tensor that `torch._utils._rebuild_tensor_v2` or `_v3` would make of these arguments."""
    if len(arguments) < 6 or not isinstance(arguments[0], _Storage):
        raise ValueError("a tensor is not made of a storage, an offset, a shape and strides")
    storage, offset, shape, strides = arguments[:4]
    dtype = storage.dtype
    if dtype is None:
        kind = arguments[6] if len(arguments) > 6 else None
        if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in _TYPES:
            raise ValueError("a tensor of an untyped storage does not tell its type")
        dtype = np.dtype(_TYPES[kind.name])
    sizes = (shape, strides)
    if not all(isinstance(part, tuple) and len(part) <= _MOST_AXES for part in sizes):
        raise ValueError("a tensor's shape or strides are not tuples of few sizes")
    if len(shape) != len(strides) or not all(_is_size(n) for n in (offset, *shape, *strides)):
        raise ValueError("a tensor's offset, shape and strides are not sizes that belong together")
    # Refused before NumPy, which would not say why, and where a view repeats its storage.
    count, held = int(np.prod(shape, dtype=object)), storage.data.nbytes // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count and (last >= held or count > held):
        raise ValueError(
            f"a tensor of shape {shape} with strides {strides} at {offset} is larger than its "
            f"storage of {held}"
        )
    if not count:
        return np.empty(shape, dtype)
    steps = [n * dtype.itemsize for n in strides]
    return np.ndarray(shape, dtype, storage.data, offset * dtype.itemsize, steps)


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> np.ndarray:
    del requires_grad, hooks
    if not isinstance(data, np.ndarray):
        raise ValueError("a parameter is not made of a tensor")
    return data


def _ordered(*items: Any) -> dict:
    # Filled by later operations; to copy what it is given would let a small file fill the memory.
    if items:
        raise ValueError("an OrderedDict is made of something")
    return {}


def _size(*shape: Any) -> tuple:
    if len(shape) != 1 or not isinstance(shape[0], list | tuple) or len(shape[0]) > _MOST_AXES:
        raise ValueError("a torch.Size is not made of a tuple of few sizes")
    return tuple(shape[0])


# The only calls that a program can ask for, and what is done in their place.
_CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("collections", "OrderedDict"): _ordered,
    Name("torch", "Size"): _size,
}
_MENTIONED = {
    Name("torch.storage", "UntypedStorage"),
    *(Name("torch", name) for name in (*_STORAGES, *_TYPES)),
}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
