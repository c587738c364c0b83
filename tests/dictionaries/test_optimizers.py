"""Recipes, rates and averages of the weights, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries.averaging import average_weights, evaluation_params
from jaxinterp.dictionaries.batch_topk import batch_topk
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.optimizers import (
    RECIPES,
    clip_by_norm,
    learning_rate,
    optimizer,
    scale_by_name,
)
from jaxinterp.dictionaries.relu import relu


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (256, 8)) @ jnp.diag(jnp.arange(1.0, 9.0))


def descend(optimizer, steps=25):
    """A few steps on a quadratic of a matrix and a vector."""
    goal = {"matrix": jnp.linspace(-1, 1, 12).reshape(4, 3), "bias": jnp.array([2.0, -1.0])}
    params = jax.tree.map(jnp.zeros_like, goal)
    state, path = optimizer.init(params), []
    for t in range(steps):
        gradient = jax.tree.map(lambda p, g, t=t: (1 + t % 3) * (p - g), params, goal)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


def test_adam_without_momentum_is_adam_with_b1_zero_in_less_memory():
    ours, theirs = descend(RECIPES["adam_b1_0"](0.1)), descend(optax.adam(0.1, b1=0.0))
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a["matrix"], b["matrix"], atol=1e-6)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(state)) for _, state in (ours, theirs)]
    assert sizes[0] < 0.6 * sizes[1]


def test_sign_momentum_moves_every_weight_by_the_rate():
    path, _ = descend(RECIPES["sign_momentum"](0.01), steps=1)
    np.testing.assert_allclose(jnp.abs(path[0]["matrix"]), 0.01, rtol=1e-6)


def test_muon_moves_matrices_along_all_their_directions_and_vectors_as_adam():
    path, _ = descend(RECIPES["muon"](0.01), steps=1)
    singular = jnp.linalg.svd(path[0]["matrix"], compute_uv=False)
    plain = jnp.linalg.svd(jnp.linspace(-1, 1, 12).reshape(4, 3), compute_uv=False)
    assert plain[1] / plain[0] < 0.25
    assert singular[1] / singular[0] > 0.5
    # Adam's first step has no scale: 2 and -1 move equally far.
    np.testing.assert_allclose(path[0]["bias"][0], -path[0]["bias"][1], rtol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_a_dictionary_under_jit_with_a_traced_rate(name, x):
    @jax.jit
    def train(rate):
        one = learner(relu(32, weight=0.01), optimizer(name, rate, clip=1.0))
        state = one.init(jax.random.key(0), x)
        state, info = jax.lax.scan(lambda s, _: one.step(s, x), state, length=150)
        error = x - relu(32).decode(p := one.params(state), relu(32).encode(p, x))
        return info["loss"], jnp.square(error).sum(1).mean()

    losses, found = train(0.02)
    assert losses[-1] < 0.6 * losses[0]
    assert found < 0.6 * losses[0]


def test_rates_rise_and_fall_where_they_are_said_to():
    cosine = learning_rate(2.0, steps=100, warmup=10)
    assert [round(float(cosine(t)), 3) for t in (0, 5, 10, 55, 100)] == [0, 1, 2, 1, 0]
    linear = learning_rate(2.0, steps=100, warmup=10, decay="linear")
    assert [round(float(linear(t)), 3) for t in (5, 10, 79, 80, 90, 100)] == [1, 2, 2, 2, 1, 0]
    late = learning_rate(2.0, steps=100, warmup=90, decay="linear")
    assert [round(float(late(t)), 3) for t in (45, 90, 95, 100)] == [1, 2, 1, 0]
    constant = learning_rate(2.0, steps=100, decay="constant")
    assert [float(constant(t)) for t in (0, 99)] == [2, 2]


def test_accumulated_batches_make_the_update_of_their_mean():
    whole, _ = descend(optimizer("adam", 0.1), steps=1)
    goal = {"matrix": jnp.linspace(-1, 1, 12).reshape(4, 3), "bias": jnp.array([2.0, -1.0])}
    params = jax.tree.map(jnp.zeros_like, goal)
    parts = optimizer("adam", 0.1, accumulate=2)
    state = parts.init(params)
    for weight in (0.5, 1.5):
        gradient = jax.tree.map(lambda g, weight=weight: -weight * g, goal)
        updates, state = parts.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        assert bool((params["bias"] == 0).all()) == (weight == 0.5)
    np.testing.assert_allclose(params["matrix"], whole[0]["matrix"], rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 0.03, 1.0, 1e20, jnp.nan])
def test_the_whole_gradient_is_clipped_as_optax_does(size):
    gradient = {"a": size * jnp.array([[3.0, 0.0], [0.0, 4.0]]), "b": size * jnp.array([-12.0])}
    found, expected = (
        clip.update(gradient, clip.init(gradient))[0]
        for clip in (clip_by_norm(0.4), optax.clip_by_global_norm(0.4))
    )
    for name in gradient:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    if size == 1:
        assert float(optax.tree.norm(found)) == pytest.approx(0.4, rel=1e-6)


def test_a_recipe_clips_before_its_own_update():
    rule = optimizer("sign_momentum", 1.0, clip=0.1)
    gradient = {"bias": jnp.array([3.0, 4.0])}
    _, state = rule.update(gradient, rule.init(gradient))
    mean = optax.tree_utils.tree_get(state, "ema")["bias"]  # of which 0.05 is this gradient's
    np.testing.assert_allclose(mean, [0.003, 0.004], rtol=1e-5)


def test_the_average_follows_its_definition_and_is_what_is_evaluated():
    path, state = descend(optax.chain(optax.sgd(0.05), average_weights(0.5)), steps=20)
    mean, before = 0.0, [0.0] + [float(p["bias"][0]) for p in path]
    for t in range(20):
        beta = min(0.5, (1 + t) / (10 + t))
        mean = beta * mean + (1 - beta) * before[t]
    found = evaluation_params(state, path[-1])
    assert float(found["bias"][0]) == pytest.approx(mean, rel=1e-5)
    assert abs(mean - before[-1]) > 1e-3
    plain, state = descend(optax.sgd(0.05))
    assert evaluation_params(state, plain[-1]) is plain[-1]


def test_an_average_is_found_inside_accumulation_and_is_projected(x):
    one = learner(batch_topk(16, 4), optimizer("adam", 0.05, average=0.9, accumulate=2))
    state = one.init(jax.random.key(0), x)
    step = jax.jit(one.step)
    for _ in range(20):
        state, _ = step(state, x)
    found = one.params(state)
    np.testing.assert_allclose(jnp.linalg.norm(found["decoder"], axis=1), 1.0, rtol=1e-5)
    assert float(jnp.abs(found["encoder"] - state.params["encoder"]).max()) > 1e-4


@pytest.mark.parametrize(
    "optimizer", [RECIPES["schedule_free"](0.01), optimizer("adam", 0.01, average=0.99)]
)
def test_parameters_that_the_loss_sets_are_evaluated_as_set(optimizer, x):
    quiet = batch_topk(16, 4)

    def loss(params, stats, x, target, key):
        value, info = quiet.loss(params, stats, x, target, key)
        return value, info._replace(assigned={"threshold": 3.0 + 0.0 * params["threshold"]})

    one = learner(quiet._replace(loss=loss), optimizer)
    state = one.init(jax.random.key(0), x)
    for _ in range(3):
        state, _ = jax.jit(one.step)(state, x)
    np.testing.assert_allclose(one.params(state)["threshold"], 3.0, rtol=1e-6)


def test_single_parameters_may_have_a_rate_of_their_own():
    scaled = optax.chain(optax.adam(0.1), scale_by_name({"bias": 10.0}))
    (path, _), (plain, _) = descend(scaled, steps=1), descend(optax.adam(0.1), steps=1)
    np.testing.assert_allclose(path[0]["bias"], 10 * plain[0]["bias"], rtol=1e-6)
    np.testing.assert_array_equal(path[0]["matrix"], plain[0]["matrix"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizer("adamw", 0.1), "'adamw': choose one of adam, adam_b1_0"),
        (lambda: optimizer("adam", 0.1, clip=0.0), "clip is 0.0"),
        (lambda: optimizer("adam", 0.1, average=1.0), "average is 1.0"),
        (lambda: optimizer("adam", 0.1, accumulate=0), "accumulate is 0"),
        (lambda: learning_rate(0.1, steps=10, warmup=10), "warmup is 10 in a run of 10 steps"),
        (lambda: learning_rate(0.1, steps=10, decay="step"), "'step': choose one of cosine"),
    ],
)
def test_settings_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
