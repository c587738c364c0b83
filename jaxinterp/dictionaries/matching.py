r"""Matching pursuit: the coefficient of an atom is what the residual says when it is chosen.

Nothing is computed anew, so an atom that is chosen again adds to what it has, and every prefix of a
code is the code of fewer steps. Its gradient needs no more memory than its codes.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.pursuit import Atoms, State, check, chosen, pursue, take_off
from jaxinterp.dictionaries.shards import spread_rows
from jaxinterp.dictionaries.sparsify import largest
from jaxinterp.row_blocks import fold_row_blocks

_CACHED = 2**16  # numbers of a few rows, which the backward pass goes over k times


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
        ValueError: rows of another dimension than the atoms, more steps than dimensions or atoms,
            or (where they are concrete) atoms that are not of length one.

    Reference:
        Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries", section II.
    """
    check(x, atoms, steps)
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

    def on_device(rows: tuple, atoms: Array) -> tuple[Array, Array]:
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
            return fold_row_blocks(whole, total, rows, max(1, _CACHED // x.shape[1]))

        total = jnp.zeros(atoms.shape, jnp.promote_types(atoms.dtype, jnp.float32))
        total, pull = jax.lax.platform_dependent(total, *rows, cpu=blocked, default=whole)
        return pull, total

    rows = x, codes.values, codes.indices, cotangent.values
    pull, total = spread_rows(on_device, rows, atoms)
    return pull.astype(x.dtype), total.astype(atoms.dtype), jnp.zeros_like(tolerance)


_matching.defvjp(_matching_forward, _matching_backward)
_compiled = jax.jit(_matching, static_argnums=(3, 4, 5))  # for a call from a notebook
