"""Collectives of compiled programs, on 8 virtual devices."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinterp import parallel
from jaxinterp.collectives import Collective, Shape, collective_bytes, collectives


@cache
def program():
    """Each kind of collective with a size of its own, in a loop, an open loop and a branch."""
    mesh = parallel.make_mesh("data=2,model=4")

    def on_device(x):
        gathered = jax.lax.all_gather(x, "model", tiled=True)  # (8, 8) -> (32, 8)
        scattered = jax.lax.psum_scatter(x[:, :4], "model", tiled=True)  # (8, 4) -> (2, 4)
        swapped = jax.lax.all_to_all(x[:4], "model", 1, 1, tiled=True)  # (4, 8)
        passed = jax.lax.ppermute(x[:2], "data", [(0, 1), (1, 0)])  # (2, 8)

        def turn(carry, _):
            return jax.lax.psum(carry[:3], "data").sum() + carry, None  # (3, 8), five times

        looped = jax.lax.scan(turn, x, None, length=5)[0]
        opened = jax.lax.while_loop(
            lambda c: c[0, 0] < 1e3, lambda c: c + jax.lax.psum(c[:5], "model").sum(), looped
        )
        branch = partial(lambda c: jax.lax.psum(c[:6], "model").sum())
        chosen = jax.lax.cond(x[0, 0] > 0, branch, lambda c: c[0, 0] * 2, opened)
        parts = (gathered, scattered, swapped, passed, opened)
        return sum(part.sum() for part in parts) + chosen[None]

    f = jax.shard_map(
        on_device, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )
    x = jax.device_put(jnp.ones((16, 8)), NamedSharding(mesh, P("data")))
    return jax.jit(f).lower(x).compile().as_text()


@pytest.mark.parametrize(
    ("op", "dims", "group", "times", "conditional", "size", "sent"),
    [
        ("all-gather", (32, 8), 4, 1, False, 1024, 768),
        ("reduce-scatter", (2, 4), 4, 1, False, 128, 96),
        ("collective-permute", (2, 8), 2, 1, False, 64, 64),
        ("all-reduce", (3, 8), 2, 5, False, 96, 96),
        ("all-reduce", (5, 8), 4, None, False, 160, 240),
        ("all-reduce", (6, 8), 4, 1, True, 192, 288),
    ],
)
def test_every_collective_is_found_with_its_size(op, dims, group, times, conditional, size, sent):
    (one,) = [c for c in collectives(program()) if c.op == op and c.results[0].dims == dims]
    assert (one.group, one.times, one.conditional) == (group, times, conditional)
    assert (one.bytes, one.sent) == (size, sent)
    assert one.results[0].dtype == "f32"
    assert "shard_map" in one.where


def test_an_exchange_of_all_with_all_counts_all_parts():
    (one,) = [c for c in collectives(program()) if c.op == "all-to-all"]
    assert (one.bytes, one.group, one.sent) == (128, 4, 96)


def test_totals_count_the_turns_of_a_loop():
    found = collective_bytes(program())
    assert found["all-gather"] == 768
    assert found["all-reduce"] == 5 * 96 + 240 + 288


def test_other_notations_of_the_compiler():
    """Groups as a count and as parts of axes, joined and asynchronous operations, few bits."""
    text = """HloModule jit_f, num_partitions=8
ENTRY %main (p: f32[8]) -> f32[8] {
  %a = (bf16[2,4]{1,0}, bf16[8,4]{1,0:T(8,128)}) all-gather-start(%p), replica_groups=[2,4]<=[8]
  %b = bf16[8,4]{1,0} all-gather-done(%a)
  %c = (f32[6]{0}, s4[3]{0}) all-reduce(%p, %q), replica_groups={}, to_apply=%add
  %d = f32[5]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=4] {'a', 'b':(1)2}, to_apply=%add
  %e = (f32[4], f32[4], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
}
"""
    f32 = partial(Shape, "f32")
    gather, joined, parted, passed = collectives(text)
    assert gather == Collective("all-gather", (Shape("bf16", (8, 4)),), 4, 1, False, "")
    assert gather.bytes == 64
    assert joined == Collective("all-reduce", (f32((6,)), Shape("s4", (3,))), 8, 1, False, "")
    assert joined.bytes == 24 + 2
    assert (parted.group, parted.sent) == (4, 30)
    assert (passed.results, passed.sent) == ((f32((4,)),), 16)


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="give `compiled.as_text"):
        collectives("module @jit_f attributes {}")
