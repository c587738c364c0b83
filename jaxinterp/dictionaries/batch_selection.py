"""Choosing active latents over a whole batch, without sorting it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.dictionaries.sparsify import count_true


def batch_top_k(scores: Float[Array, "batch width"], total: int) -> Float[Array, "batch width"]:
    """The `total` largest positive scores of a batch; everything else becomes zero.

    Exact, but that scores equal to the last one kept are all kept; with fewer than `total` positive
    scores, all of those are kept. The gradient is one where kept and zero elsewhere.

    Args:
        scores: of either sign.
        total: scores to keep in the batch.

    Returns:
        The kept scores, in place.

    Raises:
        ValueError: a total below 1.
    """
    if total < 1:
        raise ValueError(f"{total=} scores to keep: need at least 1")
    free = _searchable(scores)
    least = _nth_largest(free, jnp.asarray(total), lambda mask: count_true(mask, 1).sum())
    return jnp.where((free >= least) & (free > 0), scores, 0.0)


def column_top_k(
    scores: Float[Array, "batch width"], totals: Int[Array, " width"]
) -> Float[Array, "batch width"]:
    """The `totals[j]` largest positive scores of each column j; everything else becomes zero.

    As `batch_top_k` in everything else.
    """
    free = _searchable(scores)
    least = _nth_largest(free, totals, lambda mask: count_true(mask, 0))
    return jnp.where((free >= least[None]) & (free > 0), scores, 0.0)


def _searchable(scores: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    free = jax.lax.stop_gradient(scores)
    return free.astype(jnp.float32) if free.dtype.itemsize > 4 else free


def _nth_largest(
    values: Float[Array, "batch width"],
    n: Int[Array, "..."],
    count: Callable[[Bool[Array, "batch width"]], Int[Array, "..."]],
) -> Float[Array, "..."]:
    """A number that exactly n of the values reach, or the n-th largest where others equal it.

    Zero with fewer than n positive values. A search over the bits of the answer, which order floats
    that are not negative, counting what reaches a trial: false position, which is near after a few
    trials, and every third time the middle, which can not be fooled by how the values lie. The bits
    are those of float32, without those that are zero in all numbers of a shorter type.

    Args:
        values: of either sign, in float32 or a shorter type.
        n: of all values, or of those of each column.
        count: entries of a mask that are true, of all or of each column.
    """
    zeros = jnp.finfo(jnp.float32).nmant - jnp.finfo(values.dtype).nmant

    def number(bits: Array) -> Array:
        return jax.lax.bitcast_convert_type(bits << zeros, jnp.float32).astype(values.dtype)

    def unsettled(state: tuple) -> Array:
        low, high, at_low, _, _ = state
        return ((high - low > 1) & (at_low != n)).any()

    def narrow(state: tuple) -> tuple:
        low, high, at_low, at_high, trials = state
        share = jnp.where(trials % 3 == 2, 0.5, (at_low - n) / (at_low - at_high))
        step = ((high - low).astype(jnp.float32) * share).astype(jnp.int32)
        trial = jnp.maximum(jnp.minimum(low + step, high - 1), low + 1)
        level = number(trial).reshape((1,) * (values.ndim - n.ndim) + n.shape)
        reached = count(values >= level)
        enough = reached >= n
        return (
            jnp.where(enough, trial, low),
            jnp.where(enough, high, trial),
            jnp.where(enough, reached, at_low),
            jnp.where(enough, at_high, reached),
            trials + 1,
        )

    zero = jnp.zeros(n.shape, jnp.int32)
    highest = jax.nn.relu(values.max(tuple(range(values.ndim - n.ndim))))
    top = jax.lax.bitcast_convert_type(highest.astype(jnp.float32), jnp.int32) >> zeros
    start = zero, top + 1, count(jnp.ones(values.shape, bool)), zero, jnp.zeros((), jnp.int32)
    return number(jax.lax.while_loop(unsettled, narrow, start)[0])
