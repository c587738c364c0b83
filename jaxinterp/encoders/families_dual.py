"""CLIP and SigLIP: both towers, or one of them alone."""

from typing import Any

from jaxinterp.encoders import dual
from jaxinterp.encoders.bidirectional import BidirectionalConfig
from jaxinterp.encoders.dual import DualConfig
from jaxinterp.encoders.families_text import BIDIRECTIONAL
from jaxinterp.encoders.families_vision import CONVOLUTION, vision_fields
from jaxinterp.encoders.family import Family, Model, Raw, activation, refuse
from jaxinterp.encoders.layouts import EVERYWHERE, TRANSPOSED, Tensor, modules

DUAL = Model(dual.forward, dual.sites, dual.shapes)

# Files may leave out what equals the family's defaults.
_CLIP_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_CLIP_IMAGE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_SIGLIP_TEXT = _SIGLIP | {"vocab_size": 32000, "max_position_embeddings": 64}
_SIGLIP_IMAGE = _SIGLIP | {"image_size": 224, "patch_size": 16}


def _text_fields(raw: Raw) -> dict[str, Any]:
    d, heads = raw["hidden_size"], raw["num_attention_heads"]
    return {
        "vocab_size": raw["vocab_size"],
        "context": raw["max_position_embeddings"],
        "n_layers": raw["num_hidden_layers"],
        "d_model": d,
        "n_heads": heads,
        "n_kv_heads": heads,
        "d_head": d // heads,
        "final_norm": True,
    } | _shared(raw)


def _shared(raw: Raw) -> dict[str, Any]:
    return {
        "d_mlp": raw["intermediate_size"],
        "norm_eps": float(raw["layer_norm_eps"]),
        "activation": activation(raw, "hidden_act", default="gelu"),
    }


def _clip_text(raw: Raw, d_out: int) -> BidirectionalConfig:
    raw = _CLIP_TEXT | dict(raw)
    end = raw["eos_token_id"]
    # Configs written before the field was right say 2; those models take the largest id.
    return BidirectionalConfig(
        **_text_fields(raw),
        causal=True,
        pooling="end",
        end_token=None if end == 2 else end,
        d_out=d_out,
    )


def _clip_image(raw: Raw, d_out: int) -> BidirectionalConfig:
    raw = _CLIP_IMAGE | dict(raw)
    return BidirectionalConfig(
        **vision_fields(raw),
        **_shared(raw),
        class_token=True,
        embed_norm=True,
        final_norm=True,
        pooling="first",
        d_out=d_out,
    )


def _siglip_text(raw: Raw) -> BidirectionalConfig:
    raw = _SIGLIP_TEXT | dict(raw)
    d_out = raw.get("projection_size") or raw["hidden_size"]
    return BidirectionalConfig(**_text_fields(raw), pooling="last", d_out=d_out)


def _siglip_image(raw: Raw) -> BidirectionalConfig:
    raw = _SIGLIP_IMAGE | dict(raw)
    head = raw.get("vision_use_head", True)
    fields = vision_fields(raw) | _shared(raw)
    return BidirectionalConfig(**fields, final_norm=True, pooling="attention" if head else "")


def _clip_config(raw: Raw, names: set[str]) -> DualConfig:
    d_out = raw.get("projection_dim", 512)
    text, image = raw.get("text_config") or {}, raw.get("vision_config") or {}
    # Files of before 2023 have these too, which transformers prefers, their defaults included.
    if raw.get("text_config_dict") is not None:
        text = dict(text) | _CLIP_TEXT | raw["text_config_dict"]
    if raw.get("vision_config_dict") is not None:
        image = dict(image) | _CLIP_IMAGE | raw["vision_config_dict"]
    return DualConfig(text=_clip_text(text, d_out), image=_clip_image(image, d_out))


def _siglip_config(raw: Raw, names: set[str]) -> DualConfig:
    refuse(raw.get("vision_config") or {}, vision_use_head=True)
    return DualConfig(
        text=_siglip_text(raw.get("text_config") or {}),
        image=_siglip_image(raw.get("vision_config") or {}),
    )


