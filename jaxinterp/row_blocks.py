"""Functions of rows applied to a few rows at a time, so that what they hold stays in the cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def map_row_blocks(
    f: Callable[..., Any], rows: tuple[Array, ...], block: int, *, in_flight: int = 2
) -> Any:
    """`f(*rows)` for an `f` that treats rows alone, computed `block` rows at a time.

    Two blocks are in flight, so that the serial part of one runs beside the parallel part of the
    other. An `f` without a parallel part gains nothing by it and compiles sooner with one. Never
    more, and one for an `f` that gives batches of matrices to LAPACK: several such calls at once
    fill jaxlib's pool of threads with tasks that wait for others in it, for ever (0.10.2).
    """
    count = rows[0].shape[0]
    if count <= block:
        return f(*rows)
    whole = count // block * block
    blocks = tuple(a[:whole].reshape(-1, block, *a.shape[1:]) for a in rows)
    done = jax.lax.scan(lambda _, part: (None, f(*part)), None, blocks, unroll=in_flight)[1]
    done = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), done)
    if whole == count:
        return done
    rest = f(*(a[whole:] for a in rows))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)


def fold_row_blocks(
    f: Callable[..., tuple[Any, Any]], total: Any, rows: tuple[Array, ...], block: int
) -> tuple[Any, Any]:
    """`f(total, *rows) -> (total, of each row)` of an `f` that adds rows up, by `block` rows."""
    count = rows[0].shape[0] // block * block
    parts = tuple(a[:count].reshape(-1, block, *a.shape[1:]) for a in rows)
    total, done = jax.lax.scan(lambda total, part: f(total, *part), total, parts)
    total, rest = f(total, *(a[count:] for a in rows))
    done = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), done)
    return total, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)
