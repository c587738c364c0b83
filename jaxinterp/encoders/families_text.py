"""Encoders of text: BERT and RoBERTa."""

from typing import Any

from jaxinterp.encoders import bidirectional
from jaxinterp.encoders.bidirectional import BidirectionalConfig
from jaxinterp.encoders.family import Family, Model, Raw, activation, classes, refuse
from jaxinterp.encoders.layouts import EVERYWHERE, Tensor, modules

BIDIRECTIONAL = Model(bidirectional.forward, bidirectional.sites, bidirectional.shapes)

_BLOCK = {
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.o": "attention.output.dense",
    "ln1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "ln2": "output.LayerNorm",
}


def _config(raw: Raw, **special: Any) -> BidirectionalConfig:
    refuse(raw, is_decoder=False, add_cross_attention=False, tie_word_embeddings=True)
    refuse(raw, position_embedding_type="absolute")
    d, heads = raw["hidden_size"], raw["num_attention_heads"]
    return BidirectionalConfig(
        vocab_size=raw["vocab_size"],
        context=raw["max_position_embeddings"],
        token_types=raw.get("type_vocab_size", 2),
        n_layers=raw["num_hidden_layers"],
        d_model=d,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d // heads,
        d_mlp=raw["intermediate_size"],
        norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
        norm_after=True,
        embed_norm=True,
        activation=activation(raw, "hidden_act", default="gelu"),
        **special,
    )


def _bert_config(raw: Raw, names: set[str]) -> BidirectionalConfig:
    pooler = "bert.pooler.dense.weight" in names
    return _config(
        raw,
        pooling="first" if pooler else "",
        pooler=pooler,
        masked_head="cls.predictions.bias" in names,
        classes=classes(raw) if "classifier.weight" in names else 0,
    )


def _roberta_config(raw: Raw, names: set[str]) -> BidirectionalConfig:
    masked = "lm_head.bias" in names
    if masked:  # its head has a gelu of its own
        refuse(raw, hidden_act="gelu")
    pooler = "roberta.pooler.dense.weight" in names
    classifier = "classifier.out_proj.weight" in names
    return _config(
        raw,
        padding_id=raw.get("pad_token_id", 1),
        pooling="first" if pooler or classifier else "",
        pooler=pooler or classifier,
        masked_head=masked,
        classes=classes(raw) if classifier else 0,
    )


def _tensors(config: BidirectionalConfig, base: str) -> list[Tensor]:
    """What BERT and RoBERTa share, without the heads."""
    return [
        Tensor("embed.tokens", f"{base}.embeddings.word_embeddings.weight"),
        Tensor("embed.positions", f"{base}.embeddings.position_embeddings.weight"),
        Tensor("embed.types", f"{base}.embeddings.token_type_embeddings.weight"),
        *modules({"ln_embed": f"{base}.embeddings.LayerNorm"}, biased=EVERYWHERE),
        *modules(
            _BLOCK,
            layers=config.n_layers,
            d_head=config.d_head,
            biased=EVERYWHERE,
            into="layers.",
            block=f"{base}.encoder.layer.{{i}}.",
        ),
    ]


def _bert_tensors(config: BidirectionalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    heads = {}
    if config.pooler:
        heads |= {"pooler": "bert.pooler.dense"}
    if config.classes:
        heads |= {"classifier": "classifier"}
    tensors = _tensors(config, "bert")
    if config.masked_head:
        heads |= {"masked_head.map": "cls.predictions.transform.dense"}
        heads |= {"masked_head.ln": "cls.predictions.transform.LayerNorm"}
        tensors.append(Tensor("masked_head.bias", "cls.predictions.bias"))
    return tensors + modules(heads, biased=EVERYWHERE)


def _roberta_tensors(config: BidirectionalConfig, raw: Raw, names: set[str]) -> list[Tensor]:
    heads = {}
    if config.classes:  # its first map and tanh do what the pooler does elsewhere
        heads |= {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}
    elif config.pooler:
        heads |= {"pooler": "roberta.pooler.dense"}
    tensors = _tensors(config, "roberta")
    if config.masked_head:
        heads |= {"masked_head.map": "lm_head.dense", "masked_head.ln": "lm_head.layer_norm"}
        tensors.append(Tensor("masked_head.bias", "lm_head.bias"))
    return tensors + modules(heads, biased=EVERYWHERE)


_OLD_NORMS = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))

FAMILIES: dict[str, Family] = {
    "bert": Family(
        BIDIRECTIONAL,
        _bert_config,
        _bert_tensors,
        (*_OLD_NORMS, (r"^(?!bert\.|cls\.|classifier\.)", "bert.")),
        r"position_ids$|token_type_ids$|^cls\.predictions\.decoder\.|^cls\.seq_relationship\.",
    ),
    "roberta": Family(
        BIDIRECTIONAL,
        _roberta_config,
        _roberta_tensors,
        (*_OLD_NORMS, (r"^(?!roberta\.|lm_head\.|classifier\.)", "roberta.")),
        r"position_ids$|token_type_ids$|^lm_head\.decoder\.|^roberta\.pooler\.",
    ),
}
