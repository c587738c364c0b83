import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import train
from jaxinterp.dictionaries.topk import topk


@pytest.fixture
def run(rng):
    learner = train.learner(topk(32, 4), optax.adam(1e-3))
    data = jnp.asarray(rng.normal(size=(500, 8)), jnp.float32)
    fresh = jax.jit(learner.init)

    def fit(state, steps):
        *_, last = train.fit(learner, state, data, steps=steps, batch=64, seed=3, chunk=10)
        return last.state

    return lambda: fresh(jax.random.key(0), data), fit


def equal(a, b):
    same = jax.tree.map(
        lambda x, y: (
            bool((jax.random.key_data(x) == jax.random.key_data(y)).all())
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            else bool((x == y).all())
        ),
        a,
        b,
    )
    return all(jax.tree.leaves(same))


def test_a_run_resumed_from_disk_is_bit_equal_to_an_unbroken_one(run, tmp_path):
    start, fit = run
    unbroken = fit(start(), 45)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(23, fit(start(), 23), {"note": 1})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 23
        state, notes = checkpoints.restore(start())
    assert notes == {"note": 1}
    assert equal(fit(state, 45), unbroken)
    assert not equal(fit(start(), 44).params, unbroken.params)


def test_every_step_has_a_key_of_its_own_that_a_resumed_run_repeats(run):
    start, _ = run
    quiet = topk(32, 4)

    def loss(params, stats, x, target, key):
        value, info = quiet.loss(params, stats, x, target, key)
        return value, info._replace(metrics={"draw": jax.random.uniform(key)})

    learner = train.learner(quiet._replace(loss=loss), optax.adam(1e-3))
    step = jax.jit(learner.step)
    x = jax.random.normal(jax.random.key(9), (64, 8))
    draws, states = [], [start()]
    for _ in range(4):
        state, info = step(states[-1], x)
        states.append(state)
        draws.append(float(info["draw"]))
    assert len(set(draws)) == 4
    assert float(step(states[2], x)[1]["draw"]) == draws[2]


def test_a_checkpoint_of_another_shape_is_refused(run, tmp_path):
    start, _ = run
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, start())
    other = train.learner(topk(64, 4), optax.adam(1e-3)).init(jax.random.key(0), jnp.ones((9, 8)))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(
            ValueError, match=r"does not fit.*float32\[32, 8\] there and float32\[64, 8\]"
        ),
    ):
        checkpoints.restore(other)


def test_restoring_from_nothing_is_refused(run, tmp_path):
    start, _ = run
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="no checkpoint"):
        checkpoints.restore(start())


def test_every_epoch_visits_each_row_once():
    n, batch = 103, 10
    epochs = [
        np.concatenate([train._batch_rows(n, batch, 7, 10 * e + i) for i in range(10)])
        for e in range(2)
    ]
    for order in epochs:
        assert len(set(order.tolist())) == 100
    assert (epochs[0] != epochs[1]).any()


def test_one_program_for_all_steps(run):
    start, _ = run
    traces = []
    inner = train.learner(topk(32, 4), optax.adam(1e-3))

    def step(state, batch):
        traces.append(1)
        return inner.step(state, batch)

    counted = train.Learner(inner.init, step)
    data = jax.random.normal(jax.random.key(4), (500, 8))
    list(train.fit(counted, start(), data, steps=40, batch=64, seed=0, chunk=10))
    assert len(traces) == 1


def test_activations_that_are_not_finite_stop_the_run(run):
    start, _ = run
    learner = train.learner(topk(32, 4), optax.adam(1e-3))
    data = jnp.ones((500, 8)).at[77].set(jnp.nan)
    with pytest.raises(ValueError, match="not finite at step"):
        list(train.fit(learner, start(), data, steps=20, batch=64, seed=0))


def test_fewer_rows_than_a_batch_are_refused(run):
    start, _ = run
    learner = train.learner(topk(32, 4), optax.adam(1e-3))
    with pytest.raises(ValueError, match="10 rows for a batch of 64"):
        next(train.fit(learner, start(), jnp.ones((10, 8)), steps=5, batch=64, seed=0))
