"""A training step that is compiled but not run: what it would need, send and take.

Nothing is allocated: shapes stand for arrays. On virtual devices (of the CPU) the program is that
of the accelerator, its own branches partitioned for the mesh; operations and bytes are then the CPU
compiler's account, which fuses less, so that bytes are too many. With a topology the TPU's own
compiler is asked, which knows its layouts, its memory and its fusions.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxinterp import training
from jaxinterp.chips import Chip, Times, Transfer, chip, times
from jaxinterp.collectives import Collective, collectives
from jaxinterp.config import PlanConfig, RunConfig
from jaxinterp.dictionaries.sharding import placements, sharded
from jaxinterp.parallel import bytes_on_device, make_mesh

PLATFORMS = ("tpu", "cuda")


class Plan(NamedTuple):
    """What a training step would need on each device.

    Attributes:
        target: on what it was compiled.
        mesh: sizes of the mesh's axes.
        chip: the peaks that the times are from.
        state: bytes of parameters, optimiser and statistics.
        working: bytes that a step needs besides, by the compiler's account.
        flops: operations of a step, a loop whose turns the data decide taken as one turn.
        traffic: bytes that it reads and writes.
        exchanges: what it sends.
        times: predicted seconds, latents that are dead or not.
        lowered: platforms for which the step was lowered.
    """

    target: str
    mesh: dict[str, int]
    chip: Chip
    state: int
    working: int
    flops: float
    traffic: float
    exchanges: list[Collective]
    times: Times
    lowered: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether a device has that much memory."""
        return self.state + self.working <= self.chip.memory


def plan(config: PlanConfig) -> Plan:
    """Compiles the training step of a dictionary for a mesh.

    Args:
        config: the settings. Its virtual devices must be there: see `start_devices`.

    Returns:
        The plan.

    Raises:
        ValueError: settings that do not fit together, a topology that JAX does not know or cannot
            ask for, or a step for which a TPU has too little memory.
    """
    config.check()
    devices, kind = _devices(config)
    mesh = make_mesh(config.mesh, devices)
    run = RunConfig(
        variant=config.variant,
        options=config.options,
        width=config.width,
        k=config.k,
        batch=config.batch,
        optimizer=config.optimizer,
        precision=config.precision,
    )
    learner = training.build(run, training.plan(run, config.d))
    rows = jax.ShapeDtypeStruct((config.batch, config.d), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(learner.init, key, rows)
    where = placements(state, mesh)
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        where,
    )
    step = jax.jit(sharded(learner, mesh).step, donate_argnums=0)
    peaks = chip(kind)
    # The branches of the chip's platform: those of a CPU work in blocks.
    lowered = step.trace(state, rows).lower(lowering_platforms=(peaks.platform,))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            f"the step does not fit {config.topology}: {str(error).splitlines()[0]} Give a smaller "
            "batch, more devices, another mesh, or a smaller aux_k where the variant has one"
        ) from error
    exported = jax.export.export(step, platforms=PLATFORMS)(state, rows)
    exchanges = collectives(compiled.as_text())
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    flops, traffic = cost["flops"], cost["bytes accessed"]
    held = bytes_on_device(state, where)
    target = config.topology or f"{mesh.size} virtual devices"
    return Plan(
        target=f"{target} ({kind})",
        mesh=dict(mesh.shape),
        chip=peaks,
        state=held,
        working=memory.temp_size_in_bytes + memory.argument_size_in_bytes - held,
        flops=flops,
        traffic=traffic,
        exchanges=exchanges,
        times=times(peaks, flops, traffic, transfers(exchanges, mesh)),
        lowered=exported.platforms,
    )


def start_devices(count: int) -> None:
    """Makes the CPU count as many devices; only before JAX is first used.

    Raises:
        ValueError: JAX was used already.
    """
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise ValueError(f"{count} virtual devices: ask before JAX is first used") from error


def _devices(config: PlanConfig) -> tuple[Sequence[jax.Device], str]:
    """The devices to compile for, and the kind whose peaks count."""
    if not config.topology:
        found = jax.devices("cpu")
        if len(found) < config.devices:
            raise ValueError(
                f"{config.devices} devices, of which this process has {len(found)}: call "
                "`start_devices` before JAX is first used"
            )
        return found[: config.devices], config.chip or "v5e"
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(config.topology, platform="tpu").devices
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        told = str(error).splitlines()[0]
        if "not installed" in told:
            raise ValueError(
                f"topology {config.topology!r} needs libtpu, which compiles for TPUs and needs "
                "none: pip install 'jaxinterp[tpu]', or leave the topology out"
            ) from error
        raise ValueError(f"topology is {config.topology!r}: {told}") from error
    return found, config.chip or found[0].device_kind


def transfers(exchanges: Sequence[Collective], mesh: Mesh) -> list[Transfer]:
    """What a device sends, with how far apart those are to whom it sends.

    Devices of a mesh's last axis are neighbours; a group of the size of another axis reaches over
    all of the axes behind it. Where two axes have one size, the further is taken.
    """
    spread, reach = 1, dict[int, int]()
    for size in reversed(mesh.shape.values()):
        spread *= size
        reach[size] = spread
    return [
        Transfer(one.sent * (one.times or 1), one.group, reach.get(one.group, mesh.size))
        for one in exchanges
    ]


def describe(plan: Plan) -> str:
    """The plan for a person."""
    mesh = ", ".join(f"{name}={size}" for name, size in plan.mesh.items())
    need = plan.state + plan.working
    lines = [
        f"compiled for {plan.target}, mesh {mesh}; lowers for {' and '.join(plan.lowered)}",
        "",
        "each device, in a step:",
        f"  {plan.flops / 1e12:10.3f} T operations, {plan.traffic / 1e9:.2f} GB read and written",
        f"  {plan.state / 1e9:10.3f} GB of parameters, optimiser and statistics",
        f"  {plan.working / 1e9:10.3f} GB of batch, gradients and intermediate results",
        f"  {need / 1e9:10.3f} of {plan.chip.memory / 1e9:.0f} GB: "
        + ("fits" if plan.fits else "DOES NOT FIT"),
        "",
        f"  {'collective':<20}{'devices':>8}{'count':>7}{'MB sent':>12}",
    ]
    count, sent = Counter(), defaultdict(float)
    for one in plan.exchanges:
        when = "  while latents are dead" if one.conditional else ""
        when += "  turns unknown, as if one" if one.times is None else ""
        kind = one.op, one.group, when
        count[kind] += one.times or 1
        sent[kind] += one.sent * (one.times or 1)
    lines += [
        f"  {op:<20}{group:>8}{count[op, group, when]:>7}{sent[op, group, when] / 1e6:>12.3f}{when}"
        for op, group, when in sorted(sent, key=lambda kind: (kind[2], -sent[kind]))
    ]
    t, peaks = plan.times, plan.chip
    lines += [
        "" if plan.exchanges else "  none\n",
        f"at the stated peaks ({peaks.source}):",
        f"  compute {1e3 * t.compute:9.2f} ms   at {peaks.flops / 1e12:.0f} T bfloat16 a second",
        f"  memory  {1e3 * t.memory:9.2f} ms   at {peaks.memory_bandwidth / 1e9:.0f} GB a second",
        f"  network {1e3 * t.network:9.2f} ms   at {peaks.link / 1e9:.0f} GB a second, "
        f"{peaks.network / 1e9:.1f} beyond {peaks.island} devices",
        f"  a step takes {1e3 * t.overlapped:.2f} to {1e3 * t.one_by_one:.2f} ms at best; "
        f"{t.limit} is the limit",
    ]
    return "\n".join(lines)
