import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, formats
from jaxinterp.dictionaries.contrastive import contrastive
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.temporal import predict, temporal
from jaxinterp.dictionaries.topk import topk

from .relatives import assert_equal_to_stored, case

OPTIONS = {"width": 48, "k": 3, "heads": 2, "layers": 2, "bottleneck": 4}


def stacked(values):
    """The peer's attention layers, one name each, on a leading axis."""
    whole = {name: value for name, value in values.items() if "." not in name}
    for name in sorted({n.rpartition(".")[0] for n in values if "." in n}):
        whole[name] = jnp.stack([values[f"{name}.{i}"] for i in range(2)])
    return whole


@pytest.fixture(scope="module")
def stored():
    inputs, params, gradient = case("temporal")
    return inputs, stacked(params), stacked(gradient)


def test_loss_gradient_and_codes_equal_saelens(stored):
    inputs, params, gradient = stored
    dictionary, x = temporal(**OPTIONS), inputs["x"]
    # Every question sees the same shift from a bias of the keys, which a softmax ignores.
    assert_equal_to_stored(dictionary, params, x, x, inputs["loss"], gradient, flat=("key_bias",))
    codes = dictionary.encode(params, x)
    np.testing.assert_allclose(base.densify(codes.codes, 48), inputs["novel"], atol=1e-5)
    predicted, part, rest = predict(params, x, heads=2)
    np.testing.assert_allclose(predicted, inputs["predicted"], atol=1e-4)
    np.testing.assert_allclose(part, inputs["predicted"] @ params["decoder"], atol=1e-3)
    np.testing.assert_allclose(part + rest, x - params["decoder_bias"][None, None], atol=1e-4)


def test_a_token_s_code_depends_on_earlier_tokens_of_its_own_sequence_only(stored):
    inputs, params, _ = stored
    dictionary, x = temporal(**OPTIONS), inputs["x"]
    encode = jax.jit(dictionary.encode)
    whole = dictionary.decode(params, encode(params, x))
    later = dictionary.decode(params, encode(params, x.at[:, 4:].add(5.0)))
    np.testing.assert_allclose(whole[:, :4], later[:, :4], atol=1e-4)
    assert np.abs(whole[:, 4:] - later[:, 4:]).max() > 0.1
    earlier = dictionary.decode(params, encode(params, x.at[:, 0].add(5.0)))
    assert np.abs(whole[:, 3] - earlier[:, 3]).max() > 1e-3
    alone = dictionary.decode(params, dictionary.encode(params, x[1]))
    np.testing.assert_allclose(alone, whole[1], atol=1e-4)


def test_the_first_token_is_predicted_by_biases_alone(stored):
    inputs, params, _ = stored
    bare = {n: jnp.zeros_like(v) if n.endswith("_bias") else v for n, v in params.items()}
    predicted, part, _ = predict(bare, inputs["x"], heads=2)
    assert float(jnp.abs(predicted[:, 0]).max()) == 0
    assert float(jnp.abs(part[:, 0]).max()) == 0
    gradient = jax.grad(lambda p: predict(p, inputs["x"], heads=2)[1].sum())(bare)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


def walk(key, n=32, seq=12, d=16, slow=4):
    """Slow directions that change little from token to token, and sparse news in the others."""
    keys = jax.random.split(key, 4)
    frame = jnp.linalg.qr(jax.random.normal(jax.random.key(100), (d, d)))[0]
    start = jax.random.normal(keys[0], (n, 1, slow))
    drift = 0.15 * jnp.cumsum(jax.random.normal(keys[1], (n, seq, slow)), 1)
    on = jax.random.uniform(keys[2], (n, seq, d - slow)) < 0.1
    news = on * (1 + jax.random.uniform(keys[3], (n, seq, d - slow)))
    lasting = 2 * (start + drift) @ frame[:slow]
    novel = news @ frame[slow:]
    return lasting + novel, lasting, novel


