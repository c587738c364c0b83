r"""Greedy pursuit: a code grown atom by atom, each explaining what the ones before left over.

The loop that every pursuit shares, and the plainest one, matching pursuit. `refitting` has those
that compute all chosen coefficients anew.

What a step needs is the atom of largest score $\langle r, d_j \rangle$. A row's state is its
residual, so memory is O(batch x d), and the scores of a step are gone once their largest is found.
On a CPU, where the Gram matrix of the atoms $G = D D^\top$ fits and pays, the scores of a few rows
stay in the cache instead and follow the residual, $s \leftarrow s - v\, G_j$: that reads one row
of $G$ where the product would read all of $D$.
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
from jaxinterp.dictionaries.sparse_products import map_row_blocks
from jaxinterp.dictionaries.sparsify import largest

_CACHED_SCORES = 2**18  # that follow their residual in the cache of a core
_SEARCHED_SCORES = 2**21  # that are made, searched and forgotten
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
    """What a pursuit reads: the atoms (width, d), and their Gram matrix or None."""

    rows: Float[Array, "width d"]
    gram: Float[Array, "width width"] | None


# (state with the new atom in `indices` at `step`, its rows, its scores, atoms) -> state
Update = Callable[[State, Array, Array, Atoms], State]


def matching_codes(
    x: Float[Array, "n d"],
    atoms: Float[Array, "width d"],
    steps: int,
    *,
    signed: bool = False,
    tolerance: float | Array = 0.0,
    stop_at_repeat: bool = False,
) -> Codes:
    r"""Matching pursuit.

    $j_t = \arg\max_j \langle r_t, d_j \rangle$, $v_t = \langle r_t, d_{j_t} \rangle$,
    $r_{t+1} = r_t - v_t d_{j_t}$, from $r_0 = x$.

    A row stops where no score is positive, or at `tolerance`. An atom may be chosen again; its
    values add up. So the first T entries are the code of T steps, and
    $\lVert x \rVert^2 = \sum_t v_t^2 + \lVert r_T \rVert^2$. Of equal atoms one is chosen, always
    the same one. The gradient goes through all steps and takes the choice of atoms as given.

    Args:
        x: rows to encode.
        atoms: rows of length one, or of zeros, which are never chosen.
        steps: atoms per row at most, repeats counted.
        signed: choose the largest $|\langle r, d_j \rangle|$; values have either sign then.
        tolerance: length of the residual, in units of the activations, below which a row is done.
        stop_at_repeat: a row is done after the first choice of an atom that it has already.

    Returns:
        The codes in the order of choice; zero from where a row was done.

    Raises:
        ValueError: more steps than dimensions or atoms, or (where they are concrete) atoms that are
            not of length one.

    Reference:
        Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries", section II.
    """
    check(atoms, steps)
    tolerance = jnp.asarray(tolerance, jnp.float32)
    return _compiled(x, atoms, tolerance, steps, signed, stop_at_repeat)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _matching(
    x: Array, atoms: Array, tolerance: Array, steps: int, signed: bool, stop_at_repeat: bool
) -> Codes:
    def update(state: State, atom: Array, scores: Array, atoms: Atoms) -> State:
        index = state.indices[:, state.step]
        if stop_at_repeat:
            again = ((state.indices == index[:, None]) & (state.values != 0)).any(1)
            state = state._replace(live=state.live & ~again)
        values = state.values.at[:, state.step].set(scores)
        return take_off(state, scores, index, atoms)._replace(values=values)

    return pursue(x, atoms, steps, update, lambda n: (), signed=signed, tolerance=tolerance)[0]


def merge_repeats(codes: Codes) -> Codes:
    """The same codes with each atom once, strongest first, as every dictionary gives them."""
    values, indices = codes
    earlier = jnp.tril(jnp.ones((values.shape[-1],) * 2, bool), -1)[None]
    same = indices[:, :, None] == indices[:, None]
    total = jnp.where(same, values[:, None], 0.0).sum(2)
    total = jnp.where((same & earlier).any(2), 0.0, total)
    order = largest(jax.lax.stop_gradient(jnp.abs(total)), values.shape[-1]).indices
    return Codes(*(jnp.take_along_axis(a, order, 1) for a in (total, indices)))


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

    def rows_of(atoms: Atoms, x: Array) -> tuple[Codes, Any]:
        end = _pursue(x, atoms, steps, update, memory(len(x)), signed, tolerance)
        return Codes(end.values, end.indices), end.memory

    def product(x: Array, rows: Array) -> tuple[Codes, Any]:
        return rows_of(Atoms(rows, None), x)

    def blocked(x: Array, rows: Array) -> tuple[Codes, Any]:
        width = len(rows)
        if width**2 <= _LARGEST_GRAM and len(x) * (steps - 1) > width:
            wide = jnp.promote_types(rows.dtype, jnp.float32)
            known = Atoms(rows, jnp.matmul(rows, rows.T, preferred_element_type=wide))
            block = max(1, _CACHED_SCORES // width)
        else:
            known, block = Atoms(rows, None), max(1, _SEARCHED_SCORES // width)
        return map_row_blocks(functools.partial(rows_of, known), (x,), block)

    return jax.lax.platform_dependent(x, atoms, cpu=blocked, default=product)


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


def check(atoms: Array, steps: int) -> None:
    """Refuses what no pursuit can work with."""
    width, d = atoms.shape
    if not 1 <= steps <= min(width, d):
        raise ValueError(
            f"{steps} steps of pursuit with {width} atoms in {d} dimensions: need at least 1 and "
            "at most as many as atoms and dimensions"
        )
    if isinstance(atoms, Tracer) or not getattr(atoms, "is_fully_addressable", True):
        return
    norms = np.linalg.norm(np.asarray(atoms, np.float32), axis=1)
    wrong = (norms > 0) & (np.abs(norms - 1) > 1e-2)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{int(wrong.sum())} of {width} atoms are not of length one, the first is {first} of "
            f"length {norms[first]:.4g}: scale them with base.unit_rows"
        )


def _pursue(
    x: Array,
    atoms: Atoms,
    steps: int,
    update: Update,
    memory: Any,
    signed: bool,
    tolerance: float | Array,
) -> State:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def all_scores(residual: Array) -> Array:
        return residual.astype(atoms.rows.dtype) @ atoms.rows.T

    # A residual that is only rounding would choose atoms at random.
    done_at = jnp.maximum(tolerance, _EXACT * jnp.linalg.norm(x, axis=1))

    def body(state: State) -> State:
        scores = all_scores(state.residual) if atoms.gram is None else state.scores
        index = _strongest(jnp.abs(scores) if signed else scores)
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
        () if atoms.gram is None else all_scores(x).astype(x.dtype),
        jnp.zeros((n, steps), x.dtype),
        jnp.zeros((n, steps), jnp.int32),
        jnp.linalg.norm(x, axis=1) > done_at,
        memory,
    )
    return jax.lax.while_loop(lambda s: (s.step < steps) & s.live.any(), body, start)


def _strongest(strength: Float[Array, "n width"]) -> Int[Array, " n"]:
    """The place of each row's largest number.

    First the largest of every 64th number, which a CPU computes 64 at a time, then its place.
    """
    n, width = strength.shape
    lanes = math.gcd(width, 64)
    groups = strength.reshape(n, width // lanes, lanes)
    lane = jnp.argmax(groups.max(1), 1)
    column = jnp.take_along_axis(groups, lane[:, None, None], 2)[:, :, 0]
    return (jnp.argmax(column, 1) * lanes + lane).astype(jnp.int32)


def _matching_forward(
    x: Array, atoms: Array, tolerance: Array, steps: int, signed: bool, stop_at_repeat: bool
) -> tuple[Codes, tuple]:
    codes = _matching(x, atoms, tolerance, steps, signed, stop_at_repeat)
    return codes, (x, atoms, tolerance, codes)


def _matching_backward(
    steps: int, signed: bool, stop_at_repeat: bool, kept: tuple, cotangent: Codes
) -> tuple[Array, Array, Array]:
    r"""Backwards through the steps, with the residual built up again from the last one.

    With $\lambda$ the cotangent of the residual after step t: $\bar v = g_t - \lambda \cdot d$,
    $\bar d \mathrel{+}= \bar v\, r_t - v_t \lambda$, $\lambda \leftarrow \lambda + \bar v\, d$.
    """
    del steps, signed, stop_at_repeat
    x, atoms, tolerance, codes = kept
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def whole(total: Array, x: Array, values: Array, indices: Array, g: Array) -> tuple:
        def forth(residual: Array, slot: tuple) -> tuple[Array, None]:
            value, index = slot
            return residual - value[:, None] * chosen(atoms, index), None

        def back(carry: tuple, slot: tuple) -> tuple[tuple, None]:
            total, residual, pull = carry
            value, index, g = slot
            atom = chosen(atoms, index)
            before = residual + value[:, None] * atom
            share = jnp.where(value != 0, g - (pull * atom).sum(1), 0.0)
            part = share[:, None] * before - value[:, None] * pull
            total = total.at[index].add(part.astype(total.dtype), mode="promise_in_bounds")
            return (total, before, pull + share[:, None] * atom), None

        slots = values.T, indices.T
        residual, _ = jax.lax.scan(forth, x.astype(wide), slots)
        start = total, residual, jnp.zeros_like(residual)
        (total, _, pull), _ = jax.lax.scan(back, start, (*slots, g.T), reverse=True)
        return total, pull

    def blocked(total: Array, *rows: Array) -> tuple[Array, Array]:
        block = max(1, _CACHED_SCORES // 4 // x.shape[1])
        count = len(x) // block * block
        parts = tuple(a[:count].reshape(-1, block, *a.shape[1:]) for a in rows)
        total, pulls = jax.lax.scan(lambda t, part: whole(t, *part), total, parts)
        total, rest = whole(total, *(a[count:] for a in rows))
        return total, jnp.concatenate([pulls.reshape(count, x.shape[1]), rest])

    total = jnp.zeros(atoms.shape, jnp.promote_types(atoms.dtype, jnp.float32))
    rows = x, codes.values, codes.indices, cotangent.values
    total, pull = jax.lax.platform_dependent(total, *rows, cpu=blocked, default=whole)
    return pull.astype(x.dtype), total.astype(atoms.dtype), jnp.zeros_like(tolerance)


_matching.defvjp(_matching_forward, _matching_backward)
_compiled = jax.jit(_matching, static_argnums=(3, 4, 5))  # for a call from a notebook
