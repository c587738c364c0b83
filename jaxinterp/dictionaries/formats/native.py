r"""Our own format: one safetensors file and one JSON, readable without this library.

`dictionary.json` holds

    format         "jaxinterp-dictionary"
    version        1, 2 or 3 (this one); a reader refuses a larger one
    variant        the function that builds it, a key of `registry.VARIANTS`
    options        that function's arguments; a part, such as a penalty, by its name, and one with
                   settings as {"part": "tanh", "scale": 2.0}
    source         what it was trained on: model, site, layer, and free fields
    notes          what a reader should know (a list of sentences; from version 3)

`dictionary.safetensors` holds the parameters in float64, float32, float16 or bfloat16, under
SAELens' names and in its orientation where the meaning is the same,

    encoder         W_enc (d, width)      decoder         W_dec (width, d)
    encoder_bias    b_enc (width)         decoder_bias    b_dec (d)
    threshold       threshold (width), or () for batch top-k
    log_threshold   log_threshold (width)
    hidden          W_hidden (d, hidden)  hidden_bias     b_hidden (hidden)
    skip            W_skip (d_out, d_in)
    gated:          encoder_bias is b_gate, magnitude_bias b_mag, log_magnitude r_mag, all (width)

and any other parameter under its own name and in its own orientation. W_enc of a dictionary of
several sites or layers is as the parameter `encoder`. From version 3, a dictionary that wants
normalised activations $y = (x - c) A$ and gives $\hat x = \hat y A^- + c$ may add, in float64,

    normalisation.centre     $c$ (d)
    normalisation.matrix     $A$ (), (d) or (d, r)
    normalisation.inverse    $A^-$ (), (d) or (r, d)

(normalisation.0.centre, normalisation.1.centre, ... for one a site) and the same under `target.`
where the target has another. Version 1 knew top-k only; version 2 called W_skip `skip`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinterp import files
from jaxinterp.activations.normalise import Affine
from jaxinterp.dictionaries.fold import Spaces
from jaxinterp.dictionaries.formats import lazy, pair
from jaxinterp.dictionaries.formats.lazy import Lazy
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked, from_memory
from jaxinterp.dictionaries.registry import to_json

NAME, VERSION = "jaxinterp-dictionary", 3
HEADER, TENSORS = "dictionary.json", "dictionary.safetensors"


class _Tensor(NamedTuple):
    """Where a parameter is kept: its name in the file, and whether its two axes are swapped."""

    name: str
    swapped: bool = False


_COMMON = {
    "encoder": _Tensor("W_enc", True),
    "encoder_bias": _Tensor("b_enc"),
    "decoder": _Tensor("W_dec"),
    "decoder_bias": _Tensor("b_dec"),
    "hidden": _Tensor("W_hidden", True),
    "hidden_bias": _Tensor("b_hidden"),
}
_STACKED = {"encoder": _Tensor("W_enc")}  # an encoder of several sites or layers
# What differs from _COMMON in one variant.
_LAYOUTS: dict[str, dict[str, _Tensor]] = {
    "batch_topk_crosscoder": _STACKED,
    "cross_layer_batch_topk": _STACKED,
    "cross_layer_jumprelu": _STACKED,
    "cross_layer_topk": _STACKED,
    "crosscoder": _STACKED,
    "l1_crosscoder": _STACKED,
    "skip_transcoder": {"skip": _Tensor("W_skip")},
    "gated": {
        "encoder_bias": _Tensor("b_gate"),
        "magnitude_bias": _Tensor("b_mag"),
        "log_magnitude": _Tensor("r_mag"),
    },
}


def save(
    folder: str | Path,
    variant: str,
    options: Mapping[str, Any],
    params: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    normalisation: Spaces | None = None,
) -> None:
    """Writes a trained dictionary.

    Args:
        folder: made if it is not there; both files are written whole, or neither is.
        variant: a key of `registry.VARIANTS`.
        options: the keyword arguments that build the variant.
        params: its parameters.
        source: what it was trained on.
        normalisation: what the parameters expect to be applied to activations, where it could not
            be folded into them; `load` folds it in or puts it around.

    Raises:
        ValueError: an option that JSON can't hold and that is not a part of this library, or what
            `load` would refuse: an unknown variant, or parameters that are not those of it.
    """
    plain = {name: to_json(name, value) for name, value in options.items()}
    stored = checked(from_memory(variant, plain, params, source), Path(folder))
    write(Path(folder), stored._replace(normalisation=normalisation))


def write(folder: Path, stored: Stored) -> tuple[str, ...]:
    """Writes a stored dictionary; nothing is lost.

    Raises:
        ValueError: an option that JSON can't hold and that is not a part of this library.
    """
    header = {
        "format": NAME,
        "version": VERSION,
        "variant": stored.variant,
        "options": {name: to_json(name, value) for name, value in stored.options.items()},
        "source": dict(stored.source),
        "notes": list(stored.notes),
    }
    layout = _layout(stored.variant, header["options"])
    tensors = {}
    for name, tensor in stored.tensors.items():
        kept = layout.get(name, _Tensor(name))
        tensors[kept.name] = lazy.whole(lazy.transposed(tensor) if kept.swapped else tensor)
    for name, spaces in (("normalisation", stored.normalisation), ("target", stored.target)):
        tensors |= _from_spaces(name, spaces)
    pair.write(folder, TENSORS, lambda at: files.write_arrays(at, tensors), HEADER, header)
    return ()


def read(path: Path) -> Stored:
    """Opens a dictionary of ours.

    Raises:
        ValueError: missing or truncated files, another format, a version from the future, an
            unknown variant, or tensors that are not those of the variant.
    """
    folder = path if path.is_dir() else path.parent
    header = files.read_json(folder / HEADER)
    kind = header.get("format") if isinstance(header, dict) else header
    if kind != NAME:
        raise ValueError(f"{folder} is not a jaxinterp dictionary: format {kind!r}")
    version = header.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise ValueError(f"{folder} has version {version}, this library reads 1 to {VERSION}")
    kinds = {"variant": str, "options": dict, "source": dict, "notes": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(header.get(name, kind()), kind)]
    if wrong or not {"variant", "options"} <= set(header):
        raise ValueError(
            f"{folder / HEADER} needs a variant, a text, and options, an object; source, an "
            "object, and notes, a list, may be there"
        )
    found = lazy.open_safetensors(folder / TENSORS)
    spaces = {name: _to_spaces(name, found) for name in ("normalisation", "target")}
    layout = _layout(header["variant"], header["options"])
    ours = {kept.name: (name, kept.swapped) for name, kept in layout.items()}
    tensors = {}
    for name, tensor in found.items():
        if not name.startswith(("normalisation.", "target.")):
            own, swapped = ours.get(name, (name, False))
            tensors[own] = lazy.transposed(tensor) if swapped else tensor
    stored = Stored(
        header["variant"],
        header["options"],
        tensors,
        **spaces,
        source=header.get("source", {}),
        notes=tuple(header.get("notes", ())),
        format=NAME,
    )
    return checked(stored, folder)


def _recognises(path: Path) -> bool:
    return path.name == HEADER or (path / HEADER).is_file() or (path / TENSORS).is_file()


FORMAT = Format("jaxinterp", f"{HEADER} and {TENSORS}", _recognises, read, write)


def _layout(variant: str, options: Mapping[str, Any]) -> dict[str, _Tensor]:
    # A wrapper of another variant has that one's tensors, and perhaps its own.
    inner = options.get("recipe")
    special = _LAYOUTS.get(inner, {}) if isinstance(inner, str) else {}
    return _COMMON | _LAYOUTS.get(variant, {}) | special


def _from_spaces(name: str, spaces: Spaces | None) -> dict[str, np.ndarray]:
    if spaces is None:
        return {}
    if isinstance(spaces, Affine):
        parts = spaces._asdict()
        return {f"{name}.{part}": np.asarray(value, np.float64) for part, value in parts.items()}
    tensors = {}
    for i, affine in enumerate(spaces):
        tensors |= _from_spaces(f"{name}.{i}", affine)
    return tensors


def _to_spaces(name: str, found: Mapping[str, Lazy]) -> Spaces | None:
    if f"{name}.centre" in found:
        return _to_affine(name, found)
    spaces = []
    while f"{name}.{len(spaces)}.centre" in found:
        spaces.append(_to_affine(f"{name}.{len(spaces)}", found))
    return spaces or None


def _to_affine(name: str, found: Mapping[str, Lazy]) -> Affine:
    parts = [f"{name}.{part}" for part in Affine._fields]
    missing = [part for part in parts if part not in found]
    if missing:
        raise ValueError(f"{TENSORS} lacks {', '.join(missing)}")
    return Affine(*(lazy.whole(found[part]) for part in parts))
