"""What devices send one another in a compiled program, read from its text.

`jax.jit(f).lower(...).compile().as_text()` is the program that one device runs: its shapes are
those of one device, and every collective stands in it. The text is not a stable format; this reads
that of JAX 0.10 and 0.11.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_OPS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLS = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_PARTITIONS = re.compile(r"\bnum_partitions=(\d+)")


class Shape(NamedTuple):
    """An array on one device.

    Attributes:
        dtype: as the text names it: `f32`, `bf16`, `s32`, `pred`.
        dims: its dimensions.
    """

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes, of types of less than one byte rounded up."""
        width = re.search(r"\d+", self.dtype)
        bits = int(width[0]) if width else 8  # pred, token
        return -(-self.size * bits // 8)


class Collective(NamedTuple):
    """One collective operation of a compiled program.

    Attributes:
        op: `all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all` or `collective-permute`.
        results: what one device holds after it; several where the compiler joined several.
        group: how many devices take part together; 2 in a collective-permute, which goes in pairs.
        times: how often a run of the program comes here; None in a loop whose number of turns the
            data decide.
        conditional: whether it stands in a branch, which a run need not take.
        where: the operation of the JAX program that it belongs to, as far as the compiler tells.
    """

    op: str
    results: tuple[Shape, ...]
    group: int
    times: int | None
    conditional: bool
    where: str

    @property
    def bytes(self) -> int:
        """Bytes of the whole array: gathered, or before it is scattered; one time."""
        held = sum(shape.bytes for shape in self.results)
        return held * self.group if self.op == "reduce-scatter" else held

    @property
    def sent(self) -> float:
        r"""Bytes that one device sends, one time, by the algorithms that send least.

        With B the `bytes` and n the `group`: all-gather, reduce-scatter and all-to-all
        $B (n - 1) / n$, all-reduce $2 B (n - 1) / n$, collective-permute $B$.
        """
        if self.op == "collective-permute":
            return float(self.bytes)
        rounds = 2 if self.op == "all-reduce" else 1
        return rounds * self.bytes * (self.group - 1) / self.group


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a compiled program, in loops and branches too.

    Args:
        hlo: `compiled.as_text()`.

    Returns:
        One entry for each place in the program, from its entry on; those of loops within loops have
        the product of the turns as `times`.

    Raises:
        ValueError: the text is not that of a compiled program.
    """
    computations, entry = _computations(hlo)
    found = _PARTITIONS.search(hlo)
    devices = int(found[1]) if found else 1

    def visit(name: str, times: int | None, conditional: bool) -> Iterator[Collective]:
        for line in computations.get(name, ()):
            parts = _INSTRUCTION.match(line)
            if parts is None:
                continue
            result, op, rest = parts.groups()
            base = op.removesuffix("-start")
            if base in _OPS:
                shapes = _results(result, base, started=op != base)
                where = re.search(r'op_name="([^"]*)"', rest)
                told = where[1] if where else ""
                yield Collective(base, shapes, _group(rest, devices), times, conditional, told)
                continue
            turns = _turns(rest) if op == "while" else 1
            inside = None if times is None or turns is None else times * turns
            for _, called in _CALLS.findall(rest):
                yield from visit(called, inside, conditional or op == "conditional")
            for branches in _BRANCHES.findall(rest):
                for called in re.findall(r"%?([\w.\-]+)", branches):
                    yield from visit(called, times, True)

    return list(visit(entry, 1, False))


def collective_bytes(hlo: str) -> dict[str, float]:
    """Bytes that one device sends in a run of a compiled program, by operation.

    Branches count as taken and loops of unknown length as gone through once: `collectives` tells
    which these are.

    Args:
        hlo: `compiled.as_text()`.

    Returns:
        Operation -> `Collective.sent`, summed over all turns; only operations that occur.
    """
    total: dict[str, float] = {}
    for one in collectives(hlo):
        turns = 1 if one.times is None else one.times
        total[one.op] = total.get(one.op, 0.0) + turns * one.sent
    return total


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    if not entry:
        raise ValueError(
            f"no program in a text that begins {hlo[:60]!r}: give `compiled.as_text()`, of "
            "`jax.jit(f).lower(...).compile()`"
        )
    return computations, entry


def _results(text: str, op: str, *, started: bool) -> tuple[Shape, ...]:
    """The arrays that a collective gives; its asynchronous start carries its operands in front."""
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(re.sub(r"\{[^}]*\}|/\*.*?\*/", "", text))
    )
    if not started or op == "all-reduce":
        return shapes
    if op == "collective-permute":
        return shapes[1:2]
    return shapes[len(shapes) // 2 :]


def _turns(text: str) -> int | None:
    found = _TRIPS.search(text)
    return int(found[1]) if found else None


def _group(text: str, devices: int) -> int:
    """How many devices exchange with one another."""
    if "source_target_pairs=" in text:
        return 2
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]<=", text)
    if counted:
        return int(counted[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return listed[1].count(",") + 1
    return devices
