"""Computing with latents that lie on several devices, as the ambient mesh says.

The primitives of this package (`sparsify`, `sparse_products`, `batch_selection`, `decode`,
`revival`) look at the mesh that `jax.set_mesh` made ambient, or `sharding.sharded` for the length
of a step. Where its axis `model` splits the latents, or its axis `data` the rows, they place the
collectives by hand; everything that is made of them then needs to know nothing: no variant has an
argument for it, and a variant that is written tomorrow shards like those of today. Without a mesh,
or inside a `shard_map` of one's own, they are the functions of one device. What is not a primitive
here, such as a product of matrices, is left to the compiler, which places it well.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int


class Split(NamedTuple):
    """How arrays of rows and latents lie on a mesh; at least one of the two is split.

    Attributes:
        rows: the axis of the mesh that splits rows; None: every device has all of them.
        latents: the axis that splits latents; None likewise.
    """

    rows: str | None
    latents: str | None

    def by_row(self) -> P:
        """Where an array (rows, ...) lies."""
        return P(self.rows)

    def by_latent(self) -> P:
        """Where an array (latents, ...) lies."""
        return P(self.latents)

    def by_both(self) -> P:
        """Where an array (rows, latents) lies."""
        return P(self.rows, self.latents)

    def run(self, f: Callable, arguments: tuple, specs: tuple, result: Any) -> Any:
        """`f` on each device with its own part of the arguments."""
        return jax.shard_map(f, in_specs=specs, out_specs=result, check_vma=False)(*arguments)

    def add_latents(self, part: Any) -> Any:
        """Sum over the devices among which the latents are split."""
        return part if self.latents is None else lax.psum(part, self.latents)

    def add_rows(self, part: Any) -> Any:
        """Sum over the devices among which the rows are split."""
        return part if self.rows is None else lax.psum(part, self.rows)

    def first(self, own: int) -> Array:
        """The number of this device's first latent, when each device has `own` of them."""
        if self.latents is None:
            return jnp.zeros((), jnp.int32)
        return (lax.axis_index(self.latents) * own).astype(jnp.int32)

    def localise(
        self, indices: Int[Array, "n k"], own: int
    ) -> tuple[Int[Array, "n k"], Bool[Array, "n k"]]:
        """Global numbers of latents as rows of this device's part, and which of them it has.

        The numbers of latents that lie elsewhere become some row in bounds.
        """
        local = indices - self.first(own).astype(indices.dtype)
        return jnp.clip(local, 0, own - 1), (local >= 0) & (local < own)


def spread_rows(f: Callable[[Any, Any], tuple[Any, Any]], rows: Any, whole: Any) -> tuple[Any, Any]:
    """`f(rows, whole) -> (of each row, sums over rows)`, the rows shared out among all devices.

    For what treats rows alone and needs all latents again and again: each device gathers `whole`
    once and works on rows of its own, with nothing to send in between. Both axes of the mesh split
    the rows, as far as their number allows.

    Args:
        f: pure; it sees a device's rows.
        rows: arrays (rows, ...).
        whole: arrays that every device needs all of.
    """
    count, axes, parts = len(jax.tree.leaves(rows)[0]), [], 1
    for name in ("data", "model"):
        if size := _auto_axis(name):
            if count % (parts * size) == 0:
                axes, parts = [*axes, name], parts * size
    if not axes:
        return f(rows, whole)

    def on_device(rows: Any, whole: Any) -> tuple[Any, Any]:
        each, total = f(rows, whole)
        return each, lax.psum(total, axes)

    apart = P(tuple(axes))
    specs, results = (apart, P()), (apart, P())
    spread = jax.shard_map(on_device, in_specs=specs, out_specs=results, check_vma=False)
    return spread(rows, whole)


def ambient_split(rows: int, latents: int) -> Split | None:
    """How the ambient mesh splits arrays of so many rows and latents.

    Args:
        rows: of the batch; not split where the axis `data` does not divide them.
        latents: likewise, for the axis `model`.

    Returns:
        The split; None where all is on one device, which includes the inside of a `shard_map`.
    """

    def axis(name: str, size: int) -> str | None:
        parts = _auto_axis(name)
        return name if parts and size % parts == 0 else None

    split = Split(axis("data", rows), axis("model", latents))
    return None if split == Split(None, None) else split


def _auto_axis(name: str) -> int | None:
    """Devices along an axis of the ambient mesh that the compiler sees whole; None for one."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True)).get(name, 1)
    if parts == 1 or mesh.axis_types[mesh.axis_names.index(name)] != AxisType.Auto:
        return None
    return parts
