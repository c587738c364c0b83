"""Every variant and part by its name, which is how files and command lines speak of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxinterp.dictionaries import atoms, base, errors, kernels, penalties, scores, thresholds
from jaxinterp.dictionaries.abs_topk import abs_topk
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.batch_topk import batch_topk
from jaxinterp.dictionaries.cross_layer_batch_topk import cross_layer_batch_topk
from jaxinterp.dictionaries.cross_layer_jumprelu import cross_layer_jumprelu
from jaxinterp.dictionaries.cross_layer_topk import cross_layer_topk
from jaxinterp.dictionaries.crosscoder import batch_topk_crosscoder, crosscoder, l1_crosscoder
from jaxinterp.dictionaries.decaying_topk import decaying_topk
from jaxinterp.dictionaries.gated import gated
from jaxinterp.dictionaries.group_max import group_max
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.matryoshka import matryoshka
from jaxinterp.dictionaries.multi_topk import multi_topk
from jaxinterp.dictionaries.p_anneal import p_anneal
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.temporal import temporal
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.transcoder import skip_transcoder, transcoder

# A new variant is one line here, and one in `formats.native` if its tensors need a layout.
VARIANTS: dict[str, Callable[..., Dictionary]] = {
    "abs_topk": abs_topk,
    "batch_topk": batch_topk,
    "batch_topk_crosscoder": batch_topk_crosscoder,
    "cross_layer_batch_topk": cross_layer_batch_topk,
    "cross_layer_jumprelu": cross_layer_jumprelu,
    "cross_layer_topk": cross_layer_topk,
    "crosscoder": crosscoder,
    "decaying_topk": decaying_topk,
    "gated": gated,
    "group_max": group_max,
    "jumprelu": jumprelu,
    "l1_crosscoder": l1_crosscoder,
    "matryoshka": matryoshka,
    "multi_topk": multi_topk,
    "p_anneal": p_anneal,
    "relu": relu,
    "skip_transcoder": skip_transcoder,
    "temporal": temporal,
    "topk": topk,
    "transcoder": transcoder,
}
# Functions that may be arguments of a variant, by their own names.
PARTS: dict[str, Callable[..., Any]] = VARIANTS | {
    part.__name__: part
    for part in (
        *(scores.linear, scores.uncentred, scores.tied, scores.mlp, scores.firing_at),
        *(atoms.free, atoms.unit, atoms.zero_centre, atoms.mean_centre, base.geometric_median),
        *(errors.squared_error, errors.unexplained, errors.relative_error, errors.whole),
        *(penalties.l1, penalties.plain_l1, penalties.l1_sqrt, penalties.tanh, penalties.hoyer),
        *(penalties.power, penalties.count, penalties.towards_count),
        penalties.towards_mean_count,
        *(thresholds.direct, thresholds.logarithmic),
        *(kernels.rectangle, kernels.triangle, kernels.epanechnikov, kernels.quartic),
        *(kernels.cosine, kernels.gaussian, kernels.cauchy, kernels.silverman),
    )
}


def build(variant: str, options: Mapping[str, Any]) -> Dictionary:
    """A variant from its name and the options that a JSON or a command line can hold.

    Args:
        variant: a key of `VARIANTS`.
        options: its arguments; parts by name, or as `{"part": name, setting: value, ...}`.

    Raises:
        ValueError: an unknown variant or part, or an argument that the variant does not have.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {sorted(VARIANTS)}")
    arguments = {name: from_json(value) for name, value in options.items()}
    try:
        return VARIANTS[variant](**arguments)
    except TypeError as error:
        raise ValueError(f"{variant} with options {sorted(options)}: {error}") from error


def to_json(name: str, value: Any) -> Any:
    """The form of an option that a JSON file can hold.

    Raises:
        ValueError: it is neither a plain value nor a part of this library; `name` is told.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_json(name, v) for v in value]
    if isinstance(value, Mapping):
        return {key: to_json(name, v) for key, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array) and value.ndim == 0:
        return value.item()
    if isinstance(value, functools.partial) and not value.args:
        settings = {key: to_json(name, v) for key, v in value.keywords.items()}
        return {"part": to_json(name, value.func)} | settings
    for known, part in PARTS.items():
        if part is value:
            return known
    raise ValueError(
        f"option {name!r} is {value!r}, which a file can't hold: give a number or a part of the "
        "library; in place of a schedule, its last value"
    )


def from_json(value: Any) -> Any:
    """The option that `to_json` wrote.

    Raises:
        ValueError: a part that this library does not have.
    """
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if isinstance(value, str | Mapping):
        name = value if isinstance(value, str) else value.get("part")
        if name not in PARTS:
            raise ValueError(f"unknown part {name!r}; known: {sorted(PARTS)}")
        if isinstance(value, str):
            return PARTS[name]
        settings = {key: from_json(v) for key, v in value.items() if key != "part"}
        return functools.partial(PARTS[name], **settings)
    return value
