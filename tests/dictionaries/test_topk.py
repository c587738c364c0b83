import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import dictionaries
from jaxinterp.dictionaries import base, sparsify
from jaxinterp.dictionaries.topk import topk
from tests.programs import shapes_in

D, WIDTH, K, BATCH = 24, 96, 6, 50


@pytest.fixture
def setup():
    dictionary = topk(WIDTH, K, aux_k=10, dead_after=1000)
    x = jax.random.normal(jax.random.key(1), (BATCH, D)) + 3.0
    params = dictionary.init(jax.random.key(0), x)
    noise = 0.1 * jax.random.normal(jax.random.key(2), (WIDTH, D))
    params = params | {"encoder": params["encoder"] + noise, "encoder_bias": noise[:, 0]}
    return dictionary, params, x


def dense_loss(params, x, dead):
    """The definition, with every (batch, width) array written out; plain autodiff."""
    centred = x - params["decoder_bias"][None]
    scores = centred @ params["encoder"].T + params["encoder_bias"][None]
    kth = jnp.sort(scores, axis=1)[:, -K][:, None]
    z = jnp.where(scores >= kth, jax.nn.relu(scores), 0.0)
    error = x - (z @ params["decoder"] + params["decoder_bias"][None])
    unexplained = jnp.square(error).sum() / jnp.square(x - x.mean(0, keepdims=True)).sum()
    among_dead = jnp.where(dead[None], scores, -jnp.inf)
    tenth = jnp.sort(among_dead, axis=1)[:, -10][:, None]
    aux_z = jnp.where(dead[None] & (among_dead >= tenth), jax.nn.relu(scores), 0.0)
    target = jax.lax.stop_gradient(error)
    aux = jnp.square(target - aux_z @ params["decoder"]).sum() / jnp.square(target).sum()
    return unexplained + jnp.where(dead.any(), aux, 0.0) / 32


