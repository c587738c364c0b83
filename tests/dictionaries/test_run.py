"""A run that is killed, spoiled or finished, and what is on disk then."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import dictionaries, files, logging
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import train
from jaxinterp.dictionaries.optimizers import optimizer
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.run import explained, run
from tests.dictionaries import resumable_run

STEPS = 60


@pytest.mark.parametrize(
    ("kind", "kills"), [("rows", (20, 45)), pytest.param("feed", (35,), marks=pytest.mark.slow)]
)
def test_a_run_killed_at_any_moment_goes_on_as_if_it_had_not_been(kind, kills, tmp_path):
    """SIGKILL after the given steps; parameters and log equal those of an unbroken run."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    resumable_run.main(unbroken, STEPS, kind)
    command = [sys.executable, resumable_run.__file__, str(broken), str(STEPS), kind, "0.01"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    for kill in kills:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) >= kill:
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (broken / "params.safetensors").exists()
    with (broken / "log.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')  # as a kill in the middle of a write leaves it
    resumable_run.main(broken, STEPS, kind)
    ends = [files.read_arrays(folder / "params.safetensors") for folder in (unbroken, broken)]
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value)
    assert (broken / "log.jsonl").read_bytes() == (unbroken / "log.jsonl").read_bytes()
    steps = [line["step"] for line in logging.read_jsonl(broken / "log.jsonl")]
    assert steps == list(range(5, STEPS + 1, 5))


@pytest.fixture
def learner():
    return dictionaries.learner(relu(16, weight=0.1), optimizer("adam", 1e-2))


def fitting(learner, data, steps=40):
    return lambda state, _: train.fit(learner, state, data, steps=steps, batch=32, seed=0, chunk=5)


def test_best_and_last_are_kept_and_a_finished_run_is_not_repeated(learner, tmp_path):
    data = jax.random.normal(jax.random.key(0), (200, 8))
    scores = iter([0.1, 0.9, 0.3, 0.2])
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        state = learner.init(jax.random.key(1), data)
        seen = list(
            run(fitting(learner, data), state, checkpoints, every=10, score=lambda at: next(scores))
        )
        assert [at.step for at in seen] == [0, *range(5, 41, 5)]
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (20, 40)
        state = learner.init(jax.random.key(1), data)
        seen = list(run(fitting(learner, data), state, checkpoints, every=10))
    assert [at.step for at in seen] == [40]
    assert seen[0].info == {}


def test_a_spoiled_run_leaves_its_last_good_state_and_names_the_row(learner, tmp_path):
    data = jax.random.normal(jax.random.key(0), (200, 8)).at[150, 2].set(jnp.inf)
    first = next(
        step for step in range(40) if 150 in train.batch_rows(200, batch=32, seed=0, step=step)
    )
    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(train.Stopped, match=f"step {first}: row 150 in the data"),
    ):
        list(run(fitting(learner, data), learner.init(jax.random.key(1), data[:100]), checkpoints))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.latest() == first
        like = {"state": learner.init(jax.random.key(1), data[:100]), "position": ()}
        state = checkpoints.restore(like)[0]["state"]
    assert int(state.step) == first
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))


def test_a_run_with_other_settings_is_refused(learner, tmp_path):
    data = jax.random.normal(jax.random.key(0), (200, 8))
    for rate in (0.1, 0.2):
        state = learner.init(jax.random.key(1), data)
        with Checkpoints(tmp_path, keep=1, config={"rate": rate}) as checkpoints:
            going = run(fitting(learner, data, 10), state, checkpoints)
            if rate == 0.1:
                list(going)
            else:
                with pytest.raises(ValueError, match=r"rate: 0\.1 there, 0\.2 here"):
                    list(going)


def test_the_score_of_a_sweep_is_that_of_its_best_running_member():
    info = {"variance_explained": np.array([[0.1, np.nan, 0.6], [0.3, np.nan, 0.8]])}
    assert explained(train.Progress(2, None, info)) == pytest.approx(0.7)
    assert np.isnan(explained(train.Progress(2, None, {"loss": np.ones(2)})))
