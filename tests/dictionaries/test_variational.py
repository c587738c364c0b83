import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import atoms, base
from jaxinterp.dictionaries.errors import squared_error
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.variational import (
    kl_to_standard,
    learned_spread,
    variational,
    variational_mean,
)

D, WIDTH, K, WEIGHT = 8, 24, 3, 0.03


def start():
    sample = np.random.default_rng(0).normal(size=(60, D)).astype(np.float32)
    params = jax.jit(topk(WIDTH, K).init)(jax.random.key(0), sample)
    return params, jnp.asarray(sample)


def test_the_divergence_is_that_of_gaussians():
    mean, log_variance = 0.7, -1.3
    draws = np.random.default_rng(0).normal(size=400_000) * np.exp(log_variance / 2) + mean
    inside = -0.5 * ((draws - mean) ** 2 / np.exp(log_variance) + log_variance)
    expected = (inside + 0.5 * draws**2).mean()
    found = kl_to_standard(jnp.full((1, 1), mean), jnp.full((1, 1), log_variance))
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert float(kl_to_standard(jnp.zeros((1, 1)), jnp.zeros((1, 1)))[0, 0]) == 0


def test_with_nothing_drawn_it_is_topk_with_a_cost_on_energy():
    params, x = start()
    plain, ours = topk(WIDTH, K), variational_mean(WIDTH, K, weight=WEIGHT)
    stats = base.new_stats(WIDTH)

    def expected(p):
        scores = (x - p["decoder_bias"][None]) @ p["encoder"].T + p["encoder_bias"][None]
        energy = jnp.square(jnp.maximum(scores, 0.0)).sum(1).mean()
        return plain.loss(p, stats, x, x, jax.random.key(0))[0] + WEIGHT / 2 * energy

    def found(p):
        return ours.loss(p, stats, x, x, jax.random.key(0))[0]

    (a, by_a), (b, by_b) = (jax.jit(jax.value_and_grad(f))(params) for f in (expected, found))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    for name, value in by_a.items():
        np.testing.assert_allclose(by_b[name], value, atol=1e-6, err_msg=name)


def test_noise_is_drawn_in_training_and_not_at_inference():
    params, x = start()
    ours, stats = variational(WIDTH, K, weight=WEIGHT), base.new_stats(WIDTH)
    loss = jax.jit(lambda key: ours.loss(params, stats, x, x, key)[0])
    first, again, other = (float(loss(jax.random.key(i))) for i in (0, 0, 1))
    assert first == again
    assert abs(first - other) > 1e-3
    codes, mean = ours.encode(params, x), topk(WIDTH, K).encode(params, x)
    np.testing.assert_array_equal(codes.indices, mean.indices)
    np.testing.assert_array_equal(codes.values, mean.values)
    # Without noise to speak of, it is the TopK loss and the divergence.
    sharp = variational(WIDTH, K, weight=WEIGHT, spread=lambda: learned_spread(first=-30.0))
    p = params | {"variance": jnp.zeros((WIDTH, D)), "variance_bias": jnp.full(WIDTH, -30.0)}
    value, info = sharp.loss(p, stats, x, x, jax.random.key(0))
    plain = topk(WIDTH, K).loss(params, stats, x, x, jax.random.key(0))[0]
    np.testing.assert_allclose(value, plain + WEIGHT * info.metrics["kl"], rtol=1e-4)


def test_the_loss_is_that_of_the_strongest_drawn_codes():
    """From the definition, with spreads that differ from latent to latent."""
    params, x = start()
    bias = jnp.linspace(-4.0, 1.0, WIDTH)
    params = params | {"variance": jnp.zeros((WIDTH, D)), "variance_bias": bias}
    ours = variational(WIDTH, K, weight=WEIGHT, spread=learned_spread, measure=squared_error)
    key = jax.random.key(3)
    mean = (x - params["decoder_bias"][None]) @ params["encoder"].T
    drawn = mean + jnp.exp(bias / 2)[None] * jax.random.normal(key, mean.shape)
    kept = drawn >= -np.sort(-np.asarray(drawn), axis=1)[:, K - 1 : K]
    z = np.where(kept, np.maximum(drawn, 0), 0)
    error = np.square(x - z @ params["decoder"] - params["decoder_bias"][None]).sum(1).mean()
    kl = 0.5 * (jnp.square(mean) + jnp.exp(bias)[None] - 1 - bias[None]).sum(1).mean()
    value, info = ours.loss(params, base.new_stats(WIDTH), x, x, key)
    np.testing.assert_allclose(info.metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(value, error + WEIGHT * kl, rtol=1e-5)


@pytest.mark.slow
def test_posteriors_of_unused_latents_become_the_prior():
    """A coordinate that says nothing, latents that are not needed: what is unused costs nothing."""
    width, d = 16, 5
    # Unit atoms would write the noise of every latent that is kept by chance.
    ours = variational(
        width, 2, weight=0.01, spread=learned_spread, aux_weight=0.0, atoms=atoms.free
    )
    learn = learner(ours, optax.adam(optax.cosine_decay_schedule(1e-2, 3000)))

    def rows(key):
        one, two = jax.random.split(key)
        which = jax.random.randint(one, (256,), 0, 2)
        clean = 12 * jax.nn.one_hot(which, d)
        return clean.at[:, d - 1].set(0.01 * jax.random.normal(two, (256,)))

    state = jax.jit(learn.init)(jax.random.key(0), rows(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), 3000)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, k: learn.step(s, rows(k)), s, keys))(state)
    x, p = rows(jax.random.key(3)), state.params
    centred = x - p["decoder_bias"][None]
    mean = centred @ p["encoder"].T + p["encoder_bias"][None]
    log_variance = centred @ p["variance"].T + p["variance_bias"][None]
    kl = np.sort(np.asarray(kl_to_standard(mean, log_variance).mean(0)))
    assert kl[:-2].max() < 1e-2
    assert kl[-1] > 1


@pytest.mark.parametrize("make", [variational, variational_mean])
def test_impossible_numbers_of_latents_are_refused(make):
    with pytest.raises(ValueError, match="k=25"):
        make(WIDTH, 25)
