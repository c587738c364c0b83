import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.activations.feed import from_array
from jaxinterp.dictionaries import train
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.optimizers import learning_rate, optimizer
from jaxinterp.dictionaries.padding import narrow_params, narrowed, topk_of
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.sweep import by_site, member, sweep
from jaxinterp.dictionaries.topk import topk

STEPS, BATCH = 30, 32


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(24, 8))
    codes = rng.exponential(size=(300, 24)) * (rng.random((300, 24)) < 0.2)
    return jnp.asarray(codes @ atoms, jnp.float32)


def train_on(data, what, key, steps=STEPS):
    state = jax.jit(what.init)(key, data)
    *_, last = train.fit(what, state, data, steps=steps, batch=BATCH, seed=1, chunk=10)
    return last


def assert_same(params, alone, atol):
    for name, value in alone.items():
        np.testing.assert_allclose(params[name], value, atol=atol, err_msg=name)


MEMBERS = {"weight": jnp.array([0.0, 0.1, 10.0]), "rate": jnp.array([1e-3, 3e-3, 1e-2])}
KEYS = jax.random.split(jax.random.key(5), 3)


def make_relu(h):
    rate = learning_rate(h["rate"], steps=STEPS, warmup=5)
    return learner(relu(16, weight=h["weight"]), optimizer("adam", rate, clip=1.0))


@pytest.fixture(scope="module")
def alone(data):
    singles = [make_relu({n: v[i] for n, v in MEMBERS.items()}) for i in range(3)]
    ends = [train_on(data, single, key) for single, key in zip(singles, KEYS, strict=True)]
    return [(one.params(end.state), end.info) for one, end in zip(singles, ends, strict=True)]


