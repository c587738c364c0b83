r"""Greedy pursuit: a code grown atom by atom, each explaining what the ones before left over.

The loop that every pursuit shares. `matching` has the plainest one, `refitting` those that compute
all chosen coefficients anew.

What a step needs is the atom of largest score $\langle r, d_j \rangle$. A row's state is its
residual, so memory is O(batch x d); scores of all rows with all atoms never exist together. On a
CPU they are made for a few rows at a time, elsewhere for a few atoms at a time, and gone once the
largest is found. On a CPU, where the Gram matrix of the atoms $G = D D^\top$ fits and pays, the
scores of a few rows stay in the cache instead and follow the residual, $s \leftarrow s - v\, G_j$:
that reads one row of $G$ where the product would read all of $D$.

On a mesh every device gathers the atoms once and pursues rows of its own.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.scores import check_dimension
from jaxinterp.dictionaries.shards import spread_rows
from jaxinterp.row_blocks import map_row_blocks

_CACHED_SCORES = 2**18  # that follow their residual in the cache of a core
_SEARCHED_SCORES = 2**21  # that are made, searched and forgotten
_SEARCHED_ATOMS = 2**10  # at a time, on an accelerator
_LARGEST_GRAM = 2**26  # numbers; more would be read slower than the product is computed
_EXACT = 1e-6  # share of a row that rounding leaves over


class State(NamedTuple):
    """A pursuit of a few rows, between two steps.

    Attributes:
        step: atoms chosen so far.
        residual: what is left of each row.
        scores: of all atoms, where they are kept; else ().
        values: coefficient of each chosen atom.
        indices: the atoms, in the order of choice.
        live: rows that go on.
        memory: what the update keeps for itself.
    """

    step: Int[Array, ""]
    residual: Float[Array, "n d"]
    scores: Any
    values: Float[Array, "n k"]
    indices: Int[Array, "n k"]
    live: Array
    memory: Any


class Atoms(NamedTuple):
    """What a pursuit reads.

    Attributes:
        rows: the atoms.
        gram: their Gram matrix, or None.
        searched: atoms that are scored at a time, where there is none.
    """

    rows: Float[Array, "width d"]
    gram: Float[Array, "width width"] | None
    searched: int


# (state with the new atom in `indices` at `step`, its rows, its scores, atoms) -> state
Update = Callable[[State, Array, Array, Atoms], State]


def pursue(
    x: Float[Array, "n d"],
    atoms: Float[Array, "width d"],
    steps: int,
    update: Update,
    memory: Callable[[int], Any],
    *,
    signed: bool,
    tolerance: float | Array,
) -> tuple[Codes, Any]:
    """The loop of every pursuit: choose an atom, update the rows that still need one.

    Args:
        x: rows to encode.
        atoms: rows of length one, or of zeros.
        steps: atoms per row at most.
        update: what to do with the chosen atoms; scores of rows that are done are zero.
        memory: what the update keeps before the first step, for that many rows.
        signed: choose the largest magnitude rather than the largest score.
        tolerance: length of the residual below which a row is done.

    Returns:
        The codes in the order of choice, and the memory after the last step.
    """
    width, d = atoms.shape

    def rows_of(atoms: Atoms, tolerance: Array, x: Array) -> tuple[Codes, Any]:
        end = _pursue(x, atoms, steps, update, memory(len(x)), signed, tolerance)
        return Codes(end.values, end.indices), end.memory

    def by_atoms(x: Array, rows: Array, tolerance: Array) -> tuple[Codes, Any]:
        return rows_of(Atoms(rows, None, max(_SEARCHED_ATOMS, d)), tolerance, x)

    def by_rows(x: Array, rows: Array, tolerance: Array) -> tuple[Codes, Any]:
        if width**2 <= _LARGEST_GRAM and len(x) * (steps - 1) > width:
            wide = jnp.promote_types(rows.dtype, jnp.float32)
            gram, block = jnp.matmul(rows, rows.T, preferred_element_type=wide), _CACHED_SCORES
        else:
            gram, block = None, _SEARCHED_SCORES
        pursued = functools.partial(rows_of, Atoms(rows, gram, width), tolerance)
        return map_row_blocks(pursued, (x,), max(1, block // width))

    def on_device(x: Array, whole: tuple[Array, Array]) -> tuple[tuple[Codes, Any], tuple]:
        found = jax.lax.platform_dependent(x, *whole, cpu=by_rows, default=by_atoms)
        return found, ()

    return spread_rows(on_device, x, (atoms, jnp.asarray(tolerance)))[0]


def take_off(state: State, values: Array, indices: Array, atoms: Atoms) -> State:
    """Subtracts from each row's residual, and from the scores that follow it, `values` of an atom.

    Args:
        state: the pursuit.
        values: one a row.
        indices: which atom, one a row.
        atoms: all of them.
    """
    residual = state.residual - values[:, None] * chosen(atoms.rows, indices)
    if atoms.gram is None:
        return state._replace(residual=residual)
    scores = state.scores - values[:, None] * chosen(atoms.gram, indices)
    return state._replace(residual=residual, scores=scores)


def chosen(rows: Array, indices: Array) -> Array:
    """One row for each index, in float32 or wider."""
    picked = rows.at[indices].get(mode="promise_in_bounds")
    return picked.astype(jnp.promote_types(rows.dtype, jnp.float32))


def check(x: Array, atoms: Array, steps: int) -> None:
    """Refuses what no pursuit can work with."""
    check_dimension(x, atoms)
    width, d = atoms.shape
    if not 1 <= steps <= min(width, d):
        raise ValueError(
            f"{steps} steps of pursuit with {width} atoms in {d} dimensions: need at least 1 and "
            "at most as many as atoms and dimensions"
        )
    if isinstance(atoms, Tracer) or not getattr(atoms, "is_fully_addressable", True):
        return
    check_lengths(np.linalg.norm(np.asarray(atoms, np.float32), axis=1))


def check_lengths(norms: np.ndarray) -> None:
    """Refuses atoms that are neither of length one nor zero: a step would be no projection."""
    wrong = ~((norms == 0) | (np.abs(norms - 1) <= 1e-2))  # NaN is wrong too
    if wrong.any():
        first = int(wrong.argmax())
        finite = np.isfinite(norms).all()
        raise ValueError(
            f"{int(wrong.sum())} of {len(norms)} atoms are not of length one, the first is "
            f"{first} of length {norms[first]:.4g}: "
            f"{'scale them with base.unit_rows' if finite else 'did their training diverge?'}"
        )


def _pursue(
    x: Array,
    atoms: Atoms,
    steps: int,
    update: Update,
    memory: Any,
    signed: bool,
    tolerance: Array,
) -> State:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    # A residual that is only rounding would choose atoms at random.
    done_at = jnp.maximum(tolerance, _EXACT * jnp.linalg.norm(x, axis=1))

    def body(state: State) -> State:
        if atoms.gram is None:
            index = _strongest_atom(state.residual, atoms, signed)
        else:
            index = _strongest(jnp.abs(state.scores) if signed else state.scores)[1]
        atom = chosen(atoms.rows, index)
        score = (state.residual * atom).sum(1)
        live = state.live & ((score != 0) if signed else (score > 0))
        indices = state.indices.at[:, state.step].set(jnp.where(live, index, 0))
        state = state._replace(live=live, indices=indices)
        state = update(state, atom, jnp.where(live, score, 0.0), atoms)
        left = jnp.linalg.norm(state.residual, axis=1) > done_at
        return state._replace(live=state.live & left, step=state.step + 1)

    n = len(x)
    start = State(
        jnp.zeros((), jnp.int32),
        x,
        () if atoms.gram is None else _scores(x, atoms.rows).astype(x.dtype),
        jnp.zeros((n, steps), x.dtype),
        jnp.zeros((n, steps), jnp.int32),
        jnp.linalg.norm(x, axis=1) > done_at,
        memory,
    )
    return jax.lax.while_loop(lambda s: (s.step < steps) & s.live.any(), body, start)


def _scores(residual: Array, rows: Array) -> Array:
    return residual.astype(rows.dtype) @ rows.T


def _strongest_atom(residual: Array, atoms: Atoms, signed: bool) -> Int[Array, " n"]:
    """The atom of largest score of each row, `atoms.searched` atoms at a time."""
    rows = atoms.rows
    width, d = rows.shape
    count = -(-width // atoms.searched)

    def best_of(rows: Array) -> tuple[Array, Array]:
        scores = _scores(residual, rows)
        return _strongest(jnp.abs(scores) if signed else scores)

    if count == 1:
        return best_of(rows)[1]
    # Filled up with atoms of zeros, which are never chosen.
    filled = jnp.pad(rows, ((0, count * atoms.searched - width), (0, 0)))

    def search(best: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple, None]:
        strength, index = best_of(part[0])
        better = strength > best[0]  # not where equal: the first of several
        index = jnp.where(better, index + part[1] * atoms.searched, best[1])
        return (jnp.where(better, strength, best[0]), index), None

    start = jnp.zeros(len(residual), rows.dtype), jnp.zeros(len(residual), jnp.int32)
    parts = filled.reshape(count, atoms.searched, d), jnp.arange(count, dtype=jnp.int32)
    return jax.lax.scan(search, start, parts)[0][1]


def _strongest(
    strength: Float[Array, "n width"],
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Each row's largest number and its place.

    First the largest of every 64th number, which a CPU computes 64 at a time, then its place.
    """
    n, width = strength.shape
    lanes = math.gcd(width, 64)
    groups = strength.reshape(n, width // lanes, lanes)
    largest = groups.max(1)
    lane = jnp.argmax(largest, 1)
    column = jnp.take_along_axis(groups, lane[:, None, None], 2)[:, :, 0]
    place = (jnp.argmax(column, 1) * lanes + lane).astype(jnp.int32)
    return largest.max(1), place
