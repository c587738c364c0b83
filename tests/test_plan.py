"""Plans: numbers that can be worked out by hand, and every kind of bad input."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from jax.experimental import topologies

from jaxinterp import chips, plan
from jaxinterp.collectives import Collective, Shape
from jaxinterp.config import PlanConfig
from jaxinterp.parallel import make_mesh

SMALL = PlanConfig(
    variant="jumprelu", d=32, width=256, batch=128, precision="float32", mesh="data=2,model=4"
)


@pytest.fixture(scope="module")
def small():
    return plan.plan(SMALL)


def test_state_and_collectives_of_a_plan(small):
    """A device of 2 x 4 holds 64 latents; both its sums over `model` are of (64, 32) numbers."""
    latents, d = 64, 32
    per_latent = 3 * (2 * d + 2) + 1  # parameters and moments twice; rows of silence
    whole = 3 * d + 1 + 2 + 2  # decoder bias, step, counts of Adam and of its rate, key
    assert small.state == 4 * (latents * per_latent + whole)
    over_model = [one for one in small.exchanges if one.group == 4]
    wide = [s for one in over_model for s in one.results if s.dims == (64, d)]
    assert [shape.dtype for shape in wide] == ["f32", "f32"]
    assert small.lowered == ("tpu", "cuda")
    assert small.mesh == {"data": 2, "model": 4}


def test_a_plan_says_what_a_person_needs(small):
    told = plan.describe(small)
    assert "8 virtual devices (v5e), mesh data=2, model=4; lowers for tpu and cuda" in told
    assert "of 16 GB: fits" in told
    sent = sum(one.sent for one in small.exchanges if one.op == "all-reduce" and one.group == 4)
    count = sum(one.op == "all-reduce" and one.group == 4 for one in small.exchanges)
    (line,) = [line for line in told.splitlines() if line.split()[:2] == ["all-reduce", "4"]]
    assert line.split()[2:] == [str(count), f"{sent / 1e6:.3f}"]
    assert f"{small.times.limit} is the limit" in told
    full = small._replace(chip=small.chip._replace(memory=1.0))
    assert "DOES NOT FIT" in plan.describe(full)


def test_the_branches_of_the_chip_are_compiled_not_those_of_a_cpu():
    """A CPU gathers the atoms of a few rows at a time; an accelerator those of all rows."""
    config = PlanConfig(
        d=64, width=256, batch=512, k=64, devices=1, options=("aux_k=1",), precision="float32"
    )
    assert plan.plan(config).working > 4 * config.batch * config.k * config.d


def test_times_at_the_peaks():
    v5e = chips.CHIPS["v5e"]
    near, far = chips.Transfer(100e9, 16, 256), chips.Transfer(3.1e9, 2, 512)
    found = chips.times(v5e, 197e12, 2 * 819e9, [near, far])
    assert found == pytest.approx((1.0, 2.0, 2.0))
    # Eight of the sixteen are in one island: they share what goes over the network.
    shared = chips.times(v5e, 0.0, 0.0, [chips.Transfer(8 * 3.1e9, 16, 512)])
    assert shared.network == pytest.approx(1.0 + 8 * 3.1e9 / 100e9)
    assert found.overlapped == pytest.approx(2.0)
    assert found.one_by_one == pytest.approx(5.0)
    assert chips.times(v5e, 197e12, 819e9 / 2).limit == "compute"
    assert chips.times(v5e, 0.0, 0.0, [far]).limit == "network"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("h100", "h100"),
    ],
)
def test_a_chip_is_found_by_the_name_that_jax_gives_it(kind, name):
    assert chips.chip(kind) is chips.CHIPS[name]


def test_who_is_near_and_who_is_far():
    mesh = make_mesh("data=2,model=4")
    shape = (Shape("f32", (16,)),)  # of 64 bytes
    exchanges = [
        Collective("collective-permute", shape, group, turns, False, "")
        for group, turns in ((4, 3), (2, None), (8, 1))
    ]
    found = plan.transfers(exchanges, mesh)
    assert found == [(192.0, 4, 4), (64.0, 2, 8), (64.0, 8, 8)]


def test_a_topology_gives_the_devices_and_the_chip(monkeypatch):
    def stand_in(name, platform):
        assert (name, platform) == ("v5e:2x2", "tpu")
        return SimpleNamespace(devices=jax.devices()[:4])

    monkeypatch.setattr(topologies, "get_topology_desc", stand_in)
    config = PlanConfig(
        variant="relu", d=8, width=64, batch=32, topology="v5e:2x2", chip="v6e", devices=1
    )
    made = plan.plan(config)
    assert made.mesh == {"data": 4}
    assert made.target == "v5e:2x2 (v6e)"
    assert made.chip.flops == 918e12


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("JAX TPU support not installed; see there"), "needs libtpu"),
        (
            jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no v9\nsecond"),
            "topology is 'v9:1': .*v9$",
        ),
    ],
)
def test_a_topology_that_cannot_be_asked_for(monkeypatch, error, message):
    monkeypatch.setattr(topologies, "get_topology_desc", lambda *_, **__: _raise(error))
    with pytest.raises(ValueError, match=message):
        plan.plan(PlanConfig(topology="v9:1"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mesh": "data=3"}, "data=3 does not fit 8 devices"),
        ({"mesh": "model=8", "width": 1028}, "width of 1024 or 1032"),
        ({"batch": 129}, "batch of 129 rows"),
        ({"chip": "tpu99"}, "chip is 'tpu99'"),
        ({"devices": 9}, "this process has 8"),
        ({"width": 0}, "width is 0"),
        ({"k": 512}, "k is 512 with a width of 256"),
        ({"variant": "topkk"}, "variant is 'topkk'"),
    ],
)
def test_settings_that_cannot_be(changed, message):
    with pytest.raises(ValueError, match=message):
        plan.plan(dataclasses.replace(SMALL, **changed))


def test_the_command_has_as_many_devices_as_it_is_asked_for():
    command = "plan --variant relu --devices 12 --mesh data=3,model=-1 --d 8 --width 64 --batch 48"
    told = subprocess.run(
        [sys.executable, "-m", "jaxinterp", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "12 virtual devices (v5e), mesh data=3, model=4" in told.stdout
