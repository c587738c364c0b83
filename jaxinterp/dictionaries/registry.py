"""Every variant and part by its name, which is how files and command lines speak of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxinterp.dictionaries import atoms, base, errors, kernels, penalties, scores, thresholds
from jaxinterp.dictionaries.abs_topk import abs_topk
from jaxinterp.dictionaries.archetypal import archetypal, k_means, sampled
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.batch_topk import batch_topk
from jaxinterp.dictionaries.binary import binary
from jaxinterp.dictionaries.cross_layer_batch_topk import cross_layer_batch_topk
from jaxinterp.dictionaries.cross_layer_jumprelu import cross_layer_jumprelu
from jaxinterp.dictionaries.cross_layer_topk import cross_layer_topk
from jaxinterp.dictionaries.crosscoder import batch_topk_crosscoder, crosscoder, l1_crosscoder
from jaxinterp.dictionaries.decaying_topk import decaying_topk
from jaxinterp.dictionaries.dependency_sparse import dependency_sparse
from jaxinterp.dictionaries.feature_choice import feature_choice, mutual_choice
from jaxinterp.dictionaries.gated import gated
from jaxinterp.dictionaries.group_max import group_max
from jaxinterp.dictionaries.itda import itda
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.matching import matching_codes
from jaxinterp.dictionaries.matching_pursuit import matching_pursuit
from jaxinterp.dictionaries.matryoshka import matryoshka
from jaxinterp.dictionaries.multi_topk import multi_topk
from jaxinterp.dictionaries.orthogonal_pursuit import orthogonal_pursuit
from jaxinterp.dictionaries.p_anneal import p_anneal
from jaxinterp.dictionaries.polynomial import polynomial
from jaxinterp.dictionaries.predictive import predictive
from jaxinterp.dictionaries.refitting import gradient_codes, nonnegative_codes, orthogonal_codes
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.row_normalised import layer_norm, root_length, row_normalised
from jaxinterp.dictionaries.scalar_quantised import finite_scalar, latent_quantised
from jaxinterp.dictionaries.structured import structured
from jaxinterp.dictionaries.temporal import temporal
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.transcoder import skip_transcoder, transcoder
from jaxinterp.dictionaries.variational import (
    learned_spread,
    unit_spread,
    variational,
    variational_mean,
)
from jaxinterp.dictionaries.vector_quantised import vector_quantised

# A new variant is one line here, and one in `formats.native` if its tensors need a layout.
VARIANTS: dict[str, Callable[..., Dictionary]] = {
    "abs_topk": abs_topk,
    "batch_topk": batch_topk,
    "batch_topk_crosscoder": batch_topk_crosscoder,
    "binary": binary,
    "cross_layer_batch_topk": cross_layer_batch_topk,
    "cross_layer_jumprelu": cross_layer_jumprelu,
    "cross_layer_topk": cross_layer_topk,
    "crosscoder": crosscoder,
    "decaying_topk": decaying_topk,
    "dependency_sparse": dependency_sparse,
    "feature_choice": feature_choice,
    "finite_scalar": finite_scalar,
    "gated": gated,
    "group_max": group_max,
    "itda": itda,
    "jumprelu": jumprelu,
    "l1_crosscoder": l1_crosscoder,
    "latent_quantised": latent_quantised,
    "matching_pursuit": matching_pursuit,
    "matryoshka": matryoshka,
    "multi_topk": multi_topk,
    "mutual_choice": mutual_choice,
    "orthogonal_pursuit": orthogonal_pursuit,
    "p_anneal": p_anneal,
    "polynomial": polynomial,
    "predictive": predictive,
    "relu": relu,
    "row_normalised": row_normalised,
    "skip_transcoder": skip_transcoder,
    "structured": structured,
    "temporal": temporal,
    "topk": topk,
    "transcoder": transcoder,
    "variational": variational,
    "variational_mean": variational_mean,
    "vector_quantised": vector_quantised,
}
# Functions that may be arguments of a variant, by their own names.
PARTS: dict[str, Callable[..., Any]] = VARIANTS | {
    part.__name__: part
    for part in (
        *(scores.linear, scores.uncentred, scores.tied, scores.matched, scores.mlp),
        scores.firing_at,
        *(atoms.free, atoms.unit, atoms.zero_centre, atoms.mean_centre, base.geometric_median),
        *(errors.squared_error, errors.unexplained, errors.relative_error, errors.whole),
        *(penalties.l1, penalties.plain_l1, penalties.l1_sqrt, penalties.tanh, penalties.hoyer),
        *(penalties.power, penalties.count, penalties.towards_count),
        penalties.towards_mean_count,
        *(thresholds.direct, thresholds.logarithmic),
        *(layer_norm, root_length),
        *(matching_codes, orthogonal_codes, nonnegative_codes, gradient_codes),
        *(archetypal, k_means, sampled, unit_spread, learned_spread),
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
