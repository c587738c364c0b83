import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, formats, train
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.sites import between, learn_from
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.transcoder import skip_transcoder, transcoder
from jaxinterp.evaluation import reconstruction

from .relatives import assert_equal_to_stored, case

BOTH = {"transcoder": transcoder, "skip_transcoder": skip_transcoder}


@pytest.mark.parametrize("name", BOTH)
def test_loss_and_gradient_equal_sparsify(name):
    stored, params, gradient = case(name)
    dictionary = BOTH[name](topk, width=40, k=4)
    assert_equal_to_stored(dictionary, params, stored["x"], stored["y"], stored["loss"], gradient)


@pytest.fixture
def pair():
    x = jax.random.normal(jax.random.key(1), (64, 6)) + 2
    return x, jnp.tanh(x @ jax.random.normal(jax.random.key(2), (6, 9))) - 3


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("recipe", [functools.partial(topk, k=4), relu, jumprelu])
def test_it_starts_as_the_mean_of_the_target_with_centred_scores(name, recipe, pair):
    x, target = pair
    dictionary = BOTH[name](recipe, width=20)
    params = dictionary.init(jax.random.key(0), pair)
    written = dictionary.decode(params, dictionary.encode(params, x))
    np.testing.assert_allclose(written, jnp.broadcast_to(target.mean(0), target.shape), atol=1e-5)
    scores = x @ params["encoder"].T + params["encoder_bias"][None]
    np.testing.assert_allclose(scores.mean(0), 0.0, atol=1e-5)
    bound = 6**-0.5
    assert 0.9 * bound < float(jnp.abs(params["encoder"]).max()) <= bound
    assert dictionary.project(params).keys() == params.keys()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("recipe", [functools.partial(topk, k=4), relu])
def test_codes_of_a_row_do_not_depend_on_the_batch(name, recipe, pair):
    x, _ = pair
    dictionary = BOTH[name](recipe, width=20)
    params = dictionary.init(jax.random.key(0), pair)
    noise = jax.random.normal(jax.random.key(5), (20, 9))
    params = params | {"decoder": noise} | ({"skip": noise[:9, :6]} if "skip" in params else {})
    together = dictionary.decode(params, jax.jit(dictionary.encode)(params, x))
    one = lambda row: dictionary.decode(params, dictionary.encode(params, row[None]))[0]  # noqa: E731
    np.testing.assert_allclose(together, jax.vmap(one)(x), atol=1e-4)
    shaped = dictionary.encode(params, x.reshape(4, 16, 6))
    np.testing.assert_allclose(
        dictionary.decode(params, shaped).reshape(64, 9), together, atol=1e-4
    )


def fit(dictionary, data, steps=800):
    rate = optax.schedules.warmup_cosine_decay_schedule(0.0, 5e-3, 50, steps)
    ours = learner(dictionary, optax.adam(rate))
    state = jax.jit(ours.init)(jax.random.key(0), data)
    *_, last = train.fit(ours, state, data, steps=steps, batch=256, seed=0, chunk=300)
    return last.state.params


def planted(skip):
    """A layer of 24 units of which few are on, and a linear path past them."""
    reading = base.unit_rows(jax.random.normal(jax.random.key(1), (24, 16)))
    writing = base.unit_rows(jax.random.normal(jax.random.key(2), (24, 12)))
    past = skip * jax.random.normal(jax.random.key(3), (16, 12)) / 4
    x = jax.random.normal(jax.random.key(4), (8192, 16))
    on = jax.nn.relu(x @ reading.T - 1.2)
    return (x, on @ writing + x @ past), reading, writing


@pytest.mark.slow
def test_a_planted_sparse_layer_is_recovered():
    """Most units' reading and writing directions come back, both on the same latent."""
    data, reading, writing = planted(skip=0.0)
    params = fit(transcoder(topk, width=32, k=4, dead_after=20_000), data)
    read = np.asarray(reading @ base.unit_rows(params["encoder"]).T)
    wrote = np.asarray(writing @ base.unit_rows(params["decoder"]).T)
    joint = np.minimum(read, wrote).max(1)
    random = jax.random.normal(jax.random.key(9), (32, 28))
    chance = np.minimum(
        np.asarray(reading @ base.unit_rows(random[:, :16]).T),
        np.asarray(writing @ base.unit_rows(random[:, 16:]).T),
    ).max(1)
    assert (joint > 0.9).mean() >= 0.9
    assert (chance > 0.9).mean() == 0
    assert joint.mean() > chance.mean() + 0.4


