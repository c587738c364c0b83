"""Local estimators from the angles and distances within a neighbourhood: ABID and TLE."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import DimensionEstimate
from jaxinterp.geometry.dimension.levina_bickel import Pooling, pool
from jaxinterp.geometry.neighborhoods import complete, gram, map_neighborhoods
from jaxinterp.geometry.points import of_points


@of_points
@partial(jax.jit, static_argnames=("pooling",))
def angle_based(
    points: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    *,
    pooling: Pooling = "mean",
) -> DimensionEstimate:
    r"""Angle-based intrinsic dimension (ABID).

    Estimand: the dimension of the ball that a neighbourhood fills: the mean squared cosine between
    neighbours seen from the point is 1/d, so that `d_i = k^2 / sum_{a,b} cos^2(v_a, v_b)`.

    Bias: low for k not much above d, since the pairs a = b count; at most min(k, D). Scale-free and
    blind to the radial distribution. Cost: O(n k^2 D).

    Args:
        points: (n, d) rows.
        indices: (n, k) neighbours, k of 20 to 100. Neighbours at distance zero are left out.
        pooling: "mean", "median", or "inverse", the harmonic mean.

    Returns:
        `DimensionEstimate`. Points with fewer than 2 distinct neighbours are not used.

    Reference: Thordsen, Schubert, ABID: angle based intrinsic dimensionality, SISAP (2020), section
        3.
    """

    def inverse(offsets: Array) -> tuple[Array, Array]:
        square = jnp.sum(offsets * offsets, axis=1, keepdims=True)
        unit = offsets * lax.rsqrt(jnp.where(square > 0, square, 1.0))
        count = jnp.sum(square > 0)
        return jnp.sum(gram(unit) ** 2) / jnp.maximum(count, 1) ** 2, count > 1

    values, used = map_neighborhoods(inverse, points, indices)
    return pool(values, used, indices, pooling)


@of_points
@partial(jax.jit, static_argnames=("pooling", "smallest"))
def tight_locality(
    points: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    *,
    pooling: Pooling = "mean",
    smallest: float = 1e-4,
) -> DimensionEstimate:
    r"""Tight-locality estimator (TLE): Hill's estimator from all pairs within a neighbourhood.

    Estimand: the local dimension where the density is constant over k neighbours. With w = r_k, u
        the
    distances to the centre, v between neighbours, `A = u_i^2 + v^2 - u_j^2` and
    `s_ij = w [sqrt(A^2 + 4 v^2 (w^2 - u_i^2)) - A] / (2 (w^2 - u_i^2))`, and t_ij the same with v^2
    replaced by `2 u_i^2 + 2 u_j^2 - v^2` (the neighbour reflected through the centre),
    `d_i = -2 (k^2 - dropped) / (sum ln s/w + sum ln t/w + 2 sum ln u/w)`.

    Bias: as Levina-Bickel with a smaller variance at small k. Cost: O(n k^2 D).

    Args:
        points: (n, d) rows.
        indices: (n, k) neighbours, k about 20.
        pooling: "mean", "median", or "inverse", the harmonic mean.
        smallest: pairs with s, t or u below this multiple of w are dropped. (The published code
            uses an absolute length, so that its results depend on units.)

    Returns:
        `DimensionEstimate`. Points with `r_k = 0`, or with fewer than k neighbours, are not used.

    Reference: Amsaleg, Chelly, Houle, Kawarabayashi, Radovanovic, Treeratanajaru, Intrinsic
        dimensionality estimation within tight localities, SDM (2019), section 4.
    """

    def inverse(offsets: Array) -> tuple[Array, Array]:
        k = len(offsets)
        radius_square = jnp.max(jnp.sum(offsets * offsets, axis=1))
        valid = radius_square > 0
        scaled = offsets / jnp.sqrt(jnp.where(valid, radius_square, 1.0))
        products = gram(scaled)
        square = jnp.diagonal(products)
        between = jnp.maximum(square[:, None] + square[None, :] - 2 * products, 0.0)
        between = jnp.where(jnp.eye(k, dtype=bool), 0.0, between)
        reflected = jnp.maximum(square[:, None] + square[None, :] + 2 * products, 0.0)
        rest = jnp.maximum(1 - square, 0.0)[:, None]

        def extended(v: Array) -> Array:
            shift = square[:, None] + v - square[None, :]
            root = jnp.sqrt(shift**2 + 4 * v * rest + jnp.finfo(v.dtype).tiny)
            # The two forms of a quadratic's root, each where it does not cancel.
            far = 2 * v / jnp.where(shift > 0, root + shift, 1.0)
            near = (root - shift) / (2 * jnp.where(rest > 0, rest, 1.0))
            return jnp.where(shift > 0, far, near)

        s, t = extended(between), extended(reflected)
        kept = ~jnp.eye(k, dtype=bool) & (s >= smallest) & (t >= smallest)
        logs = jnp.where(kept, jnp.log(jnp.where(kept, s * t, 1.0)), 0.0)
        far_enough = square >= smallest**2
        own = jnp.where(far_enough, jnp.log(jnp.where(far_enough, square, 1.0)), 0.0)
        count = jnp.sum(kept) + jnp.sum(far_enough)
        total = -(jnp.sum(logs) + jnp.sum(own)) / (2 * jnp.maximum(count, 1))
        return total, valid & (total > 0)

    values, used = map_neighborhoods(inverse, points, indices)
    return pool(values, used & complete(indices), indices, pooling)
