r"""Gemma Scope's files, both generations: read only, as what is written has better formats.

First generation, `params.npz` in folders like `layer_20/width_16k/average_l0_71`: `W_enc` (d, F),
`W_dec` (F, d_out), `b_enc`, `b_dec`, `threshold` (F), the first two with a small w in some.
Nothing says what they were trained on but the path: the repository ends in `-res`, `-mlp`, `-att`
(heads side by side) or `-transcoders`.

Second generation, `config.json` and `params.safetensors`: `w_enc`, `w_dec`, `b_enc`, `b_dec`,
`threshold` and, in transcoders with an affine path, `affine_skip_connection` (d_in, d_out). A file
of a cross-layer transcoder, `clt/.../layer_<n>.safetensors`, has `w_dec` (F, layers,
d_out): one layer's latents and what they write to all. It is read as SAELens reads it, as a
transcoder to the sum of what is written.

In all of them $z = h\, 1[h > \max(\theta, 0)]$ with $h = x W_{enc} + b_{enc}$: the input is not
centred by the decoder's bias.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp import files
from jaxinterp.dictionaries.formats import lazy, zipped
from jaxinterp.dictionaries.formats.lazy import Lazy, Region
from jaxinterp.dictionaries.formats.named import SWAPPED, Kept, not_negative, settings, taken
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked

FIRST, SECOND = "gemma_scope", "gemma_scope_2"
ARRAYS, TENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
_LAYOUT = {
    "encoder": Kept("w_enc", SWAPPED),
    "encoder_bias": Kept("b_enc"),
    "decoder": Kept("w_dec"),
    "decoder_bias": Kept("b_dec"),
    "threshold": Kept("threshold"),
}
_SKIP, _SCALE = "affine_skip_connection", "scaling_factor"
# The part of the repository's or the folder's name -> the site that is read.
_SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "z", "transcoders": "ln2"}
_SIDE_BY_SIDE = "activations (heads, d_head) are read as one vector, the heads side by side"
# Where a module of the model's own code lies in our words.
_HOOKS = {
    "output": "resid_post",
    "self_attn.o_proj.input": "z",
    "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm.output": "ln2",
}


def read_first(path: Path) -> Stored:
    """Opens a dictionary of the first generation.

    Raises:
        ValueError: a truncated file, missing tensors, or other shapes.
    """
    weights = path / ARRAYS if path.is_dir() else path
    arrays = zipped.npz(weights)
    found = {name.lower(): array for name, array in arrays.items()}
    if len(found) < len(arrays):
        raise ValueError(f"{weights} has an array twice: {', '.join(sorted(arrays))}")
    if _SCALE in found and not np.allclose(found[_SCALE], 1):
        raise ValueError(f"{weights} scales codes by {_SCALE}, which is not read")
    tensors = _tensors(weights, found, (_SCALE,))
    source, notes = _first_source(weights)
    if source.get("site") == "embed":
        # As SAELens does; what is said of these files elsewhere was not found.
        size = tensors["decoder"].shape[1] ** 0.5
        tensors["encoder"] = lazy.times(tensors["encoder"], 1 / size)
        tensors["decoder"] = lazy.times(tensors["decoder"], size)
        notes.append("trained on embeddings times sqrt(d): encoder and decoder take them without")
    transcoder = "into" in source or tensors["encoder"].shape != tensors["decoder"].shape
    return _stored(FIRST, weights, tensors, transcoder, source, notes)


def read_second(path: Path) -> Stored:
    """Opens a dictionary of the second generation.

    Raises:
        ValueError: a truncated file, missing tensors, other shapes, or another architecture.
    """
    weights = path / TENSORS if path.is_dir() else path
    config = settings(weights.parent / CONFIG) if _has_config(weights) else {}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise ValueError(f"{weights.parent}: unknown architecture {config['architecture']!r}")
    found, notes = files.map_arrays(weights), []
    if not config:
        notes.append(f"there is no {CONFIG}: the site and the model are told by the path alone")
    tensors = _tensors(weights, found, (_SKIP,))
    if len(tensors["decoder"].shape) == 3:
        tensors["decoder"] = _summed(tensors["decoder"])
        notes.append("one layer of a cross-layer transcoder, read as one to the sum over layers")
    if _SKIP in found:
        tensors["skip"] = lazy.transposed(lazy.held(_SKIP, found[_SKIP]))
    elif config.get("affine_connection", False) and len(found["w_dec"].shape) == 2:
        raise ValueError(f"{weights} lacks {_SKIP}, which {CONFIG} speaks of")
    source = _second_source(weights, config)
    if source.get("site", "").endswith(".z"):
        source["reshape"] = "hook_z"
        notes.append(_SIDE_BY_SIDE)
    transcoder = (
        "into" in source
        or "skip" in tensors
        or len(found["w_dec"].shape) == 3
        or tensors["encoder"].shape != tensors["decoder"].shape
    )
    return _stored(SECOND, weights, tensors, transcoder, source, notes)


def _is_first(path: Path) -> bool:
    return path.name == ARRAYS or (path / ARRAYS).is_file()


def _is_second(path: Path) -> bool:
    of_layer = re.fullmatch(r"layer_\d+\.safetensors", path.name)
    of_clt = of_layer and any("clt" in part for part in path.parts[-3:-1])
    return path.name == TENSORS or (path / TENSORS).is_file() or bool(of_clt)


FORMAT_1 = Format(FIRST, ARRAYS, _is_first, read_first)
FORMAT_2 = Format(SECOND, f"{CONFIG} and {TENSORS}", _is_second, read_second)


def _has_config(weights: Path) -> bool:
    return (weights.parent / CONFIG).is_file()


def _tensors(
    weights: Path, found: Mapping[str, np.ndarray], others: tuple[str, ...]
) -> dict[str, Lazy]:
    tensors = taken(weights, found, _LAYOUT, others)
    if len(tensors["decoder"].shape) not in (2, 3):
        raise ValueError(f"{weights}: w_dec has shape {tensors['decoder'].shape}")
    tensors["threshold"] = not_negative(tensors["threshold"])
    return tensors


def _stored(
    name: str,
    weights: Path,
    tensors: dict[str, Lazy],
    transcoder: bool,
    source: dict[str, Any],
    notes: list[str],
) -> Stored:
    options: dict[str, Any] = {"width": tensors["decoder"].shape[0]}
    if transcoder:
        variant = "skip_transcoder" if "skip" in tensors else "transcoder"
        options["recipe"] = "jumprelu"
    else:
        variant = "jumprelu"
        options["scores"] = "uncentred"
    stored = Stored(variant, options, tensors, source=source, notes=tuple(notes), format=name)
    return checked(stored, weights)


def _first_source(weights: Path) -> tuple[dict[str, Any], list[str]]:
    """What the path tells: `.../gemma-scope-2b-pt-res/.../layer_20/width_16k/average_l0_71`."""
    text = weights.resolve().as_posix()
    source: dict[str, Any] = {}
    repository = re.search(r"gemma-scope-(\d+b)-(pt|it)-(\w+)", text)
    layer = re.search(r"layer_(\d+)", text)
    if layer:
        source["layer"] = int(layer[1])
    if not repository:
        return source, ["the path tells neither the model nor the site"]
    size, kind, site = repository.groups()
    source["model"] = f"google/gemma-2-{size}" + ("-it" if kind == "it" else "")
    if "embedding" in weights.parent.as_posix().split("/"):
        return source | {"site": "embed"}, []
    notes = []
    if layer and site in _SITES:
        source["site"] = f"L{layer[1]}.{_SITES[site]}"
        if site == "att":
            source["reshape"] = "hook_z"
            notes.append(_SIDE_BY_SIDE)
        if site == "transcoders":
            source["into"] = f"L{layer[1]}.mlp_out"
    return source, notes


def _second_source(weights: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    source: dict[str, Any] = {}
    if "model_name" in config:
        model = config["model_name"]
        source["model"] = model if "/" in model else f"google/{model}"
    for ours, theirs in (("site", "hf_hook_point_in"), ("into", "hf_hook_point_out")):
        if config.get(theirs):
            source[ours] = _short(config[theirs])
    if source.get("into") == source.get("site"):
        source.pop("into", None)
    text = weights.resolve().as_posix()
    layer = re.search(r"layers?[._](\d+)", config.get("hf_hook_point_in", text))
    if layer:
        source["layer"] = int(layer[1])
    if not config and re.search(r"transcoder|clt", text):
        source["into"] = "mlp_out"
    return source


def _short(hook: str) -> str:
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", hook)
    return f"L{found[1]}.{_HOOKS[found[2]]}" if found and found[2] in _HOOKS else hook


def _summed(tensor: Lazy) -> Lazy:
    """A tensor (width, layers, d) summed over the layers."""
    width, layers, d = tensor.shape

    def read(region: Region) -> np.ndarray:
        rows, columns = region
        parts = tensor.read((rows, slice(0, layers), columns)).astype(np.float32)
        return parts.sum(1).astype(tensor.dtype)

    return tensor._replace(shape=(width, d), read=read, order=None, fill=None)
