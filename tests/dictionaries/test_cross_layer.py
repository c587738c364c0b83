import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, formats, registry, triangle
from jaxinterp.dictionaries.cross_layer_jumprelu import cross_layer_jumprelu
from jaxinterp.dictionaries.cross_layer_topk import cross_layer_topk
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.sites import learn_from, stacked_between
from tests.programs import shapes_in

from .relatives import assert_equal_to_stored, case

LAYERS, WIDTH, K = 3, 12, 2
KINDS = {
    "cross_layer_topk": {"layers": LAYERS, "width": WIDTH, "k": K, "aux_k": 3},
    "cross_layer_jumprelu": {
        "layers": LAYERS,
        "width": WIDTH,
        "weight": 0.3,
        "bandwidth": 0.8,
        "pre_activation_weight": 0.05,
    },
    "cross_layer_batch_topk": {"layers": LAYERS, "width": WIDTH, "k": K, "aux_weight": 0.0},
}


def build(name):
    return registry.VARIANTS[name](**KINDS[name])


def stored_case(name):
    """The stored case; a batch top-k has a threshold of its own."""
    stored, params, gradient = case(name)
    return stored, params | ({"threshold": jnp.asarray(0.7)} if "batch" in name else {}), gradient


@pytest.mark.parametrize("name", KINDS)
def test_loss_and_gradient_equal_torch(name):
    stored, params, gradient = stored_case(name)
    dead = jnp.where(jnp.arange(LAYERS * WIDTH) % 3 == 0, 10**6, 0)
    assert_equal_to_stored(
        build(name), params, stored["x"], stored["y"], stored["loss"], gradient, silent=dead
    )


def test_batch_topk_follows_the_smallest_kept_score():
    stored, params, _ = case("cross_layer_batch_topk")
    x, stats = stored["x"], base.new_stats(LAYERS * WIDTH)
    dictionary = build("cross_layer_batch_topk")
    for old, expected in ((-1.0, stored["threshold"]), (2.0, 1.98 + 0.01 * stored["threshold"])):
        with_old = params | {"threshold": jnp.asarray(old)}
        _, info = dictionary.loss(with_old, stats, x, stored["y"], jax.random.key(0))
        np.testing.assert_allclose(info.assigned["threshold"], expected, rtol=1e-5)
        assert info.metrics["l0"] == K * LAYERS


@pytest.mark.slow
def test_batch_topk_revives_dead_latents():
    """The auxiliary loss against NumPy in float64; it moves the dead latents' encoders only."""
    stored, params, _ = stored_case("cross_layer_batch_topk")
    x, y = stored["x"], stored["y"]
    dead = np.arange(LAYERS * WIDTH) % 3 == 0
    stats = base.Stats(jnp.where(dead, 10**6, 0), jnp.asarray(1))

    def value(params, weight, k):
        kind = functools.partial(registry.VARIANTS["cross_layer_batch_topk"], LAYERS, WIDTH, K)
        return kind(aux_weight=weight, aux_k=k).loss(params, stats, x, y, jax.random.key(0))[0]

    alive = registry.VARIANTS["cross_layer_batch_topk"](LAYERS, WIDTH, K)
    _, info = alive.loss(params, base.new_stats(LAYERS * WIDTH), x, y, jax.random.key(0))
    assert info.metrics["aux"] == 0.0  # nobody is dead

    double = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    scores = np.einsum("nld,lwd->nlw", x, double["encoder"]) + double["encoder_bias"]
    kept = np.where(scores >= np.sort(scores.ravel())[-K * scores[:, :, 0].size], scores, 0.0)
    attempts = np.where(dead.reshape(LAYERS, WIDTH), scores, -np.inf)
    worst_kept = np.sort(attempts, axis=2)[:, :, [-2]]
    attempts = np.where(attempts >= worst_kept, np.maximum(attempts, 0.0), 0.0)
    pairs = list(zip(*triangle.layer_pairs(LAYERS), double["decoder"], strict=True))

    def written(z):
        return np.stack([sum(z[:, s] @ w for s, t, w in pairs if t == at) for at in range(LAYERS)])

    residual = y.swapaxes(0, 1) - written(np.maximum(kept, 0)) - double["decoder_bias"][:, None]
    expected = np.square(residual - written(attempts)).sum() / np.square(residual).sum()
    np.testing.assert_allclose(value(params, 1.0, 2) - value(params, 0.0, 2), expected, rtol=1e-4)
    gradient = jax.grad(lambda p: value(p, 1.0, 2) - value(p, 0.0, 2))(params)
    moved = np.abs(gradient["encoder"]).max(2).ravel()
    assert (moved[~dead] < 1e-6).all()
    assert (moved[dead] > 1e-4).sum() >= dead.sum() // 2


