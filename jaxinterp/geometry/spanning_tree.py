"""Minimum spanning trees of dense distance matrices, batched and masked."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from jaxinterp.geometry.points import of_distances


class SpanningTree(NamedTuple):
    """The edges of a tree in the order in which they were added."""

    lengths: Float[Array, " n-1"]  # 0 where `present` is False
    parents: Int[Array, " n-1"]
    children: Int[Array, " n-1"]
    present: Bool[Array, " n-1"]


@of_distances
@jax.jit
def minimum_spanning_tree(
    distances: Float[Array, "n n"], valid: Bool[Array, " n"] | None = None
) -> SpanningTree:
    """Minimum spanning tree of the valid points, by Prim's algorithm.

    Its lengths are the death times of zero-dimensional persistent homology. Ties go to the lower
    index. Differentiable in the distances. Cost: n - 1 steps of O(n); vmaps over clouds and masks.

    Args:
        distances: (n, n) symmetric.
        valid: (n,) mask of the points to span; all by default.

    Returns:
        `SpanningTree` with `sum(valid) - 1` present edges; that of one point is empty.

    Raises:
        ValueError: if the matrix is not square.

    Reference: Prim, Bell System Technical Journal 36 (1957); dense form of O(n^2).
    """
    number = distances.shape[0]
    if distances.shape != (number, number):
        raise ValueError(f"distances must be square, got shape {distances.shape}")
    valid = jnp.ones(number, bool) if valid is None else valid
    parents, children = span(lax.stop_gradient(distances), valid, jnp.sum(valid))
    present = jnp.arange(number - 1) < jnp.sum(valid) - 1
    lengths = jnp.where(present, distances[parents, children], 0.0)
    return SpanningTree(lengths, parents, children, present)


def span(
    distances: Float[Array, "n n"], valid: Bool[Array, " n"], count: Int[Array, ""]
) -> tuple[Int[Array, " n-1"], Int[Array, " n-1"]]:
    """Parents and children of the tree's edges; only the first `count - 1` mean anything."""
    number = distances.shape[0]
    edges = jnp.zeros(number - 1, jnp.int32)
    if number == 1:
        return edges, edges
    position = jnp.arange(number, dtype=jnp.int32)

    def first_smallest(values: Array) -> Array:
        # A minimum and a comparison vectorise on every backend; an argmin of pairs does not.
        return jnp.min(jnp.where(values == jnp.min(values), position, number - 1))

    def add(step: Array, state: tuple) -> tuple:
        closest, nearest, parents, children = state
        child = first_smallest(closest)
        parents = parents.at[step].set(nearest[child])
        children = children.at[step].set(child)
        row = distances[child]
        # Points in the tree, and absent ones, stay at infinity: `nearest` of them is irrelevant.
        closer = (row < closest) & jnp.isfinite(closest)
        closest = jnp.where(closer, row, closest).at[child].set(jnp.inf)
        return closest, jnp.where(closer, child, nearest), parents, children

    root = jnp.argmax(valid).astype(jnp.int32)
    largest = jnp.finfo(distances.dtype).max
    closest = jnp.where(valid, jnp.minimum(distances[root], largest), jnp.inf).at[root].set(jnp.inf)
    nearest = jnp.full(number, root)
    return lax.fori_loop(0, count - 1, add, (closest, nearest, edges, edges))[2:]


def tree_length(
    distances: Float[Array, "n n"],
    valid: Bool[Array, " n"],
    power: Real[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    """Sum of the tree's edge lengths, each raised to `power`."""
    tree = minimum_spanning_tree(distances, valid)
    lengths = jnp.where(tree.lengths > 0, tree.lengths, 1.0) ** power
    return jnp.sum(jnp.where(tree.lengths > 0, lengths, 0.0))
