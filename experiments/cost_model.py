"""What training and reading would cost on 8 to 1024 chips: the tables of tpu_scripts/COST_MODEL.md.

    python experiments/cost_model.py                                  # prints the tables
    python experiments/cost_model.py --out tpu_scripts/COST_MODEL.md --topologies v5e:4x4

The first needs half a minute; the second puts the tables into the document, and needs libtpu
(`pip install 'jaxinterp[tpu]'`) though no TPU, and three minutes. Formulas:
`jaxinterp/cost_model.py`.

Outcome: on virtual meshes of 8, 64 and 512 devices, bytes on paper and in the compiled programs
agree within 0.4 %. The TPU's compiler agrees in operations within 3 %, in memory within 15 %, and
in traffic within a factor of 1.6 for JumpReLU. For TopK it counts 2.3 to 6 times what is needed on
paper: rows that are gathered and scattered are what to improve there.
"""

from collections.abc import Iterator
from pathlib import Path

import tyro

from configs.cost_model import CostTables
from jaxinterp import cost_model, plan
from jaxinterp.chips import CHIPS
from jaxinterp.config import PlanConfig
from jaxinterp.cost_model import Mesh, Size

STEPS = {"topk": cost_model.fixed_k_step, "jumprelu": cost_model.dense_step}
# Parameters, dimension and layers of known sizes of open language models.
MODELS = {"8B": (8e9, 4096, 32), "27B": (27e9, 4608, 46), "70B": (70e9, 8192, 80)}


