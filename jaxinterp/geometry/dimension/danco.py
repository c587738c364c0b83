"""DANCo: distances and angles of neighbours compared with those in simulated balls."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.mind import mind
from jaxinterp.geometry.dimension.root import HIGHEST
from jaxinterp.geometry.neighborhoods import gram, map_neighborhoods
from jaxinterp.geometry.neighbors import k_nearest
from jaxinterp.geometry.points import of_points


class NeighborStatistics(NamedTuple):
    """What DANCo knows of a cloud: MiND's dimension and the von Mises law of neighbours' angles."""

    dimension: Float[Array, "*m"]
    mean_angle: Float[Array, "*m"]
    concentration: Float[Array, "*m"]


class Danco(NamedTuple):
    """The dimension of the most similar ball, and how similar each ball is."""

    value: Int[Array, ""]
    divergences: Float[Array, " m"]  # of balls of dimension 1..m
    statistics: NeighborStatistics


@of_points
@partial(jax.jit, static_argnames=("k",))
def neighbor_statistics(points: Float[Array, "n d"], *, k: int = 10) -> NeighborStatistics:
    """MiND dimension, mean angle and angular concentration of the k nearest neighbours."""
    neighbors = k_nearest(points, k + 1)

    def angles(offsets: Array) -> tuple[Array, Array]:
        length = jnp.sqrt(jnp.sum(offsets * offsets, axis=1, keepdims=True))
        cosine = jnp.clip(gram(offsets / jnp.where(length > 0, length, 1.0)), -1.0, 1.0)
        pair = jnp.triu(jnp.ones((k, k), bool), 1)
        count = k * (k - 1) / 2
        mean_cosine = jnp.sum(jnp.where(pair, cosine, 0.0)) / count
        mean_sine = jnp.sum(jnp.where(pair, jnp.sqrt(1 - cosine**2), 0.0)) / count
        return jnp.arctan2(mean_sine, mean_cosine), jnp.hypot(mean_sine, mean_cosine)

    mean_angle, resultant = map_neighborhoods(angles, points, neighbors.indices[:, :k])
    concentration = _concentration(jnp.minimum(resultant, 1 - 1e-6))
    # Finite, so that equal distances are nearest to those in the largest ball.
    value = jnp.minimum(mind(neighbors.distances, k=k).value, HIGHEST)
    return NeighborStatistics(value, jnp.mean(mean_angle), jnp.mean(concentration))


@partial(jax.jit, static_argnames=("number", "largest", "k"))
def ball_statistics(key: Array, *, number: int, largest: int, k: int = 10) -> NeighborStatistics:
    """`neighbor_statistics` of one uniform ball of `number` points in each dimension 1..largest.

    The calibration of `danco`; compute it once for clouds of the same size. Cost: `largest` kNN.
    """

    def of_dimension(dimension: Array) -> NeighborStatistics:
        one, two = jax.random.split(jax.random.fold_in(key, dimension))
        inside = jnp.arange(largest)[None, :] < dimension
        direction = jnp.where(inside, jax.random.normal(one, (number, largest)), 0.0)
        direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
        radius = jax.random.uniform(two, (number, 1)) ** (1 / dimension)
        return neighbor_statistics(direction * radius, k=k)

    return lax.map(of_dimension, jnp.arange(1, largest + 1))


@of_points
@partial(jax.jit, static_argnames=("k",))
def danco(points: Float[Array, "n d"], balls: NeighborStatistics, *, k: int = 10) -> Danco:
    r"""Intrinsic dimension by angle and norm concentration (DANCo).

    Estimand: the dimension m of the ball whose neighbour statistics at the same n and k are
    nearest: `argmin_m KL(rho law of the data, of the ball) + KL(angle law of the data, of the
    ball)`, the first between MiND densities, the second between von Mises laws.

    Bias: small up to high d on flat sets, since the ball suffers from the same finite n; reads the
    ambient dimension on cubes' surfaces and too high on curved sets. An integer without an error.
    Both Kullback-Leibler terms are taken with n = n_data: a peer that calibrates in the wrong
    dimension (passing k for it) saturates at k. Cost: one kNN and O(n k^2 d), and the calibration.

    Args:
        points: (n, d) rows.
        balls: from `ball_statistics` with `number` = n, `largest` >= the dimension sought.
        k: as given to `ball_statistics`.

    Returns:
        `Danco`. No point without a duplicate: value 0, every divergence infinite.

    Reference: Ceruti, Bassis, Rozza, Lombardi, Casiraghi, Campadelli, DANCo, Pattern Recognition 47
        (2014), section 3.
    """
    data = neighbor_statistics(points, k=k)
    known = data.dimension > 0
    ratio = balls.dimension / jnp.where(known, data.dimension, 1.0)
    # With w = rho^d the data's law is that of a smallest of k uniforms: quadrature in its quantiles
    # does not cancel, as the closed sum of binomials does in float32.
    level = (jnp.arange(512, dtype=ratio.dtype) + 0.5) / 512
    log_w = jnp.log(-jnp.expm1(jnp.log1p(-level) / k))
    log_rest = jnp.log1p(-level) / k
    other_rest = jnp.log(-jnp.expm1(ratio[:, None] * log_w[None, :]))
    expected = (1 - ratio[:, None]) * log_w[None, :] + (k - 1) * (log_rest[None, :] - other_rest)
    of_distances = -jnp.log(ratio) + jnp.mean(expected, axis=1)
    one, two = data.concentration, balls.concentration
    turned = two * jnp.cos(data.mean_angle - balls.mean_angle)
    of_angles = jnp.log(i0e(two) / i0e(one)) + two - one + i1e(one) / i0e(one) * (one - turned)
    divergences = jnp.where(known, of_distances + of_angles, jnp.inf)
    return Danco(jnp.where(known, 1 + jnp.argmin(divergences), 0), divergences, data)


def _concentration(resultant: Array) -> Array:
    """Concentration of a von Mises law from its mean resultant length (Fisher, 1993, 4.5)."""
    small = 2 * resultant + resultant**3 + 5 * resultant**5 / 6
    middle = -0.4 + 1.39 * resultant + 0.43 / (1 - resultant)
    large = 1 / (resultant**3 - 4 * resultant**2 + 3 * resultant)
    return jnp.where(resultant < 0.53, small, jnp.where(resultant < 0.85, middle, large))
