"""Expected simplex skewness: the dimension from the volumes that neighbours span."""

import itertools
import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import DimensionEstimate
from jaxinterp.geometry.dimension.levina_bickel import Pooling, pool
from jaxinterp.geometry.neighborhoods import centred, complete, gram, map_neighborhoods
from jaxinterp.geometry.points import of_points


@of_points
def expected_simplex_skewness(
    points: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    *,
    version: Literal["a", "b"] = "a",
    order: int = 1,
    subsets: int = 5000,
    pooling: Pooling = "mean",
) -> DimensionEstimate:
    r"""Expected simplex skewness (ESS).

    Estimand: the dimension of the ball that a neighbourhood fills. With v the neighbours relative
    to their mean and V the volume spanned by `order + 1` of them, version a takes
    `s = sum V(v_a, v_b, ...) / sum |v_a| |v_b| ...`, at order 1 `V = |v_a| |v_b| sin`, whose
    expectation at dimension n is `E_n = (G(n/2) / G((n+1)/2))^order G(n/2) / G((n-order)/2)`, G the
    gamma function; version b takes `|cos|` for V, with
    `E_n = 2 G((n+2)/2) / (sqrt(pi) n G((n+1)/2))`. d_i interpolates E_n between integers n.

    Bias: small even at d = 70, high on curved neighbourhoods, whose span it measures. A higher
    order separates large dimensions further (1 - E_n grows as `order (order + 1) / (4 n)`) and
    cannot read below `order`. Cost: O(n k^2 D), and `n subsets order^3` above order 1.

    Args:
        points: (n, d) rows.
        indices: (n, k) neighbours, k about 100.
        version: "a" (volumes) or "b" (projections).
        order: dimension of the simplices; 1 for version b.
        subsets: simplices above order 1, the same for all points: all of them, or that many drawn
            once and for all. At order 1 all pairs are taken.
        pooling: "mean", "median", or "inverse", the harmonic mean.

    Returns:
        `DimensionEstimate`, at most `2 D + 20`. Points with all neighbours equal, or with fewer
        than k, are not used.

    Raises:
        ValueError: on an unknown version, order < 1 or >= k, or version b above order 1.

    Reference: Johnsson, Soneson, Fontes, Low bias local intrinsic dimension estimation from
        expected simplex skewness, IEEE TPAMI 37 (2015), section 3.
    """
    if version not in ("a", "b"):
        raise ValueError(f"version must be 'a' or 'b', got {version!r}")
    if not 1 <= order < indices.shape[1]:
        raise ValueError(f"order must be at least 1 and below k={indices.shape[1]}, got {order}")
    if version == "b" and order > 1:
        raise ValueError(f"version b has order 1 only, got {order}: use version a")
    return _skewness(points, indices, version, order, subsets, pooling)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _skewness(
    points: Array, indices: Array, version: str, order: int, subsets: int, pooling: Pooling
) -> DimensionEstimate:
    expected = _expectations(2 * points.shape[1] + 20, version, order)
    table = jnp.asarray(expected[order - 1 :], points.dtype)
    chosen = None if order == 1 else _choose(indices.shape[1], order + 1, subsets)

    def of_one(offsets: Array) -> tuple[Array, Array]:
        # Of length one at most, so that products of lengths neither vanish nor overflow.
        square = jnp.max(jnp.sum(offsets * offsets, axis=1))
        products = gram(centred(offsets * lax.rsqrt(jnp.where(square > 0, square, 1.0))))
        if chosen is not None:
            parts, weights = _volumes(products, chosen)
        else:
            parts, weights = _pairs(products, version)
        total = jnp.sum(weights)
        return jnp.sum(parts) / jnp.where(total > 0, total, 1.0), total > 0

    working = 0 if chosen is None else chosen.size * chosen.shape[1]
    values, used = map_neighborhoods(of_one, points, indices, working=working)
    dimensions = jnp.arange(order, order + len(table), dtype=table.dtype)
    if version == "b":
        values, table = -values, -table
    per_point = jnp.interp(values, table, dimensions)
    return pool(1 / per_point, used & complete(indices), indices, pooling)


def _pairs(products: Array, version: str) -> tuple[Array, Array]:
    """Areas or projections, and products of lengths, of all pairs of vectors."""
    lengths = jnp.diagonal(products)
    off = ~jnp.eye(len(products), dtype=bool)
    weights = jnp.where(off, jnp.sqrt(lengths[:, None] * lengths[None, :]), 0.0)
    if version == "b":
        return jnp.where(off, jnp.abs(products), 0.0), weights
    squares = weights**2 - products**2
    positive = off & (squares > 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0), weights


def _volumes(products: Array, chosen: np.ndarray) -> tuple[Array, Array]:
    """Volumes and products of lengths of the chosen subsets, by elimination without pivoting."""
    size = chosen.shape[1]
    lengths = jnp.sqrt(jnp.diagonal(products))
    unit = lengths > 0
    cosines = products / jnp.where(
        unit[:, None] & unit[None, :], lengths[:, None] * lengths[None, :], 1.0
    )
    weights = jnp.prod(lengths[chosen], axis=1)
    rows = [[cosines[chosen[:, i], chosen[:, j]] for j in range(size)] for i in range(size)]
    squares = jnp.ones(len(chosen), products.dtype)
    for i in range(1, size):
        pivot = rows[i - 1][i - 1]
        inverse = jnp.where(pivot > 0, 1 / jnp.where(pivot > 0, pivot, 1.0), 0.0)
        for j in range(i, size):
            share = rows[j][i - 1] * inverse
            for k in range(i, size):
                rows[j][k] = rows[j][k] - share * rows[i - 1][k]
        squares = squares * jnp.maximum(rows[i][i], 0.0)
    positive = squares > 0
    return weights * jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0), weights


def _choose(k: int, size: int, subsets: int) -> np.ndarray:
    """All subsets of `size` out of k, or about `subsets` of them, always the same."""
    if math.comb(k, size) <= subsets:
        return np.asarray(list(itertools.combinations(range(k), size)))
    draw = np.random.default_rng(0)
    return np.argsort(draw.random((subsets, k)), axis=1)[:, :size]


def _expectations(largest: int, version: str, order: int) -> np.ndarray:
    """E_n for n = 1..largest in float64: neighbouring values differ by little."""
    log = math.lgamma
    if version == "b":
        ratio = [math.exp(log(n / 2 + 1) - log((n + 1) / 2)) / n for n in range(1, largest + 1)]
        return 2 / math.sqrt(math.pi) * np.asarray(ratio)
    rest = [
        math.exp((order + 1) * log(n / 2) - order * log((n + 1) / 2) - log((n - order) / 2))
        for n in range(order + 1, largest + 1)
    ]
    return np.asarray([0.0] * order + rest)
