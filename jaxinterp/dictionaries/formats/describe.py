"""What a dictionary is, in words and numbers for a person."""

import textwrap

import numpy as np

from jaxinterp.activations.normalise import Affine
from jaxinterp.dictionaries.fold import Spaces
from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.stored import Stored, dictionary_of, input_shape

_ABOUT = ("model", "site", "into", "layer")  # of the source, the first to be told


def fields(stored: Stored) -> dict[str, str]:
    """What is known of a dictionary, without reading its large tensors."""
    tensors = stored.tensors
    dictionary = dictionary_of(stored)
    shape = input_shape(stored)
    numbers = sum(int(np.prod(t.shape)) for t in tensors.values())
    size = sum(int(np.prod(t.shape)) * t.dtype.itemsize for t in tensors.values())
    kinds = sorted({t.dtype.name for t in tensors.values()})
    others = {n: v for n, v in stored.options.items() if n not in ("width", "k")}
    written = tensors["decoder"].shape[1:]
    into = "" if written[-1] == shape[-1] else f", writes {_told(written)}"
    about = {
        "format": stored.format,
        "variant": " ".join([stored.variant, *(f"{n}={v}" for n, v in others.items())]),
        "width": f"{dictionary.width:,} latents, reads {_told(shape)}{into}",
        "active": _activity(stored),
        "parameters": f"{numbers:,} in {', '.join(kinds)}, {_bytes(size)}",
        "normalisation": _normalisation(stored.normalisation),
        "target": None if stored.target is None else _normalisation(stored.target),
    }
    source = stored.source
    names = [*(n for n in _ABOUT if n in source), *sorted(set(source) - {*_ABOUT})]
    about |= {name: source[name] for name in names if source[name] not in ("", {}, [])}
    shown = {_plain(name): str(value) for name, value in about.items() if value is not None}
    return {name: _plain(textwrap.shorten(value, 100)) for name, value in shown.items()}


def summary(stored: Stored) -> str:
    """The same as lines, with the notes."""
    known = fields(stored)
    wide = max(map(len, known))
    lines = [f"{name:<{wide}}  {value}" for name, value in known.items()]
    return "\n".join([*lines, *(f"note: {_plain(note)}" for note in stored.notes)])


def _activity(stored: Stored) -> str | None:
    """How many latents are active: their number, or the thresholds that decide it."""
    told = [f"k = {stored.options['k']}"] if "k" in stored.options else []
    for name in ("threshold", "log_threshold"):
        if name in stored.tensors:
            values = lazy.whole(stored.tensors[name]).astype(np.float64)
            values = np.exp(values) if name == "log_threshold" else values
            if values.ndim == 0:
                told.append(f"threshold {values:.4g}")
            else:
                low, middle, high = np.quantile(values, [0, 0.5, 1])
                told.append(f"thresholds {low:.4g} to {high:.4g}, median {middle:.4g}")
    return "; ".join(told) or None


def _normalisation(spaces: Spaces | None) -> str:
    if spaces is None:
        return "none"
    if not isinstance(spaces, Affine):
        return "; ".join(_normalisation(one) for one in spaces)
    matrix = np.asarray(spaces.matrix)
    kind = "matrix " + _told(matrix.shape) if matrix.ndim == 2 else "scale for each coordinate"
    if matrix.ndim == 0:
        kind = f"scale {float(matrix):.6g}"
    return f"centre and {kind}" if np.any(spaces.centre) else kind


def _bytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _plain(text: str) -> str:
    """A text of a file without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _told(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)
