r"""The places of the k largest numbers of each row.

On an accelerator `grouped_selection.top_k` finds them. On a CPU `lax.top_k` keeps a heap for each
row, one number after the other. Here the interval that holds the k-th largest number is halved, for
all rows at once, until exactly k numbers lie above its lower end, $\#\{j : s_j > t\} = k$; their
places are read off the bits of that mask. Each step goes through many numbers at a time. A row of m
numbers takes, in microseconds of one core, heap and halving: 4.4 and 1.6 (k = 28, m = 448), 12 and
5 (32, 4096), 23 and 4.4 (136, 1250), 82 and 9 (520, 2300).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from jaxinterp.grouped_selection import top_k

# Fewer numbers, or fewer to choose, are as fast by `lax.top_k`, and compile sooner.
_SMALLEST_ROW, _LARGEST_ROW = 200, 8192
_SMALLEST_CHOICE = 8
WORD = 32  # bits of a word of a mask; rows of whole words are searched fastest
_STEPS_BY_DISTANCE = 24
_LONGEST_COMPARED = 256


def halving_pays(m: int, k: int) -> bool:
    """Whether the search for k of m numbers is faster than the heap of `lax.top_k`, on a CPU."""
    return k >= _SMALLEST_CHOICE and _SMALLEST_ROW <= m <= _LARGEST_ROW


def largest_places(scores: Float[Array, "n m"], k: int) -> Int[Array, "n k"]:
    """Places of the k largest numbers of each row, in ascending order; of equal ones the first.

    NaN counts as infinity, and -0 as equal to 0.

    Args:
        scores: rows of numbers.
        k: how many, 1 <= k <= m.

    Returns:
        (n, k) places, those of a row in ascending order.
    """
    find = functools.partial(_by_heap, k=k)
    if not halving_pays(scores.shape[1], k):
        return find(scores)
    return lax.platform_dependent(scores, cpu=functools.partial(_by_halving, k=k), default=find)


def ascending_places(numbers: Float[Array, "n m"]) -> Int[Array, "n m"]:
    """Places that put each row in ascending order; equal numbers stay in theirs.

    NaN counts as infinity. Short rows on a CPU by comparing all pairs: four times as fast.

    Args:
        numbers: rows of numbers.

    Returns:
        (n, m) places.
    """
    numbers = _comparable(numbers)

    def sort(numbers: Array) -> Array:
        return top_k(-numbers, numbers.shape[1])[1]

    if numbers.shape[1] > _LONGEST_COMPARED:
        return sort(numbers)
    return lax.platform_dependent(numbers, cpu=_by_comparing, default=sort)


def _by_comparing(numbers: Float[Array, "n m"]) -> Int[Array, "n m"]:
    n, m = numbers.shape
    words = -(-m // WORD)
    places = jnp.arange(words * WORD, dtype=jnp.int32).reshape(words, WORD, 1)
    others = jnp.pad(numbers, ((0, 0), (0, words * WORD - m)), constant_values=jnp.inf)
    others, mine = others.reshape(n, words, WORD, 1), numbers[:, None, None, :]
    earlier = (places < jnp.arange(m, dtype=jnp.int32)[None, None])[None]
    before = (others < mine) | ((others == mine) & earlier)
    rank = before.sum(2, dtype=jnp.int8).sum(1, dtype=jnp.int32)
    order, rows = jnp.zeros_like(rank), jnp.arange(n)[:, None]
    which = jnp.arange(m, dtype=jnp.int32)[None]
    return order.at[rows, rank].set(which, unique_indices=True, mode="promise_in_bounds")


def _by_heap(scores: Float[Array, "n m"], *, k: int) -> Int[Array, "n k"]:
    return jnp.sort(top_k(_comparable(scores), k)[1], axis=1)


def _comparable(numbers: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """NaN as infinity and -0 as 0, which `lax.top_k` tells apart."""
    return jnp.where(jnp.isnan(numbers), jnp.inf, jnp.where(numbers == 0, 0.0, numbers))


def _by_halving(scores: Float[Array, "n m"], *, k: int) -> Int[Array, "n k"]:
    scores = _comparable(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
    low, bounded, high = _bracket(scores, k)
    sure = _packed(scores > high[:, None])
    above = (scores > low[:, None]) | ~bounded[:, None]
    edge = _packed(above & (scores <= high[:, None]))
    wanted = k - lax.population_count(sure).sum(1, dtype=jnp.int32)
    return jnp.minimum(_places(sure | _first_bits(edge, wanted), k), scores.shape[1] - 1)


def _bracket(
    scores: Float[Array, "n m"], k: int
) -> tuple[Float[Array, " n"], Bool[Array, " n"], Float[Array, " n"]]:
    """An interval `low < number <= high` whose numbers complete the fewer than k above it.

    Together they are k, or more where those of the interval are all equal. Where the second result
    is false the interval has no lower end.
    """
    m = scores.shape[1]

    def halve(state: tuple) -> tuple:
        low, high, reached, step, _ = state  # more than `low` are at least k, than `high` fewer
        between = _ordered(low), _ordered(high)
        half = (between[0] & between[1]) + ((between[0] ^ between[1]) >> 1)
        # Half of the distance first, which takes fewer steps; of the bits then, which surely ends.
        middle = low / 2 + high / 2
        by_bits = (step >= _STEPS_BY_DISTANCE) | ~jnp.isfinite(middle)
        middle = jnp.where(by_bits, _from_order(half, low.dtype), middle)
        count = count_true(scores > middle[:, None], 1)
        going = (reached != k) & (half > between[0])
        up = going & (count >= k)
        low, reached = jnp.where(up, middle, low), jnp.where(up, count, reached)
        return low, jnp.where(going & ~up, middle, high), reached, step + 1, going.any()

    low, high = scores.min(1), scores.max(1)
    start = low, high, lax.full_like(low, m + 1, jnp.int32), 0, (low <= high).any()
    low, high, reached, *_ = lax.while_loop(lambda state: state[4], halve, start)
    return low, reached <= m, high


def _ordered(numbers: Float[Array, " n"]) -> Int[Array, " n"]:
    """Integers in the order of the numbers."""
    integers = jnp.int64 if numbers.dtype.itemsize == 8 else jnp.int32
    bits = lax.bitcast_convert_type(numbers, integers)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(integers).max, bits)


def _from_order(order: Int[Array, " n"], dtype: jnp.dtype) -> Float[Array, " n"]:
    bits = jnp.where(order < 0, order ^ jnp.iinfo(order.dtype).max, order)
    return lax.bitcast_convert_type(bits, dtype)


def count_true(mask: Bool[Array, "n m"], axis: int) -> Int[Array, " l"]:
    """How many entries of each row (axis 1) or column (axis 0) are true.

    In bytes first, at most 32 to a byte: several times as fast on a CPU, which would otherwise
    write out the mask as numbers.
    """
    size = mask.shape[axis]
    group = math.gcd(size, WORD)
    shape = mask.shape[:axis] + (group, size // group) + mask.shape[axis + 1 :]
    return mask.reshape(shape).sum(axis, dtype=jnp.int8).sum(axis, dtype=jnp.int32)


def _packed(mask: Bool[Array, "n m"]) -> UInt[Array, "n words"]:
    """The mask, 32 entries to a word, the first in the lowest bit."""
    n, m = mask.shape
    words = -(-m // WORD)
    bits = jnp.pad(mask, ((0, 0), (0, words * WORD - m))).reshape(n, words, WORD)
    places = jnp.arange(WORD, dtype=jnp.uint32)
    return (bits.astype(jnp.uint32) << places[None, None]).sum(2, dtype=jnp.uint32)


def _before(words: UInt[Array, "n words"]) -> tuple[Int[Array, "n words"], Int[Array, "n words"]]:
    """True bits of each word, and of those before it."""
    counts = lax.population_count(words).astype(jnp.int32)
    return counts, jnp.cumsum(counts, axis=1) - counts


def _first_bits(words: UInt[Array, "n words"], wanted: Int[Array, " n"]) -> Array:
    """The first `wanted` true bits of each row alone."""
    counts, before = _before(words)
    left = jnp.clip(wanted[:, None] - before, 0, counts)
    end = _nth(words, left, jnp.zeros_like(left))  # of the first bit that is not wanted
    below = (jnp.uint32(1) << end.astype(jnp.uint32)) - jnp.uint32(1)
    return jnp.where(left < counts, words & below, words)


def _places(words: UInt[Array, "n words"], k: int) -> Int[Array, "n k"]:
    """Places of the first k true bits of each row."""
    counts, before = _before(words)
    rank = jnp.arange(k, dtype=jnp.int32)
    search = functools.partial(jnp.searchsorted, side="right", method="scan_unrolled")
    word = jax.vmap(search, (0, None))(before + counts, rank).astype(jnp.int32)
    word = jnp.minimum(word, words.shape[1] - 1)
    inside = rank[None] - jnp.take_along_axis(before, word, axis=1)
    return _nth(jnp.take_along_axis(words, word, axis=1), inside, WORD * word)


def _nth(
    words: UInt[Array, "n w"], rank: Int[Array, "n w"], start: Int[Array, "n w"]
) -> Int[Array, "n w"]:
    """Place in each word, counted from `start`, of the true bit with `rank` true bits before it.

    A loop, so that places are written out: fused into what uses them they would be found again for
    every use.
    """

    def halve(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        place, rank = state
        size = jnp.int32(WORD // 2) >> step
        part = words >> (place % WORD).astype(jnp.uint32)
        count = lax.population_count(part & ((jnp.uint32(1) << size.astype(jnp.uint32)) - 1))
        count = count.astype(jnp.int32)
        higher = rank >= count
        return jnp.where(higher, place + size, place), jnp.where(higher, rank - count, rank)

    return lax.fori_loop(0, WORD.bit_length() - 1, halve, (start, rank))[0]
