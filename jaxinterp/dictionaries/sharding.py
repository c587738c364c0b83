r"""Training a dictionary on a mesh: which array lies where, and a learner that keeps it so.

    mesh = parallel.make_mesh("data=2,model=4")
    learner = sharded(dictionaries.learner(topk(1 << 20, 32), optimizer("adam", 1e-4)), mesh)
    state = learner.init(key, sample)             # made in pieces: no device ever holds all of it
    for at in fit_feed(learner, state, feed, steps=10_000):
        ...

The wrapped learner goes wherever a learner goes: `fit`, `run` with its checkpoints (which may have
been written on another mesh), a sweep inside of it. To encode on a mesh, make it ambient:

    with jax.set_mesh(mesh):
        codes = jax.jit(dictionary.encode)(params, learner.place(rows))

Rows of the batch are split over `data`, latents over `model`: a latent's row of the encoder, its
atom, its biases and threshold, the optimiser's moments of all these and the statistics lie on one
device together. Either axis may be left out of the mesh. What a device of D (data) by M (model)
sends in a step of TopK with b rows, width w, dimension d and k latents, in float32, in bytes
(`collectives.Collective.sent`):

- candidates of the selection, gathered over `model`: $8 k \frac bD (M - 1)$,
- reconstruction, and the gradient by the centred rows, summed over `model`:
  $2 \cdot 4 d \frac bD \cdot 2 \frac{M-1}M$,
- gradient by the k codes of each row, summed over `model`: $4 k \frac bD \cdot 2 \frac{M-1}M$,
- gradients of encoder, decoder and encoder bias, and which latents were active, summed over
  `data`: $4 \frac wM (2 d + 2) \cdot 2 \frac{D-1}D$;
- with dead latents, for AuxK, whatever its k: $4 \frac bD (3 d + 33) \cdot 2 \frac{M-1}M
  + 4 \frac bD (M - 1)$ over `model`, $4 \frac wM (2 d + 1) \cdot 2 \frac{D-1}D$ over `data`,

besides sums of the size d or 1. So `data` costs in proportion to the dictionary and `model` in
proportion to the batch: for a given number of devices the least is sent where each has as many
latents as rows, w / M = b / D. Attention in code space (`temporal`) also sends its dense codes.
"""

import contextlib
from collections.abc import Generator
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from jaxinterp import parallel
from jaxinterp.dictionaries.learner import Learner

# Of every variant; optimisers and averages repeat the parameters' names.
_PER_LATENT = (
    "encoder",
    "decoder",
    "encoder_bias",
    "threshold",
    "log_threshold",
    "magnitude_bias",
    "log_magnitude",
    "density",
    "low_rank",
    "mixture",
    "projection",
    "relaxation",
    "variance",
    "variance_bias",
    "values",
    "silent",
    # Of what is fitted, not descended: labels of atoms, averages of a codebook.
    "label",
    "rows",
    "sums",
)
RULES: parallel.Rules = (
    (rf"(^|\.)({'|'.join(_PER_LATENT)})$", P("model")),
    # Attention in code space (`temporal`): by what it reads from the code, or writes to it.
    (r"(^|\.)(key|query)$", P(None, None, "model")),
    (r"(^|\.)value$", P(None, None, "model")),
    (r"(^|\.)out$", P(None, "model", None)),
)


def placements(
    state: PyTree, mesh: Mesh, *, rules: parallel.Rules = RULES, leading: int = 0
) -> PyTree[NamedSharding]:
    """Where every array of a training state goes.

    Args:
        state: arrays, or anything with shapes (`jax.eval_shape(learner.init, key, sample)`).
        mesh: devices, with an axis `data`, `model` or both.
        rules: path patterns; `RULES` knows the parameters of every variant.
        leading: axes in front of the latents: 1 for the layers of a cross-layer transcoder or for
            the members of a sweep.

    Returns:
        A tree of shardings: for `jax.device_put`, and for `parallel.bytes_on_device`.

    Raises:
        ValueError: the axis `model` does not divide the number of latents (says which sizes would).
    """
    where = parallel.shardings(state, mesh, rules, leading=leading)
    parts = mesh.shape.get("model", 1)

    def check(path: Any, leaf: Any) -> None:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not name.endswith("decoder") or len(leaf.shape) <= leading:
            return
        latents = leaf.shape[leading]
        if latents % parts:
            fit = [str(n) for n in range(1, mesh.size + 1) if not (latents % n or mesh.size % n)]
            raise ValueError(
                f"{name} has {latents} latents, which model={parts} devices can't share evenly: "
                f"with {mesh.size} devices give model={' or '.join(fit)}, or a width of "
                f"{latents // parts * parts} or {-(-latents // parts) * parts}"
            )

    jax.tree_util.tree_map_with_path(check, state)
    return where


