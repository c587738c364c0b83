"""SAELens' `cfg.json`, of any version, and the normalisation that a checkpoint keeps beside it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp import files
from jaxinterp.activations.normalise import Affine, compose, scaling
from jaxinterp.dictionaries.formats import lazy

# Normalisations of every activation by numbers of its own, and what they are here.
ROW_NORMS = {"layer_norm": "layer_norm", "constant_norm_rescale": "root_length"}
NEWEST = 6  # major version of SAELens whose files are known here
_SCALER, _WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
# What some settings must be, if they are there.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "metadata": dict,
    "architecture": str,
    "normalize_activations": (str, bool),
    "activation_fn_kwargs": dict,
    "matryoshka_widths": list,
    "max_iterations": int,
    "n_attn_layers": int,
    "activation_normalization_factor": (int, float),
}
# Names of the flat layout that changed, and fields of it that say what a dictionary was trained on.
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_ABOUT = (
    *("model_name", "hook_name", "hook_layer", "hook_head_index", "model_class_name"),
    *("model_from_pretrained_kwargs", "context_size", "prepend_bos", "exclude_special_tokens"),
    *("neuronpedia_id", "seqpos_slice", "dataset_path", "sae_lens_version", "hook_name_out"),
    *("sae_lens_training_version", "hook_head_index_out", "hf_hook_name", "hf_hook_name_out"),
)


def current(raw: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, what it was trained on), in the words of version 6.

    Raises:
        ValueError: a version from the future, or an activation function that is not known.
    """
    for name, kinds in _KINDS.items():
        value = raw.get(name)
        if value is not None and not isinstance(value, kinds):
            raise ValueError(f"{folder}: {name} is {value!r} in cfg.json")
    about = dict(raw.get("metadata") or {})
    version = str(raw.get("sae_lens_version") or about.get("sae_lens_version") or "")
    major = re.match(r"\d+", version)
    if major and int(major[0]) > NEWEST:
        raise ValueError(
            f"{folder} was written by SAELens {version}; its files are known here up to version "
            f"{NEWEST}"
        )
    if major and int(major[0]) == NEWEST:
        return raw, about
    old = {_RENAMED.get(name, name): value for name, value in raw.items()}
    old.setdefault("architecture", "standard")
    if "apply_b_dec_to_input" not in old:
        old["apply_b_dec_to_input"] = True
    old.setdefault("reshape_activations", "none")
    if "hook_z" in str(old.get("hook_name", "")) and "reshape_activations" not in raw:
        old["reshape_activations"] = "hook_z"
    activation = old.get("activation_fn", "relu")
    k = (old.get("activation_fn_kwargs") or {}).get("k", old.get("k"))
    if activation == "topk" and k is not None:
        old |= {"architecture": "topk", "k": k}
    elif activation not in ("relu", "topk"):
        raise ValueError(f"{folder}: unknown activation function {activation!r}")
    normalise = old.get("normalize_activations")
    if isinstance(normalise, bool):
        old["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    about = {name: old[name] for name in _ABOUT if name in old} | about
    return old, about


def normalisation(folder: Path, config: Mapping[str, Any], notes: list[str]) -> Affine | None:
    """What a checkpoint keeps beside its weights; none where it has been folded in.

    Raises:
        ValueError: a normalisation that is not known or no affine map, or files of it that do not
            fit.
    """
    kind = config.get("normalize_activations") or "none"
    d = config["d_in"]
    if kind == "none":
        return None
    if kind == "constant_scalar_rescale":
        return _scaled(folder, d, config.get("activation_normalization_factor", 1.0))
    if kind in ROW_NORMS:
        return None  # no affine map: see `saelens_variants`
    if kind not in ("expected_average_only_in", "covariance_whitening"):
        raise ValueError(f"{folder}: unknown normalize_activations {kind!r}")
    if not (folder / _SCALER).is_file():
        notes.append(
            f"normalize_activations is {kind!r}, but what it was is not in the folder "
            f"({_SCALER}): give activations that are normalised so, as SAELens expects too"
        )
        return None
    if "transcoder" in config["architecture"]:
        raise ValueError(f"{folder}: {_SCALER} does not say what a transcoder's target was")
    scaler = files.read_json(folder / _SCALER)
    if not isinstance(scaler, dict):
        raise ValueError(f"{folder / _SCALER} holds no JSON object")
    affine = scaling(np.zeros(d), 1.0)
    if scaler.get("scaling_factor") is not None:
        affine = _scaled(folder, d, scaler["scaling_factor"])
    if scaler.get("has_whitening"):
        parts = lazy.open_safetensors(folder / _WHITENING)
        names = ("mean", "matrix", "inverse_matrix")
        missing = [name for name in names if name not in parts]
        if missing:
            raise ValueError(f"{folder / _WHITENING} lacks {', '.join(missing)}")
        mean, matrix, inverse = (
            lazy.whole(parts[name]).astype(np.float64)
            for name in ("mean", "matrix", "inverse_matrix")
        )
        if mean.shape != (d,) or matrix.shape != (d, d) or inverse.shape != (d, d):
            raise ValueError(
                f"{folder / _WHITENING}: mean {mean.shape}, matrix {matrix.shape} and "
                f"inverse_matrix {inverse.shape} for d_in={d}"
            )
        affine = compose(affine, Affine(mean, matrix, inverse))
    return affine


def _scaled(folder: Path, d: int, factor: Any) -> Affine:
    if not isinstance(factor, int | float) or not 0 < factor < np.inf:
        raise ValueError(f"{folder}: activations can't be scaled by {factor!r}")
    return scaling(np.zeros(d), factor)
