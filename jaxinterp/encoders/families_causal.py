"""Decoder-only families: GPT-2, GPT-NeoX, Llama, Mistral, Qwen, Gemma.

Each is a reading of its `config.json` and a map from our paths to its tensors.
"""

from typing import Any

from jaxinterp.encoders import causal
from jaxinterp.encoders.causal import CausalConfig, Rotary
from jaxinterp.encoders.family import (
    Family,
    Model,
    Raw,
    activation,
    refuse,
    rope,
    tied,
    windows,
)
from jaxinterp.encoders.layouts import AS_IS, EVERYWHERE, TRANSPOSED, Tensor, modules

CAUSAL = Model(causal.forward, causal.sites, causal.shapes)
_BUFFERS = r"(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$"


def _gpt2_config(raw: Raw, names: set[str]) -> CausalConfig:
    refuse(raw, add_cross_attention=False)
    d, heads = raw["n_embd"], raw["n_head"]
    return CausalConfig(
        vocab_size=raw["vocab_size"],
        context=raw.get("n_positions", 1024),
        n_layers=raw["n_layer"],
        d_model=d,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d // heads,
        d_mlp=raw.get("n_inner") or 4 * d,
        norm="layer",
        norm_eps=float(raw.get("layer_norm_epsilon", 1e-5)),
        activation=activation(raw, "activation_function", default="gelu_new"),
        gated=False,
        rotary=None,
        attention_scale=None if raw.get("scale_attn_weights", True) else 1.0,
        attention_scale_by_depth=bool(raw.get("scale_attn_by_inverse_layer_idx", False)),
    )


