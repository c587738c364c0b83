"""Every decoder-only family against transformers: logits and every hidden state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import hf

from . import oracle
from .models import QUICK
from .oracle import transformers as hft

SMALL = dict(vocab_size=97, num_hidden_layers=3, max_position_embeddings=64)
LLAMA = SMALL | dict(hidden_size=48, intermediate_size=80, num_attention_heads=4)
GQA = LLAMA | dict(num_key_value_heads=2)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
GPT2 = dict(vocab_size=97, n_positions=64, n_layer=3)

CASES = {
    "gpt2": (hft.GPT2LMHeadModel, hft.GPT2Config, GPT2 | dict(n_embd=48, n_head=4)),
    "gpt2-odd-head-by-depth": (
        hft.GPT2LMHeadModel,
        hft.GPT2Config,
        GPT2 | dict(n_embd=35, n_head=5, n_inner=50, scale_attn_by_inverse_layer_idx=True),
    ),
    "gpt2-untied": (
        hft.GPT2LMHeadModel,
        hft.GPT2Config,
        GPT2 | dict(n_embd=48, n_head=4, tie_word_embeddings=False),
    ),
    "gpt2-base": (hft.GPT2Model, hft.GPT2Config, GPT2 | dict(n_embd=48, n_head=4)),
    "neox-parallel": (
        hft.GPTNeoXForCausalLM,
        hft.GPTNeoXConfig,
        LLAMA | dict(hidden_size=64, rotary_pct=0.25),
    ),
    "neox-sequential": (
        hft.GPTNeoXForCausalLM,
        hft.GPTNeoXConfig,
        LLAMA | dict(use_parallel_residual=False, rotary_pct=1.0, attention_bias=False),
    ),
    "llama": (hft.LlamaForCausalLM, hft.LlamaConfig, LLAMA),
    "llama-gqa-biases-odd-width": (
        hft.LlamaForCausalLM,
        hft.LlamaConfig,
        GQA | dict(hidden_size=44, head_dim=10, attention_bias=True, mlp_bias=True),
    ),
    "llama-3.2-tied": (
        hft.LlamaForCausalLM,
        hft.LlamaConfig,
        GQA | dict(tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE | dict(rope_theta=5e5)),
    ),
    "llama-linear-rope": (
        hft.LlamaForCausalLM,
        hft.LlamaConfig,
        GQA | dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=1e4)),
    ),
    "mistral": (hft.MistralForCausalLM, hft.MistralConfig, GQA | dict(sliding_window=7)),
    "qwen2": (hft.Qwen2ForCausalLM, hft.Qwen2Config, GQA | dict(tie_word_embeddings=True)),
    "qwen2-windows": (
        hft.Qwen2ForCausalLM,
        hft.Qwen2Config,
        GQA | dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    ),
    "qwen3": (hft.Qwen3ForCausalLM, hft.Qwen3Config, GQA | dict(head_dim=18)),
    "gemma2": (
        hft.Gemma2ForCausalLM,
        hft.Gemma2Config,
        GQA
        | dict(head_dim=14, sliding_window=6, query_pre_attn_scalar=20)
        | dict(attn_logit_softcapping=1.5, final_logit_softcapping=2.0),
    ),
    "gemma3": (
        hft.Gemma3ForCausalLM,
        hft.Gemma3TextConfig,
        GQA
        | dict(head_dim=14, sliding_window=6, query_pre_attn_scalar=20, sliding_window_pattern=2)
        | dict(final_logit_softcapping=2.0),
    ),
}
TOKENS = np.random.default_rng(0).integers(0, 97, (3, 24))
# One row whole, one padded in front, one behind.
MASK = np.stack([np.arange(24) >= 0, np.arange(24) >= 7, np.arange(24) < 9])
CAPTURE = ("resid_pre", "resid_post", "pattern", "ln_final", "logits")


@pytest.fixture(scope="module", params=list(CASES))
def case(request, tmp_path_factory):
    """A checkpoint folder, what torch computes from it, and the encoder loaded from it."""
    model_class, config_class, options = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    oracle.save_random(folder, model_class, config_class(**options))
    out = oracle.run(folder, model_class, input_ids=TOKENS, attention_mask=MASK.astype(int))
    return request.param, out, hf.load(folder)


@pytest.fixture(scope="module")
def ours(case):
    encoder = case[2]
    run = jax.jit(
        encoder.forward, static_argnums=1, static_argnames="capture", compiler_options=QUICK
    )
    return run(encoder.params, encoder.config, TOKENS, mask=jnp.asarray(MASK), capture=CAPTURE)


def at_words(x):
    """Rows of real tokens; what a model says at padding means nothing."""
    return np.asarray(x)[MASK]


def test_logits_and_every_hidden_state(case, ours):
    name, out, encoder = case
    logits, captured = ours
    *hidden, last = [at_words(h.numpy()) for h in out.hidden_states]
    assert len(hidden) == encoder.config.n_layers
    for layer, expected in enumerate(hidden):
        np.testing.assert_allclose(at_words(captured["resid_pre"][layer]), expected, atol=1e-4)
    np.testing.assert_allclose(at_words(captured["ln_final"]), last, atol=1e-4)
    if "logits" in out:
        np.testing.assert_allclose(at_words(logits), at_words(out.logits.numpy()), atol=1e-4)
        errors = np.abs(at_words(logits) - at_words(out.logits.numpy())).max()
        print(f"{name}: logits {errors:.1e} of {np.abs(at_words(out.logits.numpy())).max():.1f}")


def test_attention_patterns(case, ours):
    _, out, _ = case
    for layer, expected in enumerate(out.attentions):
        pattern = np.asarray(ours[1]["pattern"][layer]).transpose(0, 2, 1, 3)[MASK]
        np.testing.assert_allclose(pattern, expected.numpy().transpose(0, 2, 1, 3)[MASK], atol=1e-5)
