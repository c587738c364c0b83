import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.predictive import (
    links,
    multi_information,
    predictive,
    shrink_groups,
    shrinking,
)


def test_shrinking_groups_is_the_proximal_map_of_the_group_lasso():
    rng = np.random.default_rng(0)
    groups, t = (2, 3, 1), 0.9
    w = rng.normal(size=(5, 6)).astype(np.float32)
    found = np.asarray(shrink_groups(jnp.asarray(w), groups, t))
    parts = np.split(np.arange(6), np.cumsum(groups)[:-1])

    def cost(v):
        lengths = [np.linalg.norm(v[:, part], axis=1).sum() for part in parts]
        return 0.5 * ((v - w) ** 2).sum() + t * sum(lengths)

    least = cost(found)
    for scale in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(500):
            assert cost(found + scale * rng.normal(size=w.shape)) > least - 1e-6
    blocks = np.stack([np.linalg.norm(found[:, part], axis=1) for part in parts], 1)
    before = np.stack([np.linalg.norm(w[:, part], axis=1) for part in parts], 1)
    np.testing.assert_array_equal(blocks == 0, before <= t)
    assert (blocks == 0).any()
    assert (blocks > 0).any()
    assert not np.asarray(shrink_groups(jnp.zeros((5, 6)), groups, t)).any()


def test_the_planted_links_of_latents_and_groups_are_found_exactly():
    """Three groups of coordinates, each of which two of ten latents write; the codes are known."""
    rng = np.random.default_rng(0)
    latents, groups = 10, (6, 6, 6)
    true = np.zeros((latents, 18), np.float32)
    for g in range(3):
        true[2 * g : 2 * g + 2, 6 * g : 6 * g + 6] = rng.normal(size=(2, 6))
    z = jnp.asarray(rng.normal(size=(512, latents)), jnp.float32)
    y = z @ jnp.asarray(true) + 0.1 * rng.normal(size=(512, 18)).astype(np.float32)

    def step(w, _):
        gradient = z.T @ (z @ w - y) / len(z)
        return shrink_groups(w - 0.5 * gradient, groups, 0.5 * 0.1), None

    start = jnp.asarray(rng.normal(size=(latents, 18)), jnp.float32)
    w, _ = jax.lax.scan(step, start, length=200)
    planted = np.repeat(np.eye(3), 2, axis=0)
    np.testing.assert_array_equal(links({"decoder": w}, groups)[:6], planted)
    assert not np.asarray(links({"decoder": w}, groups)[6:]).any()


@pytest.mark.slow
def test_learned_latents_keep_to_one_group_of_a_pair_of_views():
    """Context and target share six causes, two a group; without shrinking all links stay."""
    groups, causes = (5, 5, 5), 6
    rng = np.random.default_rng(0)
    mix = np.zeros((causes, 15), np.float32)
    for g in range(3):
        mix[2 * g : 2 * g + 2, 5 * g : 5 * g + 5] = rng.normal(size=(2, 5))

    def pair(key):
        keys = jax.random.split(key, 3)
        cause = jax.random.normal(keys[0], (256, causes))
        x, y = (cause @ mix + 0.1 * jax.random.normal(k, (256, 15)) for k in keys[1:])
        return x, y

    def trained(amount):
        plain = learner(predictive(causes, groups), optax.adam(1e-2))
        ours = shrinking(plain, groups, amount)
        state = jax.jit(ours.init)(jax.random.key(0), pair(jax.random.key(1)))
        keys = jax.random.split(jax.random.key(2), 4000)
        run = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, pair(k)), s, keys))
        state, info = run(state)
        return np.asarray(links(state.params, groups)), float(info["variance_explained"][-1])

    grouped, explained = trained(8e-3)
    assert (grouped.sum(1) <= 1).all()
    np.testing.assert_array_equal(grouped.sum(0), [2, 2, 2])
    assert explained > 0.98
    assert trained(0.0)[0].all()


def test_the_loss_is_the_error_of_the_target_and_the_prior_of_the_codes():
    dictionary = predictive(3, (2, 2), prior_weight=0.25)
    x, y = jax.random.normal(jax.random.key(0), (2, 20, 4))
    params = jax.jit(dictionary.init)(jax.random.key(1), (x, y))
    np.testing.assert_allclose(params["decoder_bias"], y.mean(0), atol=1e-6)
    z = (x - params["decoder_bias"][None]) @ params["encoder"].T
    left = y - z @ params["decoder"] - params["decoder_bias"][None]
    loss, info = dictionary.loss(params, base.new_stats(3), x, y, jax.random.key(2))
    prior = 0.5 * jnp.square(z).sum(1).mean()
    np.testing.assert_allclose(info.metrics["prior"], prior, rtol=1e-5)
    np.testing.assert_allclose(loss, jnp.square(left).sum(1).mean() + 0.25 * prior, rtol=1e-5)


def test_multi_information_is_that_of_gaussians():
    np.testing.assert_allclose(multi_information(jnp.diag(jnp.asarray([1.0, 4.0]))), 0, atol=1e-6)
    rho = 0.8
    pair = jnp.asarray([[1.0, rho], [rho, 1.0]])
    np.testing.assert_allclose(multi_information(pair), -0.5 * np.log(1 - rho**2), rtol=1e-5)


@pytest.mark.parametrize(
    ("groups", "said"), [((), "at least 1"), ((2, 0), "at least 1"), ((3, 4), "hold 7 coordinates")]
)
def test_groups_that_do_not_fit_are_refused(groups, said):
    with pytest.raises(ValueError, match=said):
        predictive(4, groups).init(jax.random.key(0), jnp.ones((10, 8)))
    with pytest.raises(ValueError, match=said):
        shrink_groups(jnp.ones((4, 8)), groups, 0.1)
