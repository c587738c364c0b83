from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.dependency_sparse import (
    decode,
    dependency_sparse,
    jacobian,
    mean_absolute,
)


def test_the_jacobian_is_that_of_finite_differences():
    dictionary = dependency_sparse(4, 10)
    sample = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    params = jax.jit(dictionary.init)(jax.random.key(0), sample)
    z = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)
    found = np.asarray(jacobian(params, z))
    small = 1e-3
    for j in range(4):
        step = small * np.eye(4, dtype=np.float32)[j][None]
        expected = (decode(params, z + step) - decode(params, z - step)) / (2 * small)
        np.testing.assert_allclose(found[:, j], expected, atol=2e-3)


def test_the_penalty_is_an_l1_norm_that_is_smooth_at_zero():
    values = jnp.asarray([[-2.0, 0.0], [0.5, 3.0]])
    np.testing.assert_allclose(mean_absolute(values), (2 + 0.5 + 3) / 4, rtol=1e-3)
    gradient = jax.grad(mean_absolute)(values)
    np.testing.assert_allclose(gradient, np.sign(values) / 4, atol=1e-5)


def test_the_loss_has_the_drawn_codes_the_divergence_and_the_jacobian():
    dictionary = dependency_sparse(4, 10, weight=0.7, kl_weight=0.2)
    x = jax.random.normal(jax.random.key(0), (30, 6))
    p = jax.jit(dictionary.init)(jax.random.key(1), x)
    p = p | {"variance_bias": jnp.linspace(-2.0, 0.0, 4)}
    key = jax.random.key(2)
    mean, log_variance = dictionary.encode(p, x), p["variance_bias"][None]
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, (30, 4))
    left = x - decode(p, z)
    kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    cost = jnp.abs(jacobian(p, z)).mean()
    loss, info = dictionary.loss(p, base.new_stats(4), x, x, key)
    np.testing.assert_allclose(info.metrics["jacobian"], cost, rtol=1e-3)
    expected = jnp.square(left).sum(1).mean() + 0.2 * kl.sum(1).mean()
    np.testing.assert_allclose(loss, expected + 0.7 * info.metrics["jacobian"], rtol=1e-5)


def recovered(mixing, *, penalised):
    """Mean correlation and support of latents found by the sparsest rotation of whitened rows."""
    rng = np.random.default_rng(0)
    n_latents = mixing.shape[1]
    x = rng.normal(size=(4000, n_latents)) @ mixing.T
    u, sigma, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    keep = slice(0, n_latents)
    unmixed = (v[keep].T * sigma[keep] / np.sqrt(len(x))).astype(np.float32)  # x = unmixed @ white

    def cost(skew):
        rotation = jax.scipy.linalg.expm(skew - skew.T)
        return mean_absolute(unmixed @ rotation, softness=1e-3) if penalised else 0.0 * skew.sum()

    optimizer = optax.adam(0.05)

    @jax.jit
    @jax.vmap
    def search(start):
        def step(carry, _):
            skew, state = carry
            updates, state = optimizer.update(jax.grad(cost)(skew), state)
            return (optax.apply_updates(skew, updates), state), None

        (skew, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=200)
        return cost(skew), unmixed @ jax.scipy.linalg.expm(skew - skew.T)

    starts = jnp.asarray(rng.normal(size=(10, n_latents, n_latents)), jnp.float32)
    costs, found = search(starts)
    best = np.asarray(found[int(costs.argmin())])
    cosines = np.abs(best.T @ mixing) / (
        np.linalg.norm(best, axis=0)[:, None] * np.linalg.norm(mixing, axis=0)[None]
    )
    rows, columns = linear_sum_assignment(-cosines)
    support = (np.abs(best[:, rows]) > 0.1 * np.abs(best).max()) == (mixing[:, columns] != 0)
    return cosines[rows, columns].mean(), support.mean()


@pytest.mark.slow
def test_sparse_dependencies_are_identified_and_dense_ones_are_not():
    rng = np.random.default_rng(3)
    sparse = np.zeros((15, 4), np.float32)
    for i in range(15):
        chosen = rng.choice(4, rng.integers(1, 3), replace=False)
        sparse[i, chosen] = rng.uniform(0.5, 1.5, len(chosen)) * rng.choice([-1, 1], len(chosen))
    match, support = recovered(sparse, penalised=True)
    assert match > 0.99
    assert support > 0.99
    assert recovered(sparse, penalised=False)[1] < 0.9
    dense = rng.normal(size=(15, 4)).astype(np.float32)
    assert recovered(dense, penalised=True)[0] < 0.9


@pytest.mark.slow
def test_the_penalty_makes_the_jacobian_of_a_learned_decoder_sparser():
    from jaxinterp.dictionaries.learner import learner

    rng = np.random.default_rng(0)
    mixing = np.kron(np.eye(3), rng.normal(size=(1, 4))).astype(np.float32)  # one block a latent
    x = jnp.asarray(rng.normal(size=(2000, 3)), jnp.float32)
    x = jax.nn.leaky_relu(2 * x @ mixing)

    def sparsity(weight):
        make = partial(dependency_sparse, 3, 32, kl_weight=0.01)
        ours = learner(make(weight=weight), optax.adam(3e-3))
        state = jax.jit(ours.init)(jax.random.key(0), x)
        draws = jax.random.randint(jax.random.key(1), (1500, 128), 0, len(x))
        run = jax.jit(lambda s: jax.lax.scan(lambda s, i: ours.step(s, x[i]), s, draws))
        state, info = run(state)
        codes = make().encode(state.params, x[:200])
        used = jnp.abs(jacobian(state.params, codes)).mean(0)
        share = (used.max(0) / used.sum(0)).mean()  # 1 where a coordinate depends on one latent
        return float(share), float(info["variance_explained"][-50:].mean())

    with_penalty, explained = sparsity(3.0)
    without, _ = sparsity(0.0)
    assert with_penalty > 0.85 > without + 0.1
    assert explained > 0.95
