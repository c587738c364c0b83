"""A dictionary as a file holds it: what every format's reader gives and every writer takes."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jaxinterp.activations.normalise import Affine
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.fold import Change, Spaces, normalised, row_changes
from jaxinterp.dictionaries.formats import lazy, orientation
from jaxinterp.dictionaries.formats.lazy import Lazy
from jaxinterp.dictionaries.registry import build
from jaxinterp.dictionaries.sharding import RULES
from jaxinterp.parallel import sharding_of

# Compared with scores in float32, whatever the type of the rest.
_PRECISE = ("threshold", "log_threshold")
_REAL = {np.dtype(kind) for kind in (np.float64, np.float32, np.float16, jnp.bfloat16)}
_AT_ONCE = 4096  # rows that are changed together
# Variants whose sample is a pair (x, target).
_READ_AND_WRITE = (
    *("transcoder", "skip_transcoder"),
    *("cross_layer_batch_topk", "cross_layer_jumprelu", "cross_layer_topk"),
)


class Stored(NamedTuple):
    """A dictionary and what is known of it, its tensors not read yet.

    Attributes:
        variant: a key of `registry.VARIANTS`.
        options: its arguments, as in JSON: plain values, and parts by name (`registry.to_json`).
        tensors: its parameters by our names, in our orientation: what `init` of the variant has.
        normalisation: what the dictionary expects to be applied to activations, or one for each
            site of a crosscoder; None if it takes them raw.
        target: that of a transcoder's target; None for the same as the input's.
        source: what it was trained on: `model`, `site`, `layer`, and any other field.
        notes: what a reader should know: what the file says that was left out or assumed.
        format: name of the format it was read from.
    """

    variant: str
    options: dict[str, Any]
    tensors: dict[str, Lazy]
    normalisation: Spaces | None = None
    target: Spaces | None = None
    source: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    format: str = "memory"


class Format(NamedTuple):
    """How one library keeps a dictionary.

    Attributes:
        name: as in `convert --to`.
        looks: the files that it is known by, for a person.
        recognises: `path -> bool`, of a folder or of a file; looks at names only.
        read: `path -> Stored`; raises ValueError for anything but a whole file of this format.
        write: `(folder, Stored) -> notes`: writes it, and gives back what the format can't hold;
            raises ValueError before anything is written where the loss would change the codes.
            None for formats that are only read.
    """

    name: str
    looks: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Stored]
    write: Callable[[Path, Stored], tuple[str, ...]] | None = None


def from_memory(
    variant: str,
    options: Mapping[str, Any],
    params: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
) -> Stored:
    """A trained dictionary, to be written."""
    tensors = {name: lazy.held(name, np.asarray(value)) for name, value in params.items()}
    return Stored(variant, dict(options), tensors, source=dict(source or {}))


def dictionary_of(stored: Stored) -> Dictionary:
    """The functions of a stored dictionary, its tensors checked against them by name and shape.

    Raises:
        ValueError: an unknown variant or option, missing or unknown tensors, or another shape or
            type.
    """
    dictionary = build(stored.variant, stored.options)
    tensors = stored.tensors
    if "decoder" not in tensors or len(tensors["decoder"].shape) < 2:
        raise ValueError(f"holds tensors {_told(tensors)}; a decoder (width, d) is needed")
    for tensor in tensors.values():
        if 0 in tensor.shape:
            raise ValueError(f"{tensor.name} has shape {tensor.shape}: there is nothing in it")
    try:
        expected = _expected(stored, dictionary)
    except (TypeError, AttributeError, ArithmeticError) as error:
        told = f"{stored.variant} with options {stored.options}"
        raise ValueError(f"{told} is no dictionary: {error}") from error
    if set(tensors) != set(expected):
        raise ValueError(
            f"holds tensors {_told(tensors)}; {stored.variant} has {lazy.listed(expected)}"
        )
    for name, like in expected.items():
        tensor = tensors[name]
        if tensor.shape != like.shape:
            raise ValueError(
                f"{tensor.name} has shape {tensor.shape} as {name}; {stored.variant} of these "
                f"options has {like.shape}"
            )
        real = like.dtype == np.float32
        if tensor.dtype not in _REAL if real else tensor.dtype != like.dtype:
            wanted = "real numbers of 16, 32 or 64 bits" if real else like.dtype
            raise ValueError(
                f"{tensor.name} has type {tensor.dtype}; {stored.variant} has {wanted} as {name}"
            )
    return dictionary


def checked(stored: Stored, path: Path) -> Stored:
    """The same, its tensors checked; `path` is told where they are not those of the variant.

    A square dictionary (as many latents as dimensions) fits its shapes turned round too: see
    `orientation`.

    Raises:
        ValueError: see `dictionary_of`, or a square one that is turned round.
    """
    try:
        dictionary_of(stored)
        orientation.check(stored.tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return stored


def params_of(stored: Stored, *, dtype: Any = None, mesh: Mesh | None = None) -> dict[str, Array]:
    """Reads the parameters.

    Args:
        stored: a stored dictionary.
        dtype: type of all parameters but thresholds, which stay in float32; None for that of the
            file, float64 made float32.
        mesh: devices, with the latents over its axis `model`: each device gets its own slices
            straight from the file. None for the default device.
    """
    params = {}
    for name, tensor in stored.tensors.items():
        kind = tensor.dtype if dtype is None else np.dtype(dtype)
        if name in _PRECISE or kind == np.float64:
            kind = np.dtype(np.float32)
        sharding = None if mesh is None else sharding_of(name, tensor.shape, mesh, RULES)
        params[name] = lazy.place(tensor, kind, sharding)
    return params


def opened(
    stored: Stored, *, dtype: Any = None, mesh: Mesh | None = None
) -> tuple[Dictionary, dict[str, Array]]:
    """(dictionary, params) for raw activations: what normalisation there is, is folded in.

    Args:
        stored: a stored dictionary.
        dtype: see `params_of`.
        mesh: see `params_of`.

    Raises:
        ValueError: tensors that are not those of the variant.
    """
    dictionary = dictionary_of(stored)
    if stored.normalisation is not None:
        tensors = _folded_tensors(dictionary, stored)
        if tensors is None:
            dictionary = normalised(dictionary, stored.normalisation, target=stored.target)
        else:
            stored = stored._replace(tensors=tensors)
    return dictionary, params_of(stored, dtype=dtype, mesh=mesh)


def folded(stored: Stored) -> Stored:
    """The same dictionary for raw activations, its normalisation moved into its tensors.

    Raises:
        ValueError: the roles of its parameters do not allow it.
    """
    if stored.normalisation is None:
        return stored
    tensors = _folded_tensors(dictionary_of(stored), stored)
    if tensors is None:
        raise ValueError(
            f"the normalisation of a {stored.variant} dictionary can't be moved into its weights: "
            "keep it in our own format, which holds both"
        )
    return stored._replace(tensors=tensors, normalisation=None, target=None)


def _folded_tensors(dictionary: Dictionary, stored: Stored) -> dict[str, Lazy] | None:
    """The tensors with the normalisation in them, computed as they are read; None if they can't."""
    tensors, spaces = dict(stored.tensors), stored.normalisation
    like = {name: jax.ShapeDtypeStruct(t.shape, t.dtype) for name, t in tensors.items()}
    changes = (
        None if spaces is None else row_changes(dictionary, like, spaces, target=stored.target)
    )
    if changes is None:
        return None

    def rows(name: str, which: slice) -> np.ndarray:
        tensor = stored.tensors[name]
        return tensor.read((which, *(slice(0, n) for n in tensor.shape[1:]))).astype(np.float64)

    def in_turn(change: Change, which: slice) -> np.ndarray:
        """A few rows after another: those of a bias are short, but not what they are made of."""
        steps = range(which.start, which.stop, _AT_ONCE)
        parts = [change(rows, slice(i, min(i + _AT_ONCE, which.stop))) for i in steps]
        return np.concatenate(parts)

    for name, change in changes.items():
        tensor = tensors[name]
        if name in ("decoder_bias", "skip"):  # small, and every row of them needs all
            tensors[name] = lazy.held(tensor.name, change(rows, slice(None)).astype(tensor.dtype))
        elif len(tensor.shape) > 1 and _by_coordinate(spaces) and _by_coordinate(stored.target):
            # The weights are multiplied by a row of factors, in whatever order the file has them.
            ones = np.ones((1, *tensor.shape[1:]))
            tensors[name] = lazy.times(tensor, change(lambda *_, ones=ones: ones, slice(0, 1)))
        else:
            tensors[name] = lazy.by_rows(tensor, partial(in_turn, change))
    return tensors


