"""What a dictionary is: a tuple of pure functions, in the manner of optax.

A dictionary writes an activation x as a sparse combination of learned directions (atoms).
A variant is one function that returns a `Dictionary`; training it is `learner.learner`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Params = Any


class Codes(NamedTuple):
    """Sparse codes of the top-k family: at most k latents per row, the rest is zero.

    Attributes:
        values: activation of each kept latent, strongest first; zero where none was left.
        indices: which latent, in 0 .. width - 1.
    """

    values: Float[Array, "... k"]
    indices: Int[Array, "... k"]


class WithRest(NamedTuple):
    """Codes of a dictionary that writes something besides its latents (a skip path, a prediction).

    Attributes:
        codes: of the latents: `Codes`, or dense (..., width).
        rest: what is added to that which the latents write.
        scale: what that is multiplied with before, in `row_normalised`.
    """

    codes: Codes | Float[Array, "... width"]
    rest: Float[Array, "... d"]
    scale: Float[Array, "... 1"] | None = None


class Stats(NamedTuple):
    """What training remembers besides the parameters.

    Attributes:
        silent: rows seen since each latent was last active.
        step: optimiser steps taken.
    """

    silent: Int[Array, " width"]
    step: Int[Array, ""]


class LossInfo(NamedTuple):
    """What a loss reports.

    Attributes:
        metrics: flat dict of scalars for a person to see.
        fired: which latents were active on this batch.
        assigned: parameters that the loss sets itself (a running threshold), by name; they
            replace those that the optimiser left.
    """

    metrics: dict[str, Float[Array, ""]]
    fired: Array
    assigned: dict[str, Array] = {}


class Dictionary(NamedTuple):
    """A variant: pure functions of its parameters.

    Attributes:
        width: number of latents.
        init: `(key, sample) -> params`; `sample` (n, d) are activations that set scale and centre.
        encode: `(params, x) -> codes`: the same for a row whatever else is in the batch.
        decode: `(params, codes) -> x_hat`.
        loss: `(params, stats, x, target, key) -> (loss, LossInfo)`.
        project: `params -> params`, applied after each step: where constraints live.
        tangent: `(params, gradient) -> gradient`, the part of a gradient that keeps them.
    """

    width: int
    init: Callable[..., Params]
    encode: Callable[..., Any]
    decode: Callable[..., Array]
    loss: Callable[..., tuple[Array, LossInfo]]
    project: Callable[[Params], Params]
    tangent: Callable[[Params, Params], Params]


def new_stats(width: int) -> Stats:
    """Statistics before the first step."""
    return Stats(jnp.zeros(width, jnp.int32), jnp.zeros((), jnp.int32))


def unit_rows(atoms: Float[Array, "width d"]) -> Float[Array, "width d"]:
    """Scales every row to length one; a zero row stays zero."""
    norms = jnp.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / jnp.where(norms > 0, norms, 1.0)


def tangent_rows(
    atoms: Float[Array, "width d"], gradient: Float[Array, "width d"]
) -> Float[Array, "width d"]:
    """Removes from each row of a gradient its part along the row (unit rows assumed)."""
    return gradient - (gradient * atoms).sum(1, keepdims=True) * atoms


def geometric_median(
    x: Float[Array, "n d"], *, iterations: int = 256, tolerance: float = 1e-6
) -> Float[Array, " d"]:
    r"""The point that minimises $\sum_i \lVert x_i - m \rVert$, by Weiszfeld's iteration.

    Unlike the mean it does not follow the few rows of very large norm that language models have.

    Args:
        x: points.
        iterations: most iterations to take.
        tolerance: stop when a step is shorter than this share of the harmonic mean distance, a
            scale that rows of large norm do not move either.

    Returns:
        The median, in the units of `x`.

    Raises:
        ValueError: no points.

    Reference:
        Weiszfeld (1937); Vardi & Zhang (2000), section 1.
    """
    if len(x) == 0:
        raise ValueError(f"a sample of shape {x.shape} has no median: give at least one row")

    def move(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        point, _, count = state
        distance = jnp.linalg.norm(x - point[None], axis=1)
        # In units of the mean distance, so that the weights of equal points stay finite.
        scale = jnp.where(distance.mean() > 0, distance.mean(), 1.0)
        weights = 1 / jnp.maximum(distance / scale, 1e-6)
        new = (weights[:, None] * x).sum(0) / weights.sum()
        return new, jnp.linalg.norm(new - point) / scale * weights.mean(), count + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        _, moved, count = state
        return (moved > tolerance) & (count < iterations)

    start = (x.mean(0), jnp.asarray(jnp.inf, x.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, move, start)[0]


def latents(codes: Codes | WithRest | Array) -> Codes | Array:
    """The part of any codes that says which latents are active and how much."""
    return codes.codes if isinstance(codes, WithRest) else codes


def densify(codes: Codes, width: int) -> Float[Array, "... width"]:
    """The dense form of sparse codes, for small batches that a person looks at."""
    flat = jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), codes)
    rows = jnp.arange(flat.values.shape[0])[:, None]
    dense = jnp.zeros((flat.values.shape[0], width), codes.values.dtype)
    dense = dense.at[rows, flat.indices].add(flat.values)
    return dense.reshape(*codes.values.shape[:-1], width)