@pytest.mark.parametrize("n_dead", [0, 40])
def test_loss_and_gradient_equal_the_dense_definition(setup, n_dead):
    dictionary, params, x = setup
    dead = jnp.arange(WIDTH) < n_dead
    stats = base.Stats(jnp.where(dead, 2000, 0), jnp.zeros((), jnp.int32))

    def loss(p):
        return dictionary.loss(p, stats, x, x, jax.random.key(0))[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    expected, expected_gradient = jax.value_and_grad(dense_loss)(params, x, dead)
    assert abs(float(value - expected)) < 1e-5
    for name, g in gradient.items():
        np.testing.assert_allclose(g, expected_gradient[name], atol=1e-6, rtol=1e-4, err_msg=name)


def test_members_with_and_without_dead_latents_learn_side_by_side(setup):
    """Also where nothing is left to explain, whose relative error is no number."""
    _, params, x = setup
    params = params | {"encoder_bias": jnp.full(WIDTH, -0.1)}  # of nothing there are no codes

    def relative(x_hat, target):
        return jnp.square(target - x_hat).sum() / jnp.square(target).sum()

    dictionary = topk(WIDTH, K, aux_k=10, dead_after=1000, aux_measure=relative)
    silent = jnp.where(jnp.arange(WIDTH)[None] < jnp.array([[0], [40], [3]]), 2000, 0)
    exact = jnp.zeros_like(x) + params["decoder_bias"][None]
    batches = jnp.stack([exact, x, 2 * x])

    def pull(silent, x):
        stats = base.Stats(silent, jnp.zeros((), jnp.int32))
        return jax.grad(lambda p: dictionary.loss(p, stats, x, x, jax.random.key(0))[0])(params)

    together = jax.jit(jax.vmap(pull))(silent, batches)
    for i in range(3):
        for name, g in jax.jit(pull)(silent[i], batches[i]).items():
            assert bool(jnp.isfinite(g).all())
            np.testing.assert_allclose(together[name][i], g, atol=1e-6, rtol=1e-4, err_msg=name)


def test_auxiliary_gradient_reaches_the_encoders_of_dead_latents(setup):
    """The first 40 latents are never among the k strongest; only the auxiliary loss sees them."""
    dictionary, params, x = setup
    params = params | {"encoder_bias": params["encoder_bias"].at[40:].add(100.0)}
    assert dictionary.encode(params, x).indices.min() >= 40
    dead = base.Stats(jnp.where(jnp.arange(WIDTH) < 40, 2000, 0), jnp.zeros((), jnp.int32))

    def encoder_gradient(stats):
        loss = lambda p: dictionary.loss(p, stats, x, x, jax.random.key(0))[0]  # noqa: E731
        return np.abs(jax.grad(loss)(params)["encoder"][:40]).max()

    assert encoder_gradient(base.new_stats(WIDTH)) == 0
    assert encoder_gradient(dead) > 1e-6


def test_codes_of_a_row_do_not_depend_on_the_batch(setup):
    dictionary, params, x = setup
    together = dictionary.encode(params, x)
    alone = jax.vmap(lambda row: dictionary.encode(params, row[None]))(x)
    np.testing.assert_array_equal(together.indices, alone.indices[:, 0])
    np.testing.assert_allclose(together.values, alone.values[:, 0], atol=1e-5)


def test_encode_and_decode_take_any_leading_shape(setup):
    dictionary, params, x = setup
    codes = dictionary.encode(params, x.reshape(5, 10, D))
    assert codes.values.shape == (5, 10, K)
    flat = dictionary.decode(params, dictionary.encode(params, x))
    np.testing.assert_allclose(dictionary.decode(params, codes).reshape(BATCH, D), flat, atol=1e-6)
    dense = base.densify(codes, WIDTH) @ params["decoder"] + params["decoder_bias"][None, None]
    np.testing.assert_allclose(dense.reshape(BATCH, D), flat, atol=1e-5)


def test_no_batch_by_width_array_in_decode_or_backward():
    batch, width, d, k = 11, 301, 7, 3

    def score_loss(encoder, x):
        codes = sparsify.top_k_scores(x, encoder, jnp.zeros(width), k)
        return sparsify.decode_sparse(codes, encoder).sum()

    arguments = jnp.ones((width, d)), jnp.ones((batch, d))
    forward = shapes_in(jax.make_jaxpr(score_loss)(*arguments).jaxpr)
    both = shapes_in(jax.make_jaxpr(jax.grad(score_loss))(*arguments).jaxpr)
    assert (batch, width) in forward  # the scores themselves, once
    assert both.count((batch, width)) <= forward.count((batch, width))


def test_a_step_holds_no_batch_by_width_array():
    """Not for the dead latents either."""
    n, width, d = 2048, 2048, 16
    learner = dictionaries.learner(topk(width, 8), optax.adam(1e-3))
    shapes = jax.eval_shape(learner.init, jax.random.key(0), jnp.zeros((n, d)))
    rows = jax.ShapeDtypeStruct((n, d), jnp.float32)
    step = jax.jit(learner.step, donate_argnums=0).lower(shapes, rows).compile()
    assert step.memory_analysis().temp_size_in_bytes < 4 * n * width


@pytest.mark.parametrize(("k", "heap"), [(4, True), (16, False)])
def test_selection_compiles_to_top_k_or_halving_and_not_to_a_sort(k, heap):
    def kept(x):
        return sparsify.largest(x, k).values[:, -1]  # only a part is used: the trap

    text = jax.jit(kept).lower(jnp.ones((64, 512))).compile().as_text()
    assert ("TopK" in text) == heap
    assert " sort(" not in text


@pytest.mark.parametrize("width", [64, 512])
def test_the_largest_come_in_order_and_of_equal_ones_the_first(width):
    scores = np.round(3 * np.random.default_rng(0).standard_normal((20, width)))
    values, indices = sparsify.largest(jnp.asarray(scores, jnp.float32), 16)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :16]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, order, axis=1))
    spoilt = jnp.asarray(scores, jnp.float32).at[3, 7].set(jnp.nan)
    values, indices = sparsify.largest(spoilt, 16)
    assert jnp.isnan(values[3, 0])
    assert indices[3, 0] == 7


