"""Meshes and what lies where on them: sharding is data, a list of `(path pattern, spec)` rules.

The engine is JAX's: `jit` over arrays that carry a `NamedSharding`. Two axes have names here:
`data` splits the rows of a batch, `model` splits the width of a dictionary or the heads and hidden
units of an encoder. Axes are `Auto`: the compiler places the collectives.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree, Shaped

Rules = Sequence[tuple[str, P]]
_KEY_BYTES = 8  # of JAX's default random keys


def read_mesh_spec(spec: str) -> dict[str, int]:
    """Reads `"data=-1,model=4"` as axis sizes; -1 means all devices that are left.

    Raises:
        ValueError: not of that form, a size below 1 that is not -1, two -1, or a name twice.
    """
    sizes: dict[str, int] = {}
    for part in spec.split(","):
        found = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*(-?\d+)\s*", part)
        if found is None:
            raise ValueError(f"mesh is {spec!r}: write axes as 'data=-1,model=4'")
        name, size = found[1], int(found[2])
        if name in sizes:
            raise ValueError(f"mesh is {spec!r}: axis {name!r} is there twice")
        if size < 1 and size != -1:
            raise ValueError(f"mesh is {spec!r}: axis {name!r} has size {size}; give 1 or more")
        sizes[name] = size
    if list(sizes.values()).count(-1) > 1:
        raise ValueError(f"mesh is {spec!r}: only one axis can take all that is left (-1)")
    return sizes


def make_mesh(
    spec: str | Mapping[str, int] = "data=-1", devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices (of all processes), or over those given.

    Args:
        spec: axis sizes, or their text form (see `read_mesh_spec`). An axis of -1 takes what the
            others leave.
        devices: the devices; None for all.

    Returns:
        The mesh, with Auto axes.

    Raises:
        ValueError: the sizes do not multiply to the number of devices (says which sizes would).
    """
    sizes = read_mesh_spec(spec) if isinstance(spec, str) else dict(spec)
    devices = jax.devices() if devices is None else list(devices)
    count, fixed = len(devices), math.prod(size for size in sizes.values() if size != -1)
    if count % fixed or (-1 not in sizes.values() and fixed != count):
        divisors = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"a mesh of {_told(sizes)} does not fit {count} devices: the sizes must multiply to "
            f"{count}, so each must be one of {', '.join(divisors)}"
        )
    shape = [count // fixed if size == -1 else size for size in sizes.values()]
    return jax.make_mesh(
        tuple(shape), tuple(sizes), axis_types=(AxisType.Auto,) * len(shape), devices=devices
    )


def _told(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{name}={size}" for name, size in sizes.items())


def sharding_of(
    path: str, shape: Sequence[int], mesh: Mesh, rules: Rules, *, leading: int = 0
) -> NamedSharding:
    """Where one array goes.

    Args:
        path: its dotted path.
        shape: its shape, leading axes included.
        mesh: devices. An axis that the mesh lacks, or that does not divide a dimension, is not
            used: the array is whole along it.
        rules: the first pattern that is found in the path decides; no match, or more axes than the
            array has: whole everywhere.
        leading: axes in front (layers, members of a sweep) that the rules do not speak of.

    Returns:
        The sharding.
    """
    spec = next((s for pattern, s in rules if re.search(pattern, path)), P())
    axes = [*[None] * leading, *spec]
    if len(axes) > len(shape):
        axes = []
    axes += [None] * (len(shape) - len(axes))
    kept = [
        axis if axis is not None and _fits(axis, size, mesh) else None
        for axis, size in zip(axes, shape, strict=True)
    ]
    return NamedSharding(mesh, P(*kept))


def _fits(axis: str | tuple[str, ...], size: int, mesh: Mesh) -> bool:
    names = (axis,) if isinstance(axis, str) else axis
    if any(name not in mesh.shape for name in names):
        return False
    return size % math.prod(mesh.shape[name] for name in names) == 0


def shardings(tree: PyTree, mesh: Mesh, rules: Rules, *, leading: int = 0) -> PyTree[NamedSharding]:
    """Where every array of a tree goes; paths are dotted, so a rule finds `decoder$` anywhere.

    The same rules place an optimiser's state, whose moments repeat the parameters' names.

    Args:
        tree: arrays, or anything with a shape (`jax.eval_shape` costs nothing).
        mesh: devices.
        rules: see `sharding_of`.
        leading: see `sharding_of`.

    Returns:
        A tree of shardings, for `jax.device_put`, `jit(out_shardings=...)` and restoring.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: sharding_of(
            jax.tree_util.keystr(path, simple=True, separator="."),
            leaf.shape,
            mesh,
            rules,
            leading=leading if len(leaf.shape) >= leading else 0,
        ),
        tree,
    )


def global_batch(rows: PyTree[Shaped[np.ndarray, "rows ..."]], mesh: Mesh) -> PyTree[Array]:
    """One global batch from the rows that each process has; every process calls this.

    Args:
        rows: this process' rows, as many as every other process has.
        mesh: devices, of all processes or of some; rows are split over `data`.

    Returns:
        Arrays whose rows are all processes' rows, in the order of the processes.

    Raises:
        ValueError: the rows can't be split evenly over this process' devices.
    """
    sharding = NamedSharding(mesh, P("data" if "data" in mesh.shape else None))
    split = mesh.shape.get("data", 1)
    processes = len({device.process_index for device in mesh.devices.flat})

    def one(local: np.ndarray) -> Array:
        total = len(local) * processes
        if total % split:
            raise ValueError(
                f"{total} rows of a batch over data={split} devices: give a multiple of {split}"
            )
        shape = (total, *local.shape[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(local), shape)

    return jax.tree.map(one, rows)


def everywhere(tree: PyTree[Array | np.ndarray], mesh: Mesh) -> PyTree[Array]:
    """Whole arrays on every device of a mesh; each of its processes gives the same values."""

    def one(array: Array | np.ndarray) -> Array:
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(array))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        host = np.asarray(array)
        return jax.make_array_from_callback(
            host.shape, NamedSharding(mesh, P()), lambda place: host[place]
        )

    return jax.tree.map(one, tree)


def on_host(tree: PyTree[Array | np.ndarray]) -> PyTree[np.ndarray]:
    """Whole arrays in the host memory of every process; all processes call this."""

    def one(array: Array | np.ndarray) -> np.ndarray:
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(one, tree)


def bytes_on_device(tree: PyTree, placed: PyTree[NamedSharding]) -> int:
    """Bytes that the fullest device holds of a tree whose arrays lie as `placed` says."""

    def one(leaf: Any, sharding: NamedSharding) -> int:
        shape = sharding.shard_shape(tuple(leaf.shape))
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return math.prod(shape) * (_KEY_BYTES if is_key else leaf.dtype.itemsize)

    return sum(jax.tree.leaves(jax.tree.map(one, tree, placed)))


def check_memory(parts: Mapping[str, int], mesh: Mesh, *, limit: int | None = None) -> str:
    """A report of what each device will hold, before anything is compiled.

    Args:
        parts: bytes on the fullest device, by name ("params", "optimizer", "batch", ...).
        mesh: devices.
        limit: bytes of a device; None asks one of this process, which on CPU does not know.

    Returns:
        Lines for a person: devices, mesh, bytes of every part and their sum.

    Raises:
        ValueError: the parts do not fit, with the largest named.
    """
    device = mesh.local_devices[0]
    if limit is None:
        limit = (device.memory_stats() or {}).get("bytes_limit")
    total = sum(parts.values())
    lines = [
        f"{mesh.size} devices ({device.device_kind}), {jax.process_count()} processes, "
        f"mesh {_told(mesh.shape)}",
        *(f"  {name:<12} {size / 2**20:10.1f} MiB a device" for name, size in parts.items()),
        f"  {'sum':<12} {total / 2**20:10.1f} MiB a device",
    ]
    if limit is not None and total > limit:
        largest = max(parts, key=lambda name: parts[name])
        raise ValueError(
            f"{total / 2**30:.2f} GiB a device do not fit {limit / 2**30:.2f} GiB; the largest "
            f"part is {largest} with {parts[largest] / 2**30:.2f} GiB: split it over more devices "
            "(a larger model axis), or make it smaller"
        )
    return "\n".join(lines)
