"""Dictionaries on disk: one safetensors file and one JSON, readable without this library.

`dictionary.safetensors` holds `W_enc` (d, width), `b_enc` (width), `W_dec` (width, d), `b_dec` (d):
SAELens' names and orientation. `dictionary.json` holds `format`, `version`, `variant`, `options`
(the arguments of the variant) and `source` (model, site, data: free fields).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp import files
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.topk import topk

FORMAT, VERSION = "jaxinterp-dictionary", 1
VARIANTS: dict[str, Callable[..., Dictionary]] = {"topk": topk}
# Our parameter -> its name in the file, and whether the file holds its transpose.
_TENSORS = {
    "encoder": ("W_enc", True),
    "encoder_bias": ("b_enc", False),
    "decoder": ("W_dec", False),
    "decoder_bias": ("b_dec", False),
}


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
        variant: a key of `VARIANTS`.
        options: the keyword arguments that build the variant.
        params: its parameters.
        source: what it was trained on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in params.items():
        file_name, transposed = _TENSORS[name]
        tensors[file_name] = np.asarray(value).T if transposed else np.asarray(value)
    files.write_arrays(folder / "dictionary.safetensors", tensors)
    header = {"format": FORMAT, "version": VERSION, "variant": variant}
    files.write_json(
        folder / "dictionary.json",
        header | {"options": dict(options), "source": dict(source or {})},
    )


def load(folder: str | Path) -> tuple[Dictionary, dict[str, Any], dict[str, Any]]:
    """Reads a dictionary.

    Returns:
        (dictionary, params, header), the header as in the JSON file.

    Raises:
        ValueError: missing or truncated files, another format, a version from the future, an
            unknown variant, or tensors whose shapes contradict each other.
    """
    folder = Path(folder)
    header = files.read_json(folder / "dictionary.json")
    if header.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a jaxinterp dictionary: format {header.get('format')!r}")
    if header["version"] > VERSION:
        raise ValueError(f"{folder} has version {header['version']}, this library reads {VERSION}")
    if header["variant"] not in VARIANTS:
        raise ValueError(f"{folder}: unknown variant {header['variant']!r}; known: {[*VARIANTS]}")
    tensors = files.read_arrays(folder / "dictionary.safetensors")
    ours = {file_name: (name, t) for name, (file_name, t) in _TENSORS.items()}
    if set(tensors) != set(ours):
        raise ValueError(f"{folder} holds tensors {sorted(tensors)}; expected {sorted(ours)}")
    d, width = tensors["W_enc"].shape
    expected = {"b_enc": (width,), "W_dec": (width, d), "b_dec": (d,)}
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{folder}: {name} has shape {tensors[name].shape}, not {shape}")
    params = {}
    for file_name, value in tensors.items():
        name, transposed = ours[file_name]
        params[name] = jnp.asarray(value.T if transposed else value)
    return VARIANTS[header["variant"]](**header["options"]), params, header