def _by_coordinate(spaces: Spaces | None) -> bool:
    """Whether normalising multiplies each coordinate by a number of its own, or not at all."""
    sites = () if spaces is None else (spaces,) if isinstance(spaces, Affine) else spaces
    return all(np.ndim(site.matrix) < 2 for site in sites)


def header_of(stored: Stored) -> dict[str, Any]:
    """What is known of a dictionary besides its parameters."""
    return {
        "format": stored.format,
        "variant": stored.variant,
        "options": stored.options,
        "source": stored.source,
        "notes": list(stored.notes),
    }


def input_shape(stored: Stored) -> tuple[int, ...]:
    """Shape of one input of the encoder: (d), (sites, d), or (seq, d) with some length."""
    tensors = stored.tensors
    row = _written(tensors)
    if stored.variant in _READ_AND_WRITE and "encoder" in tensors:
        row = (*row[:-1], tensors["encoder"].shape[-1])
    return (4, *row) if stored.variant == "temporal" else row


_ROWS = 1 << 20  # of a sample that is never made: more than any part asks for


def _written(tensors: Mapping[str, Lazy]) -> tuple[int, ...]:
    """Shape of one reconstruction."""
    if "decoder_bias" in tensors:
        return tensors["decoder_bias"].shape
    return tensors["decoder"].shape[1:]


def _expected(stored: Stored, dictionary: Dictionary) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of the parameters that the variant would start with, without making them."""
    sample: Any = jax.ShapeDtypeStruct((_ROWS, *input_shape(stored)), jnp.float32)
    if stored.variant in _READ_AND_WRITE and "encoder" in stored.tensors:
        sample = (sample, jax.ShapeDtypeStruct((_ROWS, *_written(stored.tensors)), jnp.float32))
    return jax.eval_shape(dictionary.init, jax.random.key(0), sample)


def _told(tensors: Mapping[str, Lazy]) -> str:
    named = [f"{t.name} ({name})" if t.name != name else name for name, t in tensors.items()]
    return lazy.listed(named) or "none"
