r"""Pursuits that compute all chosen coefficients anew after each choice.

All keep the Gram matrix of the chosen atoms (k x k a row), grown by one column a step. What they do
with it differs: the exact least squares (by a triangular factor grown along), the exact
non-negative least squares, or one step down the gradient.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.nonnegative import nonnegative_least_squares, solve_on
from jaxinterp.dictionaries.pursuit import Atoms, State, check, pursue, take_off
from jaxinterp.dictionaries.shards import spread_rows
from jaxinterp.dictionaries.sparse_products import gather_dot, gather_sum, scatter_outer

_INDEPENDENT = 1e-5  # squared distance of a new atom from the span of the others


class Support(NamedTuple):
    """What is known of the chosen atoms.

    Attributes:
        gram: their products with each other; zero in slots without an atom.
        target: their products with the row that is encoded.
        inverse: inverse of the Cholesky factor of `gram`, lower triangular (orthogonal pursuit).
    """

    gram: Float[Array, "n k k"]
    target: Float[Array, "n k"]
    inverse: Float[Array, "n k k"]


def orthogonal_codes(
    x: Float[Array, "n d"],
    atoms: Float[Array, "width d"],
    steps: int,
    *,
    tolerance: float | Array = 0.0,
) -> Codes:
    r"""Orthogonal matching pursuit.

    $j_t = \arg\max_j |\langle r_t, d_j \rangle|$, then all coefficients by least squares,
    $z = \arg\min_z \lVert x - \sum_{s \le t} z_s d_{j_s} \rVert$.

    No atom is chosen twice. A row stops at `tolerance`, or where the best atom lies in the span of
    those it has. The gradient is that of the least squares on the chosen atoms; into the squared
    error of the row itself it vanishes, so there only the decoder learns.

    Args:
        x: rows to encode.
        atoms: rows of length one, or of zeros, which are never chosen.
        steps: atoms per row at most.
        tolerance: length of the residual, in units of the activations, below which a row is done.

    Returns:
        The codes in the order of choice, of either sign; zero from where a row was done.

    Raises:
        ValueError: as `matching.matching_codes`.

    Reference:
        Pati, Rezaiifar & Krishnaprasad (1993); Rubinstein, Zibulevsky & Elad (2008), "Efficient
        implementation of the K-SVD algorithm using batch orthogonal matching pursuit" (Cholesky
        and Gram matrix).
    """
    check(x, atoms, steps)
    return _compiled(x, atoms, jnp.asarray(tolerance, jnp.float32), steps, _orthogonal, True)


def nonnegative_codes(
    x: Float[Array, "n d"],
    atoms: Float[Array, "width d"],
    steps: int,
    *,
    tolerance: float | Array = 0.0,
) -> Codes:
    r"""Non-negative orthogonal matching pursuit.

    As `orthogonal_codes` with the largest score, not magnitude, and $z \ge 0$. An atom whose
    coefficient has become zero keeps its place among the chosen.

    Args:
        x: rows to encode.
        atoms: rows of length one, or of zeros, which are never chosen.
        steps: atoms per row at most.
        tolerance: length of the residual, in units of the activations, below which a row is done.

    Returns:
        The codes in the order of choice, none negative.

    Raises:
        ValueError: as `matching.matching_codes`.

    Reference:
        Bruckstein, Elad & Zibulevsky (2008), "On the uniqueness of nonnegative sparse solutions to
        underdetermined systems of equations", section V.
    """
    check(x, atoms, steps)
    return _compiled(x, atoms, jnp.asarray(tolerance, jnp.float32), steps, _nonnegative, False)


def gradient_codes(
    x: Float[Array, "n d"],
    atoms: Float[Array, "width d"],
    steps: int,
    *,
    signed: bool = False,
    tolerance: float | Array = 0.0,
) -> Codes:
    r"""Gradient pursuit: a step of exact length down the gradient in place of the least squares.

    With $g = D_I r$ on the chosen atoms I, $z \leftarrow z + \frac{\lVert g \rVert^2}
    {\lVert D_I^\top g \rVert^2}\, g$, made non-negative unless `signed`. An atom that is chosen
    again gets a second step and no second place. It has no gradient in reverse mode.

    Args:
        x: rows to encode.
        atoms: rows of length one, or of zeros, which are never chosen.
        steps: atoms per row at most, repeats counted.
        signed: choose the largest magnitude; values have either sign then.
        tolerance: length of the residual, in units of the activations, below which a row is done.

    Returns:
        The codes in the order of choice.

    Raises:
        ValueError: as `matching.matching_codes`.

    Reference:
        Blumensath & Davies (2008), "Gradient pursuits", section III.
    """
    check(x, atoms, steps)
    return _descended(x, atoms, jnp.asarray(tolerance, jnp.float32), steps, signed)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _descended(x: Array, atoms: Array, tolerance: Array, steps: int, signed: bool) -> Codes:
    def step_down(support: Support, values: Array) -> Array:
        slope = support.target - _times(support.gram, values)
        along = jnp.where(_used(support), slope, 0.0)
        curvature = (along * _times(support.gram, along)).sum(1)
        length = jnp.square(along).sum(1) / jnp.where(curvature > 0, curvature, 1.0)
        new = values + length[:, None] * along
        return new if signed else jax.nn.relu(new)

    def update(state: State, atom: Array, scores: Array, atoms: Atoms) -> State:
        index, support = state.indices[:, state.step], state.memory
        # Slots to come have no atom yet, so `_used` is false there.
        again = ((state.indices == index[:, None]) & _used(support)).any(1)
        column = jnp.where(again[:, None], 0.0, _column(state, atom, index, atoms))
        support = _grown(state, column, jnp.where(again, 0.0, scores))
        return _moved(state._replace(memory=support), step_down(support, state.values), atoms)

    return pursue(x, atoms, steps, update, _empty(steps), signed=signed, tolerance=tolerance)[0]


def _orthogonal(state: State, atom: Array, scores: Array, atoms: Atoms) -> State:
    t, index = state.step, state.indices[:, state.step]
    column, inverse = _column(state, atom, index, atoms), state.memory.inverse
    along = _times(inverse, jnp.where(jnp.arange(column.shape[1])[None] < t, column, 0.0))
    pivot = column[:, t] - jnp.square(along).sum(1)
    live = state.live & (pivot > _INDEPENDENT)
    root = jax.lax.rsqrt(jnp.where(live, pivot, 1.0))[:, None]
    row = -root * jnp.einsum("nk,nkl->nl", along, inverse, precision="highest")
    row = jnp.where(live[:, None], row.at[:, t].set(root[:, 0]), 0.0)
    support = _grown(state, column, scores)._replace(inverse=inverse.at[:, t].set(row))
    values = state.values + (scores * root[:, 0])[:, None] * row
    return _moved(state._replace(memory=support, live=live), values, atoms)


def _nonnegative(state: State, atom: Array, scores: Array, atoms: Atoms) -> State:
    column = _column(state, atom, state.indices[:, state.step], atoms)
    support = _grown(state, column, scores)
    values = nonnegative_least_squares(support.gram, support.target, state.values)
    return _moved(state._replace(memory=support), values, atoms)


def _empty(steps: int) -> Callable[[int], Support]:
    def support(n: int) -> Support:
        square = jnp.zeros((n, steps, steps))
        return Support(square, jnp.zeros((n, steps)), square)

    return support


def _column(state: State, atom: Array, index: Array, atoms: Atoms) -> Float[Array, "n k"]:
    """Products of the new atom with the chosen ones, itself among them; zero elsewhere."""
    if atoms.gram is None:
        products = gather_dot(atom, atoms.rows.astype(atom.dtype), state.indices)
    else:
        places = (state.indices, index[:, None])
        products = atoms.gram.at[places].get(mode="promise_in_bounds")
    there = (jnp.arange(products.shape[1])[None] <= state.step) & state.live[:, None]
    return jnp.where(there, products, 0.0)


def _grown(state: State, column: Array, scores: Array) -> Support:
    """The support with the new atom at the place of this step."""
    t, support = state.step, state.memory
    target = scores + (column * state.values).sum(1)  # the residual's product, and what was taken
    gram = support.gram.at[:, t].set(column).at[:, :, t].set(column)
    return support._replace(gram=gram, target=support.target.at[:, t].set(target))


def _moved(state: State, values: Array, atoms: Atoms) -> State:
    """The state with new values of all chosen atoms, in rows that are live."""
    change = jnp.where(state.live[:, None], values - state.values, 0.0)

    def take(slot: Array, state: State) -> State:
        return take_off(state, change[:, slot], state.indices[:, slot], atoms)

    return jax.lax.fori_loop(0, state.step + 1, take, state._replace(values=state.values + change))


def _used(support: Support) -> Bool[Array, "n k"]:
    return jnp.diagonal(support.gram, axis1=1, axis2=2) > 0


def _times(matrices: Float[Array, "n k k"], vectors: Float[Array, "n k"]) -> Float[Array, "n k"]:
    return jnp.einsum("nkl,nl->nk", matrices, vectors, precision="highest")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _solved(
    x: Array, atoms: Array, tolerance: Array, steps: int, update: Callable, signed: bool
) -> Codes:
    empty = _empty(steps)
    return pursue(x, atoms, steps, update, empty, signed=signed, tolerance=tolerance)[0]


def _solved_forward(
    x: Array, atoms: Array, tolerance: Array, steps: int, update: Callable, signed: bool
) -> tuple[Codes, tuple]:
    empty = _empty(steps)
    codes, support = pursue(x, atoms, steps, update, empty, signed=signed, tolerance=tolerance)
    return codes, (x, atoms, tolerance, codes, support.gram)


def _solved_backward(
    steps: int, update: Callable, signed: bool, kept: tuple, cotangent: Codes
) -> tuple[Array, Array, Array]:
    r"""Of $z = (A A^\top)^{-1} A x$ with A the atoms of non-zero coefficient.

    $y = (A A^\top)^{-1} \bar z$, $\bar x = A^\top y$, $\bar A = y\, r^\top - z\, \bar x^\top$.
    """
    del steps, update, signed
    x, atoms, tolerance, (values, indices), gram = kept

    def on_device(rows: tuple, wide: Array) -> tuple[Array, Array]:
        x, values, indices, gram, cotangent = rows
        pull = solve_on(values != 0, gram, cotangent)
        onto_x = gather_sum(pull, wide, indices)
        residual = x - gather_sum(values, wide, indices)
        onto_atoms = scatter_outer(pull, residual, indices, wide)
        return onto_x, onto_atoms - scatter_outer(values, onto_x, indices, wide)

    rows = x.astype(values.dtype), values, indices, gram, cotangent.values
    onto_x, onto_atoms = spread_rows(on_device, rows, atoms.astype(values.dtype))
    return onto_x.astype(x.dtype), onto_atoms.astype(atoms.dtype), jnp.zeros_like(tolerance)


_solved.defvjp(_solved_forward, _solved_backward)
_compiled = jax.jit(_solved, static_argnums=(3, 4, 5))  # for a call from a notebook
