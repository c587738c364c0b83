"""A branch that a sweep can skip too: `lax.cond` under `vmap` computes both of its branches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool


def if_needed(
    needed: Bool[Array, ""],
    f: Callable[..., Any],
    *arguments: Any,
    otherwise: Callable[..., Any] | None = None,
) -> Any:
    """`f(*arguments)` where it is needed, and else `otherwise(*arguments)`.

    Under `vmap` it is computed for all members where any of them needs it, and for none where none
    does. For members that do not need it, `f` has to give what `otherwise` would, or what nobody
    uses.
    It can't be differentiated: `beside` can.

    Args:
        needed: whether to compute it.
        f: pure, and closed over no array.
        *arguments: trees of arrays.
        otherwise: pure; None for zeros. What it hands through is not copied.
    """

    def zeros(*arguments: Any) -> Any:
        like = jax.eval_shape(f, *arguments)
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)

    other = otherwise or zeros

    @custom_vmap
    def run(needed: Array, *arguments: Any) -> Any:
        return jax.lax.cond(needed, f, other, *arguments)

    @run.def_vmap
    def run_members(members: int, batched: list, needed: Array, *arguments: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda own: 0 if own else None, batched[1:])
        both = [jax.vmap(one, tuple(axes), axis_size=members) for one in (f, other)]
        out = if_needed(needed.any(), both[0], *arguments, otherwise=both[1])
        return out, jax.tree.map(lambda _: True, out)

    return run(needed, *arguments)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def beside(
    needed: Bool[Array, ""], f: Callable[..., Any], fixed: Any, *learned: Any
) -> tuple[tuple[Any, ...], Any]:
    """`learned` as it is, and beside it `f(fixed, *learned)` where needed, and else zeros.

    Let all that is done with `learned` afterwards use what comes out here. Its gradients then
    arrive together on the way back, and those of `f` are added to them in the branch: where it is
    not needed, no zeros of the size of `learned` are filled and added up. Nothing is kept of `f`
    for the way back, which both branches would have to fill: it is computed again.

    Args:
        needed: whether to compute it.
        f: `(fixed, *learned) -> tree of arrays`; pure, and closed over no array.
        fixed: arrays that get no gradient.
        *learned: trees of arrays.

    Returns:
        The tuple of what was learned, and what `f` gives.
    """
    return learned, if_needed(needed, f, fixed, *learned)


def _beside_forward(needed: Array, f: Callable[..., Any], fixed: Any, *learned: Any) -> tuple:
    return beside(needed, f, fixed, *learned), (needed, fixed, learned)


def _beside_backward(f: Callable[..., Any], kept: tuple, cotangents: tuple) -> tuple:
    needed, fixed, learned = kept
    others, cotangent = cotangents

    def added(others: tuple, fixed: Any, learned: tuple, cotangent: Any) -> tuple:
        own = jax.vjp(partial(f, fixed), *learned)[1](cotangent)
        return jax.tree.map(jnp.add, others, own)

    def unchanged(others: tuple, *_: Any) -> tuple:
        return others

    # What was not needed may have a cotangent that is no number, as the error of nothing has.
    cotangent = jax.tree.map(lambda c: jnp.where(needed, c, 0.0), cotangent)
    parts = (others, fixed, learned, cotangent)
    return None, None, *if_needed(needed, added, *parts, otherwise=unchanged)


beside.defvjp(_beside_forward, _beside_backward)
