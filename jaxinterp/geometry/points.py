"""Points as the geometry package takes them: finite rows, in a dtype to compute in."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

F = TypeVar("F", bound=Callable[..., Any])


def as_points(points: Array) -> Array:
    """Points in their computing dtype: float32, or wider if given.

    Raises:
        ValueError: on a wrong rank, or on non-finite values where values are known: outside jit.
    """
    if points.ndim != 2:
        raise ValueError(f"points must be (n, d), got shape {points.shape}; reshape or vmap first")
    check_finite(points)
    return jnp.asarray(points, jnp.promote_types(points.dtype, jnp.float32))


def is_known(values: Array) -> bool:
    """Whether this process can look at the values: outside jit, and not spread over others."""
    return not isinstance(values, Tracer) and jnp.asarray(values).is_fully_addressable


def check_finite(points: Array) -> None:
    """Refuses NaN and infinity, where values are known."""
    if is_known(points) and not bool(jnp.isfinite(points).all()):
        raise ValueError(
            f"points of shape {points.shape} contain NaN or infinity; drop those rows or mask them "
            "with `valid` after replacing them by zeros"
        )


def power_of_two(spread: Array) -> Array:
    """The power of two at or below each number, a unit that changes no digit; 1 for zero."""
    # By its bits: the compiler's exp2 is off by a rounding at most powers.
    exponent = jnp.frexp(jnp.where(spread > 0, spread, 1.0))[1] - 1
    return jnp.ldexp(jnp.ones_like(spread), exponent)


def _given(take: Callable[[Array], Array]) -> Callable[[F], F]:
    """Of a function the same one, its first argument as `take` gives it; goes around `jax.jit`."""

    def around(function: F) -> F:
        first = next(iter(inspect.signature(function).parameters))

        @functools.wraps(function)
        def taken(*given: Any, **named: Any) -> Any:
            if given:
                given = (take(given[0]), *given[1:])
            elif first in named:
                named[first] = take(named[first])
            return function(*given, **named)

        return cast(F, taken)

    return around


def _finite(points: Array) -> Array:
    check_finite(points)
    return points


def _without_nan(distances: Array) -> Array:
    if is_known(distances) and bool(jnp.isnan(distances).any()):
        raise ValueError(
            f"distances of shape {distances.shape} contain NaN: take them of finite points"
        )
    return distances


of_points = _given(as_points)
of_finite_points = _given(_finite)  # of whatever type
of_distances = _given(_without_nan)


def check_points(points: Array, k: int) -> Array:
    """As `as_points`, of points that have k others each."""
    points = as_points(points)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k >= points.shape[0]:
        raise ValueError(
            f"{points.shape[0]} points have at most {points.shape[0] - 1} neighbours, got k={k}; "
            "lower k or give more points"
        )
    return points
