"""The discrete primitives and the dictionaries made of them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinterp import parallel
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import base, bit_diffusion, formats, quantise, registry, train
from jaxinterp.dictionaries.binary import binary, bit_entropy, draw_bits
from jaxinterp.dictionaries.codebook import moving_average
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.run import run
from jaxinterp.dictionaries.vector_quantised import choose, plus_plus, vector_quantised

D, WIDTH = 6, 24
KINDS = {
    "vector_quantised": {"width": WIDTH, "books": 3},
    "latent_quantised": {"width": WIDTH, "levels": 4},
    "finite_scalar": {"width": WIDTH, "levels": 4},
    "binary": {"width": WIDTH, "code_weight": 0.1},
}
EXPLAINED = {
    "vector_quantised": 0.9,
    "latent_quantised": 0.97,
    "finite_scalar": 0.95,
    "binary": 0.8,
}
every = pytest.mark.parametrize("name", KINDS)


@cache
def rows(key, n=256):
    """A smooth set of three dimensions in six, away from the origin."""
    inner = jax.random.uniform(jax.random.key(key), (n, 3), minval=-1.0)
    frame = jax.random.normal(jax.random.key(42), (3, D))
    return jnp.tanh(inner @ frame) + 2.0


@cache
def trained(name):
    dictionary = registry.build(name, KINDS[name])
    ours = learner(dictionary, optax.adam(1e-2))

    @jax.jit
    def go(batches):
        state = ours.init(jax.random.key(0), batches[0])
        return jax.lax.scan(lambda s, i: ours.step(s, batches[i % 10]), state, jnp.arange(400))

    state, info = go(jnp.stack([rows(i) for i in range(10)]))
    return dictionary, ours, state, jax.tree.map(lambda a: a[-1], info)


def explained(dictionary, params, x):
    error = x - dictionary.decode(params, dictionary.encode(params, x))
    return float(1 - jnp.square(error).sum() / jnp.square(x - x.mean(0, keepdims=True)).sum())


def dense(codes):
    return base.densify(codes, WIDTH) if isinstance(codes, base.Codes) else codes


def test_straight_through_is_the_code_exactly_and_the_derivative_of_the_number():
    soft = jax.random.normal(jax.random.key(0), (1000,)) * 1e4
    hard = jax.random.normal(jax.random.key(1), (1000,))
    value, pullback = jax.vjp(quantise.straight_through, hard, soft)
    np.testing.assert_array_equal(value, hard)
    to_hard, to_soft = pullback(jnp.arange(1000.0))
    np.testing.assert_array_equal(to_hard, 0)
    np.testing.assert_array_equal(to_soft, jnp.arange(1000.0))


@pytest.mark.parametrize("offset", [0.0, 3e3])
def test_nearest_is_that_of_distances_in_float64(rng, offset):
    """Far from the origin too, where |x|^2 - 2 x.c + |c|^2 in float32 would choose wrongly."""
    book, x = rng.normal(size=(40, D)) + offset, rng.normal(size=(30, 10, D)) + offset
    book, x = book.astype(np.float32), x.astype(np.float32)
    apart = np.square(x.astype(np.float64)[:, :, None] - book.astype(np.float64)).sum(-1)
    found = quantise.nearest(jnp.asarray(x), jnp.asarray(book))
    two = np.sort(apart, -1)[..., :2]
    clear = two[..., 1] - two[..., 0] > 1e-2
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(np.asarray(found)[clear], apart.argmin(-1)[clear])
    with pytest.raises(ValueError, match="dimension 5 for a dictionary of dimension 6"):
        quantise.nearest(jnp.ones((2, 5)), jnp.asarray(book))


def test_losses_of_a_code_move_one_side_each_as_written():
    """van den Oord's equation: the codebook term draws the word only, the commitment the number."""
    values = jnp.asarray([[-1.0, 0.2, 3.0], [0.0, 10.0, 20.0]])
    h = jnp.asarray([[0.5, 11.0], [2.0, 4.0]])
    found, level = quantise.nearest_value(h, values)
    np.testing.assert_array_equal(level, [[1, 1], [2, 0]])
    np.testing.assert_allclose(found, [[0.2, 10.0], [3.0, 0.0]])

    def cost(values, h):
        code = quantise.nearest_value(h, values)[0]
        return 2 * quantise.pull(code, h) + 3 * quantise.pull(h, code)

    to_values, to_h = jax.grad(cost, (0, 1))(values, h)
    away = (found - h) / h.size
    np.testing.assert_allclose(to_h, -3 * 2 * away, rtol=1e-6)
    expected = np.zeros((2, 3))
    np.add.at(expected, (np.asarray([[0, 1], [0, 1]]), np.asarray(level)), 2 * 2 * away)
    np.testing.assert_allclose(to_values, expected, rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_a_finite_grid_has_its_levels_and_its_origin(levels):
    z = jnp.linspace(-12, 12, 20001)
    places = np.unique(np.asarray(quantise.finite_levels(z, levels)))
    np.testing.assert_allclose(places, (np.arange(levels) - levels // 2) / (levels // 2))
    assert float(quantise.finite_levels(jnp.zeros(1), levels)[0]) == 0
    # The derivative is that of the bounded number: at the origin, h (1 - (o / h)^2) / (L // 2).
    half, offset = (levels - 1) / 2 * 1.001, 0.0 if levels % 2 else 0.5
    slope = jax.grad(lambda z: quantise.finite_levels(z, levels))(0.0)
    np.testing.assert_allclose(slope, half * (1 - (offset / half) ** 2) / (levels // 2), rtol=1e-4)


def test_perplexity_counts_words_in_use():
    counts = jnp.asarray([[5.0, 5, 5, 5], [0, 7, 0, 0], [0, 3, 3, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(quantise.perplexity(counts), [4, 1, 2, 1], rtol=1e-6)


def test_bits_have_the_mean_and_the_gradient_of_their_probability():
    p = jnp.asarray([0.0, 0.1, 0.5, 0.9, 1.0])
    drawn = draw_bits(jax.random.key(0), jnp.broadcast_to(p[None], (40_000, 5)))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), p, atol=0.01)
    weight = jnp.arange(5.0)
    slope = jax.grad(lambda p: (weight * draw_bits(jax.random.key(1), p)).sum())(p)
    np.testing.assert_array_equal(slope, weight)
    np.testing.assert_allclose(bit_entropy(p), [0, 0.468996, 1, 0.468996, 0], atol=1e-5)


def test_bits_wear_down_as_the_closed_form_says():
    survival = bit_diffusion.linear_survival(16)
    assert float(survival[-1]) == 0
    np.testing.assert_allclose(survival[8], 0.5)
    steps = 1 - 1 / (16 - np.arange(1, 17) + 1)  # what a step leaves as it was
    np.testing.assert_allclose(survival[1:], np.cumprod(steps), atol=1e-6)
    bits = jnp.arange(200_000) % 2.0
    for t in range(1, 9):
        kept = survival[t] / survival[t - 1]
        bits = bit_diffusion.wear(jax.random.fold_in(jax.random.key(0), t), bits, kept)
    np.testing.assert_allclose(bits[1::2].mean(), 0.75, atol=0.005)
    np.testing.assert_allclose(bits[::2].mean(), 0.25, atol=0.005)
    curve = bit_diffusion.cosine_survival(10)
    assert curve[0] == 1
    assert curve[-1] == 0
    np.testing.assert_allclose(curve[5], 0.5, atol=1e-6)
    with pytest.raises(ValueError, match="steps=0"):
        bit_diffusion.linear_survival(0)


def test_one_step_back_is_what_counting_finds():
    """b0 -> b1 -> b2 in 400,000 walks; P(b1 | b2, b0) from the counts."""
    first, second = 0.8, 0.5
    keys = jax.random.split(jax.random.key(0), 3)
    b0 = jax.random.bernoulli(keys[0], 0.5, (400_000,)).astype(jnp.float32)
    b1 = bit_diffusion.wear(keys[1], b0, jnp.asarray(first))
    b2 = bit_diffusion.wear(keys[2], b1, jnp.asarray(second / first))
    for now in (0.0, 1.0):
        for start in (0.0, 1.0):
            seen = b1[(b2 == now) & (b0 == start)].mean()
            told = bit_diffusion.one_step_back(
                jnp.asarray(now), jnp.asarray(start), jnp.asarray(first), jnp.asarray(second)
            )
            np.testing.assert_allclose(seen, told, atol=0.006)
    sure = bit_diffusion.one_step_back(jnp.ones(()), jnp.zeros(()), jnp.ones(()), jnp.ones(()))
    assert sure == 0  # a contradiction, and no NaN


def test_seeds_of_k_means_spread_over_far_clusters():
    """One word in each of 8 far clusters, one of which holds 93 % of the rows."""
    centres = 100 * jnp.eye(8)
    which = jnp.concatenate([jnp.zeros(930, jnp.int32), jnp.arange(70) % 7 + 1])
    x = centres[which] + 0.1 * jax.random.normal(jax.random.key(0), (1000, 8))
    words = jax.jit(plus_plus, static_argnums=2)(jax.random.key(1), x, 8)
    assert sorted(np.asarray(quantise.nearest(words, centres)).tolist()) == list(range(8))
    assert bool((words[:, None] == x[None]).all(-1).any(1).all())
    same = jax.jit(plus_plus, static_argnums=2)(jax.random.key(1), jnp.ones((5, 2)), 4)
    np.testing.assert_array_equal(same, 1)  # no two rows differ


def test_a_step_without_memory_is_a_step_of_lloyd():
    x = rows(3, 500)
    ours = moving_average(10, decay=0.0, restart_below=0.0)
    state = jax.jit(ours.init)(jax.random.key(1), x)
    words = np.asarray(state.params["decoder"] + state.params["decoder_bias"][None], np.float64)
    chosen = np.square(np.asarray(x)[:, None] - words[None]).sum(-1).argmin(1)
    for word in np.unique(chosen):
        words[word] = np.asarray(x, np.float64)[chosen == word].mean(0)
    state, info = jax.jit(ours.step)(state, x)
    found = state.params["decoder"] + state.params["decoder_bias"][None]
    np.testing.assert_allclose(found, words, atol=1e-5)
    counts = np.bincount(chosen, minlength=10) / 500
    used = np.exp(-(counts * np.log(np.maximum(counts, 1e-9))).sum())
    np.testing.assert_allclose(info["perplexity"], used, rtol=1e-5)


def test_moving_averages_follow_their_recursion_and_dead_words_start_again():
    x, width, decay = rows(3, 60), 4, 0.9
    ours = moving_average(width, decay=decay, restart_below=0.05)
    state = jax.jit(ours.init)(jax.random.key(1), x)
    far = state.params["decoder"].at[2].set(20.0)  # a word that no row will choose
    state = state._replace(params=state.params | {"decoder": far}, sums=far + 0.0)
    n, total = np.full(width, 15.0), 15 * np.asarray(far, np.float64)
    centred = np.asarray(x - state.params["decoder_bias"][None], np.float64)
    step = jax.jit(ours.step)
    for _ in range(28):  # 0.9 ** 29 < 0.05 < 0.9 ** 28
        words = np.asarray(state.params["decoder"], np.float64)
        chosen = np.square(centred[:, None] - words[None]).sum(-1).argmin(1)
        n = decay * n + (1 - decay) * np.bincount(chosen, minlength=width)
        total = decay * total
        np.add.at(total, chosen, (1 - decay) * centred)
        state, info = step(state, x)
        np.testing.assert_allclose(
            state.params["decoder"], total / n[:, None], rtol=1e-3, atol=1e-4
        )
        assert info["restarted"] == 0
    state, info = step(state, x)
    assert info["restarted"] == 1
    again = np.asarray(state.params["decoder"][2])
    assert np.abs(centred - again[None]).max(1).min() < 1e-6  # it is a row now
    assert float(state.rows[2]) == 15
    state, info = step(state, x)
    assert info["dead"] == 0
    assert float(jnp.zeros(width).at[choose(state.params, x, 1)[0][:, 0]].add(1.0)[2]) > 0


def test_later_books_code_what_the_earlier_ones_left():
    x = rows(5, 512)
    errors = []
    for books in (1, 4):
        ours = moving_average(8 * books, books=books, decay=0.5)

        @jax.jit
        def go(x, ours=ours):
            state = ours.init(jax.random.key(0), x)
            return jax.lax.scan(lambda s, _: ours.step(s, x), state, length=30)

        state, info = go(x)
        errors.append(float(info["loss"][-1]))
    assert errors[1] < 0.2 * errors[0]
    dictionary, params = vector_quantised(32, books=4), state.params
    codes = dictionary.encode(params, x)
    assert np.array_equal(codes.indices // 8, np.tile(np.arange(4), (512, 1)))
    rest = x - params["decoder_bias"][None]
    for book in range(4):
        own = params["decoder"][8 * book : 8 * book + 8]
        place = jnp.square(rest[:, None] - own[None]).sum(-1).argmin(1)
        np.testing.assert_array_equal(codes.indices[:, book], place + 8 * book)
        rest = rest - own[place]
    np.testing.assert_allclose(dictionary.decode(params, codes), x - rest, atol=1e-5)


@every
def test_training_explains_held_out_rows_by_discrete_codes(name):
    dictionary, _, state, info = trained(name)
    x = rows(99)
    assert explained(dictionary, state.params, x) > EXPLAINED[name]
    codes = np.asarray(dense(dictionary.encode(state.params, x)))
    per_latent = max(len(np.unique(column)) for column in codes.T)
    assert 2 <= per_latent <= KINDS[name].get("levels", 2)
    if name == "latent_quantised":
        assert (codes[:, :, None] == np.asarray(state.params["values"])[None]).any(-1).all()
    if name == "binary":
        assert info["doubt_bits"] < 0.6 < info["usage_bits"]
    assert {"variance_explained", "l0", "dead", "loss"} <= set(info)


@every
def test_discrete_codes_of_a_row_are_its_own_in_any_shape(name):
    dictionary, _, state, _ = trained(name)
    x = rows(5, 12)
    together = dense(dictionary.encode(state.params, x))
    alone = jnp.stack([dense(dictionary.encode(state.params, row)) for row in x])
    np.testing.assert_array_equal(together, alone)
    cube = dictionary.decode(state.params, dictionary.encode(state.params, x.reshape(3, 4, D)))
    flat = dictionary.decode(state.params, dictionary.encode(state.params, x))
    np.testing.assert_allclose(cube.reshape(12, D), flat, atol=1e-6)
    with pytest.raises(ValueError, match="dimension 7 for a dictionary of dimension 6"):
        dictionary.encode(state.params, jnp.ones((4, 7)))


@every
def test_a_discrete_dictionary_comes_back_from_a_file(name, tmp_path):
    dictionary, _, state, _ = trained(name)
    formats.save(tmp_path, name, KINDS[name], state.params)
    loaded, params, *_ = formats.load(tmp_path)
    assert params.keys() == state.params.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(params), dict(state.params))
    x = rows(7, 12)
    jax.tree.map(
        np.testing.assert_array_equal,
        loaded.encode(params, x),
        dictionary.encode(state.params, x),
    )


def test_a_sharded_step_is_the_step_of_one_device():
    """All four variants and the moving average, rows of the width and of the batch split."""
    mesh = parallel.make_mesh("data=2,model=4")
    rules = (
        (r"(encoder|decoder|values|sums)$", P("model", None)),
        (r"(encoder_bias|silent|rows)$", P("model")),
    )
    average = moving_average(WIDTH, books=3, decay=0.5)
    learners = {name: (trained(name)[1], trained(name)[2]) for name in KINDS}
    learners["moving_average"] = (average, jax.jit(average.init)(jax.random.key(0), rows(0)))
    steps = {name: pair[0].step for name, pair in learners.items()}
    states = {name: pair[1] for name, pair in learners.items()}

    @jax.jit
    def all_steps(states, x):
        return {name: steps[name](states[name], x) for name in steps}

    one = all_steps(states, rows(20))
    placed = jax.device_put(states, parallel.shardings(states, mesh, rules))
    many = all_steps(placed, jax.device_put(rows(20), NamedSharding(mesh, P("data", None))))
    assert not placed["binary"].params["decoder"].sharding.is_fully_replicated
    for name in steps:
        for key, value in one[name][0].params.items():
            np.testing.assert_allclose(
                many[name][0].params[key], value, atol=1e-5, err_msg=f"{name} {key}"
            )
        np.testing.assert_allclose(many[name][1]["loss"], one[name][1]["loss"], rtol=1e-4)


def test_a_fitted_codebook_goes_on_where_it_was_stopped(tmp_path):
    ours, x = moving_average(12, books=2, decay=0.8), rows(0)

    def go(folder, stops):
        for stop in stops:
            state = jax.jit(ours.init)(jax.random.key(0), x)
            with Checkpoints(tmp_path / folder, keep=1, config={}) as checkpoints:
                fit = lambda s, _, stop=stop: train.fit(  # noqa: E731
                    ours, s, x, steps=stop, batch=64, seed=0, chunk=5
                )
                for at in run(fit, state, checkpoints, every=5):
                    state = at.state
        return state

    whole, resumed = go("whole", [15]), go("parts", [5, 15])
    assert int(resumed.step) == 15
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


@pytest.mark.parametrize(
    ("variant", "options", "said"),
    [
        ("vector_quantised", {"width": 10, "books": 3}, "width=10 is not a multiple of books=3"),
        ("vector_quantised", {"width": 10, "books": 0}, "books=0"),
        ("latent_quantised", {"width": 4, "levels": 1}, "levels=1"),
        ("finite_scalar", {"width": 4, "levels": 1}, "levels=1"),
    ],
)
def test_impossible_codebooks_are_refused(variant, options, said):
    with pytest.raises(ValueError, match=said):
        registry.build(variant, options)


def test_impossible_averages_are_refused():
    with pytest.raises(ValueError, match="decay=1"):
        moving_average(4, decay=1.0)


def test_the_doubt_of_bits_is_a_term_of_the_loss():
    dictionary, _, state, _ = trained("binary")
    x, key = rows(3), jax.random.key(0)

    def value(weight):
        return binary(WIDTH, code_weight=weight).loss(state.params, state.stats, x, x, key)

    (plain, info), (dear, _) = value(0.0), value(2.0)
    h = (x - state.params["decoder_bias"][None]) @ state.params["encoder"].T
    p = jax.nn.sigmoid(h + state.params["encoder_bias"][None])
    np.testing.assert_allclose(info.metrics["code"], (p * (1 - p)).mean(), rtol=1e-5)
    np.testing.assert_allclose(dear - plain, 2 * info.metrics["code"], rtol=1e-4)
