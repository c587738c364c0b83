"""The k largest numbers of long rows where sorting is what costs: on a GPU.

There `lax.top_k` sorts whole rows. Most numbers need no sorting: of groups of neighbours in a row,
the k whose largest number is largest hold all k winners, so one pass over the row makes it a
`GROUP`-th as long, again and again, and what is sorted in the end are a few hundred numbers.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

GROUP = 8
_SHORTEST = 1024  # a row that is sorted whole in less time than the passes take


def grouping_pays(m: int, k: int) -> bool:
    """Whether rows of m numbers are long enough for groups, on a GPU."""
    return m >= max(_SHORTEST, 4 * GROUP * k)


def grouped_top_k(
    scores: Float[Array, "n m"], k: int
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """As `lax.top_k`: largest first, and of equal numbers the first.

    Exact, ties included: fewer than k groups hold a number above the k-th largest, and of those
    whose largest equals it the first are kept, which hold the first of these numbers.

    Args:
        scores: rows of numbers.
        k: how many, 1 <= k <= m.

    Returns:
        The numbers and their places.
    """
    (n, m), group = scores.shape, GROUP
    if not grouping_pays(m, k):
        values, places = lax.top_k(scores, k)
        # Both stay in use: XLA replaces a top_k of which one is unused by a full sort.
        places, values = lax.optimization_barrier((places, values))
        return values, places
    if m % group:
        scores = jnp.pad(scores, ((0, 0), (0, -m % group)), constant_values=-jnp.inf)
    groups = scores.reshape(n, -1, group)
    # In the order of the row, so that of equal members the first is found first.
    chosen = jnp.sort(grouped_top_k(groups.max(axis=2), k)[1], axis=1)
    members = jnp.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(n, k * group)
    values, place = lax.top_k(members, k)
    return values, jnp.take_along_axis(chosen, place // group, axis=1) * group + place % group
