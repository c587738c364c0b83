r"""Products that touch only a few rows of a matrix.

One form, linear in each of its three arguments, for rows chosen by indices $i_{bj}$:

$T(v, x, A) = \sum_{b, j} v_{bj} \; x_b \cdot A_{i_{bj}}$.

Its derivatives by $v$, $x$ and $A$ are the three functions here, so the derivatives of each are the
other two, to any order. On a CPU they work through the batch in blocks whose gathered rows stay in
the cache, instead of writing out all of (batch, k, d): that is ten times faster. Elsewhere they
are single operations, which the compiler fuses.

Where atoms are split over devices (`shards`), each device adds up what it has of the chosen ones,
and one sum over devices, of the size of the result, completes it; what atoms receive stays where
they are. Every device still goes through all k places of its rows.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from jaxinterp.dictionaries.shards import ambient_split
from jaxinterp.row_blocks import fold_row_blocks, map_row_blocks

_CACHED = 2**18  # numbers that stay in the fast cache of a core


def _chosen(atoms: Array, indices: Array) -> Array:
    return atoms.at[indices].get(mode="promise_in_bounds")


def _block(indices: Array, d: int) -> int:
    return max(1, _CACHED // (indices.shape[1] * d))


def _row_by_row(
    product: Callable[[Array, Array], Array], rows: Array, atoms: Array, indices: Array
) -> Array:
    """`product(rows, chosen atoms)` of a product that treats rows alone; in blocks on a CPU."""

    def whole(rows: Array, atoms: Array, indices: Array) -> Array:
        return product(rows, _chosen(atoms, indices))

    @sequential_vmap  # so that blocks of one member of a sweep fill the cache
    def blocked(rows: Array, atoms: Array, indices: Array) -> Array:
        block = _block(indices, atoms.shape[1])
        return map_row_blocks(lambda r, i: whole(r, atoms, i), (rows, indices), block)

    return jax.lax.platform_dependent(rows, atoms, indices, cpu=blocked, default=whole)


@jax.custom_vjp
def gather_dot(
    x: Float[Array, "n d"], atoms: Float[Array, "width d"], indices: Int[Array, "n k"]
) -> Float[Array, "n k"]:
    """`x[n] . atoms[indices[n, k]]`: each row of `x` with its own few atoms."""
    product = partial(_row_by_row, partial(jnp.einsum, "nd,nkd->nk"))
    split = ambient_split(len(indices), len(atoms))
    if split is None:
        return product(x, atoms, indices)

    def on_device(x: Array, atoms: Array, indices: Array) -> Array:
        local, own = split.localise(indices, len(atoms))
        return split.add_latents(jnp.where(own, product(x, atoms, local), 0))

    rows = split.by_row()
    return split.run(on_device, (x, atoms, indices), (rows, split.by_latent(), rows), rows)


@jax.custom_vjp
def gather_sum(
    values: Float[Array, "n k"], atoms: Float[Array, "width d"], indices: Int[Array, "n k"]
) -> Float[Array, "n d"]:
    """`sum_k values[n, k] * atoms[indices[n, k]]`: few atoms, weighted and summed."""
    product = partial(_row_by_row, partial(jnp.einsum, "nk,nkd->nd"))
    split = ambient_split(len(indices), len(atoms))
    if split is None:
        return product(values, atoms, indices)

    def on_device(values: Array, atoms: Array, indices: Array) -> Array:
        local, own = split.localise(indices, len(atoms))
        return split.add_latents(product(jnp.where(own, values, 0), atoms, local))

    rows = split.by_row()
    return split.run(on_device, (values, atoms, indices), (rows, split.by_latent(), rows), rows)


@jax.custom_vjp
def scatter_outer(
    values: Float[Array, "n k"],
    x: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    like: Float[Array, "width d"],
) -> Float[Array, "width d"]:
    """`sum of values[n, k] * x[n]` over the (n, k) that chose a row: what each atom receives.

    Sums in float32 or wider; `like` gives the shape and the type of the result only.
    """
    split = ambient_split(len(indices), len(like))
    if split is None:
        return _scatter(values, x, indices, like)

    def on_device(values: Array, x: Array, indices: Array, like: Array) -> Array:
        local, own = split.localise(indices, len(like))
        return split.add_rows(_scatter(jnp.where(own, values, 0), x, local, like))

    rows, latents = split.by_row(), split.by_latent()
    return split.run(on_device, (values, x, indices, like), (rows, rows, rows, latents), latents)


def _scatter(values: Array, x: Array, indices: Array, like: Array) -> Array:
    # Zeros of its own: XLA would fold those of two sums into one array and copy it for each.
    first = values.ravel()[:1].sum().astype(jnp.promote_types(like.dtype, jnp.float32))
    total = jnp.broadcast_to(jnp.minimum(jnp.abs(first), 0), like.shape)

    def whole(total: Array, values: Array, x: Array, indices: Array) -> Array:
        parts = (values[:, :, None] * x[:, None]).astype(total.dtype)
        return total.at[indices].add(parts, mode="promise_in_bounds")

    @sequential_vmap
    def blocked(total: Array, *rows: Array) -> Array:
        # A quarter of the cache: the rows that are added to want the rest.
        block = max(1, _block(indices, x.shape[1]) // 4)
        return fold_row_blocks(lambda *a: (whole(*a), ()), total, rows, block)[0]

    total = jax.lax.platform_dependent(total, values, x, indices, cpu=blocked, default=whole)
    return total.astype(like.dtype)


def _no_tangent(indices: Array) -> np.ndarray:
    return np.zeros(indices.shape, jax.dtypes.float0)


# Each cotangent in the type of what it belongs to: activations may be bfloat16 and atoms float32.
gather_dot.defvjp(
    lambda x, atoms, indices: (gather_dot(x, atoms, indices), (x, atoms, indices)),
    lambda kept, g: (
        gather_sum(g, kept[1], kept[2]).astype(kept[0].dtype),
        scatter_outer(g, kept[0], kept[2], kept[1]),
        _no_tangent(kept[2]),
    ),
)
gather_sum.defvjp(
    lambda values, atoms, indices: (gather_sum(values, atoms, indices), (values, atoms, indices)),
    lambda kept, g: (
        gather_dot(g, kept[1], kept[2]).astype(kept[0].dtype),
        scatter_outer(kept[0], g, kept[2], kept[1]),
        _no_tangent(kept[2]),
    ),
)
scatter_outer.defvjp(
    lambda values, x, indices, like: (
        scatter_outer(values, x, indices, like),
        (values, x, indices),
    ),
    lambda kept, g: (
        gather_dot(kept[1], g, kept[2]).astype(kept[0].dtype),
        gather_sum(kept[0], g, kept[2]).astype(kept[1].dtype),
        _no_tangent(kept[2]),
        jnp.zeros_like(g),
    ),
)