def _gpt2_tensors(config: CausalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    block, layers, h = "transformer.h.{i}.", config.n_layers, config.d_head
    ours = {"ln1": "ln_1", "ln2": "ln_2"}
    tensors = [
        Tensor("embed.tokens", "transformer.wte.weight"),
        Tensor("embed.positions", "transformer.wpe.weight"),
        *modules(ours, layers=layers, biased=EVERYWHERE, into="layers.", block=block),
        *modules({"ln_final": "transformer.ln_f"}, biased=EVERYWHERE),
    ]
    # These maps are stored [in, out], and queries, keys and values share one.
    maps = [
        ("attn.o", "attn.c_proj", "(n h) d -> n h d", AS_IS, None),
        ("mlp.up", "mlp.c_fc", AS_IS, AS_IS, None),
        ("mlp.down", "mlp.c_proj", AS_IS, AS_IS, None),
    ]
    for i, name in enumerate("qkv"):
        pattern = ("d (t n h) -> d n h", "(t n h) -> n h")
        maps.append((f"attn.{name}", "attn.c_attn", *pattern, (i, 3)))
    for path, module, kernel, bias, pick in maps:
        for ours_, theirs, pattern in (("kernel", "weight", kernel), ("bias", "bias", bias)):
            name = f"{block}{module}.{theirs}"
            tensors.append(Tensor(f"layers.{path}.{ours_}", name, pattern, pick, layers, h))
    if not tied(raw, names, "lm_head.weight", default=True):
        tensors.append(Tensor("unembed.kernel", "lm_head.weight", TRANSPOSED))
    return tensors


def _neox_config(raw: Raw, names: set[str]) -> CausalConfig:
    d, heads = raw["hidden_size"], raw["num_attention_heads"]
    return CausalConfig(
        vocab_size=raw["vocab_size"],
        context=raw.get("max_position_embeddings", 2048),
        n_layers=raw["num_hidden_layers"],
        d_model=d,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d // heads,
        d_mlp=raw["intermediate_size"],
        norm="layer",
        norm_eps=float(raw.get("layer_norm_eps", 1e-5)),
        activation=activation(raw, "hidden_act", default="gelu"),
        gated=False,
        parallel=raw.get("use_parallel_residual", True),
        rotary=rope(raw, fraction=0.25),
    )


def _neox_tensors(config: CausalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    block, layers, h = "gpt_neox.layers.{i}.", config.n_layers, config.d_head
    biased = {"ln1", "ln2", "ln_final", "mlp.up", "mlp.down"}
    qkv = [("kernel", "weight", "(n t h) d -> d n h")]
    if raw.get("attention_bias", True):
        biased |= {"attn.o"}
        qkv += [("bias", "bias", "(n t h) -> n h")]
    ours = {
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        "attn.o": "attention.dense",
        "mlp.up": "mlp.dense_h_to_4h",
        "mlp.down": "mlp.dense_4h_to_h",
    }
    tensors = [
        Tensor("embed.tokens", "gpt_neox.embed_in.weight"),
        *modules(ours, layers=layers, d_head=h, biased=biased, into="layers.", block=block),
        *modules({"ln_final": "gpt_neox.final_layer_norm"}, biased=biased),
    ]
    for i, name in enumerate("qkv"):
        for leaf, theirs, pattern in qkv:
            path, source = (
                f"layers.attn.{name}.{leaf}",
                f"{block}attention.query_key_value.{theirs}",
            )
            tensors.append(Tensor(path, source, pattern, (i, 3), layers, h))
    if not tied(raw, names, "embed_out.weight", default=False):
        tensors.append(Tensor("unembed.kernel", "embed_out.weight", TRANSPOSED))
    return tensors


def _llama_fields(raw: Raw, **special: Any) -> CausalConfig:
    """The fields that Llama and its descendants share; `special` overrides."""
    heads, d = raw["num_attention_heads"], raw["hidden_size"]
    fields: dict[str, Any] = {
        "vocab_size": raw["vocab_size"],
        "context": raw.get("max_position_embeddings", 2048),
        "n_layers": raw["num_hidden_layers"],
        "d_model": d,
        "n_heads": heads,
        "n_kv_heads": raw.get("num_key_value_heads") or heads,
        "d_head": raw.get("head_dim") or d // heads,
        "d_mlp": raw["intermediate_size"],
        "norm_eps": float(raw.get("rms_norm_eps", 1e-6)),
        "activation": activation(raw, "hidden_act", default="silu"),
    }
    if "rotary" not in special:
        fields["rotary"] = rope(raw)
    config = CausalConfig(**(fields | special))
    if config.rotary is not None and config.rotary.fraction != 1.0:
        refuse({"partial_rotary_factor": config.rotary.fraction}, partial_rotary_factor=1.0)
    return config


def _llama_config(raw: Raw, names: set[str]) -> CausalConfig:
    return _llama_fields(raw)


def _mistral_config(raw: Raw, names: set[str]) -> CausalConfig:
    raw = {"sliding_window": 4096} | dict(raw)  # null means none
    layers = raw["num_hidden_layers"]
    kinds = ["sliding_attention" if raw["sliding_window"] else "full_attention"] * layers
    return _llama_fields(raw, windows=windows(raw, kinds))


def _qwen2_config(raw: Raw, names: set[str]) -> CausalConfig:
    return _qwen_fields(raw)


def _qwen3_config(raw: Raw, names: set[str]) -> CausalConfig:
    return _qwen_fields(raw, query_norm=True, d_head=raw.get("head_dim") or 128)


def _qwen_fields(raw: Raw, **special: Any) -> CausalConfig:
    layers, first = raw["num_hidden_layers"], raw.get("max_window_layers", 28)
    if not raw.get("use_sliding_window", False):
        return _llama_fields(raw, **special)
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return _llama_fields(raw, windows=windows(raw, kinds), **special)


def _gemma2_config(raw: Raw, names: set[str]) -> CausalConfig:
    raw = _GEMMA2 | dict(raw)
    layers = raw["num_hidden_layers"]
    kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    return _gemma_config(raw, kinds, rotary=rope(raw))


def _gemma3_config(raw: Raw, names: set[str]) -> CausalConfig:
    raw = _GEMMA3 | dict(raw)
    every = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or 6
    layers = raw["num_hidden_layers"]
    kinds = [
        "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
    ]
    given = raw.get("rope_parameters") or {}
    if "full_attention" in given or "sliding_attention" in given:  # transformers 5
        everywhere = rope({"rope_parameters": given.get("full_attention")}, theta=1e6)
        local = rope({"rope_parameters": given.get("sliding_attention")})
    else:
        everywhere = rope(raw, theta=1e6)
        local = Rotary(float(raw.get("rope_local_base_freq", 10_000.0)))
    return _gemma_config(raw, kinds, rotary=everywhere, local_rotary=local, query_norm=True)


def _gemma_config(raw: Raw, kinds: list[str], **special: Any) -> CausalConfig:
    refuse(raw, use_bidirectional_attention=False)
    layer_windows = windows(raw, kinds)
    if not layer_windows:
        special["local_rotary"] = None
    return _llama_fields(
        raw,
        norm_unit_offset=True,
        post_norms=True,
        # Older files give the exact gelu under `hidden_act`, which was never what the model used.
        activation=activation(raw, "hidden_activation", default="gelu_pytorch_tanh"),
        windows=layer_windows,
        attention_scale=float(raw["query_pre_attn_scalar"]) ** -0.5,
        attention_softcap=_optional_float(raw.get("attn_logit_softcapping")),
        logit_softcap=_optional_float(raw.get("final_logit_softcapping")),
        embed_scale=float(raw["hidden_size"]) ** 0.5,
        **special,
    )


def _optional_float(value: float | None) -> float | None:
    return None if value is None else float(value)


# Files may leave out what equals the family's defaults.
_GEMMA2: dict[str, Any] = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
}
_GEMMA3: dict[str, Any] = {
    "vocab_size": 262_208,
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131_072,
}


def _llama_tensors(config: CausalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    """Llama and its descendants; which of the optional parts exist follows from the config."""
    ours = {
        "ln1": "input_layernorm",
        "ln2": "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.o": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    }
    if config.post_norms:
        ours |= {"ln1_post": "post_attention_layernorm", "ln2_post": "post_feedforward_layernorm"}
    if config.query_norm:
        ours |= {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
    maps_in, maps_out = {"attn.q", "attn.k", "attn.v"}, {"attn.o"}
    biased = maps_in if raw.get("model_type") == "qwen2" else set()
    if raw.get("attention_bias"):
        biased = maps_in | maps_out
    if raw.get("mlp_bias"):
        biased = biased | {"mlp.gate", "mlp.up", "mlp.down"}
    tensors = [
        Tensor("embed.tokens", "model.embed_tokens.weight"),
        *modules(
            ours,
            layers=config.n_layers,
            d_head=config.d_head,
            biased=biased,
            into="layers.",
            block="model.layers.{i}.",
        ),
        *modules({"ln_final": "model.norm"}),
    ]
    if not tied(raw, names, "lm_head.weight", default="gemma" in raw.get("model_type", "")):
        tensors.append(Tensor("unembed.kernel", "lm_head.weight", TRANSPOSED))
    return tensors


_LLAMA_NAMES = ((r"^(?!model\.|lm_head\.)", "model."),)
_GPT2_NAMES = ((r"^(?!transformer\.|lm_head\.)", "transformer."),)
_NEOX_NAMES = (
    (r"^lm_head\.", "embed_out."),
    (r"^(?!gpt_neox\.|embed_out\.)", "gpt_neox."),
)
# The text half of an image-and-text checkpoint.
_GEMMA3_NAMES = (
    (r"^model\.language_model\.|^language_model\.model\.", "model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)
# A head that is tied may be in the file all the same; an untied one is asked for by name.
_HEAD = "lm_head.weight"
_SKIP = rf"{_BUFFERS}|^lm_head\.weight$|^embed_out\.weight$"


def _text_config(raw: Raw) -> dict[str, Any]:
    return {"tie_word_embeddings": raw.get("tie_word_embeddings", True)} | dict(raw["text_config"])


FAMILIES: dict[str, Family] = {
    "gpt2": Family(CAUSAL, _gpt2_config, _gpt2_tensors, _GPT2_NAMES, _SKIP, _HEAD),
    "gpt_neox": Family(CAUSAL, _neox_config, _neox_tensors, _NEOX_NAMES, _SKIP, "embed_out.weight"),
    "llama": Family(CAUSAL, _llama_config, _llama_tensors, _LLAMA_NAMES, _SKIP, _HEAD),
    "mistral": Family(CAUSAL, _mistral_config, _llama_tensors, _LLAMA_NAMES, _SKIP, _HEAD),
    "qwen2": Family(CAUSAL, _qwen2_config, _llama_tensors, _LLAMA_NAMES, _SKIP, _HEAD),
    "qwen3": Family(CAUSAL, _qwen3_config, _llama_tensors, _LLAMA_NAMES, _SKIP, _HEAD),
    "gemma2": Family(CAUSAL, _gemma2_config, _llama_tensors, _LLAMA_NAMES, _SKIP, _HEAD),
    "gemma3_text": Family(CAUSAL, _gemma3_config, _llama_tensors, _LLAMA_NAMES, _SKIP, _HEAD),
    "gemma3": Family(
        CAUSAL,
        lambda raw, names: _gemma3_config(_text_config(raw), names),
        lambda config, raw, names: _llama_tensors(
            config, _text_config(raw) | {"model_type": "gemma3_text"}, names
        ),
        _GEMMA3_NAMES,
        _SKIP + r"|^(model\.)?(vision_tower|multi_modal_projector)\.",
        _HEAD,
    ),
}
