"""Least squares with coefficients that are not negative, for many small systems at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_SLOPE = 1e-6  # of the largest target: a smaller gradient is rounding


class _State(NamedTuple):
    values: Array
    passive: Array  # coefficients that are free, the others are zero
    done: Array
    count: Int[Array, ""]


def nonnegative_least_squares(
    gram: Float[Array, "n k k"],
    target: Float[Array, "n k"],
    start: Float[Array, "n k"],
    *,
    iterations: int | None = None,
) -> Float[Array, "n k"]:
    r"""$\arg\min_{z \ge 0} \tfrac12 z^\top G z - b^\top z$ for each row, exactly.

    Coefficients are freed one at a time where the error falls, and solved for; where a solution
    would be negative, the step ends at the first zero and that coefficient is fixed again. It ends
    after finitely many steps.

    Args:
        gram: $G = A A^\top$ of the atoms of each row; a zero on the diagonal for a place without
            an atom, whose coefficient stays zero.
        target: $b = A x$.
        start: non-negative coefficients to begin with; a solution for fewer atoms saves steps.
        iterations: at most so many; None for `3 k`, which suffices in practice.

    Returns:
        The coefficients.

    Reference:
        Lawson & Hanson (1974), "Solving least squares problems", chapter 23.
    """
    k = target.shape[1]
    there = jnp.diagonal(gram, axis1=1, axis2=2) > 0
    flat = _SLOPE * jnp.abs(target).max(1)

    def body(state: _State) -> _State:
        values, passive, done, count = state
        solution = solve_on(passive, gram, target)
        below = passive & (solution <= 0)
        blocked = below.any(1)
        room = jnp.where(below, values - solution, 1.0)
        share = jnp.where(below, values / jnp.where(room > 0, room, 1.0), jnp.inf).min(1)
        share = jnp.where(blocked, share, 1.0)[:, None]
        values = jnp.where(done[:, None], values, values + share * (solution - values))
        # The coefficients that blocked the step are zero now, up to rounding.
        hit = below & (values <= 1e-7 * jnp.abs(values).max(1, keepdims=True))
        values = jnp.where(passive & ~hit, jax.nn.relu(values), 0.0)
        slope = target - jnp.einsum("nkl,nl->nk", gram, values, precision="highest")
        slope = jnp.where(there & ~passive, slope, -jnp.inf)
        best = jnp.argmax(slope, 1)
        better = ~blocked & (slope.max(1) > flat)
        freed = better[:, None] & (jnp.arange(k)[None] == best[:, None])
        done = done | (~blocked & ~better)
        return _State(values, (passive & ~hit) | freed, done, count + 1)

    first = _State(start, start > 0, jnp.zeros(len(start), bool), jnp.zeros((), jnp.int32))
    most = 3 * k if iterations is None else iterations
    end = jax.lax.while_loop(lambda s: ~s.done.all() & (s.count < most), body, first)
    return end.values


def solve_on(
    free: Bool[Array, "n k"], gram: Float[Array, "n k k"], target: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """Solves `gram @ z = target` on the free coefficients; the others are zero."""
    both = free[:, :, None] & free[:, None]
    system = jnp.where(both, gram, jnp.eye(free.shape[1], dtype=gram.dtype)[None])
    # The identity on what is not free; a free place has its own diagonal.
    wanted = jnp.where(free, target, 0.0)
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return _solved(system, wanted)
    # One of several devices. Of a batch jaxlib 0.10.2 makes tasks for the pool of threads that
    # those of a CPU share, and waits in one of them, for ever if all the others wait as well.
    return jax.lax.platform_dependent(system, wanted, cpu=_solved_one_by_one, default=_solved)


def _solved(system: Float[Array, "n k k"], target: Float[Array, "n k"]) -> Float[Array, "n k"]:
    return jnp.linalg.solve(system, target[:, :, None])[:, :, 0]


def _solved_one_by_one(
    system: Float[Array, "n k k"], target: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    return jax.lax.map(lambda row: jnp.linalg.solve(*row), (system, target))
