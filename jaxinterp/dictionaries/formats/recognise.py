"""Which format a path holds, and the dictionary in it."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.formats import (
    crosscoder_pt,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    native,
    saelens,
    sparsify,
)
from jaxinterp.dictionaries.formats.stored import Format, Stored, header_of, opened

# A new format is one line here.
_ALL = (
    *(native.FORMAT, saelens.FORMAT, sparsify.FORMAT, dictionary_learning.FORMAT),
    *(gemma_scope.FORMAT_1, gemma_scope.FORMAT_2, llama_scope.FORMAT, crosscoder_pt.FORMAT),
)
FORMATS: dict[str, Format] = {form.name: form for form in _ALL}


def format_of(path: Path) -> Format:
    """The one format that a folder or file is in.

    Raises:
        ValueError: no such path, none of the formats, or several.
    """
    if not path.exists():
        raise ValueError(f"no such folder or file: {path}")
    found = [form for form in FORMATS.values() if form.recognises(path)]
    if len(found) == 1:
        return found[0]
    if found:
        told = "; ".join(f"{form.name} ({form.looks})" for form in found)
        raise ValueError(f"{path} looks like several formats: {told}. Give the one to read alone")
    known = "; ".join(f"{form.name} ({form.looks})" for form in FORMATS.values())
    inner = _inside(path)
    if inner:
        raise ValueError(
            f"{path} holds {len(inner)} dictionaries: give one of them, such as {inner[0]}"
        )
    names = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else [path.name]
    raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}, no format of: {known}")


def open_stored(source: str | Path) -> Stored:
    """Opens a dictionary of any known format, reading no tensor yet.

    Args:
        source: a folder or file, or a name on the hub, `owner/name` or `owner/name/folder/in/it`.

    Raises:
        ValueError: not there, none or several of the formats, or a file of one that is not whole.
    """
    path = Path(source).expanduser()
    if not path.exists() and not str(source).startswith((".", "/", "~")) and "/" in str(source):
        from jaxinterp.dictionaries.formats import hub

        path = hub.download(str(source))
    return format_of(path).read(path)


def load(
    source: str | Path, *, dtype: Any = None, mesh: Mesh | None = None
) -> tuple[Dictionary, dict[str, Array], dict[str, Any]]:
    """Reads a dictionary of any known format, for raw activations.

    Args:
        source: a folder or file, or a name on the hub, `owner/name` or `owner/name/folder/in/it`.
        dtype: type of all parameters but thresholds, which stay in float32; None for the file's.
        mesh: devices, with the latents over its axis `model`: each device gets its own slices
            straight from the file. None for the default device.

    Returns:
        (dictionary, params, header): a normalisation that the file holds is folded in; the header
        has `format`, `variant`, `options`, `source` and `notes`.

    Raises:
        ValueError: not there, none or several of the formats, or a file of one that is not whole.
    """
    stored = open_stored(source)
    dictionary, params = opened(stored, dtype=dtype, mesh=mesh)
    return dictionary, params, header_of(stored)


def _inside(path: Path, depth: int = 3) -> list[Path]:
    """Folders below that hold a dictionary."""
    if not path.is_dir() or depth == 0:
        return []
    found = []
    for inner in sorted(p for p in path.iterdir() if p.is_dir()):
        if any(form.recognises(inner) for form in FORMATS.values()):
            found.append(inner)
        else:
            found += _inside(inner, depth - 1)
    return found
