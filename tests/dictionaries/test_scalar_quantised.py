"""Latents of a few values: their losses from the definition, gradients straight through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.quantise import finite_levels
from jaxinterp.dictionaries.scalar_quantised import finite_scalar, latent_quantised

WIDTH, D = 10, 6


def start(dictionary):
    """Parameters, rows, the scores of each, and what the loss is divided by."""
    x = jax.random.normal(jax.random.key(0), (50, D))
    params = jax.jit(dictionary.init)(jax.random.key(1), x)
    h = (x - params["decoder_bias"][None]) @ params["encoder"].T + params["encoder_bias"][None]
    return params, x, h, jnp.square(x - x.mean(0, keepdims=True)).sum()


def value_and_slope(dictionary, params, x):
    """The loss and its gradient by the encoder's bias, which is that by the scores, summed."""

    def value(bias):
        at = params | {"encoder_bias": bias}
        return dictionary.loss(at, base.new_stats(WIDTH), x, x, jax.random.key(0))[0]

    return jax.value_and_grad(value)(params["encoder_bias"])


def test_learned_values_are_the_nearest_and_the_loss_draws_both_sides():
    dictionary = latent_quantised(WIDTH, levels=4, codebook_weight=0.3, commitment_weight=0.7)
    params, x, h, variance = start(dictionary)
    values = np.sort(np.random.default_rng(0).normal(size=(WIDTH, 4)), 1).astype(np.float32)
    params = params | {"values": jnp.asarray(values)}
    nearest = np.abs(np.asarray(h)[:, :, None] - values[None]).argmin(2)
    z = values[np.arange(WIDTH)[None], nearest]
    np.testing.assert_array_equal(dictionary.encode(params, x), z)
    left = x - z @ params["decoder"] - params["decoder_bias"][None]
    away = jnp.square(z - h).mean()
    found, slope = value_and_slope(dictionary, params, x)
    np.testing.assert_allclose(found, jnp.square(left).sum() / variance + away, rtol=1e-5)
    by_code = -2 * left @ params["decoder"].T / variance  # straight through to the score
    by_commitment = 0.7 * 2 * (h - z) / h.size
    np.testing.assert_allclose(slope, (by_code + by_commitment).sum(0), atol=1e-6)
    by_values = jax.grad(
        lambda v: dictionary.loss(
            params | {"values": v}, base.new_stats(WIDTH), x, x, jax.random.key(0)
        )[0]
    )(params["values"])
    expected = np.zeros((WIDTH, 4))
    np.add.at(expected, (np.arange(WIDTH)[None], nearest), 0.3 * 2 * np.asarray(z - h) / h.size)
    np.testing.assert_allclose(by_values, expected, atol=1e-6)


@pytest.mark.parametrize("levels", [4, 5])
def test_a_grid_has_its_places_and_the_slope_of_its_bound(levels):
    dictionary = finite_scalar(WIDTH, levels=levels)
    params, x, h, variance = start(dictionary)
    z, pull = jax.vjp(lambda h: finite_levels(h, levels), h)
    np.testing.assert_array_equal(dictionary.encode(params, x), z)
    assert 2 <= len(np.unique(np.asarray(z))) <= levels
    left = x - z @ params["decoder"] - params["decoder_bias"][None]
    found, slope = value_and_slope(dictionary, params, x)
    np.testing.assert_allclose(found, jnp.square(left).sum() / variance, rtol=1e-5)
    expected = pull(-2 * left @ params["decoder"].T / variance)[0].sum(0)
    np.testing.assert_allclose(slope, expected, atol=1e-6)
    assert float(jnp.abs(slope).max()) > 1e-3


@pytest.mark.parametrize("make", [latent_quantised, finite_scalar])
def test_a_single_level_is_refused(make):
    with pytest.raises(ValueError, match="levels=1"):
        make(WIDTH, levels=1)
