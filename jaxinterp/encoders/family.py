"""What the loader knows about a model family, and readers of config fields that families share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxinterp.encoders.layouts import Tensor
from jaxinterp.encoders.shapes import Shapes
from jaxinterp.encoders.stack import Rotary

Raw = Mapping[str, Any]


class Model(NamedTuple):
    """One of the forwards: what the loader needs of its module."""

    forward: Callable[..., Any]
    sites: Callable[[Any], tuple[str, ...]]
    shapes: Callable[[Any], Shapes]


class Family(NamedTuple):
    """A model family.

    Attributes:
        model: the forward that runs it.
        config: `(config.json, names in the files)` -> our config; the names tell which heads exist.
        tensors: `(config, config.json, names in the files) -> tensors`.
        rename: `(pattern, replacement)` pairs applied in order to the files' names: prefixes that
            base models lack, and spellings of other versions.
        skip: pattern of names (after renaming) that are buffers, copies or heads of no use here.
        head: the output head in the files, which a model that ties it to the token embedding may
            hold as a copy.
    """

    model: Model
    config: Callable[[Raw, set[str]], Any]
    tensors: Callable[[Any, Raw, set[str]], list[Tensor]]
    rename: tuple[tuple[str, str], ...] = ()
    skip: str = r"$."
    head: str | None = None


_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


def classes(raw: Raw) -> int:
    """Outputs of a classifier: the labels that `config.json` names, 2 by default."""
    labels = raw.get("id2label")
    return len(labels) if labels else raw.get("num_labels", 2)


def activation(raw: Raw, *keys: str, default: str) -> str:
    """The activation under the first of `keys` that is set, in our word.

    Raises:
        ValueError: an activation that is not implemented.
    """
    name = next((raw[k] for k in keys if raw.get(k) is not None), default)
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def refuse(raw: Raw, **allowed: Any) -> None:
    """Refuses options that would change the result and are not implemented.

    Args:
        raw: `config.json`.
        **allowed: option -> the only value accepted (an absent option or null is accepted too).

    Raises:
        ValueError: naming the option and its value.
    """
    for key, value in allowed.items():
        if raw.get(key) not in (None, value):
            raise ValueError(
                f"config.json has {key}={raw[key]!r}, which is not implemented (only {value!r} is)"
            )


def rope(raw: Raw, *, theta: float = 10_000.0, fraction: float = 1.0) -> Rotary:
    """Rotary settings in the spelling of transformers 5 (`rope_parameters`) or 4.

    Args:
        raw: `config.json`, or the settings of one kind of layer under `rope_parameters`.
        theta: default base.
        fraction: default share of a head's dimensions that turn.

    Raises:
        ValueError: a scaling that is not implemented.
    """
    given = raw.get("rope_parameters") or {}
    scaling = given or raw.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    theta = given.get("rope_theta") or raw.get("rope_theta") or raw.get("rotary_emb_base") or theta
    for source in (raw.get("rotary_pct"), raw.get("partial_rotary_factor")):
        fraction = fraction if source is None else source
    fraction = given.get("partial_rotary_factor", fraction)
    theta, fraction = float(theta), float(fraction)
    if kind == "default":
        return Rotary(theta, fraction)
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        original = scaling.get("original_max_position_embeddings", raw["max_position_embeddings"])
        factor, low, high = (float(scaling[n]) for n in names)
        return Rotary(theta, fraction, (factor, low, high, float(original)))
    if kind == "linear":
        return Rotary(theta, fraction, (float(scaling["factor"]), 1.0, 1.0, 1.0))
    raise ValueError(f"rope_type {kind!r} is not implemented; implemented: default, linear, llama3")


def windows(raw: Raw, kinds: list[str]) -> tuple[int, ...]:
    """Window of each layer from `layer_types` (default `kinds`); empty where no layer has one.

    Raises:
        ValueError: an unknown kind of layer, or windowed layers without a window.
    """
    kinds = raw.get("layer_types") or kinds
    unknown = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if unknown:
        raise ValueError(f"layer_types {unknown} are not implemented")
    if "sliding_attention" not in kinds:
        return ()
    window = raw.get("sliding_window")
    if not window:
        raise ValueError(f"config.json has sliding layers but {window=}")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def tied(raw: Raw, names: set[str], head: str, *, default: bool) -> bool:
    """Whether the unembedding is the token embedding.

    Raises:
        ValueError: an untied model whose files have no output head.
    """
    value = raw.get("tie_word_embeddings")
    value = default if value is None else value
    if not value and head not in names:
        raise ValueError(
            f"config.json says that the output head is not tied, but the files have no {head}: "
            "this is a base model without its head"
        )
    return value
