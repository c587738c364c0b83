"""From SAELens' architectures and tensors to our variants and parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp.activations.normalise import Affine
from jaxinterp.dictionaries.fold import Spaces
from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.lazy import Lazy
from jaxinterp.dictionaries.formats.saelens_config import ROW_NORMS
from jaxinterp.dictionaries.formats.stored import Stored, folded
from jaxinterp.dictionaries.pursuit import check_lengths

# Architecture -> our variant, and what it holds besides W_dec and b_dec.
_LINEAR = ("W_enc", "b_enc")
ARCHITECTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "standard": ("relu", _LINEAR),
    "topk": ("topk", _LINEAR),
    "abstopk": ("abs_topk", _LINEAR),
    "jumprelu": ("jumprelu", (*_LINEAR, "threshold")),
    "gated": ("gated", ("W_enc", "b_gate", "b_mag", "r_mag")),
    "batchtopk": ("batch_topk", (*_LINEAR, "topk_threshold")),
    "matryoshka_batchtopk": ("matryoshka", (*_LINEAR, "topk_threshold")),
    "matching_pursuit": ("matching_pursuit", ()),
    "transcoder": ("transcoder", _LINEAR),
    "jumprelu_transcoder": ("transcoder", (*_LINEAR, "threshold")),
    "skip_transcoder": ("skip_transcoder", (*_LINEAR, "W_skip")),
    "jumprelu_skip_transcoder": ("skip_transcoder", (*_LINEAR, "threshold", "W_skip")),
    "temporal": ("temporal", ()),
}
OURS = {
    "W_enc": "encoder",
    "W_dec": "decoder",
    "b_enc": "encoder_bias",
    "b_dec": "decoder_bias",
    "threshold": "threshold",
    "topk_threshold": "threshold",
    "b_gate": "encoder_bias",
    "b_mag": "magnitude_bias",
    "r_mag": "log_magnitude",
    "W_skip": "skip",
}


def checked_tensors(
    folder: Path, config: Mapping[str, Any], found: dict[str, Lazy]
) -> dict[str, Lazy]:
    """The tensors, of the shapes that the configuration asks for.

    Raises:
        ValueError: no sizes in the configuration, missing tensors, or other shapes.
    """
    sizes = [config.get(name) for name in ("d_in", "d_sae")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{folder}: d_in and d_sae are {sizes}, not two sizes")
    d_in, width = sizes
    d_out = config.get("d_out", d_in)
    shapes: dict[str, tuple[Any, ...]] = dict.fromkeys(
        ("b_enc", "threshold", "b_gate", "b_mag", "r_mag", "scaling_factor"), (width,)
    )
    shapes |= {"W_enc": (d_in, width), "W_dec": (width, d_out), "b_dec": (d_out,)}
    shapes |= {"W_skip": (d_out, d_in), "topk_threshold": ()}
    found = dict(found)
    if "log_threshold" in found and "threshold" not in found:
        logs = found.pop("log_threshold")
        found["threshold"] = lazy.changed(logs, lambda part, _: np.exp(part.astype(np.float64)))
    named = {"W_dec", "b_dec", *ARCHITECTURES[config["architecture"]][1]}
    missing = sorted(named - set(found))
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}, which architecture "
            f"{config['architecture']!r} needs; it holds {lazy.listed(found)}"
        )
    for name, tensor in found.items():
        shape = shapes.get(name, tensor.shape)
        if tensor.shape != shape:
            turned = " (its transpose would fit)" if tensor.shape == shape[::-1] else ""
            raise ValueError(
                f"{folder}: {name} has shape {tensor.shape}; cfg.json asks for {shape} "
                f"with d_in={d_in}, d_sae={width}{turned}"
            )
    return found


def variant_of(
    folder: Path, config: Mapping[str, Any], found: dict[str, Lazy], notes: list[str]
) -> tuple[str, dict[str, Any], dict[str, Lazy]]:
    """(variant, options, parameters).

    Args:
        folder: to be told in errors.
        config: settings in the words of version 6.
        found: tensors of the shapes that they ask for.
        notes: gets what was changed.

    Raises:
        ValueError: tensors or settings that do not go with the architecture.
    """
    if config["architecture"] == "temporal":
        variant, options, tensors = _temporal(folder, config, found)
    else:
        variant, options, tensors = _architecture(folder, config, found, notes)
    kind = config.get("normalize_activations")
    if kind not in ROW_NORMS:
        return variant, options, tensors
    if variant in ("transcoder", "skip_transcoder", "temporal"):
        raise ValueError(f"{folder}: a {variant} dictionary with {kind!r} is not read")
    if variant == "matryoshka":
        options.pop("prefixes")
        variant = options.pop("recipe")
        notes.append("its nested prefixes, which matter in training only, were left out")
    options |= {"recipe": variant, "normalise": ROW_NORMS[kind]}
    return "row_normalised", options, tensors


def _architecture(
    folder: Path, config: Mapping[str, Any], found: dict[str, Lazy], notes: list[str]
) -> tuple[str, dict[str, Any], dict[str, Lazy]]:
    architecture = config["architecture"]
    variant, own = ARCHITECTURES[architecture]
    found = _finetuned(folder, config, found)
    known = {"W_dec", "b_dec", *own}
    left = sorted(set(found) - known)
    if left:
        raise ValueError(f"{folder} holds {lazy.listed(left)}, not of {architecture!r}")
    tensors = {OURS[name]: found[name] for name in known}
    if "W_enc" in known:
        tensors["encoder"] = lazy.transposed(tensors["encoder"])
    if "threshold" in known:
        # SAELens cuts at zero and then at the threshold: together, at the larger.
        tensors["threshold"] = lazy.changed(
            tensors["threshold"], lambda part, _: np.maximum(part, 0), np.float32
        )
    options: dict[str, Any] = {"width": config["d_sae"]}
    if variant in ("transcoder", "skip_transcoder"):
        if config.get("apply_b_dec_to_input", False):
            raise ValueError(f"{folder}: apply_b_dec_to_input is set for a transcoder")
        options["recipe"] = "jumprelu" if "threshold" in known else "relu"
        return variant, options, tensors
    if variant == "matching_pursuit":
        return variant, _pursuit(folder, config, tensors), tensors
    if variant != "relu":
        options["atoms"] = "free"  # SAELens trains without a constraint on their lengths
    if not config.get("apply_b_dec_to_input", True):
        options["scores"] = "uncentred"
    if variant in ("topk", "abs_topk", "batch_topk", "matryoshka"):
        k = config.get("k")
        if not isinstance(k, int | float):
            raise ValueError(f"{folder}: k is {k!r}, architecture {architecture!r} has one")
        options["k"] = int(k) if float(k).is_integer() else k
        if config.get("rescale_acts_by_decoder_norm", False):
            norms = lazy.row_norms(tensors["decoder"])
            inverse = 1 / np.where(norms > 0, norms, 1.0)
            tensors["encoder"] = lazy.times(tensors["encoder"], norms[:, None])
            tensors["encoder_bias"] = lazy.times(tensors["encoder_bias"], norms)
            tensors["decoder"] = lazy.times(tensors["decoder"], inverse[:, None])
            notes.append("lengths of the atoms were moved into the encoder, as SAELens ranks them")
    if variant == "matryoshka":
        widths = [int(w) for w in config.get("matryoshka_widths") or []]
        if not widths or widths[-1] != config["d_sae"]:
            widths.append(config["d_sae"])
        options |= {"recipe": "batch_topk", "prefixes": widths}
    return variant, options, tensors


def _finetuned(folder: Path, config: Mapping[str, Any], found: dict[str, Lazy]) -> dict[str, Lazy]:
    """Old files may scale each code before it is written."""
    if "scaling_factor" not in found:
        return found
    factors = lazy.whole(found["scaling_factor"])
    rest = {name: tensor for name, tensor in found.items() if name != "scaling_factor"}
    if np.allclose(factors, 1):
        return rest
    if not config.get("finetuning_scaling_factor"):
        raise ValueError(
            f"{folder}: its weights scales codes by scaling_factor, cfg.json says it does not "
            "(finetuning_scaling_factor)"
        )
    return rest | {"W_dec": lazy.times(rest["W_dec"], factors.reshape(-1, 1))}


def _pursuit(folder: Path, config: Mapping[str, Any], tensors: dict[str, Lazy]) -> dict[str, Any]:
    """Options of a matching pursuit; its bias is zero where SAELens leaves it out on both sides."""
    try:
        check_lengths(lazy.row_norms(tensors["decoder"]))
    except ValueError as error:
        raise ValueError(f"{folder}: W_dec: {error}") from error
    if not config.get("apply_b_dec_to_input", True):
        bias = tensors["decoder_bias"]
        tensors["decoder_bias"] = lazy.held(bias.name, np.zeros(bias.shape, bias.dtype))
    return {
        "width": config["d_sae"],
        "k": config.get("max_iterations") or config["d_in"],
        "tolerance": config.get("residual_threshold", 1e-2),
        "stop_at_repeat": config.get("stop_on_duplicate_support", True),
        "atoms": "free",
    }


def _temporal(
    folder: Path, config: Mapping[str, Any], found: dict[str, Lazy]
) -> tuple[str, dict[str, Any], dict[str, Lazy]]:
    """Exact where encoder and decoder are tied and a number of novel latents is kept."""
    if not (
        config.get("tied_weights", True)
        and config.get("sae_diff_type", "topk") == "topk"
        and config.get("kval_topk")
        and config.get("apply_b_dec_to_input", True)
    ):
        raise ValueError(
            f"{folder}: temporal dictionaries are read where tied_weights and "
            "apply_b_dec_to_input are true and sae_diff_type is topk with a kval_topk"
        )
    layers = config.get("n_attn_layers", 1)
    tensors = {"decoder": found["W_dec"], "decoder_bias": found["b_dec"]}
    for ours, theirs in _attention(layers):
        missing = [name for name in theirs if name not in found]
        if missing:
            raise ValueError(f"{folder}: its weights lack {', '.join(missing)}")
        tensors[ours] = lazy.held(theirs[0], np.stack([lazy.whole(found[n]) for n in theirs]))
    options = {
        "width": config["d_sae"],
        "k": config["kval_topk"],
        "heads": config.get("n_heads", 8),
        "layers": layers,
        "bottleneck": config.get("bottleneck_factor", 64),
    }
    return "temporal", options, tensors


def _attention(layers: int) -> list[tuple[str, list[str]]]:
    """Our parameters of the attention, and the tensors that each stacks."""
    parts = {"key": "k_ctx", "query": "q_target", "value": "v_ctx", "out": "c_proj"}
    return [
        (f"{ours}{suffix}", [f"attn_layers.{i}.{theirs}.{end}" for i in range(layers)])
        for ours, theirs in parts.items()
        for suffix, end in (("", "weight"), ("_bias", "bias"))
    ]


def without_encoder(stored: Stored) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """(settings, tensors) of a pursuit or a temporal dictionary, which `plain` does not speak of.

    Raises:
        ValueError: a normalisation or setting of it that SAELens does not have.
    """
    options = stored.options
    if stored.variant == "matching_pursuit":
        if options.get("signed", False):
            raise ValueError("SAELens has no pursuit with negative codes")
        kept = folded(stored)
        tensors = {name: lazy.whole(kept.tensors[name]) for name in ("decoder", "decoder_bias")}
        settings = {
            "architecture": "matching_pursuit",
            "max_iterations": options["k"],
            "residual_threshold": options.get("tolerance", 0.0),
            "stop_on_duplicate_support": options.get("stop_at_repeat", False),
        }
    elif stored.variant == "temporal":
        layers = options.get("layers", 1)
        tensors = {name: lazy.whole(stored.tensors[name]) for name in ("decoder", "decoder_bias")}
        for ours, theirs in _attention(layers):
            tensors |= dict(zip(theirs, lazy.whole(stored.tensors[ours]), strict=True))
        settings = {
            "architecture": "temporal",
            "n_heads": options.get("heads", 8),
            "n_attn_layers": layers,
            "bottleneck_factor": options.get("bottleneck", 64),
            "sae_diff_type": "topk",
            "kval_topk": options["k"],
            "tied_weights": True,
        } | _scale(stored.normalisation)
    else:
        return None
    tensors = {"W_dec": tensors.pop("decoder"), "b_dec": tensors.pop("decoder_bias")} | tensors
    return settings, tensors


def _scale(affine: Spaces | None) -> dict[str, Any]:
    """A temporal dictionary's normalisation as its settings."""
    if affine is None:
        return {}
    if not isinstance(affine, Affine) or np.any(affine.centre) or np.ndim(affine.matrix):
        raise ValueError("SAELens keeps one scale as a temporal dictionary's normalisation")
    factor = float(affine.matrix)
    return {
        "normalize_activations": "constant_scalar_rescale",
        "activation_normalization_factor": factor,
    }
