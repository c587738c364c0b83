"""Tensors of a file by our names, in our orientation: what the readers of torch's files share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinterp import files
from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.lazy import Lazy


class Kept(NamedTuple):
    """Where a parameter is kept.

    Attributes:
        name: what the file calls it.
        order: which axis of the file's tensor each of ours is; None for the same order and any
            number of axes.
    """

    name: str
    order: tuple[int, ...] | None = None


MATRIX, SWAPPED = (0, 1), (1, 0)


def taken(
    path: Path,
    found: Mapping[str, np.ndarray],
    layout: Mapping[str, Kept],
    others: tuple[str, ...] = (),
) -> dict[str, Lazy]:
    """The parameters of a layout.

    Args:
        path: the file, to be told in errors.
        found: its tensors.
        layout: our name -> where it is kept.
        others: tensors that may be there too.

    Raises:
        ValueError: missing tensors, unknown ones, or one of another number of axes.
    """
    names = [kept.name for kept in layout.values()]
    missing = sorted(set(names) - set(found))
    left = sorted(set(found) - set(names) - set(others))
    if missing or left:
        parts = [f"lacks {lazy.listed(missing)}"] * bool(missing)
        parts += [f"holds {lazy.listed(left)}, which are not known"] * bool(left)
        raise ValueError(f"{path} {' and '.join(parts)}; expected {lazy.listed(names)}")
    tensors = {}
    for ours, kept in layout.items():
        tensor = lazy.held(kept.name, found[kept.name])
        if kept.order is not None:
            if len(tensor.shape) != len(kept.order):
                raise ValueError(f"{path}: {kept.name} has shape {tensor.shape}")
            tensor = lazy.transposed(tensor, kept.order)
        tensors[ours] = tensor
    return tensors


def settings(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file is missing or is no JSON object.
    """
    config = files.read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}; a JSON object is needed")
    return config


def not_negative(threshold: Lazy) -> Lazy:
    """Thresholds of a library that cuts scores at zero first: together, the larger of the two."""
    return lazy.changed(threshold, lambda part, _: np.maximum(part, 0))


def given(tensors: Mapping[str, Lazy], layout: Mapping[str, Kept]) -> dict[str, np.ndarray]:
    """The tensors of a file from our parameters: what `taken` undoes."""
    found = {}
    for ours, kept in layout.items():
        back = kept.order and [kept.order.index(axis) for axis in range(len(kept.order))]
        found[kept.name] = lazy.whole(
            lazy.transposed(tensors[ours], back) if back else tensors[ours]
        )
    return found
