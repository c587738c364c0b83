"""`lax.top_k`, but for long rows on an NVIDIA GPU by groups.

There XLA sorts whole rows: on an H100, 32 of 65,536 numbers in each of 16,384 rows took 75 ms,
where reading them takes 2 ms, and of 8,192 rows of 262,144 numbers it asked for five times their
memory. Most numbers need no sorting. Of groups of neighbours in a row, the k whose largest number
is largest hold all winners, so one pass leaves rows a `_GROUP`-th as long; what is sorted in the
end are a few hundred numbers a row. (The time of the whole is not measured yet: the pass was, 1.9
ms, and sorts, in proportion to what they sort.)
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

_GROUP = 8
_SHORTEST = 1024  # a row that is sorted whole in less time than the passes take

Found = tuple[Float[Array, "n k"], Int[Array, "n k"]]


def top_k(scores: Float[Array, "n m"], k: int) -> Found:
    """The k largest of each row, largest first and of equal ones the first, and their places.

    Both results stay in use on purpose: XLA turns a top-k of which only a part is used into a full
    sort of every row, tens of times slower.

    Args:
        scores: rows of numbers.
        k: how many, 1 <= k <= m.

    Returns:
        The numbers and their places.
    """
    whole = functools.partial(_whole, k=k)
    if not _grouping_pays(scores.shape[1], k):
        return whole(scores)
    return lax.platform_dependent(scores, cuda=functools.partial(by_groups, k=k), default=whole)


def by_groups(scores: Float[Array, "n m"], *, k: int) -> Found:
    """`top_k` on a GPU.

    Exact, ties included: fewer than k groups hold a number above the k-th largest, and of those
    whose largest equals it the first are kept, which hold the first of these numbers. Among groups
    NaN counts as infinity: a maximum may pass over it.
    """
    (n, m), group = scores.shape, _GROUP
    if not _grouping_pays(m, k):
        return _whole(scores, k=k)
    if m % group:
        scores = jnp.pad(scores, ((0, 0), (0, -m % group)), constant_values=-jnp.inf)
    groups = scores.reshape(n, -1, group)
    largest = jnp.where(jnp.isnan(groups), jnp.inf, groups).max(axis=2)
    chosen = by_groups(largest, k=k)[1]
    # In the order of the row, so that of equal members the first is found first.
    chosen = jnp.sort(chosen, axis=1)
    members = jnp.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(n, k * group)
    values, place = _whole(members, k=k)
    return values, jnp.take_along_axis(chosen, place // group, axis=1) * group + place % group


def _whole(scores: Float[Array, "n m"], *, k: int) -> Found:
    values, places = lax.top_k(scores, k)
    # In the order of top_k itself, XLA fails to compile programs for several CPU devices.
    places, values = lax.optimization_barrier((places, values))
    return values, places


def _grouping_pays(m: int, k: int) -> bool:
    return m >= max(_SHORTEST, 4 * _GROUP * k)