_BLOCK = {
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.out_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def _tower(config: BidirectionalConfig, base: str) -> list[Tensor]:
    return modules(
        _BLOCK,
        layers=config.n_layers,
        d_head=config.d_head,
        biased=EVERYWHERE,
        into="layers.",
        block=f"{base}.encoder.layers.{{i}}.",
    )


def _text_tensors(config: BidirectionalConfig) -> list[Tensor]:
    tensors = [
        Tensor("embed.tokens", "text_model.embeddings.token_embedding.weight"),
        Tensor("embed.positions", "text_model.embeddings.position_embedding.weight"),
        *_tower(config, "text_model"),
        *modules({"ln_final": "text_model.final_layer_norm"}, biased=EVERYWHERE),
    ]
    if config.pooling == "last":
        tensors += modules({"proj": "text_model.head"}, biased=EVERYWHERE)
    elif config.d_out:
        tensors.append(Tensor("proj.kernel", "text_projection.weight", TRANSPOSED))
    return tensors


def _image_tensors(config: BidirectionalConfig) -> list[Tensor]:
    stem = "vision_model.embeddings."
    tensors = [
        Tensor("embed.patches.kernel", f"{stem}patch_embedding.weight", CONVOLUTION),
        Tensor("embed.positions", f"{stem}position_embedding.weight"),
        *_tower(config, "vision_model"),
        *modules({"ln_final": "vision_model.post_layernorm"}, biased=EVERYWHERE),
    ]
    if config.class_token:  # CLIP
        tensors.append(Tensor("embed.class", f"{stem}class_embedding"))
        tensors += modules({"ln_embed": "vision_model.pre_layrnorm"}, biased=EVERYWHERE)
        if config.d_out:
            tensors.append(Tensor("proj.kernel", "visual_projection.weight", TRANSPOSED))
    else:
        tensors.append(Tensor("embed.patches.bias", f"{stem}patch_embedding.bias"))
    return tensors + (_attention_pool(config) if config.pooling == "attention" else [])


def _attention_pool(config: BidirectionalConfig) -> list[Tensor]:
    head, h = "vision_model.head.", config.d_head
    ours = {"ln": "layernorm", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    tensors = [
        Tensor("pool.probe", f"{head}probe", "a b d -> d"),
        *modules(ours, into="pool.", block=head, biased=EVERYWHERE),
        Tensor(
            "pool.attn.o.kernel",
            f"{head}attention.out_proj.weight",
            "d (n h) -> n h d",
            d_head=h,
        ),
        Tensor("pool.attn.o.bias", f"{head}attention.out_proj.bias"),
    ]
    for i, name in enumerate("qkv"):
        for leaf, theirs, pattern in (
            ("kernel", "weight", "(t n h) d -> d n h"),
            ("bias", "bias", "(t n h) -> n h"),
        ):
            source = f"{head}attention.in_proj_{theirs}"
            path = f"pool.attn.{name}.{leaf}"
            tensors.append(Tensor(path, source, pattern, (i, 3), 0, h))
    return tensors


def _dual_tensors(config: DualConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    scalars = ["logit_scale"] + (["logit_bias"] if raw["model_type"] == "siglip" else [])
    scalar = "a ->" if raw["model_type"] == "siglip" else ""
    return [
        *(t._replace(path=f"text.{t.path}") for t in _text_tensors(config.text)),
        *(t._replace(path=f"image.{t.path}") for t in _image_tensors(config.image)),
        *(Tensor(name, name, scalar) for name in scalars),
    ]


def _projection(raw: Raw, names: set[str], name: str) -> int:
    return raw.get("projection_dim", 512) if name in names else 0


def _names(base: str) -> tuple[tuple[str, str], ...]:
    """A tower saved alone lacks its prefix in transformers 5."""
    return ((rf"^(?!{base}\.|text_projection\.|visual_projection\.)", f"{base}."),)


_BUFFERS = r"position_ids$"

FAMILIES: dict[str, Family] = {
    "clip": Family(DUAL, _clip_config, _dual_tensors, (), _BUFFERS),
    "siglip": Family(DUAL, _siglip_config, _dual_tensors, (), _BUFFERS),
    "clip_text_model": Family(
        BIDIRECTIONAL,
        lambda raw, names: _clip_text(raw, _projection(raw, names, "text_projection.weight")),
        lambda config, raw, names: _text_tensors(config),
        _names("text_model"),
        _BUFFERS,
    ),
    "clip_vision_model": Family(
        BIDIRECTIONAL,
        lambda raw, names: _clip_image(raw, _projection(raw, names, "visual_projection.weight")),
        lambda config, raw, names: _image_tensors(config),
        _names("vision_model"),
        _BUFFERS,
    ),
    "siglip_text_model": Family(
        BIDIRECTIONAL,
        lambda raw, names: _siglip_text(raw),
        lambda config, raw, names: _text_tensors(config),
        _names("text_model"),
        _BUFFERS,
    ),
    "siglip_vision_model": Family(
        BIDIRECTIONAL,
        lambda raw, names: _siglip_image(raw),
        lambda config, raw, names: _image_tensors(config),
        _names("vision_model"),
        _BUFFERS,
    ),
}
