from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import causal, lens

from .models import CONFIGS, QUICK, random_params, tokens

TOKENS = jnp.asarray(tokens())


def make(name):
    config = CONFIGS[name]
    params = random_params(config)
    if name == "neox":  # an untied head with a bias
        key = jax.random.key(3)
        params["unembed"] = {
            "kernel": 0.1 * jax.random.normal(key, (32, 61)),
            "bias": jax.random.normal(key, (61,)),
        }
        params["layers"]["attn"]["o"]["bias"] = jax.random.normal(key, (3, 32))
    return params, config


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request):
    return make(request.param)


def test_contributions_sum_to_the_logits(model):
    params, config = model
    error = jax.jit(lens.attribution_error, static_argnums=1)(params, config, TOKENS)
    print(f"attribution: {error:.1e}")
    assert error < 1e-4


def test_a_contrast_is_a_difference(model):
    params, config = model
    targets, other = (TOKENS + 1) % 61, (TOKENS + 2) % 61

    @partial(jax.jit, compiler_options=QUICK)
    def all_three(params):
        def of(targets, **options):
            return lens.attribute(params, config, TOKENS, targets, **options)

        return of(targets), of(other), of(targets, contrast=other)

    one, two, difference = all_three(params)
    for a, b, c in zip(one, two, difference, strict=True):
        np.testing.assert_allclose(a - b, c, atol=1e-4)


def test_a_head_contributes_what_it_wrote_as_the_head_reads_it():
    params, config = make("neox")

    @partial(jax.jit, compiler_options=QUICK)
    def both(params):
        capture = ("ln_final_scale", "L2.result")
        _, got = causal.forward(params, config, TOKENS, capture=capture)
        return lens.attribute(params, config, TOKENS, TOKENS), got

    found, got = both(params)
    write = got["L2.result"][:, :, 1] / got["ln_final_scale"]
    write = (write - write.mean(-1, keepdims=True)) * params["ln_final"]["scale"][None, None]
    expected = (write * params["unembed"]["kernel"].T[TOKENS]).sum(-1)
    np.testing.assert_allclose(found.heads[2, ..., 1], expected, atol=1e-4)


def test_the_last_layer_of_the_lens_is_the_model(model):
    params, config = model

    @partial(jax.jit, compiler_options=QUICK)
    def run(params):
        logits, got = causal.forward(params, config, TOKENS, capture=("resid_post",))
        every = lens.logit_lens(params, config, got["resid_post"])
        best = lens.logit_lens(
            params, config, got["resid_post"], reduce=lambda x: jax.lax.top_k(x, 3)
        )
        return logits, every, best

    logits, every, (values, indices) = run(params)
    assert every.shape == (3, 2, 12, 61)
    np.testing.assert_allclose(every[-1], logits, atol=1e-5)
    assert values.shape == (3, 2, 12, 3)
    np.testing.assert_array_equal(indices[..., 0], every.argmax(-1))
