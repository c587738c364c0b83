"""Regions of different dimension in one cloud: a spatially consistent mixture of Pareto laws."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import usable
from jaxinterp.geometry.dimension.levina_bickel import levina_bickel
from jaxinterp.geometry.dimension.two_nn import log_ratio


class DimensionMixture(NamedTuple):
    """Dimensions of the components, and which component each point belongs to."""

    dimensions: Float[Array, " c"]  # ascending
    weights: Float[Array, " c"]
    membership: Float[Array, "n c"]  # probabilities
    change: Float[Array, ""]  # of the dimensions in the last iteration, relative


@partial(jax.jit, static_argnames=("components", "consistency", "neighbors", "iterations"))
def heterogeneous_dimension(
    distances: Float[Array, "n k"],
    indices: Int[Array, "n k"],
    *,
    components: int = 2,
    consistency: float = 0.8,
    neighbors: int = 3,
    iterations: int = 100,
) -> DimensionMixture:
    r"""Segment a cloud by local dimension, in the manner of Hidalgo.

    Estimand: dimensions d_c of components such that `mu = r_2 / r_1` of a point of component c has
        the Pareto density
    `d_c mu^-(d_c + 1)`, and a point's first q neighbours belong to its own component with
    probability `consistency`. Fitted by mean-field expectation-maximisation, deterministic, in
    place of the paper's Gibbs sampler: memberships are probabilities, dimensions point estimates.

    Bias: as TwoNN within each component; components whose dimensions differ by less than a factor
        of
    about 2 merge. Cost: O(n components (k + q)) an iteration.

    Args:
        distances: (n, k) from `k_nearest`, k at least `neighbors` and 2; k of 16 starts it well.
        indices: (n, k) from `k_nearest`.
        components: number of dimensions sought.
        consistency: probability in (0.5, 1) that a neighbour shares the component.
        neighbors: neighbours that are asked, q.
        iterations: of expectation-maximisation.

    Returns:
        `DimensionMixture`. Points with `r_1 = 0` follow their neighbours.

    Raises:
        ValueError: unless 0.5 < consistency < 1 and there are enough neighbours.

    Reference: Allegra, Facco, Denti, Laio, Mira, Data segmentation based on the local intrinsic
        dimension, Scientific Reports 10 (2020), methods.
    """
    if not 0.5 < consistency < 1:
        raise ValueError(f"consistency must be between 0.5 and 1, got {consistency}")
    if distances.shape[1] < max(2, neighbors):
        raise ValueError(f"needs {max(2, neighbors)} neighbours, got {distances.shape[1]}")
    used = usable(distances)
    ratio = log_ratio(distances[:, 0], distances[:, 1], used)
    near = indices[:, :neighbors]
    coupling = jnp.log(consistency / (1 - consistency))
    # Smoothed local dimensions are far less noisy than single ratios: start from their quantiles.
    local = levina_bickel(distances).per_point
    local = jnp.nanmean(local[near], axis=1)
    share = (jnp.arange(components) + 0.5) / components
    start = jnp.nanquantile(local, share)

    def expect(dimensions: Array, weights: Array, membership: Array) -> Array:
        likelihood = jnp.log(dimensions)[None, :] - dimensions[None, :] * ratio[:, None]
        likelihood = jnp.where(used[:, None], likelihood, 0.0)
        support = jnp.sum(membership[near], axis=1)
        # Neighbourhood is not symmetric: a point also answers for those that list it.
        asked = jnp.zeros_like(membership).at[near].add(membership[:, None, :])
        logits = likelihood + jnp.log(weights)[None, :] + coupling * (support + asked)
        return jax.nn.softmax(logits, axis=1)

    def step(_: Array, state: tuple) -> tuple:
        dimensions, weights, membership, _ = state
        membership = expect(dimensions, weights, membership)
        mass = jnp.sum(jnp.where(used[:, None], membership, 0.0), axis=0)
        spent = jnp.sum(membership * ratio[:, None], axis=0)
        new = (mass + 1e-3) / (spent + 1e-3 / dimensions)
        weights = (mass + 1.0) / jnp.sum(mass + 1.0)
        return new, weights, membership, jnp.max(jnp.abs(new / dimensions - 1))

    membership = jax.nn.softmax(-jnp.abs(jnp.log(local[:, None] / start[None, :])) * 4, axis=1)
    membership = jnp.where(jnp.isnan(membership), 1 / components, membership)
    state = start, jnp.full(components, 1 / components), membership, jnp.asarray(jnp.inf)
    dimensions, weights, membership, change = lax.fori_loop(0, iterations, step, state)
    order = jnp.argsort(dimensions)
    return DimensionMixture(dimensions[order], weights[order], membership[:, order], change)
