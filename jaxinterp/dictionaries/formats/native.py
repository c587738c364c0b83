"""Dictionaries on disk: one safetensors file and one JSON, readable without this library.

`dictionary.json` holds `format`, `version`, `variant`, `options` (the arguments of the variant)
and `source` (model, site, data: free fields). An option that is a part, such as a penalty, stands
by its name; one with settings as `{"part": "tanh", "scale": 2.0}`.

`dictionary.safetensors` holds, under SAELens' names and in its orientation where the meaning is the
same,

    encoder         W_enc (d, width)      decoder         W_dec (width, d)
    encoder_bias    b_enc (width)         decoder_bias    b_dec (d)
    threshold       threshold (width), or () for batch top-k
    log_threshold   log_threshold (width)
    hidden          W_hidden (d, hidden)  hidden_bias     b_hidden (hidden)
    gated:          encoder_bias is b_gate, magnitude_bias b_mag, log_magnitude r_mag, all (width)

and any other parameter under its own name and in its own orientation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import files
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.registry import build, to_json

FORMAT, VERSION = "jaxinterp-dictionary", 2


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


# Variants whose sample is a pair (x, target).
_READ_AND_WRITE = (
    *("transcoder", "skip_transcoder"),
    *("cross_layer_batch_topk", "cross_layer_jumprelu", "cross_layer_topk"),
)


def save(
    folder: str | Path,
    variant: str,
    options: Mapping[str, Any],
    params: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes a trained dictionary.

    Args:
        folder: made if it is not there; each of the two files is written whole or not at all.
        variant: a key of `registry.VARIANTS`.
        options: the keyword arguments that build the variant.
        params: its parameters.
        source: what it was trained on.

    Raises:
        ValueError: an option that JSON can't hold and that is not a part of this library.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "variant": variant,
        "options": {name: to_json(name, value) for name, value in options.items()},
        "source": dict(source or {}),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layout = _layout(variant, header["options"], params)
    tensors = {layout[n].name: _oriented(np.asarray(v), layout[n]) for n, v in params.items()}
    files.write_arrays(folder / "dictionary.safetensors", tensors)
    files.write_json(folder / "dictionary.json", header)


def load(folder: str | Path) -> tuple[Dictionary, dict[str, Any], dict[str, Any]]:
    """Reads a dictionary.

    Returns:
        (dictionary, params, header), the header as in the JSON file.

    Raises:
        ValueError: missing or truncated files, another format, a version from the future, an
            unknown variant, or tensors that are not those of the variant.
    """
    folder = Path(folder)
    header = files.read_json(folder / "dictionary.json")
    if header.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a jaxinterp dictionary: format {header.get('format')!r}")
    if header["version"] > VERSION:
        raise ValueError(f"{folder} has version {header['version']}, this library reads {VERSION}")
    try:
        dictionary = build(header["variant"], header["options"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    tensors = files.read_arrays(folder / "dictionary.safetensors")
    if "W_dec" not in tensors or tensors["W_dec"].ndim < 2:
        raise ValueError(f"{folder} holds tensors {sorted(tensors)}; expected W_dec (width, d) too")
    expected = _expected(header["variant"], dictionary, tensors)
    layout = _layout(header["variant"], header["options"], expected)
    names = {layout[name].name for name in expected}
    if set(tensors) != names:
        raise ValueError(f"{folder} holds tensors {sorted(tensors)}; expected {sorted(names)}")
    params = {}
    for name, like in expected.items():
        kept = layout[name]
        value = _oriented(tensors[kept.name], kept)
        if value.shape != like.shape:
            shape, wanted = tensors[kept.name].shape, like.shape[:: -1 if kept.swapped else 1]
            raise ValueError(f"{folder}: {kept.name} has shape {shape}, not {wanted}")
        params[name] = jnp.asarray(value)
    return dictionary, params, header


def _layout(
    variant: str, options: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, _Tensor]:
    # A wrapper of another variant has that one's tensors.
    special = _LAYOUTS.get(options.get("recipe", variant), {})
    return {n: special.get(n, _COMMON.get(n, _Tensor(n))) for n in names}


def _oriented(value: np.ndarray, kept: _Tensor) -> np.ndarray:
    return value.T if kept.swapped else value


def _expected(
    variant: str, dictionary: Dictionary, tensors: Mapping[str, np.ndarray]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of the parameters that the variant would start with, without making them."""
    row = tensors["b_dec"].shape if "b_dec" in tensors else tensors["W_dec"].shape[1:]
    sample: Any = jax.ShapeDtypeStruct((2, *row), jnp.float32)
    if variant in _READ_AND_WRITE:
        read = tensors["W_enc"].shape
        # Rows of W_enc where it is turned, the last axis where there is one for each layer.
        d_in = read[0] if len(read) == 2 else read[-1]
        sample = (jax.ShapeDtypeStruct((2, *row[:-1], d_in), jnp.float32), sample)
    if variant == "temporal":
        sample = jax.ShapeDtypeStruct((2, 2, *row), jnp.float32)
    return jax.eval_shape(dictionary.init, jax.random.key(0), sample)
