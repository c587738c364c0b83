"""Meshes, rules and global batches, on 8 virtual devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxinterp import parallel

RULES = ((r"encoder$", P("model", None)), (r"bias$", P("model")))


def test_a_spec_is_read():
    assert parallel.read_mesh_spec("data=-1, model=4") == {"data": -1, "model": 4}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("data", "write axes as"),
        ("data=0", "size 0"),
        ("data=-2", "size -2"),
        ("data=2,data=4", "twice"),
        ("data=-1,model=-1", "only one axis"),
        ("", "write axes as"),
    ],
)
def test_a_bad_spec_is_refused(spec, said):
    with pytest.raises(ValueError, match=said):
        parallel.read_mesh_spec(spec)


def test_the_rest_goes_to_the_open_axis():
    mesh = parallel.make_mesh("data=-1,model=4")
    assert dict(mesh.shape) == {"data": 2, "model": 4}
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert dict(parallel.make_mesh("data=-1", jax.devices()[:3]).shape) == {"data": 3}


@pytest.mark.parametrize("spec", ["data=3", "data=-1,model=5", "data=2,model=2", "model=16"])
def test_sizes_that_do_not_fit_name_those_that_would(spec):
    with pytest.raises(ValueError, match=r"8 devices.* one of 1, 2, 4, 8"):
        parallel.make_mesh(spec)


def test_rules_place_parameters_and_the_optimizer_alike():
    mesh = parallel.make_mesh("data=2,model=4")
    params = {"encoder": jnp.zeros((16, 6)), "encoder_bias": jnp.zeros(16), "centre": jnp.ones(6)}
    state = {"params": params, "optimizer": optax.adam(1e-3).init(params)}
    placed = parallel.shardings(state, mesh, RULES)
    assert placed["params"]["encoder"].spec == P("model", None)
    assert placed["params"]["encoder_bias"].spec == P("model")
    assert placed["params"]["centre"].spec == P(None)
    assert placed["optimizer"][0].mu["encoder"].spec == P("model", None)
    assert placed["optimizer"][0].count.spec == P()


def test_what_does_not_divide_stays_whole_and_leading_axes_are_skipped():
    mesh = parallel.make_mesh("data=2,model=4")
    assert parallel.sharding_of("encoder", (6, 4), mesh, RULES).spec == P(None, None)
    swept = parallel.sharding_of("encoder", (3, 16, 6), mesh, RULES, leading=1)
    assert swept.spec == P(None, "model", None)
    only_data = parallel.make_mesh("data=8")
    assert parallel.sharding_of("encoder", (16, 4), only_data, RULES).spec == P(None, None)
    assert parallel.sharding_of("bias", (), mesh, RULES).spec == P()
    assert parallel.sharding_of("bias", (16,), mesh, RULES, leading=1).spec == P(None)


def test_a_global_batch_has_the_rows_in_order():
    mesh = parallel.make_mesh("data=4,model=2")
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    batch = parallel.global_batch({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(np.asarray(batch), rows)
    assert batch.sharding.spec == P("data")
    assert batch.addressable_shards[0].data.shape == (2, 3)
    with pytest.raises(ValueError, match="6 rows of a batch over data=4"):
        parallel.global_batch(rows[:6], mesh)


def test_bytes_are_those_that_a_device_holds():
    mesh = parallel.make_mesh("data=2,model=4")
    tree = {"encoder": jnp.zeros((16, 6)), "centre": jnp.zeros(6, jnp.bfloat16)}
    placed = parallel.shardings(tree, mesh, RULES)
    assert parallel.bytes_on_device(tree, placed) == 16 * 6 * 4 // 4 + 6 * 2
    held = jax.tree.map(jax.device_put, tree, placed)
    shards = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(held)]
    assert parallel.bytes_on_device(tree, placed) == sum(shards)
    key = {"key": jax.random.key(0)}
    assert parallel.bytes_on_device(key, parallel.shardings(key, mesh, RULES)) == 8


def test_what_does_not_fit_is_said_before_compiling():
    mesh = parallel.make_mesh("data=2,model=4")
    parts = {"params": 3 << 30, "batch": 1 << 20}
    assert "data=2 x model=4" in parallel.check_memory(parts, mesh, limit=4 << 30)
    with pytest.raises(ValueError, match=r"3\.00 GiB a device do not fit 2\.00 GiB.*is params"):
        parallel.check_memory(parts, mesh, limit=2 << 30)
