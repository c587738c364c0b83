"""A dictionary in the few terms that all libraries share, for the writers of their formats."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.lazy import Lazy
from jaxinterp.dictionaries.formats.stored import Stored, dictionary_of, folded
from jaxinterp.dictionaries.registry import to_json
from jaxinterp.encoders.sites import BLOCK_SITES, OUTER_SITES

# Variants that choose the active latents in one of the ways that libraries share; at inference.
_SELECTIONS = {
    "abs_topk": "abs_topk",
    "batch_topk": "jumprelu",
    "decaying_topk": "topk",
    "gated": "gated",
    "group_max": "group_max",
    "jumprelu": "jumprelu",
    "multi_topk": "topk",
    "p_anneal": "relu",
    "relu": "relu",
    "topk": "topk",
}
_WRAPPERS = ("matryoshka", "transcoder", "skip_transcoder")
# Arguments that say what a dictionary computes; the others are of its training.
_KEPT = {"width", "k", "recipe", "scores", "threshold"}
_TRAINING = ("penalty_scale", "penalty_history")  # parameters, likewise


class Plain(NamedTuple):
    """A dictionary of one input, one target, a linear encoder and a linear decoder.

    Attributes:
        selection: which latents are active: "relu", "topk", "abs_topk", "group_max", "jumprelu"
            (a threshold for each latent, at least 0) or "gated".
        k: latents kept, for the top-k ones.
        centred: whether the encoder takes the decoder's bias away from its input.
        transcoder: whether input and target are different activations.
        tensors: `encoder` and `decoder` (width, d), biases, `threshold` (width), `skip`, and
            `magnitude_bias` and `log_magnitude` of gated ones.
        notes: what of the dictionary is not in here.
    """

    selection: str
    k: int | None
    centred: bool
    transcoder: bool
    tensors: dict[str, Lazy]
    notes: tuple[str, ...]


def plain(stored: Stored, *, kept: Collection[str] = ()) -> Plain:
    """What a dictionary computes, its normalisation folded in.

    Args:
        stored: the dictionary.
        kept: arguments of training that the format keeps.

    Raises:
        ValueError: a variant or encoder that no other library has, or a normalisation that can't
            be moved into the weights.
    """
    dictionary_of(stored)
    normalised, stored = stored.normalisation is not None, folded(stored)
    options = {name: to_json(name, value) for name, value in stored.options.items()}
    recipe = options.get("recipe", stored.variant)
    wrapper = stored.variant if stored.variant in _WRAPPERS else None
    if recipe not in _SELECTIONS or not (wrapper or stored.variant == recipe):
        raise ValueError(
            f"a {stored.variant} dictionary"
            + (f" of {recipe}" if recipe != stored.variant else "")
            + f" has no form outside jaxinterp; those of {', '.join(sorted(_SELECTIONS))} have"
        )
    tensors, notes = dict(stored.tensors), []
    if normalised:
        notes.append("the normalisation of the activations was folded into the weights")
    transcoder = wrapper in ("transcoder", "skip_transcoder")
    encoder = "uncentred" if transcoder else _encoder(options.get("scores", "linear"))
    if encoder == "tied":
        tensors["encoder"] = tensors["decoder"]
        notes.append("its encoder was tied to its decoder: written as a copy of it")
    selection = _SELECTIONS[recipe]
    width = tensors["decoder"].shape[0]
    if selection == "jumprelu":
        tensors["threshold"] = _thresholds(tensors, width, below_zero=recipe == "batch_topk")
        tensors.pop("log_threshold", None)
    if recipe == "batch_topk":
        notes.append("batch top-k became JumpReLU with its threshold, which has the same codes")
    lost = sorted(
        set(options) - _KEPT - set(kept) - ({"atoms"} if options.get("atoms") == "free" else set())
    )
    lost += [name for name in _TRAINING if tensors.pop(name, None) is not None]
    if lost:
        notes.append(f"left out, as it matters in training only: {', '.join(lost)}")
    k = options["k"] if selection in ("topk", "abs_topk", "group_max") else None
    return Plain(selection, k, encoder != "uncentred", transcoder, tensors, tuple(notes))


def long_site(site: str) -> str:
    """TransformerLens' long name of a site in our short form; any other text stays."""
    found = re.fullmatch(r"L(\d+)\.(\w+)", site)
    if found and found[2] in BLOCK_SITES:
        return f"blocks.{found[1]}.{BLOCK_SITES[found[2]]}"
    return OUTER_SITES.get(site, site)


def _encoder(scores: Any) -> str:
    name = scores.get("part") if isinstance(scores, Mapping) else scores
    if name == "firing_at" and isinstance(scores, Mapping):
        return _encoder(scores.get("encoder", "linear"))
    if name in ("linear", "uncentred", "tied"):
        return name
    raise ValueError(f"an encoder {name!r} has no form outside jaxinterp; linear ones have")


def _thresholds(tensors: Mapping[str, Lazy], width: int, *, below_zero: bool) -> Lazy:
    """One threshold for each latent; one below zero is that of a mean that was never taken."""
    if "log_threshold" in tensors:
        values = np.exp(lazy.whole(tensors["log_threshold"]).astype(np.float32))
    else:
        values = lazy.whole(tensors["threshold"]).astype(np.float32)
    if not below_zero and (values < 0).any():
        raise ValueError(
            f"{(values < 0).sum()} thresholds are negative, down to {values.min():.4g}: other "
            "libraries have no negative codes"
        )
    return lazy.held("threshold", np.broadcast_to(np.maximum(values, 0), (width,)))
