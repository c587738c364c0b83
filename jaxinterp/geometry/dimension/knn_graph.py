"""Dimension from the growth of the total length of the nearest-neighbour graph."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxinterp.geometry.dimension.estimate import DimensionEstimate
from jaxinterp.geometry.dimension.root import slope_of_log
from jaxinterp.geometry.neighbors import k_nearest


@partial(jax.jit, static_argnames=("k", "power", "steps", "repeats"))
def knn_graph_dimension(
    points: Float[Array, "n d"],
    key: Array,
    *,
    k: int = 5,
    power: float = 1.0,
    steps: int = 5,
    repeats: int = 4,
) -> DimensionEstimate:
    r"""Intrinsic dimension from the length of the k-nearest-neighbour graph.

    Estimand: `L(p) = sum_i sum_{j<=k} r_ij^power ~ p^((d - power)/d)` over random subsets of p
    points; with m the least-squares slope of ln L on ln p, `d = power / (1 - m)`. Subsets run from
    n/4 to n.

    Bias: low in high d. (The peers' default subsets of k + 1 to k + 4 points give noise.) Error:
        over
    repeated subsets, given the cloud. Cost: `steps * repeats` kNN of at most n points.

    Args:
        points: (n, d) rows without duplicates, n at least 8 (k + 1).
        key: for the subsets.
        k: neighbours.
        power: exponent of the edge lengths, below d.
        steps: subset sizes, geometric.
        repeats: slopes that are averaged.

    Returns:
        `DimensionEstimate`; `per_point` is nan.

    Raises:
        ValueError: with too few points.

    Reference: Costa, Hero, Geodesic entropic graphs for dimension and entropy estimation in
        manifold learning, IEEE TSP 52 (2004), section IV.
    """
    number = points.shape[0]
    if number < 8 * (k + 1):
        raise ValueError(f"needs at least {8 * (k + 1)} points for k={k}, got {number}")
    sizes = [round(number * 0.25 ** (step / (steps - 1))) for step in range(steps)]

    def slope(one_key: Array) -> Array:
        order = jax.random.permutation(one_key, points)
        found = [k_nearest(order[:size], k).distances for size in sizes]
        lengths = jnp.stack([jnp.sum(distances**power) for distances in found])
        return slope_of_log(lengths, jnp.asarray(sizes, points.dtype))

    slopes = lax.map(slope, jax.random.split(key, repeats))
    mean = jnp.mean(slopes)
    value = jnp.where(mean < 1, power / jnp.where(mean < 1, 1 - mean, 1.0), jnp.inf)
    stderr = jnp.std(slopes, ddof=1) / jnp.sqrt(repeats) * value**2 / power
    return DimensionEstimate(
        value, stderr, jnp.full(number, jnp.nan, points.dtype), jnp.asarray(number)
    )
