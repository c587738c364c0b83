import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries import bit_diffusion


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
