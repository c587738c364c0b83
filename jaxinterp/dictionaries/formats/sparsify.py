"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, one folder a hook point.

    encoder.weight (num_latents, d_in)   encoder.bias (num_latents)
    W_dec (num_latents, d_in), not transposed   b_dec (d_in)   W_skip (d_in, d_in)

`b_dec` is taken away from the input unless `transcode`; `W_skip` reads the input as it comes.
`multi_topk` changes no code, though sparsify's own forward then gives the reconstruction from 4 k
latents. `signed`, of old files, keeps the k largest magnitudes with their signs (read from the old
source; no version that wrote it was run here).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxinterp import files
from jaxinterp.dictionaries.formats import lazy, pair
from jaxinterp.dictionaries.formats.lazy import Lazy
from jaxinterp.dictionaries.formats.plain import plain
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked

NAME = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {
    "encoder": "encoder.weight",
    "encoder_bias": "encoder.bias",
    "decoder": "W_dec",
    "decoder_bias": "b_dec",
    "skip": "W_skip",
}


def read(path: Path) -> Stored:
    """Opens the dictionary of one hook point.

    Raises:
        ValueError: missing or truncated files, an unknown activation, missing tensors, or shapes
            that are not those of `cfg.json`.
    """
    folder = path if path.is_dir() else path.parent
    config = files.read_json(folder / CONFIG)
    if not isinstance(config, dict) or "d_in" not in config:
        raise ValueError(f"{folder / CONFIG} has no d_in: it is not of sparsify")
    for name in ("d_in", "num_latents", "expansion_factor", "k"):
        if not isinstance(config.get(name, 0), int):
            raise ValueError(f"{folder / CONFIG}: {name} is {config[name]!r}, not a number")
    d_in = config["d_in"]
    width = config.get("num_latents") or d_in * config.get("expansion_factor", 32)
    found = lazy.open_safetensors(folder / WEIGHTS)
    tensors = _tensors(folder, config, found, width)
    variant, recipe, notes = _variant(folder, config)
    options: dict[str, Any] = {"width": width, "k": config.get("k", 32)}
    if config.get("transcode", False) or "skip" in tensors:
        options["recipe"] = recipe
        variant = "skip_transcoder" if "skip" in tensors else "transcoder"
        if not config.get("transcode", False):
            raise ValueError(
                f"{folder}: skip_connection without transcode is not read: a skip path around an "
                "autoencoder copies its input"
            )
    elif not config.get("normalize_decoder", True):
        options["atoms"] = "free"
    # The folder is named after the module that was read.
    source = {"site": folder.name} | {
        name: value for name, value in config.items() if name in ("model", "hookpoint")
    }
    stored = Stored(variant, options, tensors, source=source, notes=notes, format=NAME)
    return checked(stored, folder)


def write(folder: Path, stored: Stored) -> tuple[str, ...]:
    """Writes a dictionary that sparsify opens.

    Returns:
        What the format can't hold.

    Raises:
        ValueError: a dictionary that sparsify has no form for.
    """
    p = plain(stored)
    if p.selection not in ("topk", "group_max"):
        raise ValueError(f"sparsify keeps top-k and group-max dictionaries, not {p.selection}")
    width, d_out = p.tensors["decoder"].shape
    d_in = p.tensors["encoder"].shape[1]
    if d_in != d_out:
        raise ValueError(f"sparsify keeps transcoders of one width, not from {d_in} to {d_out}")
    if not p.centred and not p.transcoder:
        raise ValueError(
            "sparsify takes the decoder's bias away from the input of an autoencoder; this one "
            "does not"
        )
    tensors = {_NAMES[name]: lazy.whole(tensor) for name, tensor in p.tensors.items()}
    kinds = {t.dtype for t in tensors.values()}
    if len(kinds) > 1:
        raise ValueError(f"sparsify keeps one type, not {', '.join(sorted(k.name for k in kinds))}")
    config = {
        "activation": "groupmax" if p.selection == "group_max" else "topk",
        "expansion_factor": max(width // d_in, 1),
        "normalize_decoder": not p.transcoder and stored.options.get("atoms") != "free",
        "num_latents": width,
        "k": p.k,
        "multi_topk": stored.options.get("recipe", stored.variant) == "multi_topk",
        "skip_connection": "W_skip" in tensors,
        "transcode": p.transcoder,
        "d_in": d_in,
    }
    pair.write(folder, WEIGHTS, lambda at: files.write_arrays(at, tensors), CONFIG, config)
    dropped = sorted(set(stored.source) - {"site"})
    notes = [f"sparsify has no place for: {', '.join(dropped)}"] if dropped else []
    return (*p.notes, *notes)


def _recognises(path: Path) -> bool:
    return path.name == WEIGHTS or (path / WEIGHTS).is_file()


FORMAT = Format(NAME, f"{CONFIG} and {WEIGHTS}", _recognises, read, write)


def _tensors(
    folder: Path, config: Mapping[str, Any], found: Mapping[str, Lazy], width: int
) -> dict[str, Lazy]:
    d = config["d_in"]
    shapes = {"encoder": (width, d), "encoder_bias": (width,)}
    shapes |= {"decoder": (width, d), "decoder_bias": (d,)}
    if config.get("skip_connection", False):
        shapes["skip"] = (d, d)
    expected = {_NAMES[name]: shape for name, shape in shapes.items()}
    missing, left = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or left:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"holds {lazy.listed(left)}, which {CONFIG} does not speak of"] * bool(left)
        raise ValueError(f"{folder / WEIGHTS} {' and '.join(parts)}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            turned = " (its transpose would fit)" if found[name].shape == shape[::-1] else ""
            raise ValueError(
                f"{folder / WEIGHTS}: {name} has shape {found[name].shape}; {CONFIG} asks for "
                f"{shape}{turned}"
            )
    return {name: found[_NAMES[name]] for name in shapes}


def _variant(folder: Path, config: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """(variant, recipe of a transcoder, notes)."""
    activation = config.get("activation", "topk")
    if activation == "groupmax":
        return "group_max", "group_max", ()
    if activation != "topk":
        raise ValueError(f"{folder}: unknown activation {activation!r}; known: topk, groupmax")
    if config.get("signed", False):
        return "abs_topk", "abs_topk", ()
    variant = "multi_topk" if config.get("multi_topk", False) else "topk"
    return variant, variant, ()
