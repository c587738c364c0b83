import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import dictionaries
from jaxinterp.activations.feed import Feed, from_array
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import train
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.topk import topk


@pytest.fixture
def run(rng):
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
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

    learner = dictionaries.learner(quiet._replace(loss=loss), optax.adam(1e-3))
    step = jax.jit(learner.step)
    x = jax.random.normal(jax.random.key(9), (64, 8))
    draws, states = [], [start()]
    for _ in range(4):
        state, info = step(states[-1], x)
        states.append(state)
        draws.append(float(info["draw"]))
    assert len(set(draws)) == 4
    assert float(step(states[2], x)[1]["draw"]) == draws[2]


def test_one_program_for_all_steps(run):
    start, _ = run
    traces = []
    inner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))

    def step(state, batch):
        traces.append(1)
        return inner.step(state, batch)

    counted = dictionaries.Learner(inner.init, step)
    data = jax.random.normal(jax.random.key(4), (500, 8))
    list(train.fit(counted, start(), data, steps=40, batch=64, seed=0, chunk=10))
    assert len(traces) == 1
    feed = from_array(data, batch=64, seed=0)
    list(train.fit_feed(counted, start(), feed, steps=40, chunk=10))
    assert len(traces) == 2


def test_a_feed_of_the_same_rows_gives_the_same_run(run):
    """Step by step or scanned, the arithmetic is the same; the compiler fuses it differently."""
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    data = jax.random.normal(jax.random.key(4), (500, 8))
    *_, scanned = train.fit(learner, start(), data, steps=35, batch=64, seed=5, chunk=10)
    feed = from_array(data, batch=64, seed=5)
    *_, fed = train.fit_feed(learner, start(), feed, steps=35, chunk=10)
    assert fed.step == scanned.step == 35
    assert int(fed.position) == 35
    for name, value in scanned.state.params.items():
        np.testing.assert_allclose(fed.state.params[name], value, atol=1e-5)
    np.testing.assert_allclose(fed.info["loss"], scanned.info["loss"], rtol=1e-4)


def test_only_a_few_steps_wait_at_once(run, monkeypatch):
    """Each of the first eight waits for the first step, each later one for the seventh before."""
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    feed = from_array(jax.random.normal(jax.random.key(4), (500, 8)), batch=64, seed=5)
    waited = []
    with monkeypatch.context() as patch:
        patch.setattr(jax, "block_until_ready", lambda info: waited.append(info["loss"]))
        (at,) = train.fit_feed(learner, start(), feed, steps=20, chunk=20)
    assert [float(loss) for loss in waited] == [at.info["loss"][max(0, i - 7)] for i in range(20)]


def test_a_run_over_a_feed_goes_on_bit_for_bit(run):
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    feed = from_array(jax.random.normal(jax.random.key(4), (500, 8)), batch=64, seed=5)
    *_, unbroken = train.fit_feed(learner, start(), feed, steps=30, chunk=10)
    *_, half = train.fit_feed(learner, start(), feed, steps=13, chunk=10)
    *_, whole = train.fit_feed(
        learner, half.state, feed, steps=30, position=half.position, chunk=10
    )
    assert equal(whole.state, unbroken.state)


def test_rows_that_are_not_finite_stop_the_run_before_they_spoil_it(run):
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    data = jax.random.normal(jax.random.key(4), (640, 8)).at[77, 3].set(jnp.nan)
    with pytest.raises(train.Stopped, match=r"not finite at step \d+: row 77 in the data") as stop:
        list(train.fit(learner, start(), data, steps=20, batch=64, seed=0))
    at = stop.value
    assert int(at.state.step) == at.step < 10
    *_, good = train.fit(learner, start(), data, steps=at.step, batch=64, seed=0)
    assert equal(at.state, good.state)


def test_a_bad_batch_of_a_feed_is_named_with_its_rows(run):
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    inner = from_array(jax.random.normal(jax.random.key(4), (640, 8)), batch=64, seed=0)

    def following(position):
        after, batch = inner.next(position)
        return after, batch.at[5, 1].set(jnp.inf) if int(position) == 13 else batch

    feed = Feed(inner.init, following)
    with pytest.raises(train.Stopped, match=r"step 13: row 5 in batch 13 holds NaN") as stop:
        list(train.fit_feed(learner, start(), feed, steps=40, chunk=10))
    assert stop.value.step == int(stop.value.position) == int(stop.value.state.step) == 13
    *_, good = train.fit_feed(learner, start(), inner, steps=13, chunk=10)
    assert equal(stop.value.state, good.state)


def test_training_that_diverges_is_told_from_bad_rows(run):
    learner = dictionaries.learner(relu(32, weight=0.0), optax.sgd(1e20))
    data = jax.random.normal(jax.random.key(4), (500, 8))
    state = learner.init(jax.random.key(0), data)
    with pytest.raises(train.Stopped, match="training diverged: lower the learning rate"):
        list(train.fit(learner, state, data, steps=20, batch=64, seed=0))


def test_a_dictionary_in_which_nothing_fires_is_refused():
    learner = dictionaries.learner(relu(32), optax.sgd(0.0))
    data = jax.random.normal(jax.random.key(4), (500, 8))
    state = learner.init(jax.random.key(0), data)
    state.params["encoder_bias"] -= 100.0
    with pytest.raises(train.Stopped, match="no latent was active in the last 200 steps") as stop:
        list(train.fit(learner, state, data, steps=1000, batch=64, seed=0))
    assert stop.value.step == int(stop.value.state.step) == 200


def test_rows_of_another_dimension_are_refused(run):
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    with pytest.raises(ValueError, match="dimension 9 for a dictionary of dimension 8"):
        next(train.fit(learner, start(), jnp.ones((500, 9)), steps=5, batch=64, seed=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": jnp.ones((10, 8))}, "10 rows for a batch of 64"),
        (
            {"data": (jnp.ones((80, 8)), jnp.ones((70, 8)))},
            r"80 rows in data\[0\], 70 rows in data\[1\]: rows that belong together",
        ),
        ({"batch": 0}, "batch is 0: it must be at least 1"),
        ({"chunk": 0}, "chunk is 0: it must be at least 1"),
        ({"batch": 1}, "a batch of 1 row has no variance to explain"),
    ],
)
def test_data_that_make_no_batches_are_refused(run, settings, message):
    start, _ = run
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    settings = {"data": jnp.ones((100, 8)), "batch": 64, "steps": 5, "seed": 0} | settings
    with pytest.raises(ValueError, match=message):
        next(train.fit(learner, start(), **settings))


def test_a_feed_without_steps_between_reports_is_refused(run):
    start, _ = run
    feed = from_array(jnp.ones((100, 8)), batch=64, seed=0)
    learner = dictionaries.learner(topk(32, 4), optax.adam(1e-3))
    with pytest.raises(ValueError, match="chunk is 0"):
        next(train.fit_feed(learner, start(), feed, steps=5, chunk=0))
