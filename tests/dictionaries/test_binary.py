import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.binary import binary, bit_entropy, draw_bits


def test_bits_have_the_mean_and_the_gradient_of_their_probability():
    p = jnp.asarray([0.0, 0.1, 0.5, 0.9, 1.0])
    drawn = draw_bits(jax.random.key(0), jnp.broadcast_to(p[None], (40_000, 5)))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), p, atol=0.01)
    weight = jnp.arange(5.0)
    slope = jax.grad(lambda p: (weight * draw_bits(jax.random.key(1), p)).sum())(p)
    np.testing.assert_array_equal(slope, weight)
    np.testing.assert_allclose(bit_entropy(p), [0, 0.468996, 1, 0.468996, 0], atol=1e-5)


def test_the_loss_is_the_error_of_drawn_bits_and_their_doubt():
    """Against the definition, with the bits of the same key; at inference bits are rounded."""
    width, x = 12, jax.random.normal(jax.random.key(0), (40, 5))
    params = jax.jit(binary(width).init)(jax.random.key(1), x)
    params = params | {"encoder": 3 * params["encoder"]}
    stats, key = base.new_stats(width), jax.random.key(2)

    def value(params, weight):
        return binary(width, code_weight=weight).loss(params, stats, x, x, key)

    h = (x - params["decoder_bias"][None]) @ params["encoder"].T + params["encoder_bias"][None]
    p = jax.nn.sigmoid(h)
    bits = jax.random.bernoulli(key, p)
    left = x - bits @ params["decoder"] - params["decoder_bias"][None]
    error = jnp.square(left).sum() / jnp.square(x - x.mean(0, keepdims=True)).sum()
    (plain, info), (dear, _) = value(params, 0.0), value(params, 2.0)
    np.testing.assert_allclose(plain, error, rtol=1e-5)
    np.testing.assert_allclose(info.metrics["code"], (p * (1 - p)).mean(), rtol=1e-5)
    np.testing.assert_allclose(dear - plain, 2 * info.metrics["code"], rtol=1e-4)
    usage = bit_entropy(p.mean(0)).mean(), bit_entropy(p).mean()
    np.testing.assert_allclose(info.metrics["usage_bits"], usage[0], rtol=1e-5)
    np.testing.assert_allclose(info.metrics["doubt_bits"], usage[1], rtol=1e-5)
    np.testing.assert_array_equal(binary(width).encode(params, x), h > 0)
    # The gradient goes straight through: that of the error by the bits, times p (1 - p).
    slope = jax.grad(lambda b: value(params | {"encoder_bias": b}, 0.0)[0])(params["encoder_bias"])
    by_bits = -2 * left @ params["decoder"].T / jnp.square(x - x.mean(0, keepdims=True)).sum()
    np.testing.assert_allclose(slope, (by_bits * p * (1 - p)).sum(0), atol=1e-6)
