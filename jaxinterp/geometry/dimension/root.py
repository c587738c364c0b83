"""The positive root of a decreasing function, differentiable through its parameters."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# Dimensions that a likelihood equation may return.
LOWEST, HIGHEST = 1e-3, 1e4


def positive_root(
    function: Callable[[Array], Array],
    like: Array,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = 40,
) -> Array:
    """Root of a decreasing function of one positive number, by bisection of its logarithm.

    Bisection, because likelihood scores are steep at small and flat at large dimensions. The
    derivative with respect to whatever `function` closes over is that of the implicit function.

    Args:
        function: decreasing on (lowest, highest). Without a sign change the nearer end is returned.
        like: an array whose dtype the root takes.
        lowest: left end, positive.
        highest: right end.
        steps: bisections; 40 reach float32 rounding, 60 float64.

    Returns:
        The root, a scalar.
    """

    def of_logarithm(logarithm: Array) -> Array:
        return function(jnp.exp(logarithm))

    def bisect(objective: Callable[[Array], Array], start: Array) -> Array:
        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            right = objective(middle) > 0
            return jnp.where(right, middle, low), jnp.where(right, high, middle)

        ends = (start, jnp.full_like(start, math.log(highest)))
        low, high = lax.fori_loop(0, steps, halve, ends)
        return (low + high) / 2

    def solve_tangent(linear: Callable[[Array], Array], value: Array) -> Array:
        slope = linear(jnp.ones_like(value))
        return value / jnp.where(slope == 0, 1.0, slope)

    start = jnp.full((), math.log(lowest), like.dtype)
    return jnp.exp(lax.custom_root(of_logarithm, start, bisect, solve_tangent))


def slope_of_log(values: Array, sizes: Array, weights: Array | None = None) -> Array:
    """Least-squares slope of `ln values` on `ln sizes`."""
    weights = jnp.ones_like(values) if weights is None else weights
    total = jnp.sum(weights)
    x, y = jnp.log(sizes), jnp.log(values)
    x = x - jnp.sum(weights * x) / total
    return jnp.sum(weights * x * y) / jnp.sum(weights * x * x)
