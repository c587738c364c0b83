"""Members of zip archives as views of the mapped file, read when touched: npz, and torch's files.

Only what is stored uncompressed can be mapped. Checksums of mapped members are not verified, which
would read all of them; lengths are.
"""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxinterp import mapped

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What the standard library raises for archives that are damaged.
DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, zlib.error, struct.error)
# What NumPy raises, besides, for headers that are no literals.
_NO_LITERAL = (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, OverflowError)
_SMALL = 64 << 20  # bytes that a compressed member may have, however few it takes
_MOST_PACKED = 16  # times that larger ones may shrink: weights hardly do


def member(raw: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of one uncompressed member of an archive.

    Args:
        raw: the archive, from `mapped.bytes_of`.
        info: the member, from the archive's directory.

    Raises:
        ValueError: it is compressed or encrypted, or does not lie whole in the file.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"member {info.filename!r} is compressed or encrypted")
    header = raw[info.header_offset : info.header_offset + _LOCAL_HEADER.size].tobytes()
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise ValueError(f"member {info.filename!r} has no header where the directory says")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if start + info.file_size > len(raw):
        raise ValueError(f"member {info.filename!r} reaches past the end of the file")
    return raw[start : start + info.file_size]


def npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file: mapped, but what is compressed in it, which is read at once.

    Raises:
        ValueError: the file is missing, truncated or not npz, holds Python objects, or would be
            many times as large in memory.
    """
    raw = mapped.bytes_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _npy(archive, raw, info)
                for info in archive.infolist()
            }
    except (*DAMAGED, *_NO_LITERAL) as error:
        raise ValueError(f"{path} is truncated or not an npz of plain arrays: {error}") from error


def _npy(archive: zipfile.ZipFile, raw: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _NPY_HEADERS:
            raise ValueError(f"{info.filename} has npy version {version}")
        shape, by_columns, dtype = _NPY_HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        wanted = dtype.itemsize * int(np.prod(shape, dtype=object))
        if info.file_size - file.tell() != wanted:
            raise ValueError(f"{info.filename} of {info.file_size} bytes is not {shape} {dtype}")
        if info.compress_type == zipfile.ZIP_STORED:
            data = member(raw, info)[file.tell() :]
        elif info.file_size > max(_SMALL, _MOST_PACKED * info.compress_size):
            raise ValueError(
                f"{info.filename} would grow from {info.compress_size} bytes to {info.file_size}"
            )
        else:
            data = np.frombuffer(file.read(wanted), np.uint8)
    return data.view(dtype).reshape(shape, order="F" if by_columns else "C")
