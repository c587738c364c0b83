"""Exact k-nearest neighbours of points spread over devices: blocks of keys travel around a ring."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from jaxinterp.geometry.neighbor_search import (
    SPARE_CANDIDATES,
    Metric,
    group_size,
    nearest,
    no_neighbors,
    prepare_keys,
    queries_per_step,
)
from jaxinterp.geometry.neighbors import (
    NamedMetric,
    Neighbors,
    as_metric,
    finish,
    unit_and_centre,
)
from jaxinterp.geometry.points import check_points


def k_nearest_sharded(
    points: Float[Array, "n d"],
    k: int,
    *,
    mesh: Mesh,
    axis: str,
    metric: NamedMetric | Metric = "euclidean",
    valid: Bool[Array, " n"] | None = None,
    rows: int | None = None,
) -> Neighbors:
    """`k_nearest` of points whose rows are sharded over a mesh axis.

    Every device keeps its rows as queries and their running k best; blocks of keys are passed from
    device to device, so that each pair meets once. Indices equal those of one device, ties
    included. Cost per device: 2 n^2 d / p flops, n d words sent; memory O(n k / p) and two blocks
    of keys. Not differentiable: take `pair_distances` at the returned indices.

    Args:
        points: (n, d), n a multiple of the number of devices (pad, and mask with `valid`).
        k: number of neighbours, 1 <= k < n.
        mesh: mesh with Auto axes.
        axis: the axis over which rows are sharded.
        metric: as in `k_nearest`.
        valid: (n,) mask of the rows that exist.
        rows: queries per step; None for 128 on a CPU, 512 where d >= 256, and on an accelerator as
            many, up to 4,096, as there is room for.

    Returns:
        `Neighbors`, sharded over rows like the points; indices are global.

    Raises:
        ValueError: as `k_nearest`, and if n is not a multiple of the number of devices.
    """
    points = check_points(points, k)
    devices = mesh.shape[axis]
    if points.shape[0] % devices:
        raise ValueError(
            f"{points.shape[0]} rows do not divide over {devices} devices; pad them to "
            f"{-(-points.shape[0] // devices) * devices} and mask the padding with `valid`"
        )
    if valid is None:
        valid = jnp.ones(points.shape[0], bool)
    return Neighbors(*_ring(points, valid, k, mesh, axis, metric, rows))


@partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _ring(
    points: Array,
    valid: Array,
    k: int,
    mesh: Mesh,
    axis: str,
    metric: NamedMetric | Metric,
    rows: int | None,
) -> tuple[Array, Array, Array]:
    devices = mesh.shape[axis]
    step_to_next = [(device, (device + 1) % devices) for device in range(devices)]

    def of_device(points: Array, valid: Array) -> tuple[Array, Array, Array]:
        points, function = as_metric(points, metric)
        number = points.shape[0]
        weight = valid.astype(points.dtype)[:, None]
        total = lax.psum(jnp.sum(points * weight, axis=0), axis)
        mean = total / jnp.maximum(lax.psum(jnp.sum(weight), axis), 1)
        spread = lax.pmax(jnp.max(jnp.abs(points - mean[None, :]) * weight), axis)
        scale, centre = unit_and_centre(mean, spread, function)

        group = 1 if function is not None else group_size(number, k + SPARE_CANDIDATES)
        extra = -number % group
        queries = points / scale
        device = lax.axis_index(axis).astype(jnp.int32)
        numbers = device * number + jnp.arange(number, dtype=jnp.int32)
        step = min(rows or queries_per_step(number, points.shape[1], function), number)
        search = partial(nearest, queries, numbers, centre, k=k, rows=step, group=group)

        def turn(carry: tuple, _: None) -> tuple[tuple, None]:
            held, present, start, best = carry
            padded = jnp.pad(held, ((0, extra), (0, 0)))
            keys = prepare_keys(padded, centre, jnp.pad(present, (0, extra)), start, group)
            best = search(jax.tree.map(lambda leaf: leaf[None], keys), best, metric=function)
            passed = lax.ppermute((held, present, start), axis, step_to_next)
            return (*passed, best), None

        best = lax.pcast(no_neighbors(number, k, points.dtype), axis, to="varying")
        carry = queries, valid, device * number, best
        (_, _, _, best), _ = lax.scan(turn, carry, None, length=devices)
        return finish(best, queries, numbers, valid, scale, centre, metric)

    spec = PartitionSpec(axis)
    return jax.shard_map(of_device, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(points, valid)
