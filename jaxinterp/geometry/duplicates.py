"""Exact duplicates among the rows of an array: find them, so that they can be masked."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Real


@jax.jit
def first_occurrences(points: Real[Array, "n d"]) -> Bool[Array, " n"]:
    """Mark the first occurrence of every distinct row; repeated rows are False.

    Two 32-bit hashes of the rows' bits are sorted, so that equal rows become adjacent whatever n
    and d are. Equal rows are always found; two different rows are confused with probability about
    n^2 / 2^65. Cost: O(n d + n log n).

    Args:
        points: (n, d) rows. -0.0 equals 0.0; NaN rows with equal bits are equal.

    Returns:
        (n,) mask, to be passed as `valid` to `k_nearest`.
    """
    values = points if jnp.issubdtype(points.dtype, jnp.floating) else points.astype(jnp.int32)
    if values.dtype.itemsize < 4:
        values = values.astype(jnp.float32)
    values = jnp.where(values == 0, jnp.zeros_like(values), values)  # -0.0 is 0.0
    words = lax.bitcast_convert_type(values, jnp.uint32).reshape(points.shape[0], -1)
    # Fixed odd multipliers: multiplication modulo 2^32 is exact in any order of summation.
    seeds = jax.random.bits(jax.random.key(0), (2, words.shape[1]), jnp.uint32) | jnp.uint32(1)

    def mix(word: Array) -> Array:
        word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
        word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
        return word ^ (word >> 16)

    hashes = [jnp.sum(mix(words ^ seed[None, :]) * seed[None, :], axis=1) for seed in seeds]
    order = jnp.arange(points.shape[0], dtype=jnp.int32)
    first, second, order = lax.sort((*hashes, order), num_keys=3)
    repeated = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    repeated = jnp.concatenate([jnp.zeros((1,), bool), repeated])
    return jnp.zeros(points.shape[0], bool).at[order].set(~repeated)
