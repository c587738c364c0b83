"""Points as the geometry package takes them: finite rows, in a dtype to compute in."""

import functools
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


def check_finite(points: Array) -> None:
    """Refuses NaN and infinity, where values are known."""
    concrete = not isinstance(points, Tracer) and jnp.asarray(points).is_fully_addressable
    if concrete and not bool(jnp.isfinite(points).all()):
        raise ValueError(
            f"points of shape {points.shape} contain NaN or infinity; drop those rows or mask them "
            "with `valid` after replacing them by zeros"
        )


def power_of_two(spread: Array) -> Array:
    """The power of two at or below each number, a unit that changes no digit; 1 for zero."""
    # By its bits: the compiler's exp2 is off by a rounding at most powers.
    exponent = jnp.frexp(jnp.where(spread > 0, spread, 1.0))[1] - 1
    return jnp.ldexp(jnp.ones_like(spread), exponent)


def of_points(function: F) -> F:
    """The same function of points as `as_points` gives them; goes around `jax.jit`."""

    @functools.wraps(function)
    def checked(points: Any, *others: Any, **named: Any) -> Any:
        return function(as_points(points), *others, **named)

    return cast(F, checked)


def of_finite_points(function: F) -> F:
    """The same function of points of whatever type, which are checked as in `as_points`."""

    @functools.wraps(function)
    def checked(points: Any, *others: Any, **named: Any) -> Any:
        check_finite(points)
        return function(points, *others, **named)

    return cast(F, checked)


def of_distances(function: F) -> F:
    """The same function of a distance matrix, which is refused if it is known to hold NaN."""

    @functools.wraps(function)
    def checked(distances: Any, *others: Any, **named: Any) -> Any:
        known = not isinstance(distances, Tracer) and jnp.asarray(distances).is_fully_addressable
        if known and bool(jnp.isnan(distances).any()):
            raise ValueError(
                f"distances of shape {distances.shape} contain NaN: take them of finite points"
            )
        return function(distances, *others, **named)

    return cast(F, checked)


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
