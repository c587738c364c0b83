"""Small random models made here, for tests that need no oracle."""

import jax
import numpy as np

from jaxinterp.encoders import causal
from jaxinterp.encoders.causal import CausalConfig, Rotary

# Halves compile time, which is most of what these tests take.
QUICK = {"xla_backend_optimization_level": 0}

SMALL = dict(vocab_size=61, n_layers=3, d_model=32, n_heads=4, d_head=8, d_mlp=48, context=32)

CONFIGS = {
    "llama": CausalConfig(**SMALL, n_kv_heads=2),
    "gpt2": CausalConfig(
        **SMALL, n_kv_heads=4, norm="layer", activation="gelu_tanh", gated=False, rotary=None
    ),
    "neox": CausalConfig(
        **SMALL,
        n_kv_heads=4,
        norm="layer",
        activation="gelu",
        gated=False,
        parallel=True,
        rotary=Rotary(fraction=0.5),
    ),
    "gemma": CausalConfig(
        **SMALL,
        n_kv_heads=2,
        norm_unit_offset=True,
        post_norms=True,
        query_norm=True,
        local_rotary=Rotary(theta=500.0),
        windows=(5, 0, 5),
        attention_softcap=2.0,
        logit_softcap=3.0,
        embed_scale=32**0.5,
    ),
}


def random_params(config, seed=0):
    """Initial parameters with norms and biases shaken, so that each of them matters."""
    params = causal.init(jax.random.key(seed), config)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    shaken = [x + 0.15 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, shaken)


def tokens(batch=2, seq=12, vocab=61):
    return np.random.default_rng(0).integers(0, vocab, (batch, seq))
