"""Which devices do what in a run, and what each of them will hold.

One dictionary is trained on the devices of all processes. Each process harvests and measures with
its own devices, which needs no communication: the model, and in measuring the dictionary, must fit
on the devices of one process.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from jaxinterp.dictionaries.learner import Learner
from jaxinterp.dictionaries.sharding import place, placements
from jaxinterp.parallel import bytes_on_device, check_memory, make_mesh, sharding_of

_ROWS: tuple[tuple[str, P], ...] = (("", P("data")),)


def meshes(spec: str, *, batch: int) -> tuple[Mesh | None, Mesh | None]:
    """The mesh of all processes and the mesh of this one.

    Args:
        spec: as `parallel.read_mesh_spec` reads it, with the axes data and model; empty for one
            device, or with several processes for all of them over data.
        batch: rows of text in a forward, which this process' own mesh must divide: it leaves
            devices out rather than not to.

    Returns:
        Both; None, None for one device.

    Raises:
        ValueError: other axes, or sizes that do not fit the devices.
    """
    if not spec and jax.process_count() == 1:
        return None, None
    whole = make_mesh(spec or "data=-1")
    other = [name for name in whole.shape if name not in ("data", "model")]
    if other:
        raise ValueError(f"mesh is {spec!r}: the axes are data and model, not {', '.join(other)}")
    here = jax.local_devices()
    model = math.gcd(whole.shape.get("model", 1), len(here))
    data = math.gcd(len(here) // model, batch)
    return whole, make_mesh({"data": data, "model": model}, here[: data * model])


def check_mesh(mesh: Mesh | None, *, width: int, batch: int) -> None:
    """Refuses a mesh that does not divide what is split over it.

    Raises:
        ValueError: which axis, and which sizes would do.
    """
    sizes = {} if mesh is None else mesh.shape
    for axis, what, size in (("model", "width", width), ("data", "batch", batch)):
        parts = sizes.get(axis, 1)
        if size % parts:
            fitting = [str(n) for n in range(1, parts + 1) if size % n == 0]
            raise ValueError(
                f"{what} {size} can't be split over {axis}={parts} of the mesh: take a {what} of "
                f"{max(size // parts, 1) * parts} or {(size // parts + 1) * parts}, or {axis} from "
                f"{', '.join(fitting)}"
            )


def rows_on(mesh: Mesh | None, rows: np.ndarray) -> Array:
    """Rows on the devices of this process, split over `data` where that divides them."""
    if mesh is None:
        return jnp.asarray(rows)
    return jax.device_put(rows, sharding_of("", rows.shape, mesh, _ROWS))


def params_on(mesh: Mesh | None, params: PyTree) -> PyTree:
    """A dictionary's parameters on the devices of this process, the width over `model`."""
    return params if mesh is None else place(params, mesh)


def startup_report(
    learner: Learner, d: int, *, batch: int, rows: int, mesh: Mesh | None, limit: int | None = None
) -> str:
    """What training puts on each device, before anything is compiled.

    Args:
        learner: what learns.
        d: dimension of the activations.
        batch: rows of activations in a step.
        rows: rows of activations that are trained on; on one device they lie there.
        mesh: devices; None for one.
        limit: bytes of a device; None asks it.

    Returns:
        Lines for a person.

    Raises:
        ValueError: it does not fit; the largest part is named.
    """
    wanted = mesh or make_mesh("data=1", jax.local_devices()[:1])
    sample = jax.ShapeDtypeStruct((batch, d), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(learner.init, key, sample)
    placed = placements(state, wanted)
    held = bytes_on_device(state, placed)
    params = bytes_on_device(state.params, placed.params)
    split = batch // wanted.shape.get("data", 1)
    parts = {
        "params": params,
        "gradients": params,
        "optimizer": held - params,
        "batch": 2 * split * d * 4,  # rows and reconstructions
    }
    if mesh is None:
        parts["rows"] = rows * d * 4
    return check_memory(parts, wanted, limit=limit)
