"""Dictionaries from one library's format to another's, checked on random input first."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.dictionaries.base import Codes, Dictionary, densify, latents
from jaxinterp.dictionaries.formats.describe import summary
from jaxinterp.dictionaries.formats.recognise import FORMATS, open_stored
from jaxinterp.dictionaries.formats.stored import Stored, input_shape, opened

_ROWS = 64
_TOLERANCE = 1e-5  # of the largest number of a row, in codes as in reconstructions
_SHAKES = 16  # of which all switch no code at its threshold once in 30,000 times
_COMPARED = ("codes", "reconstructions")


def inspect(source: str | Path) -> str:
    """What a dictionary is: a text for a person.

    Args:
        source: a folder or file of any known format, or a name on the hub.

    Raises:
        ValueError: it can't be read; see `formats.recognise.open_stored`.
    """
    return summary(open_stored(source))


def convert(source: str | Path, destination: str | Path, to: str) -> str:
    """Writes a dictionary in another format, and opens it again to compare.

    Args:
        source: a folder or file of any known format, or a name on the hub.
        destination: folder to write; it must not be there, or be empty. Nothing is left of it
            where anything fails.
        to: name of a format that is written.

    Returns:
        What was read, what was left out, and what the check found: a text for a person.

    Raises:
        ValueError: the source can't be read, the format can't hold it, the destination is taken, or
            the copy gives other codes.
    """
    form = FORMATS.get(to)
    if form is None or form.write is None:
        known = ", ".join(form.name for form in FORMATS.values() if form.write)
        raise ValueError(f"{to!r} is no format that is written; those are {known}")
    folder = Path(destination).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: give a new folder")
    stored = open_stored(source)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        notes = form.write(partial, stored)
        found = compare(stored, form.read(partial))
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    lines = [summary(stored), *(f"  {note}" for note in notes), found, f"written: {folder} ({to})"]
    return "\n".join(lines)


def compare(one: Stored, other: Stored) -> str:
    """Codes and reconstructions of two dictionaries on random rows of many lengths.

    A latent whose score is at its threshold, or as large as that of the last one that is kept, is
    on or off by rounding: of a hundred thousand latents, some are on some row. Those are left out,
    if a change of the input as small as rounding switches them in each of the two.

    Raises:
        ValueError: they differ by more than rounding.
    """
    shape = input_shape(one)
    generator = np.random.default_rng(0)
    sizes = np.geomspace(0.1, 1000, _ROWS).reshape(-1, *(1,) * len(shape))
    x = (generator.standard_normal((_ROWS, *shape)) * sizes).astype(np.float32)
    first, second = (_run(*opened(stored, dtype=np.float32), x) for stored in (one, other))
    for name, a, b in zip(_COMPARED, first, second, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"the copy gives {name} of shape {b.shape}, not {a.shape}")
    switched = _switched_by_rounding((one, other), x, first[0], second[0])
    codes, x_hat = second
    unsure = _by_row(switched).any(1)
    codes[switched], x_hat[unsure] = first[0][switched], first[1][unsure]
    worst = {}
    for name, a, b in zip(_COMPARED, first, second, strict=True):
        scale = np.maximum(np.abs(_by_row(a)).max(1), 1e-30)
        worst[name] = float((np.abs(_by_row(a - b)).max(1) / scale).max())
        if not worst[name] <= _TOLERANCE:
            raise ValueError(
                f"the copy gives other {name} on random input: {worst[name]:.2g} of the largest of "
                f"a row, where rounding gives less than {_TOLERANCE:g}. It was not kept"
            )
    active = (first[0] != 0).sum(-1).mean()
    told = ", ".join(f"{name} within {value:.1g}" for name, value in worst.items())
    told = f"checked on {_ROWS} random rows ({active:.1f} latents active): {told} of their largest"
    return told + (f", but {switched.sum()} codes at a threshold" if switched.any() else "")


def _switched_by_rounding(
    both: tuple[Stored, Stored], x: np.ndarray, codes: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Which codes are zero in one of two only, and so in each of them as its input is rounded.

    No code at all where more than half of the rows have such ones: then it is not rounding.
    """
    switched = (codes != 0) != (others != 0)
    rows = _by_row(switched).any(1)
    if not rows.any():
        return switched
    if rows.mean() > 0.5:
        return np.zeros_like(switched)
    lengths = np.sqrt((x[rows] ** 2).mean(tuple(range(1, x.ndim)), keepdims=True))
    for stored in both:
        dictionary, params = opened(stored, dtype=np.float32)
        generator, ever, always = np.random.default_rng(1), switched[rows] & False, switched[rows]
        for _ in range(_SHAKES):
            noise = generator.standard_normal(x[rows].shape) * lengths * _TOLERANCE
            on = _run(dictionary, params, (x[rows] + noise).astype(np.float32))[0] != 0
            ever, always = ever | on, always & on
        switched[rows] &= ever & ~always
    return switched


def _by_row(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _run(dictionary: Dictionary, params: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with jax.default_matmul_precision("highest"):
        codes = dictionary.encode(params, jnp.asarray(x))
        x_hat = dictionary.decode(params, codes)
    active = latents(codes)
    dense = densify(active, dictionary.width) if isinstance(active, Codes) else active
    return np.array(dense), np.array(x_hat)