def place(
    state: PyTree, mesh: Mesh, *, rules: parallel.Rules = RULES, leading: int = 0
) -> PyTree[Array]:
    """A training state of one device, or of another mesh, on this mesh.

    A checkpoint needs no such step: `Checkpoints.restore` puts it where the state it is given lies.

    Args:
        state: arrays.
        mesh: see `placements`; so are `rules` and `leading`.
        rules: see there.
        leading: see there.
    """
    return jax.device_put(state, placements(state, mesh, rules=rules, leading=leading))


def sharded(
    learner: Learner, mesh: Mesh, *, rules: parallel.Rules = RULES, leading: int = 0
) -> Learner:
    """The same learner on a mesh, with the same results up to rounding.

    Args:
        learner: of any dictionary.
        mesh: devices; see `parallel.make_mesh`.
        rules: see `placements`.
        leading: see `placements`.

    Returns:
        The learner. `init` makes a state that lies as `placements` says and may be called as it is,
        in a run of several processes with the same sample in each; `step` must be jitted, as `fit`
        and `fit_feed` do, who own the donation too. `place` puts the rows of a batch over `data`:
        with several processes, those of all of them, of which each gives its own; rows that lie
        there already stay. `fit_feed` calls it; give `fit` its data through it, or each device
        holds all of it.

    Raises:
        ValueError: at the first use, as `placements`; a batch that `data` does not divide.
    """

    def where(state: PyTree) -> PyTree[NamedSharding]:
        return placements(state, mesh, rules=rules, leading=leading)

    whole = NamedSharding(mesh, P())
    rows = NamedSharding(mesh, P("data" if "data" in mesh.shape else None))

    def init(key: Array, sample: Any) -> Any:
        def on_mesh(key: Array, sample: Any) -> Any:
            with ambient(mesh):
                return learner.init(key, sample)

        made = jax.jit(on_mesh, out_shardings=where(jax.eval_shape(learner.init, key, sample)))
        return made(*parallel.everywhere((key, sample), mesh))

    def step(state: Any, batch: Any) -> tuple[Any, dict[str, Array]]:
        _check_rows(batch, mesh)
        state, batch = jax.lax.with_sharding_constraint((state, batch), (where(state), rows))
        with ambient(mesh):
            state, info = learner.step(state, batch)
        return jax.lax.with_sharding_constraint((state, info), (where(state), whole))

    def place_rows(batch: Any) -> Any:
        return jax.tree.map(place_column, learner.place(batch))

    def place_column(column: Any) -> Array:
        if isinstance(column, jax.Array) and column.sharding.is_equivalent_to(rows, column.ndim):
            return column
        if len({device.process_index for device in mesh.devices.flat}) > 1:
            return parallel.global_batch(column, mesh)
        _check_rows(column, mesh)
        return jax.device_put(column, rows)

    return Learner(init, step, learner.params, place_rows)


@contextlib.contextmanager
def ambient(mesh: Mesh) -> Generator[None]:
    """Makes a mesh ambient while a function is traced; outside of `jit` use `jax.set_mesh`."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def _check_rows(batch: Any, mesh: Mesh) -> None:
    parts = mesh.shape.get("data", 1)
    for leaf in jax.tree.leaves(batch):
        if len(leaf) % parts:
            raise ValueError(
                f"a batch of {len(leaf)} rows, which data={parts} devices can't share evenly: give "
                f"a multiple of {parts}"
            )
