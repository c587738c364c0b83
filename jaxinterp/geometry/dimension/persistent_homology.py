"""Persistent-homology dimension: how the length of the minimum spanning tree grows with n."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.geometry.dimension.root import slope_of_log
from jaxinterp.geometry.points import of_distances
from jaxinterp.geometry.spanning_tree import tree_length


class PersistentHomologyDimension(NamedTuple):
    """The dimension, its error given the cloud, and the growth curve it was fitted to."""

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    sizes: Int[Array, " s"]
    lengths: Float[Array, " s"]  # median tree length at each size, mean over repeats
    n_used: Int[Array, ""]


@of_distances
@partial(jax.jit, static_argnames=("smallest", "steps", "draws", "repeats", "power"))
def persistent_homology_dimension(
    distances: Float[Array, "n n"],
    key: Array,
    *,
    valid: Bool[Array, " n"] | None = None,
    smallest: int = 40,
    steps: int = 8,
    draws: int = 7,
    repeats: int = 3,
    power: float = 1.0,
) -> PersistentHomologyDimension:
    r"""Persistent-homology dimension of degree 0 (PHD).

    Estimand: `d = power / (1 - m)`, m the growth exponent of `E(s) = sum length^power` over the
        edges of the minimum
    spanning tree of s random points: for d-dimensional data `E ~ s^((d - power) / d)`. E(s) is the
    median over draws without replacement, m the least-squares slope of `ln E` on `ln s`, averaged
    over repeats. (Public code returns `1 / (1 - m)` for every power, which is right at 1 only.)

    Bias: low above d = 5 (boundaries; 8.2 for 10 at n = 1000); clouds below about 80 points are
    unreliable. Cost: `repeats * draws * steps` trees of O(s n) each. For many texts of unequal
    length pad them, give the masks as `valid` and use `lax.map`: distances of one text then stay in
    cache.

    Args:
        distances: (n, n) symmetric distances, from `distance_matrix`.
        key: for the draws.
        valid: (n,) mask of the points that exist.
        smallest: first subsample size; the last is the number of valid points.
        steps: number of sizes, at least 3, evenly spaced.
        draws: subsamples of each size.
        repeats: independent slopes that are averaged.
        power: exponent of the edge lengths, below d.

    Returns:
        `PersistentHomologyDimension`; the error is the spread over repeats of the draws, and not
        that over fresh clouds. Fewer than `2 * smallest` points: value 0 with infinite error.

    Raises:
        ValueError: if steps < 3, draws < 1, repeats < 2 or power <= 0.

    Reference: Tulchinskii et al., Intrinsic dimension estimation for robust detection of
        AI-generated texts, NeurIPS (2023), section 4; Schweinhart, Advances in Mathematics 372
        (2020).
    """
    if steps < 3 or draws < 1 or repeats < 2 or power <= 0:
        raise ValueError(
            "needs steps >= 3, draws >= 1, repeats >= 2 and power > 0, got "
            f"{steps}, {draws}, {repeats}, {power}"
        )
    number = distances.shape[0]
    valid = jnp.ones(number, bool) if valid is None else valid
    count = jnp.sum(valid)
    enough = count >= 2 * smallest
    share = jnp.arange(steps, dtype=distances.dtype) / (steps - 1)
    sizes = jnp.round(smallest + share * (count - smallest)).astype(jnp.int32)
    sizes = jnp.clip(sizes, min(2, number), number)

    def length_at(arguments: tuple[Array, Array]) -> Array:
        size, one_key = arguments

        def of_draw(draw_key: Array) -> Array:
            order = jnp.where(valid, jax.random.uniform(draw_key, (number,)), jnp.inf)
            chosen = jnp.argsort(jnp.argsort(order)) < size
            return tree_length(distances, chosen & valid, power)

        return jax.vmap(jax.vmap(of_draw))(jax.random.split(one_key, (repeats, draws)))

    lengths = jnp.median(lax.map(length_at, (sizes, jax.random.split(key, steps))), axis=2)
    positive = jnp.all(lengths > 0) & enough
    safe = jnp.where(positive, lengths, 1.0 + jnp.arange(steps)[:, None])
    spread = jnp.where(enough, sizes, 1 + jnp.arange(steps)).astype(safe.dtype)
    slopes = jax.vmap(slope_of_log, (1, None))(safe, spread)
    slope = jnp.mean(slopes)
    # A slope of one or more: trees grow as fast as the number of points, dimension without limit.
    finite = slope < 1
    value = jnp.where(finite, power / jnp.where(finite, 1 - slope, 1.0), jnp.inf)
    stderr = jnp.std(slopes, ddof=1) / jnp.sqrt(repeats) * value**2 / power
    return PersistentHomologyDimension(
        jnp.where(positive, value, 0.0),
        jnp.where(positive & finite, stderr, jnp.inf),
        sizes,
        jnp.mean(lengths, axis=1),
        count,
    )
