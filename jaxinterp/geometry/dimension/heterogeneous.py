"""Regions of different dimension in one cloud: a spatially consistent mixture of Pareto laws."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import check_distances, usable
from jaxinterp.geometry.dimension.levina_bickel import levina_bickel
from jaxinterp.geometry.dimension.root import HIGHEST
from jaxinterp.geometry.dimension.two_nn import log_ratio


class DimensionMixture(NamedTuple):
    """Dimensions of the components, and which component each point belongs to."""

    dimensions: Float[Array, " c"]  # ascending
    weights: Float[Array, " c"]
    membership: Float[Array, "n c"]  # probabilities
    change: Float[Array, ""]  # of the dimensions in the last iteration, relative


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
        `DimensionMixture`. Points with `r_1 = 0` follow their neighbours. Dimensions end at 1e4,
        that of a component whose distances are all tied. No usable point: dimensions 0 and an
        infinite change.

    Raises:
        ValueError: unless 0.5 < consistency < 1, components >= 1 and neighbors >= 1, with too few
            neighbours, or on invalid distances.

    Reference: Allegra, Facco, Denti, Laio, Mira, Data segmentation based on the local intrinsic
        dimension, Scientific Reports 10 (2020), methods.
    """
    if not 0.5 < consistency < 1:
        raise ValueError(f"consistency must be between 0.5 and 1, got {consistency}")
    if components < 1 or neighbors < 1:
        raise ValueError(
            f"needs components >= 1 and neighbors >= 1, got {components} and {neighbors}"
        )
    distances = check_distances(distances, max(2, neighbors))
    return _heterogeneous(distances, indices, components, consistency, neighbors, iterations)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _heterogeneous(
    distances: Array,
    indices: Array,
    components: int,
    consistency: float,
    neighbors: int,
    iterations: int,
) -> DimensionMixture:
    used = usable(distances)
    some = jnp.any(used)
    ratio = log_ratio(distances[:, 0], distances[:, 1], used)
    near = indices[:, :neighbors]
    coupling = jnp.log(consistency / (1 - consistency))
    # Smoothed local dimensions are far less noisy than single ratios: start from their quantiles.
    local = levina_bickel(distances).per_point
    local = jnp.minimum(jnp.nanmean(local[near], axis=1), HIGHEST)
    share = (jnp.arange(components, dtype=distances.dtype) + 0.5) / components
    start = jnp.nanquantile(local, share)
    start = jnp.where(jnp.isnan(start), 1.0, start)  # no point among anybody's neighbours is usable

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
        new = jnp.minimum((mass + 1e-3) / (spent + 1e-3 / dimensions), HIGHEST)
        weights = (mass + 1.0) / jnp.sum(mass + 1.0)
        return new, weights, membership, jnp.max(jnp.abs(new / dimensions - 1))

    membership = jax.nn.softmax(-jnp.abs(jnp.log(local[:, None] / start[None, :])) * 4, axis=1)
    membership = jnp.where(jnp.isnan(membership), 1 / components, membership)
    weights = jnp.full_like(start, 1 / components)
    state = start, weights, membership, jnp.asarray(jnp.inf, start.dtype)
    dimensions, weights, membership, change = lax.fori_loop(0, iterations, step, state)
    dimensions, change = jnp.where(some, dimensions, 0.0), jnp.where(some, change, jnp.inf)
    order = jnp.argsort(dimensions)
    return DimensionMixture(dimensions[order], weights[order], membership[:, order], change)
