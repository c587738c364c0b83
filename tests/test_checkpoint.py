import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinterp.checkpoint import Checkpoints
from jaxinterp.parallel import make_mesh


def state(value, width=4):
    return {"weights": jnp.full((width, 2), float(value)), "key": jax.random.key(value)}


def test_the_newest_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, score in enumerate((0.2, 0.9, 0.5, float("nan"), None)):
            checkpoints.save(step, state(step), score=score)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (1, 4)
        assert float(checkpoints.restore(state(0), step=1)[0]["weights"][0, 0]) == 1.0
        assert float(checkpoints.restore(state(0))[0]["weights"][0, 0]) == 4.0
        with pytest.raises(ValueError, match="can't be read"):
            checkpoints.restore(state(0), step=2)


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    with Checkpoints(tmp_path, keep=20) as checkpoints:
        x = jnp.zeros(3_000_000)
        for t in range(8):
            checkpoints.save(t, {"x": x})
            for _ in range(5):
                x = step(x)
    with Checkpoints(tmp_path, keep=20) as checkpoints:
        for t in range(8):
            found = np.asarray(checkpoints.restore({"x": x}, step=t)[0]["x"])
            assert (found == 5.0 * t).all(), t


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1, width=4))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"does not fit.*float32\[4, 2\] there and float32\[8, 2\]"),
    ):
        checkpoints.restore(state(1, width=8))


def test_a_checkpoint_of_other_settings_is_refused_and_the_setting_named(tmp_path):
    settings = {"width": 4, "k": 2, "options": ("a", 1)}
    with Checkpoints(tmp_path, config=settings) as checkpoints:
        checkpoints.save(1, state(1))
    with Checkpoints(tmp_path, config=settings) as checkpoints:
        checkpoints.restore(state(1))
    with (
        Checkpoints(tmp_path, config=settings | {"k": 3}) as checkpoints,
        pytest.raises(ValueError, match=r"other settings \(k: 2 there, 3 here\)"),
    ):
        checkpoints.restore(state(1))


def damage(folder, how):
    """Damages the largest file of a checkpoint, which holds the weights."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "absent":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)


def noise(value):
    """Weights that do not compress, so that a changed bit changes one of them."""
    return {"weights": jax.random.normal(jax.random.key(value), (64, 64)), "step": jnp.asarray(3)}


@pytest.mark.parametrize("how", ["absent", "truncated", "a bit changed"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, how):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, noise(1))
        checkpoints.save(2, noise(2))
    damage(tmp_path / "2", how)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.warns(
            UserWarning, match="can't be read .*: kept as 2.damaged, going on from 1"
        ):
            found = checkpoints.restore(noise(0))[0]
        np.testing.assert_array_equal(found["weights"], noise(1)["weights"])
        checkpoints.save(2, noise(3))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found = checkpoints.restore(noise(0))[0]
        np.testing.assert_array_equal(found["weights"], noise(3)["weights"])


def test_where_all_are_damaged_it_says_what_to_delete(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, noise(1))
    damage(tmp_path / "1", "a bit changed")
    with (
        Checkpoints(tmp_path, keep=2) as checkpoints,
        pytest.raises(ValueError, match=r"\['weights'\] does not have the checksum.*: delete it"),
    ):
        checkpoints.restore(noise(0))


def test_the_checksum_does_not_depend_on_the_mesh(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, noise(1))
    spread = jax.device_put(noise(0), NamedSharding(make_mesh("data=8"), P()))
    rows = NamedSharding(make_mesh("data=2,model=4"), P("model", "data"))
    spread["weights"] = jax.device_put(spread["weights"], rows)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found = checkpoints.restore(spread)[0]
    assert found["weights"].sharding == rows
    np.testing.assert_array_equal(found["weights"], noise(1)["weights"])


def test_restoring_from_nothing_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is checkpoints.best() is None
        with pytest.raises(ValueError, match="no checkpoint"):
            checkpoints.restore(state(1))