@pytest.mark.slow
def test_the_predicted_part_holds_what_lasts_and_the_novel_code_what_is_new():
    steps = 500
    dictionary = temporal(width=64, k=4, heads=2, bottleneck=4)
    rate = optax.schedules.warmup_cosine_decay_schedule(0.0, 5e-3, 50, steps)
    ours = learner(dictionary, optax.adam(rate))
    state = ours.init(jax.random.key(0), walk(jax.random.key(1))[0])
    keys = jax.random.split(jax.random.key(2), steps)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, walk(k)[0]), s, keys))
    state, info = run(state)
    x, lasting, novel = (a[:, 2:] for a in walk(jax.random.key(3)))
    whole = walk(jax.random.key(3))[0]
    codes = jax.jit(dictionary.encode)(state.params, whole)
    part = codes.rest[:, 2:]

    def explained(y, by):
        left = jnp.square(y - by).sum() / jnp.square(y - y.mean((0, 1), keepdims=True)).sum()
        return float(1 - left)

    assert info["variance_explained"][-1] > 0.8
    assert explained(lasting, part) > 0.8
    assert explained(novel, part) < 0.3
    energy = jnp.square(codes.codes.values[:, 2:]).sum(-1).ravel()
    news = jnp.square(novel).sum(-1).ravel()
    assert float(jnp.corrcoef(energy, news)[0, 1]) > 0.6


def test_temporal_round_trip_is_exact(stored, tmp_path):
    inputs, params, _ = stored
    formats.save(tmp_path / "d", "temporal", OPTIONS, params)
    loaded, read, _ = formats.load(tmp_path / "d")
    assert read.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_array_equal(read[key], value)
    x = inputs["x"]
    np.testing.assert_array_equal(
        loaded.decode(read, loaded.encode(read, x)),
        temporal(**OPTIONS).decode(params, temporal(**OPTIONS).encode(params, x)),
    )


@pytest.mark.parametrize(
    ("change", "message"), [({"k": 49}, "k=49"), ({"heads": 5}, "width=48 is not a multiple")]
)
def test_impossible_temporal_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        temporal(**(OPTIONS | change))


def test_what_is_not_of_its_sequences_is_refused():
    dictionary = temporal(**OPTIONS)
    with pytest.raises(ValueError, match=r"sample of shape \(9, 6\)"):
        dictionary.init(jax.random.key(0), jnp.ones((9, 6)))
    params = dictionary.init(jax.random.key(0), jnp.ones((3, 9, 6)))
    with pytest.raises(ValueError, match="dimension 5 for a dictionary of dimension 6"):
        dictionary.encode(params, jnp.ones((3, 9, 5)))


def test_contrast_and_its_gradient_equal_torch():
    inputs, params, gradient = case("contrastive")
    dictionary = contrastive(topk(32, 5, aux_weight=0.0), high=8)
    assert_equal_to_stored(dictionary, params, inputs["x"], inputs["x"], inputs["loss"], gradient)


@pytest.mark.slow
def test_contrast_is_the_same_for_codes_of_either_form():
    x = jax.random.normal(jax.random.key(1), (10, 4, 6))
    both = []
    for dictionary in (topk(32, 32), relu(32)):
        ours = contrastive(dictionary, high=8)
        params = topk(32, 32).init(jax.random.key(0), x.reshape(-1, 6))
        _, info = ours.loss(params, base.new_stats(32), x, x, jax.random.key(0))
        both.append(info.metrics["contrast"])
    np.testing.assert_allclose(*both, rtol=1e-5)
    assert 0 < both[0] < 10


@pytest.mark.slow
def test_contrast_moves_what_lasts_into_the_first_latents():
    """The first latents turn towards the slow directions as the contrast weighs in."""

    def energy(weight):
        steps, high = 300, 8
        dictionary = contrastive(topk(48, 6), high=high, weight=weight)
        ours = learner(dictionary, optax.adam(3e-3))
        pairs = lambda k: walk(k, n=64, seq=2)[0]  # noqa: E731
        state = ours.init(jax.random.key(0), pairs(jax.random.key(1)))
        keys = jax.random.split(jax.random.key(2), steps)
        run = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, pairs(k)), s, keys))
        state, info = run(state)
        frame = jnp.linalg.qr(jax.random.normal(jax.random.key(100), (16, 16)))[0]
        slow = jnp.square(base.unit_rows(state.params["decoder"][:high]) @ frame[:4].T).sum(1)
        return float(slow.mean()), float(info["contrast"][-1])

    without, with_contrast = energy(0.0), energy(1.0)
    assert with_contrast[1] < without[1] - 0.5
    assert with_contrast[0] > without[0] + 0.15


def test_bad_contrast_is_refused():
    x = jnp.ones((4, 3, 6))
    with pytest.raises(ValueError, match="high=33 with 32 latents"):
        contrastive(topk(32, 5), high=33)
    dictionary = contrastive(topk(32, 5), high=3)
    params = dictionary.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="at least two tokens"):
        dictionary.loss(params, base.new_stats(32), x[:, :1], x[:, :1], jax.random.key(0))