@pytest.mark.parametrize("name", KINDS)
def test_a_layer_is_written_to_by_itself_and_earlier_ones(name):
    stored, params, _ = stored_case(name)
    dictionary = build(name)

    def written(x):
        return dictionary.decode(params, dictionary.encode(params, x[None]))[0]

    # Moving what one layer reads moves only the outputs of it and later layers.
    jacobian = jax.jacobian(written)(stored["x"][0])  # (to, d, from, d)
    reach = np.abs(np.asarray(jacobian)).max((1, 3)) > 0
    np.testing.assert_array_equal(reach, np.tril(np.ones((3, 3), bool)))


def test_the_triangle_lists_each_layer_s_decoders():
    source, target = triangle.layer_pairs(4)
    assert list(zip(source, target, strict=True)) == [(s, t) for s in range(4) for t in range(s, 4)]
    decoder = jnp.arange(10.0)[:, None, None] * jnp.ones((10, 5, 2))
    assert triangle.count_layers(decoder) == 4
    second = triangle.layer_decoder(decoder, 1)
    assert second.shape == (5, 3, 2)
    np.testing.assert_array_equal(second[0, :, 0], [4, 5, 6])
    lengths = triangle.source_norms(decoder)
    np.testing.assert_allclose(lengths[1], np.sqrt(2 * (16 + 25 + 36)), rtol=1e-6)
    with pytest.raises(ValueError, match="5 decoders"):
        triangle.count_layers(decoder[:5])


def test_writing_and_its_gradient_equal_the_dense_sum(rng):
    layers, n, width, d, k = 4, 6, 9, 3, 2
    decoder = jnp.asarray(rng.normal(size=(10, width, d)), jnp.float32)
    values = jnp.asarray(rng.normal(size=(layers, n, k)), jnp.float32)
    indices = jnp.asarray(rng.integers(0, width, (layers, n, k)))

    def dense(values, decoder):
        z = jnp.zeros((layers, n, width))
        z = jax.vmap(jax.vmap(lambda z, i, v: z.at[i].add(v)))(z, indices, values)
        square = jnp.zeros((layers, layers, width, d)).at[triangle.layer_pairs(layers)].set(decoder)
        return jnp.einsum("snw,stwd->tnd", z, square)

    def sparse(values, decoder):
        return triangle.write(values, indices, decoder)

    np.testing.assert_allclose(sparse(values, decoder), dense(values, decoder), atol=1e-5)
    weights = jnp.asarray(rng.normal(size=(layers, n, d)), jnp.float32)
    ours, expected = (
        jax.grad(lambda v, w, f=f: (f(v, w) * weights).sum(), (0, 1))(values, decoder)
        for f in (sparse, dense)
    )
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_nothing_holds_the_latents_of_all_layers_for_every_row():
    layers, width, n = 3, 101, 7
    dictionary = cross_layer_topk(layers, width, 4)
    pair = (jnp.ones((n, layers, 5)), jnp.ones((n, layers, 6)))
    params = dictionary.init(jax.random.key(0), pair)

    def loss(p):
        return dictionary.loss(p, base.new_stats(layers * width), *pair, jax.random.key(0))[0]

    shapes = shapes_in(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    sizes = {int(np.prod(s)) for s in shapes if width in s or layers * width in s}
    assert n * width in sizes  # the scores of one layer
    assert not any(n in s and (width in s and layers in s or layers * width in s) for s in shapes)


@pytest.mark.parametrize("name", KINDS)
def test_codes_of_a_row_do_not_depend_on_the_batch(name):
    stored, params, _ = stored_case(name)
    x, dictionary = stored["x"], build(name)
    together = jax.jit(dictionary.encode)(params, x)
    alone = jax.vmap(lambda row: dictionary.encode(params, row[None]))(x)
    alone = jax.tree.map(lambda a: a[:, 0], alone)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), together, alone)
    shaped = dictionary.decode(params, dictionary.encode(params, x.reshape(4, 4, 3, 5)))
    np.testing.assert_allclose(
        shaped.reshape(16, 3, 4), dictionary.decode(params, together), atol=1e-5
    )


def test_members_of_a_sweep_equal_single_runs():
    stored, params, _ = case("cross_layer_jumprelu")

    def loss(weight):
        dictionary = cross_layer_jumprelu(LAYERS, WIDTH, weight=weight)
        stats = base.new_stats(LAYERS * WIDTH)
        return dictionary.loss(params, stats, stored["x"], stored["y"], jax.random.key(0))[0]

    weights = jnp.asarray([0.0, 0.5, 2.0])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(loss))(weights), [loss(w) for w in weights], rtol=1e-5
    )