def test_atoms_stay_on_the_sphere_and_the_gradient_is_tangent(setup):
    dictionary, params, x = setup
    learner = dictionaries.learner(dictionary, optax.adam(1e-2))
    state = learner.init(jax.random.key(0), x)
    for _ in range(3):
        state, _ = jax.jit(learner.step)(state, x)
    norms = jnp.linalg.norm(state.params["decoder"], axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-5)
    gradient = dictionary.tangent(dictionary.project(params), params)["decoder"]
    along = (gradient * dictionary.project(params)["decoder"]).sum(1)
    np.testing.assert_allclose(along, 0.0, atol=1e-5)


def test_silent_latents_are_counted_in_rows(setup):
    dictionary, _, x = setup
    learner = dictionaries.learner(dictionary, optax.sgd(0.0))
    state = learner.init(jax.random.key(0), x)
    for _ in range(2):
        state, _ = learner.step(state, x)
    fired = np.zeros(WIDTH, bool)
    codes = dictionary.encode(state.params, x)
    fired[np.asarray(codes.indices)[np.asarray(codes.values) > 0]] = True
    np.testing.assert_array_equal(state.stats.silent, np.where(fired, 0, 2 * BATCH))


@pytest.mark.slow
def test_recovers_planted_atoms():
    """Sparse combinations of 64 known directions: at the true sparsity, they are found."""
    n_atoms, d, active = 64, 32, 3
    truth = base.unit_rows(jax.random.normal(jax.random.key(5), (n_atoms, d)))

    def sample(key):
        which, size = jax.random.split(key)
        chosen = jax.lax.top_k(jax.random.uniform(which, (4096, n_atoms)), active)[1]
        return jnp.einsum("bk,bkd->bd", 1 + jax.random.uniform(size, (4096, active)), truth[chosen])

    learner = dictionaries.learner(topk(n_atoms, active, dead_after=20_000), optax.adam(3e-3))
    state = learner.init(jax.random.key(0), sample(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), 1500)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, k: learner.step(s, sample(k)), s, keys))(
        state
    )
    cosine = np.asarray(truth @ state.params["decoder"].T).max(1)
    assert (cosine > 0.9).mean() >= 0.95


@pytest.mark.parametrize(("width", "k"), [(8, 9), (8, 0)])
def test_impossible_k_is_refused(width, k):
    with pytest.raises(ValueError, match=f"k={k}.*width={width}"):
        topk(width, k)


def test_geometric_median_is_the_minimiser_and_resists_outliers(rng):
    x = rng.normal(size=(400, 5)).astype(np.float32)
    x[:40] += 1e4
    from scipy.optimize import minimize

    wide = x.astype(np.float64)
    oracle = minimize(
        lambda m: np.linalg.norm(wide - m, axis=1).mean(), np.median(x, 0), tol=1e-9
    ).x
    ours = jax.jit(base.geometric_median)(jnp.asarray(x))
    np.testing.assert_allclose(ours, oracle, atol=2e-3)
    assert np.abs(ours).max() < 1 < np.abs(x.mean(0)).min()


def test_the_median_of_equal_points_is_that_point_and_none_have_no_median():
    point = jnp.array([3.0, -0.1, 1e-20])
    ours = jax.jit(base.geometric_median)(jnp.tile(point[None], (10, 1)))
    np.testing.assert_allclose(ours, point, rtol=1e-6)
    with pytest.raises(ValueError, match=r"a sample of shape \(0, 3\) has no median"):
        base.geometric_median(jnp.ones((0, 3)))