@pytest.mark.parametrize("backend", ["cpu", "other"])
def test_a_member_of_a_sweep_equals_its_single_run(data, alone, backend, monkeypatch):
    """Seeds, penalties and rates; one after another and vmapped."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    many = sweep(make_relu, MEMBERS)
    last = train_on(data, many, KEYS)
    found = many.params(last.state)
    for i, (params, info) in enumerate(alone):
        assert_same(member(found, i), params, 2e-6)
        np.testing.assert_allclose(last.info["loss"][:, i], info["loss"], rtol=1e-5)
    assert last.info["l0"][-1, 2] < 0.8 * last.info["l0"][-1, 0]


@pytest.mark.slow
def test_members_of_different_width_and_k_equal_runs_of_that_size(data):
    sizes = [(16, 2), (24, 4), (10, 3)]
    members = {"width": jnp.array([w for w, _ in sizes]), "k": jnp.array([k for _, k in sizes])}

    def make(h):
        return learner(
            narrowed(topk_of(24, h["k"], largest_k=4, dead_after=300), h["width"]),
            optimizer("adam", 3e-3),
        )

    many = sweep(make, members)
    last = train_on(data, many, jax.random.key(5), steps=60)
    for i, (width, k) in enumerate(sizes):
        single = learner(topk(width, k, dead_after=300), optimizer("adam", 3e-3))
        alone = train_on(data, single, jax.random.key(5), steps=60)
        params = member(many.params(last.state), i)
        assert params["encoder"].shape == (24, 8)
        assert not params["decoder"][width:].any()
        assert_same(narrow_params(params, width), single.params(alone.state), 1e-5)
        for name in ("l0", "dead", "variance_explained"):
            np.testing.assert_allclose(last.info[name][:, i], alone.info[name], atol=1e-5)


def test_a_member_that_diverges_stops_without_disturbing_the_others(data):
    def make(h):
        return learner(relu(16, weight=0.1), optax.sgd(h["rate"]))

    rates = jnp.array([1e-3, 1e3, 2e-3])
    with_it = sweep(make, {"rate": rates})
    last = train_on(data, with_it, jax.random.key(5))
    calm = sweep(make, {"rate": jnp.array([1e-3, 1e-5, 2e-3])})
    without = train_on(data, calm, jax.random.key(5))
    np.testing.assert_array_equal(last.state.running, [True, False, True])
    stopped = int(last.state.stopped_at[1])
    assert 0 < stopped < 15
    assert last.state.stopped_at[0] == -1
    assert np.isnan(last.info["loss"][:, 1]).all()
    found = with_it.params(last.state)
    assert all(np.isfinite(member(found, 1)[name]).all() for name in found)
    for i in (0, 2):
        for name, value in member(calm.params(without.state), i).items():
            np.testing.assert_array_equal(member(found, i)[name], value)
    with pytest.raises(train.Stopped):
        train_on(data, sweep(make, {"rate": jnp.array([1e3, 1e4])}), jax.random.key(5))


def test_a_loss_above_a_bound_counts_as_diverged(data):
    def make(h):
        return learner(relu(16, weight=h["weight"]), optax.sgd(1e-3))

    many = sweep(make, {"weight": jnp.array([0.1, 1e6])}, largest_loss=1e4)
    last = train_on(data, many, jax.random.key(5))
    np.testing.assert_array_equal(last.state.running, [True, False])
    assert last.state.stopped_at[1] == 0


def test_one_program_for_all_values(data):
    traces = []

    def make(h):
        inner = learner(relu(16, weight=h["weight"]), optimizer("adam", h["rate"]))

        def step(state, batch):
            traces.append(1)
            return inner.step(state, batch)

        return inner._replace(step=step)

    many = sweep(make, {"weight": jnp.arange(4.0), "rate": jnp.full(4, 1e-3)})
    train_on(data, many, jax.random.key(0))
    assert len(traces) == 1


@pytest.mark.slow
def test_several_sites_learn_from_one_batch(data):
    other = jnp.concatenate([data[:, ::-1], data], axis=1)
    rates = {"rate": jnp.array([1e-3, 3e-3])}

    def make(h):
        return learner(relu(16), optimizer("adam", h["rate"]))

    both = by_site({"L1.resid_post": sweep(make, rates), "L2.resid_post": sweep(make, rates)})
    rows = {"L1.resid_post": data, "L2.resid_post": other}
    key = jax.random.key(3)
    state = jax.jit(both.init)(key, rows)
    feed = from_array(rows, batch=BATCH, seed=1)
    *_, last = train.fit_feed(both, state, feed, steps=20, chunk=10)
    assert last.info["loss"].shape == (10, 2, 2)
    found = both.params(last.state)
    for site, rows, first in zip(found, (data, other), jax.random.split(key, 2), strict=True):
        single = make({"rate": rates["rate"][1]})
        state = single.init(first, rows)
        *_, alone = train.fit_feed(
            single, state, from_array(rows, batch=BATCH, seed=1), steps=20, chunk=10
        )
        assert_same(member(found[site], 1), single.params(alone.state), 2e-6)


def test_what_does_not_fit_is_refused(data):
    def make(h):
        return learner(topk(16, 2), optimizer("adam", h["rate"]))

    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        sweep(make, {"rate": jnp.ones(2), "weight": jnp.ones(3)})
    with pytest.raises(ValueError, match="2 keys for 3 members"):
        sweep(make, {"rate": jnp.ones(3)}).init(jax.random.split(jax.random.key(0), 2), data)
    with pytest.raises(ValueError, match="17 latents of 16"):
        narrowed(topk(16, 2), 17)
    both = by_site({"L1.z": make({"rate": 1e-3})})
    with pytest.raises(ValueError, match=r"batches hold \['L2.z'\] and not \['L1.z'\]"):
        both.init(jax.random.key(0), {"L2.z": data})
    with pytest.raises(ValueError, match=r"batches hold \['L2.z'\] and not \['L1.z'\]"):
        both.step(both.init(jax.random.key(0), {"L1.z": data}), {"L2.z": data})


def test_sites_report_what_all_of_them_do(data):
    """Kinds of their own have numbers of their own; numbers of members can't differ."""
    rows = {"L1.z": data, "L2.z": data}

    def report(first, second):
        both = by_site({"L1.z": first, "L2.z": second})
        state = jax.eval_shape(both.init, jax.random.key(0), rows)
        return jax.eval_shape(both.step, state, rows)[1]

    one, other = (learner(kind, optimizer("adam", 1e-3)) for kind in (topk(16, 2), relu(16)))
    info = report(one, other)
    assert {"loss", "l0", "dead"} <= set(info)
    assert not {"aux", "penalty"} & set(info)
    assert info["loss"].shape == (2,)
    with pytest.raises(ValueError, match=r"'L2.z': \(3,\)}: give every site as many members"):
        report(one, sweep(lambda h: one, {"rate": jnp.ones(3)}))
