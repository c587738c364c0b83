"""A branch that a sweep can skip too: `lax.cond` under `vmap` computes both of its branches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool


def if_needed(needed: Bool[Array, ""], f: Callable[..., Any], *arguments: Any) -> Any:
    """`f(*arguments)` where it is needed, and else zeros.

    Under `vmap` it is computed for all members where any of them needs it, and for none where none
    does. For members that do not need it, `f` has to give zeros by itself, or what nobody uses.
    It can't be differentiated: give it what a `custom_vjp` computes.

    Args:
        needed: whether anything but zeros comes out.
        f: pure, and closed over no array.
        *arguments: trees of arrays.
    """

    @custom_vmap
    def run(needed: Array, *arguments: Any) -> Any:
        def zeros(*arguments: Any) -> Any:
            like = jax.eval_shape(f, *arguments)
            return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)

        return jax.lax.cond(needed, f, zeros, *arguments)

    @run.def_vmap
    def run_members(members: int, batched: list, needed: Array, *arguments: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda own: 0 if own else None, batched[1:])
        of_members = jax.vmap(f, tuple(axes), axis_size=members)
        out = if_needed(needed.any(), of_members, *arguments)
        return out, jax.tree.map(lambda _: True, out)

    return run(needed, *arguments)
