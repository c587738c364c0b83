"""Encoders of images: ViT and DINOv2, with and without registers."""

from typing import Any

from jaxinterp.encoders.bidirectional import BidirectionalConfig
from jaxinterp.encoders.families_text import BIDIRECTIONAL
from jaxinterp.encoders.family import Family, Raw, activation, classes, refuse
from jaxinterp.encoders.layouts import AS_IS, EVERYWHERE, Tensor, modules

CONVOLUTION = "o c y x -> y x c o"
_TOKEN = "a b d -> d"
_TABLE = "a n d -> n d"


def size_pair(value: Any) -> tuple[int, int]:
    """Height and width, from one number or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def vision_fields(raw: Raw) -> dict[str, Any]:
    """What the configs of all encoders of images share."""
    d, heads = raw["hidden_size"], raw["num_attention_heads"]
    return {
        "n_layers": raw["num_hidden_layers"],
        "d_model": d,
        "n_heads": heads,
        "n_kv_heads": heads,
        "d_head": d // heads,
        "image_size": size_pair(raw["image_size"]),
        "patch_size": size_pair(raw["patch_size"]),
        "channels": raw.get("num_channels", 3),
    }


def _vit_config(raw: Raw, names: set[str]) -> BidirectionalConfig:
    pooler = "vit.pooler.dense.weight" in names
    if pooler:
        refuse(raw, pooler_act="tanh", pooler_output_size=raw["hidden_size"])
    return BidirectionalConfig(
        **vision_fields(raw),
        d_mlp=raw["intermediate_size"],
        norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
        activation=activation(raw, "hidden_act", default="gelu"),
        class_token=True,
        final_norm=True,
        pooling="first",
        pooler=pooler,
        classes=classes(raw) if "classifier.weight" in names else 0,
    )


def _dinov2_config(raw: Raw, names: set[str]) -> BidirectionalConfig:
    refuse(raw, apply_layernorm=True)
    d, registers = raw["hidden_size"], 0
    with_registers = raw["model_type"] == "dinov2_with_registers"
    if with_registers:
        registers = raw.get("num_register_tokens", 4)
    gated = bool(raw.get("use_swiglu_ffn", False))
    d_mlp = int(d * raw.get("mlp_ratio", 4))
    return BidirectionalConfig(
        **vision_fields(raw),
        d_mlp=(int(d_mlp * 2 / 3) + 7) // 8 * 8 if gated else d_mlp,
        norm_eps=float(raw.get("layer_norm_eps", 1e-6)),
        activation="silu" if gated else activation(raw, "hidden_act", default="gelu"),
        gated=gated,
        layer_scale=True,
        class_token=True,
        registers=registers,
        antialias=with_registers,
        final_norm=True,
        pooling="first",
        classes=classes(raw) if "classifier.weight" in names else 0,
        classify_mean=True,
    )


def _stem(base: str) -> list[Tensor]:
    patches = f"{base}.embeddings.patch_embeddings.projection"
    return [
        Tensor("embed.class", f"{base}.embeddings.cls_token", _TOKEN),
        Tensor("embed.positions", f"{base}.embeddings.position_embeddings", _TABLE),
        Tensor("embed.patches.kernel", f"{patches}.weight", CONVOLUTION),
        Tensor("embed.patches.bias", f"{patches}.bias"),
    ]


_ATTENTION = {
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.o": "attention.output.dense",
}


def _tensors(
    config: BidirectionalConfig, raw: Raw, base: str, block: dict[str, str], heads: dict[str, str]
) -> list[Tensor]:
    biased = {*block, *_ATTENTION}
    if not raw.get("qkv_bias", True):
        biased -= {"attn.q", "attn.k", "attn.v"}
    return [
        *_stem(base),
        *modules(
            _ATTENTION | block,
            layers=config.n_layers,
            d_head=config.d_head,
            biased=biased,
            into="layers.",
            block=f"{base}.encoder.layer.{{i}}.",
        ),
        *modules({"ln_final": f"{base}.layernorm"} | heads, biased=EVERYWHERE),
    ]


def _vit_tensors(config: BidirectionalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    block = {"ln1": "layernorm_before", "ln2": "layernorm_after"}
    block |= {"mlp.up": "intermediate.dense", "mlp.down": "output.dense"}
    heads = {"pooler": "vit.pooler.dense"} if config.pooler else {}
    if config.classes:
        heads |= {"classifier": "classifier"}
    return _tensors(config, raw, "vit", block, heads)


def _dinov2_tensors(config: BidirectionalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    base, layers = "dinov2", config.n_layers
    each = f"{base}.encoder.layer.{{i}}."
    block = {"ln1": "norm1", "ln2": "norm2"}
    extra = [
        Tensor("layers.attn_gain", f"{each}layer_scale1.lambda1", AS_IS, None, layers),
        Tensor("layers.mlp_gain", f"{each}layer_scale2.lambda1", AS_IS, None, layers),
    ]
    if config.registers:
        extra.append(Tensor("embed.registers", f"{base}.embeddings.register_tokens", _TABLE))
    if not config.gated:
        block |= {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    elif f"{each}mlp.gate_proj.weight".format(i=0) in names:
        block |= {"mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj"}
        block |= {"mlp.down": "mlp.down_proj"}
    else:  # gate and up share one tensor
        block |= {"mlp.down": "mlp.weights_out"}
        for i, name in enumerate(("gate", "up")):
            for leaf, theirs, pattern in (
                ("kernel", "weight", "(t o) i -> i o"),
                ("bias", "bias", "(t o) -> o"),
            ):
                source = f"{each}mlp.weights_in.{theirs}"
                path = f"layers.mlp.{name}.{leaf}"
                extra.append(Tensor(path, source, pattern, (i, 2), layers))
    heads = {"classifier": "classifier"} if config.classes else {}
    return _tensors(config, raw, base, block, heads) + extra


# Names of the modules in memory in transformers 5, to the names in files.
_MEMORY = tuple(
    (rf"\.attention\.{new}_proj\.", f".attention.{old}.")
    for new, old in (
        ("q", "attention.query"),
        ("k", "attention.key"),
        ("v", "attention.value"),
        ("o", "output.dense"),
    )
)
_VIT_NAMES = (
    (r"^(?!vit\.|classifier\.)", "vit."),
    (r"^vit\.layers\.", "vit.encoder.layer."),
    *_MEMORY,
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_DINOV2_NAMES = (
    (r"^dinov2_with_registers\.", "dinov2."),
    (r"^(?!dinov2\.|classifier\.)", "dinov2."),
    *_MEMORY,
)
_DINOV2 = Family(BIDIRECTIONAL, _dinov2_config, _dinov2_tensors, _DINOV2_NAMES, r"\.mask_token$")

FAMILIES: dict[str, Family] = {
    "vit": Family(BIDIRECTIONAL, _vit_config, _vit_tensors, _VIT_NAMES, r"\.mask_token$"),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
}
