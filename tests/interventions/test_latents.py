"""Setting latents of any dictionary, and what an edit does to an output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries import base, relu, topk
from jaxinterp.interventions import effect, set_latents


def test_set_latents_keeps_the_error_and_works_for_codes_of_either_form():
    x = jax.random.normal(jax.random.key(0), (9, 6))
    for dictionary in (relu(12), topk(12, 3)):
        params = jax.jit(dictionary.init)(jax.random.key(1), x)
        codes = dictionary.encode(params, x)
        z = codes if isinstance(codes, jax.Array) else base.densify(codes, 12)
        which, values = jnp.asarray([4, 0, 7]), jnp.asarray([0.0, 2.0, -1.0])
        expected = x + (z.at[:, which].set(values) - z) @ params["decoder"]
        found = set_latents(dictionary, params, x, which, values)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        cube = set_latents(dictionary, params, x.reshape(3, 3, 6), which, values)
        np.testing.assert_allclose(cube.reshape(9, 6), expected, atol=1e-5)
        everything = set_latents(dictionary, params, x, jnp.arange(12))
        error = x - dictionary.decode(params, codes)
        np.testing.assert_allclose(everything, error + params["decoder_bias"][None], atol=1e-5)


def test_latents_that_are_not_there_or_there_twice_are_refused():
    x = jax.random.normal(jax.random.key(0), (9, 6))
    for dictionary in (relu(12), topk(12, 3)):
        params = jax.jit(dictionary.init)(jax.random.key(1), x)
        for latents, message in (
            ([12], r"latents \[12\]: this dictionary has 0..11"),
            ([3, -1], r"latents \[-1\]"),
            ([2, 5, 2], r"latents \[2\] are given more than once"),
        ):
            with pytest.raises(ValueError, match=message):
                set_latents(dictionary, params, x, jnp.asarray(latents))


def test_predicted_effects_are_first_order():
    x, step = jnp.asarray([0.3, 2.0]), jnp.asarray([0.5, -1.0])
    found = effect(lambda x: x**2, x, x + step)
    np.testing.assert_allclose(found.predicted, 2 * x * step, rtol=1e-6)
    np.testing.assert_allclose(found.actual, (x + step) ** 2 - x**2, rtol=1e-5)