def table(heads: list[str], rows: Iterator[list]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def of_chips(_: CostTables) -> str:
    heads = ["chip", "bfloat16 T/s", "memory GB", "GB/s", "link GB/s", "of", "network GB/s", "from"]
    return table(
        heads,
        (
            [name, f"{c.flops / 1e12:.0f}", f"{c.memory / 1e9:.0f}"]
            + [f"{c.memory_bandwidth / 1e9:.0f}", f"{c.link / 1e9:.0f}", c.island]
            + [f"{c.network / 1e9:.1f}", c.source]
            for name, c in CHIPS.items()
        ),
    )


def of_training(config: CostTables) -> str:
    def rows() -> Iterator[list]:
        for variant, step in STEPS.items():
            for kind in config.chips:
                for width in config.widths:
                    for devices in config.devices:
                        size = Size(config.d, width, config.batch, config.k)
                        yield [
                            variant,
                            kind,
                            f"{width:,}",
                            devices,
                            *one(step, size, devices, kind),
                        ]

    def one(step, size: Size, devices: int, kind: str) -> list:
        mesh = cost_model.best_mesh(step, size, devices, CHIPS[kind])
        if mesh is None:
            return ["none fits", "", "", "", "", ""]
        cost = step(size, mesh)
        found = cost_model.seconds(cost, mesh, CHIPS[kind])
        fast, slow = size.batch / found.overlapped, size.batch / found.one_by_one
        return [
            f"{mesh.data} x {mesh.model}",
            f"{slow / 1e6:.2f} to {fast / 1e6:.2f}",
            f"{(cost.state + cost.working) / 1e9:.1f}",
            f"{cost.sent.data / 1e6:.0f}",
            f"{cost.sent.model / 1e6:.0f}",
            found.limit,
        ]

    heads = ["variant", "chip", "width", "devices", "data x model", "M tokens/s", "GB a device"]
    return table([*heads, "MB sent, data", "MB sent, model", "limit"], rows())


def of_reading(config: CostTables) -> str:
    def rows() -> Iterator[list]:
        for name, (parameters, d, layers) in MODELS.items():
            for kind in config.chips:
                chip, half = CHIPS[kind], (parameters / 2, d, layers // 2)
                for devices in config.devices:
                    splits = [Mesh(devices // m, m) for m in (1, 2, 4, 8, 16) if m <= devices]
                    costs = {m: cost_model.forward(*half, config.batch, m) for m in splits}
                    fit = [m for m, c in costs.items() if c.state + c.working <= chip.memory]
                    if not fit:
                        yield [name, kind, devices, "none fits", "", ""]
                        continue
                    times = {m: cost_model.seconds(costs[m], m, chip) for m in fit}
                    best = min(fit, key=lambda m: times[m].one_by_one)
                    speed = f"{config.batch / times[best].one_by_one / 1e6:.2f}"
                    yield [
                        name,
                        kind,
                        devices,
                        f"{best.data} x {best.model}",
                        speed,
                        times[best].limit,
                    ]

    heads = ["model", "chip", "devices", "data x model", "M tokens/s", "limit"]
    return table(heads, rows())


def of_virtual_devices(config: CostTables) -> str:
    def rows() -> Iterator[list]:
        for variant, step in STEPS.items():
            for mesh in (Mesh(*sizes) for sizes in config.virtual):
                size = Size(256, 65_536, 8192, config.k, product=4)
                made = plan.plan(_settings(variant, mesh, size))
                paper = step(size, mesh).sent
                for axis, group, told in zip(Mesh._fields, mesh, paper, strict=True):
                    found = sum(
                        one.sent * one.times
                        for one in made.exchanges
                        if one.group == group and not one.conditional
                    )
                    name = f"{mesh.data} x {mesh.model}"
                    yield [
                        variant,
                        name,
                        axis,
                        f"{told:,.0f}",
                        f"{found:,.0f}",
                        f"{found / told:.4f}",
                    ]

    return table(["variant", "data x model", "axis", "on paper", "compiled", "ratio"], rows())


def of_topologies(config: CostTables) -> str:
    def rows() -> Iterator[list]:
        for name in config.topologies:
            for variant, step in STEPS.items():
                for model in (1, 4):
                    size = Size(config.d, 65_536, 16_384, config.k, aux_k=config.k)
                    made = plan.plan(_settings(variant, Mesh(-1, model), size, name))
                    cost = step(size, mesh := Mesh(**made.mesh))
                    pairs = (
                        (cost.flops, made.flops),
                        (cost.traffic, made.traffic),
                        (cost.state, made.state),
                        (cost.working, made.working),
                    )
                    told = [f"{paper / 1e9:.1f} / {found / 1e9:.1f}" for paper, found in pairs]
                    yield [name, variant, f"{mesh.data} x {mesh.model}", *told]

    heads = [
        "slice",
        "variant",
        "data x model",
        "G operations",
        "GB traffic",
        "GB state",
        "GB working",
    ]
    return table(heads, rows()) if config.topologies else "(not asked; see --topologies)"


def _settings(variant: str, mesh: Mesh, size: Size, topology: str = "") -> PlanConfig:
    return PlanConfig(
        variant=variant,
        options=(f"aux_k={max(size.aux_k, 1)}",) if variant == "topk" else (),
        d=size.d,
        width=size.width,
        k=size.k,
        batch=size.batch,
        precision="float32" if size.product == 4 else "bfloat16",
        mesh=f"data={mesh.data},model={mesh.model}",
        devices=abs(mesh.data * mesh.model),
        topology=topology,
    )


TABLES = (of_chips, of_training, of_reading, of_virtual_devices, of_topologies)


def updated(text: str, tables: dict[str, str]) -> str:
    """A document with its tables made anew; each stands between two comments with its name."""
    for name, made in tables.items():
        mark = f"<!-- {name} -->\n"
        before, *old, after = text.split(mark)
        if len(old) != 1:
            raise ValueError(f"the document has no one place for the table {name}")
        text = f"{before}{mark}{made}\n{mark}{after}"
    return text


def main(config: CostTables) -> None:
    plan.start_devices(max(data * model for data, model in config.virtual))
    tables = {make.__name__: make(config) for make in TABLES}
    if not config.out:
        print("\n\n".join(tables.values()))
        return
    document = Path(config.out)
    document.write_text(updated(document.read_text(), tables))


if __name__ == "__main__":
    main(tyro.cli(CostTables, description=__doc__))
