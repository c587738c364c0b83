"""Safetensors files of a model folder, read lazily: every device gets only its own slices."""

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from safetensors import SafetensorError, safe_open

from jaxinterp.encoders.layouts import Tensor, chunk_axis, read_slices
from jaxinterp.encoders.sharding import RULES
from jaxinterp.files import aligned_empty
from jaxinterp.parallel import sharding_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_CHUNK_BYTES = 32 << 20  # of file read at once, so that a dtype change never doubles a tensor
_STACK_BYTES = 256 << 20  # larger stacks are sent to the devices layer by layer


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file as a dict.

    Raises:
        ValueError: the file is missing or is no JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a JSON object is needed")
    return content


class WeightFiles:
    """The safetensors files of a model folder, opened when first needed; closed by `with`."""

    def __init__(self, folder: Path, rename: Sequence[tuple[str, str]] = ()):
        """Reads the header of the single file, or the index of several.

        Args:
            folder: the model folder.
            rename: `(pattern, replacement)` pairs that turn the files' names into `names`.

        Raises:
            ValueError: there are no safetensors files, one that the index names is missing or
                lacks a tensor, or one is truncated.
        """
        self._folder = folder
        self._open: dict[str, Any] = {}
        self._where: dict[str, tuple[str, str]] = {}
        for original, file in self._index().items():
            name = original
            for pattern, replacement in rename:
                name = re.sub(pattern, replacement, name)
            if name in self._where:
                raise ValueError(
                    f"{folder} has {name} twice: as {self._where[name][1]} and {original}"
                )
            self._where[name] = (file, original)

    def _index(self) -> dict[str, str]:
        """Tensor -> file."""
        index = self._folder / INDEX
        if (self._folder / SINGLE).is_file():  # before the index, as transformers does
            return dict.fromkeys(self._file(SINGLE).keys(), SINGLE)
        if not index.is_file():
            raise ValueError(_no_safetensors(self._folder))
        where = read_json(index).get("weight_map") or {}
        missing = sorted({f for f in where.values() if not (self._folder / f).is_file()})
        if missing:
            raise ValueError(f"{index} names missing files: {', '.join(missing)}")
        held = {f: set(self._file(f).keys()) for f in set(where.values())}
        lost = sorted(name for name, f in where.items() if name not in held[f])
        if lost:
            raise ValueError(f"{index} names tensors that are not there: {', '.join(lost)}")
        return where

    @property
    def names(self) -> set[str]:
        """All tensors."""
        return set(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        file, original = self._where[name]
        return tuple(self._file(file).get_slice(original).get_shape())

    def read(self, name: str, region: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, in the file's dtype."""
        file, original = self._where[name]
        opened = self._file(file)
        part = opened.get_slice(original)[region] if region else opened.get_tensor(original)
        return np.asarray(part)

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers, compared a few rows at a time."""
        shape = self.shape(first)
        if shape != self.shape(second):
            return False
        rows, step = shape[0], max(1, _CHUNK_BYTES // (8 * math.prod(shape[1:])))
        pieces = (slice(start, min(start + step, rows)) for start in range(0, rows, step))
        return all(np.array_equal(self.read(first, (p,)), self.read(second, (p,))) for p in pieces)

    def _file(self, file: str) -> Any:
        if file not in self._open:
            try:
                self._open[file] = safe_open(self._folder / file, framework="np")
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{self._folder / file} is truncated or not safetensors ({error}): "
                    "fetch it again"
                ) from error
        return self._open[file]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._open.clear()


def _no_safetensors(folder: Path) -> str:
    if list(folder.glob("*.bin")):
        return (
            f"{folder} has only .bin files, which are pickles and are not opened: convert them "
            "with transformers (model.save_pretrained(folder) writes safetensors)"
        )
    return f"{folder} has neither {SINGLE} nor {INDEX}"


def read_array(
    files: WeightFiles, tensor: Tensor, shape: Sequence[int], dtype: Any, mesh: Mesh | None
) -> Array:
    """One parameter, on the default device or spread over a mesh.

    Args:
        files: the checkpoint.
        tensor: the parameter, its name as it is in these files.
        shape: its full shape, the layer axis included.
        dtype: dtype to keep.
        mesh: devices; None for the default one.

    Returns:
        The array. Host memory holds at most the parts that go to this process' devices.
    """
    shape, names, dtype = tuple(shape), tensor.names(), np.dtype(dtype)

    def place(shape: tuple[int, ...], path: str, read: Callable[..., np.ndarray], stacked: bool):
        if mesh is None:
            return jnp.asarray(read(tuple(slice(0, n) for n in shape)))
        sharding = sharding_of(path, shape, mesh, RULES, leading=int(stacked))
        done: dict[tuple[int, ...], np.ndarray] = {}

        def once(want: tuple[slice, ...] | None) -> np.ndarray:
            want = want or tuple(slice(0, n) for n in shape)
            # Devices that hold the same part share it.
            key = tuple(i for s, n in zip(want, shape, strict=True) for i in s.indices(n))
            if key not in done:
                done[key] = read(want)
            return done[key]

        return jax.make_array_from_callback(shape, sharding, once)

    def part(names: Sequence[str], want: tuple[slice, ...]) -> np.ndarray:
        return _read_layers(files, tensor, names, shape, dtype, want)

    if not tensor.layers or math.prod(shape) * dtype.itemsize <= _STACK_BYTES:
        return place(shape, tensor.path, partial(part, names), bool(tensor.layers))
    sharding = mesh and sharding_of(tensor.path, shape, mesh, RULES, leading=1)
    stack = jnp.zeros(shape, dtype, device=sharding)
    put = jax.jit(lambda s, x, i: jax.lax.dynamic_update_index_in_dim(s, x, i, 0), donate_argnums=0)
    for i, name in enumerate(names):

        def one(want: tuple[slice, ...], name: str = name) -> np.ndarray:
            return part([name], (slice(0, 1), *want))[0]

        # Waiting keeps the layers from piling up in host memory.
        stack = put(stack, place(shape[1:], tensor.path, one, False), i).block_until_ready()
    return stack


def _read_layers(
    files: WeightFiles,
    tensor: Tensor,
    names: Sequence[str],
    shape: tuple[int, ...],
    dtype: np.dtype,
    want: tuple[slice, ...],
) -> np.ndarray:
    """The part `want` of a parameter, layer after layer and chunk after chunk."""
    rows = [slice(*s.indices(n)) for s, n in zip(want, shape, strict=True)]
    out = aligned_empty([s.stop - s.start for s in rows], dtype)
    if tensor.layers:
        for target, name in zip(out, names[rows[0]], strict=True):
            _read_layer(files, tensor, name, rows[1:], target)
    else:
        _read_layer(files, tensor, names[0], rows, out)
    return out


def _read_layer(
    files: WeightFiles, tensor: Tensor, name: str, want: Sequence[slice], out: np.ndarray
) -> None:
    file_shape = files.shape(name)
    read = partial(files.read, name)
    axis = chunk_axis(tensor, file_shape)
    if axis is None or out.nbytes <= _CHUNK_BYTES:
        out[...] = read_slices(tensor, file_shape, read, want)
        return
    length = want[axis].stop - want[axis].start
    step = max(1, length * _CHUNK_BYTES // out.nbytes)
    for start in range(0, length, step):
        stop = min(start + step, length)
        piece = slice(want[axis].start + start, want[axis].start + stop)
        into = (*(slice(None),) * axis, slice(start, stop))
        part = [*want[:axis], piece, *want[axis + 1 :]]
        out[into] = read_slices(tensor, file_shape, read, part)
