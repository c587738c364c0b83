"""How far a reconstruction is from its target, as one number for a batch."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.decode import linear_decode

Measure = Callable[[Array, Array], Array]
# (params, codes, target, measure) -> (reconstruction, error)
Objective = Callable[[Any, Any, Array, Measure], tuple[Array, Array]]


def squared_error(x_hat: Float[Array, "n ..."], target: Float[Array, "n ..."]) -> Float[Array, ""]:
    r"""$\mathrm{E}_n \sum_d (x - \hat x)^2$, in squared units of the activations."""
    rows = (target - x_hat).reshape(len(target), -1)
    return jnp.square(rows).sum(1).mean(dtype=jnp.float32)


def unexplained(x_hat: Float[Array, "n ..."], target: Float[Array, "n ..."]) -> Float[Array, ""]:
    r"""Share of the variance around the batch's mean that is missed, no unit.

    $\sum_{n,d} (x - \hat x)^2 / \sum_{n,d} (x_{nd} - \bar x_d)^2$.

    Raises:
        ValueError: a single row, which has no variance.
    """
    if len(target) == 1:
        raise ValueError("a batch of 1 row has no variance to explain: give at least 2 rows")
    target = target.astype(jnp.promote_types(target.dtype, jnp.float32))
    variance = jnp.square(target - target.mean(0, keepdims=True)).sum(dtype=jnp.float32)
    error = jnp.square(target - x_hat).sum(dtype=jnp.float32)
    return error / jnp.maximum(variance, jnp.finfo(jnp.float32).tiny)


def relative_error(x_hat: Float[Array, "n ..."], target: Float[Array, "n ..."]) -> Float[Array, ""]:
    r"""$\sum (x - \hat x)^2 / \sum x^2$, around the origin; no unit."""
    size = jnp.square(target).sum(dtype=jnp.float32)
    return jnp.square(target - x_hat).sum(dtype=jnp.float32) / (size + 1e-30)


def whole(
    params: Any, codes: Codes | Array, target: Float[Array, "n ..."], measure: Measure
) -> tuple[Float[Array, "n ..."], Float[Array, ""]]:
    """The objective of a flat dictionary: the error of what all latents write together.

    Returns:
        (reconstruction, error).
    """
    x_hat = linear_decode(params, codes)
    return x_hat, measure(x_hat, target)
