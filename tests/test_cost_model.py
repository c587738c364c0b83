"""The cost on paper against the collectives of compiled programs, on 8, 64 and 512 devices."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxinterp import chips, cost_model, plan
from jaxinterp.collectives import Collective, Shape
from jaxinterp.config import PlanConfig
from jaxinterp.cost_model import Mesh, Size

ROOT = Path(__file__).parent.parent
STEPS = {"topk": cost_model.fixed_k_step, "jumprelu": cost_model.dense_step}


def settings(variant, mesh, size):
    return PlanConfig(
        variant=variant,
        options=(f"aux_k={size.aux_k}",) if variant == "topk" else (),
        d=size.d,
        width=size.width,
        k=size.k,
        batch=size.batch,
        precision="float32",
        mesh=f"data={mesh.data},model={mesh.model}",
        devices=mesh.data * mesh.model,
    )


def sent(exchanges, mesh):
    """Bytes along each axis by the program's text: always, and while latents are dead."""
    always, rarely = [0.0, 0.0], [0.0, 0.0]
    for one in exchanges:
        if one.group in mesh:
            total = rarely if one.conditional else always
            total[mesh.index(one.group)] += one.sent * one.times
    return always, rarely


def compare(variant, exchanges, mesh, size):
    always, rarely = sent(exchanges, mesh)
    alive = STEPS[variant](size._replace(aux_k=0), mesh).sent
    assert always == pytest.approx(alive, rel=0.02)
    if variant == "topk":
        dead = STEPS[variant](size, mesh).sent
        extra = [a - b for a, b in zip(dead, alive, strict=True)]
        assert rarely == pytest.approx(extra, rel=0.02)


@pytest.mark.parametrize("variant", STEPS)
def test_what_is_sent_is_what_the_program_of_8_devices_sends(variant):
    mesh, size = Mesh(2, 4), Size(64, 1024, 256, k=8, aux_k=12, product=4)
    planned = plan.plan(settings(variant, mesh, size))
    compare(variant, planned.exchanges, mesh, size)
    assert planned.state == pytest.approx(STEPS[variant](size, mesh).state, rel=0.01)


PROGRAM = """
import json, sys
from jaxinterp import plan
from jaxinterp.config import PlanConfig
config = PlanConfig(**json.loads(sys.argv[1]))
plan.start_devices(config.devices)
made = plan.plan(config)
print(json.dumps([one._asdict() for one in made.exchanges]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", STEPS)
@pytest.mark.parametrize("mesh", [Mesh(4, 16), Mesh(16, 32)], ids=["64", "512"])
def test_what_is_sent_is_what_the_programs_of_64_and_512_devices_send(variant, mesh):
    size = Size(64, 16_384, 2048, k=8, aux_k=12, product=4)
    given = json.dumps(dataclasses.asdict(settings(variant, mesh, size)))
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    exchanges = [
        Collective(**one | {"results": tuple(Shape(t, tuple(s)) for t, s in one["results"])})
        for one in json.loads(told.stdout)
    ]
    compare(variant, exchanges, mesh, size)


def test_the_tables_on_paper_are_those_of_the_document(monkeypatch):
    """Made anew by `python experiments/cost_model.py --out tpu_scripts/COST_MODEL.md`."""
    monkeypatch.syspath_prepend(str(ROOT))
    tables = importlib.import_module("experiments.cost_model")
    text = (ROOT / "tpu_scripts" / "COST_MODEL.md").read_text()
    for make in (tables.of_chips, tables.of_training, tables.of_reading):
        made = make(tables.CostTables())
        assert len(made.splitlines()) > 5
        assert made in text, make.__name__


def test_the_best_mesh_fits_and_balances_rows_and_latents():
    """With nothing but the network in the way, as many rows on a device as latents."""
    chip = chips.CHIPS["v5e"]._replace(flops=1e30, memory_bandwidth=1e30, memory=1e30)
    size = Size(4096, 2**18, 2**16)
    for devices in (16, 64, 256):
        mesh = cost_model.best_mesh(cost_model.dense_step, size, devices, chip)
        assert size.batch / mesh.data == pytest.approx(size.width / mesh.model, rel=0.01)
    half = cost_model.dense_step(size, Mesh(1, 16))
    tight = chip._replace(memory=1.01 * (half.state + half.working))
    assert cost_model.best_mesh(cost_model.dense_step, size, 16, tight) == Mesh(1, 16)
    assert cost_model.best_mesh(cost_model.dense_step, size, 8, tight) is None


def test_reading_a_model_of_70_billion_parameters():
    """Two operations a parameter and token; two sums of (n, d) a layer over the 8 of a group."""
    mesh = Mesh(64, 8)
    cost = cost_model.forward(70e9, 8192, 80, 65_536, mesh)
    assert cost.flops == pytest.approx(2 * 70e9 * 65_536 / 512)
    assert cost.state == 70e9 * 2 / 8
    assert cost.sent == (0, pytest.approx(80 * 2 * 1024 * 8192 * 2 * 2 * 7 / 8))
    found = cost_model.seconds(cost, mesh, chips.CHIPS["v5p"])
    assert found.limit == "compute"
    assert found.network == pytest.approx(cost.sent.model / 200e9)


@pytest.mark.slow
def test_operations_are_those_of_the_compiled_products():
    """Of one device, large enough that products outweigh everything else."""
    size = Size(128, 2048, 256, k=2, product=4)
    flops = {}
    for variant in STEPS:
        config = settings(variant, Mesh(1, 1), size._replace(aux_k=1))
        flops[variant] = plan.plan(config).flops
    dense = cost_model.dense_step(size, Mesh(1, 1)).flops
    assert flops["jumprelu"] == pytest.approx(dense, rel=0.05)
    revived = cost_model.fixed_k_step(size._replace(aux_k=1), Mesh(1, 1)).flops
    assert flops["topk"] == pytest.approx(revived, rel=0.1)
