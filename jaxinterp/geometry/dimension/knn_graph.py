"""Dimension from the growth of the total length of the nearest-neighbour graph."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxinterp.geometry.dimension.estimate import DimensionEstimate
from jaxinterp.geometry.dimension.root import HIGHEST, slope_of_log
from jaxinterp.geometry.neighbors import k_nearest
from jaxinterp.geometry.points import of_points


@of_points
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
        `DimensionEstimate`; `per_point` is nan. A subset whose graph has no length: value 0 with
        infinite error. A dimension above 1e4, as of equal distances: value and error infinite.

    Raises:
        ValueError: with too few points, steps < 2, repeats < 2 or power <= 0.

    Reference: Costa, Hero, Geodesic entropic graphs for dimension and entropy estimation in
        manifold learning, IEEE TSP 52 (2004), section IV.
    """
    number = points.shape[0]
    if number < 8 * (k + 1):
        raise ValueError(f"needs at least {8 * (k + 1)} points for k={k}, got {number}")
    if steps < 2 or repeats < 2 or power <= 0:
        raise ValueError(
            f"needs steps >= 2, repeats >= 2 and power > 0, got {steps}, {repeats}, {power}"
        )
    sizes = [round(number * 0.25 ** (step / (steps - 1))) for step in range(steps)]

    def slope(one_key: Array) -> tuple[Array, Array]:
        order = jax.random.permutation(one_key, points)
        found = [k_nearest(order[:size], k).distances for size in sizes]
        lengths = jnp.stack([jnp.sum(distances**power) for distances in found])
        positive = jnp.all(lengths > 0)
        lengths = jnp.where(positive, lengths, 1.0)
        return slope_of_log(lengths, jnp.asarray(sizes, lengths.dtype)), positive

    slopes, positive = lax.map(slope, jax.random.split(key, repeats))
    mean, known = jnp.mean(slopes), jnp.all(positive)
    # A slope of one up to rounding: the graph grows as fast as the number of points.
    finite = mean < 1 - power / HIGHEST
    value = jnp.where(finite, power / jnp.where(finite, 1 - mean, 1.0), jnp.inf)
    stderr = jnp.std(slopes, ddof=1) / jnp.sqrt(repeats) * value**2 / power
    return DimensionEstimate(
        jnp.where(known, value, 0.0),
        jnp.where(known & finite, stderr, jnp.inf),
        jnp.full(number, jnp.nan, points.dtype),
        jnp.asarray(number),
    )
