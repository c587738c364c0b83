r"""SAELens' format: `cfg.json` and `sae_weights.safetensors`.

From version 6 on, and the flat layout before it (recognised as SAELens does: no version, or one
below 6.0.0). Names and orientation:

    W_enc (d_in, d_sae)   b_enc (d_sae)   W_dec (d_sae, d_out)   b_dec (d_out)
    threshold (d_sae), or log_threshold in old training checkpoints
    topk_threshold () in training checkpoints of batch top-k and Matryoshka
    b_gate, b_mag, r_mag (d_sae) in place of b_enc in gated ones
    W_skip (d_out, d_in), applied to the input as it comes
    attn_layers.{i}.{k_ctx,q_target,v_ctx,c_proj}.{weight,bias} in temporal ones

What is not a parameter of ours becomes one exactly: `rescale_acts_by_decoder_norm` ranks scores
times the length of their atom, which is the dictionary with atoms of length one and the lengths in
its encoder; SAELens' ReLU before the jump is a threshold of at least zero; the old finetuning scale
goes into the atoms. The scale or whitening that a training checkpoint keeps beside its weights
(`activation_scaler.json`, `activation_whitening.safetensors`) is the normalisation.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp import files
from jaxinterp.dictionaries.formats import lazy, pair
from jaxinterp.dictionaries.formats.plain import Plain, long_site, plain
from jaxinterp.dictionaries.formats.saelens_config import (
    NEWEST,
    ROW_NORMS,
    current,
    normalisation,
)
from jaxinterp.dictionaries.formats.saelens_variants import (
    ARCHITECTURES,
    OURS,
    checked_tensors,
    variant_of,
    without_encoder,
)
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked, folded
from jaxinterp.dictionaries.registry import to_json

NAME = "saelens"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

# (selection, transcoder, skip) -> architecture
_WRITTEN = {
    ("relu", False, False): "standard",
    ("topk", False, False): "topk",
    ("abs_topk", False, False): "abstopk",
    ("jumprelu", False, False): "jumprelu",
    ("gated", False, False): "gated",
    ("relu", True, False): "transcoder",
    ("jumprelu", True, False): "jumprelu_transcoder",
    ("relu", True, True): "skip_transcoder",
    ("jumprelu", True, True): "jumprelu_skip_transcoder",
}
# Our names of fields in the source.
_SOURCE = {
    "model_name": "model",
    "hook_name": "site",
    "hook_name_out": "into",
    "hook_layer": "layer",
    "hook_head_index": "head",
}


def read(path: Path) -> Stored:
    """Opens a SAELens dictionary or training checkpoint.

    Raises:
        ValueError: missing or truncated files, an unknown architecture, activation or
            normalisation, a version from the future, missing tensors, or shapes that are not those
            of `cfg.json`.
    """
    folder = path if path.is_dir() else path.parent
    raw = files.read_json(folder / CONFIG)
    if not isinstance(raw, dict):
        raise ValueError(f"{folder / CONFIG} holds no JSON object")
    notes: list[str] = []
    config, about = current(raw, folder)
    architecture = config.get("architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{folder}: unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    found = checked_tensors(folder, config, lazy.open_safetensors(folder / WEIGHTS))
    variant, options, tensors = variant_of(folder, config, found, notes)
    source = {_SOURCE.get(name, name): value for name, value in about.items() if value is not None}
    layer = re.search(r"blocks\.(\d+)\.", str(source.get("site", "")))
    if layer:
        source.setdefault("layer", int(layer[1]))
    if config.get("reshape_activations", "none") == "hook_z":
        source["reshape"] = "hook_z"
        notes.append("activations (heads, d_head) are read as one vector, the heads side by side")
    stored = Stored(
        variant,
        options,
        tensors,
        normalisation(folder, config, notes),
        source=source,
        notes=tuple(notes),
        format=NAME,
    )
    return checked(stored, folder)


def write(folder: Path, stored: Stored) -> tuple[str, ...]:
    """Writes a dictionary that SAELens opens.

    Returns:
        What the format can't hold.

    Raises:
        ValueError: a dictionary that SAELens has no architecture for.
    """
    source, row_norm = stored.source, "none"
    if stored.variant == "row_normalised":
        stored, row_norm = _inside(stored)
    known = without_encoder(stored)
    if known is None:
        p = plain(stored)
        settings, tensors, notes = *_linear(p), p.notes
    else:
        (settings, tensors), notes = known, ()
    width, d_out = tensors["W_dec"].shape
    config: dict[str, Any] = {
        "d_in": tensors["W_enc"].shape[0] if "W_enc" in tensors else d_out,
        "d_sae": width,
        # SAELens makes all of one type when it reads: the widest, so that nothing is rounded.
        "dtype": max((t.dtype for t in tensors.values()), key=lambda kind: kind.itemsize).name,
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": row_norm,
        "reshape_activations": source.get("reshape", "none"),
        "metadata": _metadata(source),
    } | settings
    pair.write(folder, WEIGHTS, lambda at: files.write_arrays(at, tensors), CONFIG, config)
    return notes


def _recognises(path: Path) -> bool:
    return path.name == WEIGHTS or (path / WEIGHTS).is_file()


FORMAT = Format(NAME, f"{CONFIG} and {WEIGHTS}", _recognises, read, write)


def _inside(stored: Stored) -> tuple[Stored, str]:
    """(the dictionary that sees normalised rows, SAELens' word for how they are)."""
    folded(stored)  # refuses a normalisation before that of the rows
    options = {name: to_json(name, value) for name, value in stored.options.items()}
    ours = options.pop("normalise", "layer_norm")
    words = {ours: theirs for theirs, ours in ROW_NORMS.items()}
    return stored._replace(variant=options.pop("recipe"), options=options), words[ours]


def _linear(p: Plain) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(settings, tensors) of a dictionary with a linear encoder."""
    kind = (p.selection, p.transcoder, "skip" in p.tensors)
    if kind not in _WRITTEN:
        words = f"{p.selection}{' transcoder' if p.transcoder else ''}{', with skip' * kind[2]}"
        raise ValueError(f"SAELens has no architecture for a dictionary of this kind: {words}")
    theirs = {ours: name for name, ours in OURS.items() if name != "topk_threshold"}
    if p.selection != "gated":
        theirs["encoder_bias"] = "b_enc"
    tensors = {}
    for name, tensor in p.tensors.items():
        tensor = lazy.transposed(tensor) if name == "encoder" else tensor
        tensors[theirs[name]] = lazy.whole(tensor)
    settings: dict[str, Any] = {"architecture": _WRITTEN[kind]}
    if not p.centred:
        settings["apply_b_dec_to_input"] = False
    if p.k is not None:
        settings |= {"k": p.k, "rescale_acts_by_decoder_norm": False}
    if p.transcoder:
        settings["d_out"] = p.tensors["decoder"].shape[1]
    return settings, tensors


def _metadata(source: Mapping[str, Any]) -> dict[str, Any]:
    back = {ours: theirs for theirs, ours in _SOURCE.items()}
    derived = ("layer", "reshape")  # told by the hook's name, and by a setting
    about = {back.get(name, name): value for name, value in source.items() if name not in derived}
    for name in ("hook_name", "hook_name_out"):
        if isinstance(about.get(name), str):
            about[name] = long_site(about[name])
    version = str(about.get("sae_lens_version", ""))
    if not version.startswith(f"{NEWEST}."):
        # The version whose layout this is; readers take files without one for the old layout.
        about["sae_lens_version"] = f"{NEWEST}.0.0"
    return about | {"written_by": "jaxinterp"}