@pytest.mark.slow
def test_a_feature_that_every_later_layer_repeats_takes_one_latent():
    """Layer 0 reads 10 features; its output and that of both later layers hold them.

    Later layers see noise only, so without atoms across layers their outputs stay unexplained.
    """
    n, d, features = 1024, 12, 10
    atoms = base.unit_rows(jax.random.normal(jax.random.key(1), (4, features, d)).reshape(-1, d))
    reading, *writing = atoms.reshape(4, features, d)

    def sample(key):
        first, second, third = jax.random.split(key, 3)
        on = jax.random.uniform(first, (n, features)) < 0.12
        z = on * (1 + jax.random.uniform(second, (n, features)))
        noise = 0.3 * jax.random.normal(third, (n, LAYERS - 1, d))
        x = jnp.concatenate([(z @ reading)[:, None], noise], 1)
        return x, jnp.stack([z @ w for w in writing], 1)

    steps = 600
    dictionary = cross_layer_topk(LAYERS, 16, 3, dead_after=50_000)
    rate = optax.schedules.warmup_cosine_decay_schedule(0.0, 1e-2, 50, steps)
    ours = learner(dictionary, optax.adam(rate))
    state = ours.init(jax.random.key(0), sample(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), steps)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, sample(k)), s, keys))
    state, info = run(state)
    assert info["variance_explained"][-1] > 0.9
    of_first = triangle.layer_decoder(state.params["decoder"], 0)  # (width, targets, d)
    cosines = [
        np.asarray(base.unit_rows(w) @ base.unit_rows(of_first[:, t]).T)
        for t, w in enumerate(writing)
    ]
    same_latent = np.minimum.reduce(cosines).max(1)
    assert (same_latent > 0.9).mean() >= 0.9


@pytest.mark.slow
def test_it_learns_from_a_batch_of_sites():
    stored, _, _ = case("cross_layer_jumprelu")
    ins, outs = ([f"L{i}.{word}" for i in range(3)] for word in ("ln2", "mlp_out"))
    batch = {name: stored["x"][:, i] for i, name in enumerate(ins)}
    batch |= {name: stored["y"][:, i] for i, name in enumerate(outs)}
    for name in KINDS:
        ours = learn_from(learner(build(name), optax.adam(1e-2)), stacked_between(ins, outs))
        state = ours.init(jax.random.key(0), batch)
        np.testing.assert_allclose(state.params["decoder_bias"], stored["y"].mean(0), atol=1e-6)
        step = jax.jit(ours.step)
        infos = [(state := new, info)[1] for _ in range(30) for new, info in [step(state, batch)]]
        assert infos[-1]["variance_explained"] > infos[0]["variance_explained"] + 0.1


@pytest.mark.parametrize("name", KINDS)
def test_round_trip_is_exact(name, tmp_path):
    stored, params, _ = stored_case(name)
    formats.save(tmp_path / "d", name, KINDS[name], params)
    loaded, read, _ = formats.load(tmp_path / "d")
    assert read.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_array_equal(read[key], value)
    np.testing.assert_array_equal(
        loaded.decode(read, loaded.encode(read, stored["x"])),
        build(name).decode(params, build(name).encode(params, stored["x"])),
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_row_of_nan_shows_in_its_reconstruction_and_nowhere_else(name):
    stored, params, _ = stored_case(name)
    x = stored["x"].at[3].set(jnp.nan)
    bad = jnp.isnan(build(name).decode(params, build(name).encode(params, x)))
    np.testing.assert_array_equal(bad.all((1, 2)), jnp.arange(len(x)) == 3)
    np.testing.assert_array_equal(bad.any((1, 2)), jnp.arange(len(x)) == 3)


@pytest.mark.parametrize("name", KINDS)
def test_bad_input_is_refused(name):
    stored, params, _ = stored_case(name)
    dictionary = build(name)
    with pytest.raises(ValueError, match="needs a pair"):
        dictionary.init(jax.random.key(0), stored["x"])
    with pytest.raises(ValueError, match=r"shape \(16, 2, 5\) for layers=3"):
        dictionary.encode(params, stored["x"][:, :2])
    wrong, stats = stored["x"][:, :, 1:], base.new_stats(dictionary.width)
    with pytest.raises(ValueError, match="dimension 4 for a dictionary of dimension 5"):
        dictionary.encode(params, wrong)
    with pytest.raises(ValueError, match="dimension 4 for a dictionary of dimension 5"):
        dictionary.loss(params, stats, wrong, stored["y"], jax.random.key(0))
    with pytest.raises(ValueError, match="k=13"):
        cross_layer_topk(3, 12, 13)
    for kind in ("cross_layer_topk", "cross_layer_batch_topk"):
        with pytest.raises(ValueError, match="aux_k=13"):
            registry.VARIANTS[kind](3, 12, 2, aux_k=13)