@pytest.mark.slow
def test_the_skip_takes_up_what_is_linear():
    data, *_ = planted(skip=1.0)
    explained = {}
    for name, build in BOTH.items():
        dictionary = build(topk, width=32, k=4, dead_after=20_000)
        params = fit(dictionary, data, steps=600)
        measured = reconstruction.measure(dictionary, params, [data])
        explained[name] = measured.metrics()["variance_explained"]
        assert measured.metrics()["l0"] <= 4
    assert explained["skip_transcoder"] > 0.95
    assert explained["skip_transcoder"] > explained["transcoder"] + 0.1


def test_it_learns_from_a_batch_of_sites(pair):
    x, target = pair
    ours = learner(transcoder(topk, width=20, k=4), optax.adam(1e-3))
    by_site = learn_from(ours, between("L2.ln2", "L2.mlp_out"))
    batch = {"L2.ln2": x, "L2.mlp_out": target, "L3.ln2": x}
    state = by_site.init(jax.random.key(0), batch)
    same = ours.init(jax.random.key(0), pair)
    state, info = jax.jit(by_site.step)(state, batch)
    same, expected = jax.jit(ours.step)(same, pair)
    np.testing.assert_array_equal(info["loss"], expected["loss"])
    np.testing.assert_array_equal(state.params["decoder"], same.params["decoder"])
    with pytest.raises(ValueError, match=r"no site 'L9.ln2'; it has L2.ln2"):
        learn_from(ours, between("L9.ln2", "L2.mlp_out")).step(state, batch)


def test_members_of_a_sweep_equal_single_runs(pair):
    x, target = pair

    def loss(weight):
        dictionary = skip_transcoder(relu, width=20, weight=weight)
        params = dictionary.init(jax.random.key(0), pair)
        params = params | {"decoder": params["decoder"] + 0.1}
        return dictionary.loss(params, base.new_stats(20), x, target, jax.random.key(0))[0]

    weights = jnp.asarray([0.0, 0.5, 2.0])
    together = jax.jit(jax.vmap(loss))(weights)
    np.testing.assert_allclose(together, [loss(w) for w in weights], rtol=1e-5)
    assert together[2] > together[0] + 0.1


@pytest.mark.parametrize("name", BOTH)
def test_round_trip_is_exact(name, pair, tmp_path):
    options = {"recipe": jumprelu, "width": 20, "first_threshold": 0.1}
    dictionary = BOTH[name](**options)
    params = dictionary.init(jax.random.key(0), pair)
    formats.save(tmp_path / "d", name, options, params, {"site": "L2.ln2", "into": "L2.mlp_out"})
    loaded, read, header = formats.load(tmp_path / "d")
    assert read.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_array_equal(read[key], value)
    assert header["source"]["into"] == "L2.mlp_out"
    np.testing.assert_array_equal(
        loaded.decode(read, loaded.encode(read, pair[0])),
        dictionary.decode(params, dictionary.encode(params, pair[0])),
    )


@pytest.mark.parametrize("name", BOTH)
def test_bad_input_is_refused(name, pair):
    x, target = pair
    dictionary = BOTH[name](topk, width=20, k=4)
    with pytest.raises(ValueError, match=r"needs a pair"):
        dictionary.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"needs a pair"):
        dictionary.init(jax.random.key(0), (x, target[:-1]))
    params = dictionary.init(jax.random.key(0), pair)
    with pytest.raises(ValueError, match="dimension 5 for a dictionary of dimension 6"):
        dictionary.encode(params, x[:, :5])
    with pytest.raises(ValueError, match="k=21"):
        BOTH[name](topk, width=20, k=21)
