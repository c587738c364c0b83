"""What a traced program consists of."""

from collections.abc import Iterator
from typing import Any

from jax.extend.core import Jaxpr, subjaxprs


def equations(program: Jaxpr) -> Iterator[Any]:
    """All operations, in loops, branches and functions too."""
    yield from program.eqns
    for inner in subjaxprs(program):
        yield from equations(inner)


def shapes_in(program: Jaxpr) -> list[tuple[int, ...]]:
    """Of all that is computed on the way, as often as it is."""
    return [tuple(out.aval.shape) for equation in equations(program) for out in equation.outvars]
