"""How a parameter lies in a checkpoint: which tensor holds it, and in which arrangement.

An arrangement is one line in the notation of einops: `"(n h) d -> d n h"` splits the first axis of
the file's tensor into heads and head dimensions and moves `d` to the front. An axis that does not
appear on the right is picked from (`pick`) or has size 1. Because it is data, the loader can turn
"these slices of our array" into "these slices of the file", and a writer can go the other way.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Read = Callable[[tuple[slice, ...]], np.ndarray]

AS_IS = ""
TRANSPOSED = "o i -> i o"
HEADS_OUT = "(n h) d -> d n h"
HEADS_IN = "d (n h) -> n h d"
HEADS_BIAS = "(n h) -> n h"


class Tensor(NamedTuple):
    """One of our parameters and where it is in the file.

    Attributes:
        path: dotted path in our parameters.
        name: name of the tensor; `{i}` is the layer where `layers` are stacked.
        pattern: its arrangement; empty for as it is.
        pick: `(index, count)` on the axis `t` where several parameters share one tensor.
        layers: number of layers stacked on our leading axis; 0 for a parameter outside the blocks.
        d_head: size of the axis `h`.
    """

    path: str
    name: str
    pattern: str = AS_IS
    pick: tuple[int, int] | None = None
    layers: int = 0
    d_head: int = 0

    def names(self) -> list[str]:
        """The tensors needed, in the order of the layers."""
        return [self.name.format(i=i) for i in range(self.layers)] if self.layers else [self.name]


class _Axes(NamedTuple):
    """A parsed pattern against one tensor: axis names by file axis, sizes, our order."""

    groups: list[list[str]]
    sizes: dict[str, int]
    order: list[str]


def _parse_groups(left: str) -> list[list[str]]:
    groups: list[list[str]] = []
    inside = False
    for token in left.replace("(", " ( ").replace(")", " ) ").split():
        if token in "()":
            inside = token == "("
            if inside:
                groups.append([])
        elif inside:
            groups[-1].append(token)
        else:
            groups.append([token])
    return groups


def _parse(tensor: Tensor, file_shape: Sequence[int]) -> _Axes:
    if not tensor.pattern:
        names = [f"a{i}" for i in range(len(file_shape))]
        return _Axes([[n] for n in names], dict(zip(names, file_shape, strict=True)), names)
    left, _, right = tensor.pattern.partition("->")
    groups = _parse_groups(left)
    known = {"h": tensor.d_head} | ({"t": tensor.pick[1]} if tensor.pick else {})
    if len(groups) != len(file_shape):
        raise ValueError(f"{tensor.name}: shape {tuple(file_shape)} is not of the form {left}")
    sizes = {}
    for group, size in zip(groups, file_shape, strict=True):
        rest = math.prod(known[n] for n in group if n in known)
        if rest == 0 or size % rest:
            raise ValueError(f"{tensor.name}: an axis of {size} can't be split as {group}")
        sizes |= {n: known.get(n, size // rest) for n in group}
        if math.prod(sizes[n] for n in group) != size:
            raise ValueError(f"{tensor.name}: an axis of {size} can't be split as {group}")
    return _Axes(groups, sizes, right.split())


def shape_of(tensor: Tensor, file_shape: Sequence[int]) -> tuple[int, ...]:
    """Our shape of one layer of `tensor`, given the shape in the file.

    Raises:
        ValueError: the file's shape does not fit the pattern.
    """
    axes = _parse(tensor, file_shape)
    return tuple(axes.sizes[n] for n in axes.order)


def chunk_axis(tensor: Tensor, file_shape: Sequence[int]) -> int | None:
    """The axis of ours that is outermost in the file, along which partial reads are contiguous."""
    axes = _parse(tensor, file_shape)
    lead = axes.groups[0][0] if axes.groups else ""
    return axes.order.index(lead) if lead in axes.order else None


def read_slices(
    tensor: Tensor, file_shape: Sequence[int], read: Read, want: Sequence[slice]
) -> np.ndarray:
    """Reads the part `want` of one layer of our parameter, and little else, from the file.

    Args:
        tensor: the parameter.
        file_shape: shape of the tensor in the file.
        read: `(slices of the file's tensor) -> array`.
        want: slices of our array, one per axis.

    Returns:
        The part, in the file's dtype.
    """
    axes = _parse(tensor, file_shape)
    wanted = {n: slice(*s.indices(axes.sizes[n])) for n, s in zip(axes.order, want, strict=True)}
    for name in axes.sizes:
        if name not in wanted:
            at = tensor.pick[0] if name == "t" and tensor.pick else 0
            wanted[name] = slice(at, at + 1)
    region, view, inner = [], [], []
    for group in axes.groups:
        start, names = 0, list(group)
        while len(names) > 1 and wanted[names[0]].stop - wanted[names[0]].start == 1:
            name = names.pop(0)  # one of these is enough: look inside it
            start += wanted[name].start * math.prod(axes.sizes[n] for n in names)
            view.append(1)
            inner.append(slice(None))
        lead, *rest = names
        row = math.prod(axes.sizes[n] for n in rest)
        region.append(slice(start + wanted[lead].start * row, start + wanted[lead].stop * row))
        view += [wanted[lead].stop - wanted[lead].start, *(axes.sizes[n] for n in rest)]
        inner += [slice(None), *(wanted[n] for n in rest)]
    flat = [n for group in axes.groups for n in group]
    dropped = [n for n in flat if n not in axes.order]
    part = np.asarray(read(tuple(region)).reshape(view)[tuple(inner)])
    part = part.transpose([flat.index(n) for n in (*dropped, *axes.order)])
    return part.reshape(part.shape[len(dropped) :])


def write(tensor: Tensor, value: np.ndarray) -> np.ndarray:
    """One layer of our parameter as the file's tensor: the inverse of reading it whole."""
    if not tensor.pattern:
        return value
    left, _, right = tensor.pattern.partition("->")
    order, flat = right.split(), left.replace("(", "").replace(")", "").split()
    moved = value.transpose([order.index(n) for n in flat])
    groups = _parse_groups(left)
    bounds = np.cumsum([0, *map(len, groups)])
    sizes = [math.prod(moved.shape[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
    return moved.reshape(sizes)


class _Everywhere:
    def __contains__(self, item: object) -> bool:
        return True


EVERYWHERE: Container[str] = _Everywhere()


def modules(
    table: Mapping[str, str],
    *,
    layers: int = 0,
    d_head: int = 0,
    biased: Container[str] = (),
    into: str = "",
    block: str = "",
) -> list[Tensor]:
    """The tensors of linear maps and norms in torch's arrangement.

    Args:
        table: our path -> torch module. A path whose last word starts with `ln` or ends in `norm`
            is a norm (`weight` is its scale), any other a linear map (`weight` is `[out, in]`);
            `attn.q|k|v` map into heads, `attn.o` back.
        layers: layers to stack.
        d_head: width of a head.
        biased: paths that have a bias.
        into: put before our paths.
        block: put before the module names.

    Returns:
        One tensor per weight and per bias.
    """
    tensors = []
    for path, module in table.items():
        leaf = path.rpartition(".")[2]
        kernel, bias = TRANSPOSED, AS_IS
        if path.startswith("attn.") and leaf in ("q", "k", "v"):
            kernel, bias = HEADS_OUT, HEADS_BIAS
        elif path == "attn.o":
            kernel = HEADS_IN
        is_norm = leaf.startswith("ln") or leaf.endswith("norm")
        weight = ("scale", AS_IS) if is_norm else ("kernel", kernel)
        parts = [("weight", *weight), *([("bias", "bias", bias)] if path in biased else [])]
        for suffix, ours, pattern in parts:
            name = f"{block}{module}.{suffix}"
            tensors.append(Tensor(f"{into}{path}.{ours}", name, pattern, None, layers, d_head))
    return tensors
