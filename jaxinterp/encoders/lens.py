"""Reading a language model's stream in its own vocabulary: logit lens and direct attribution.

Both rest on one identity, which is also the library's self-check of a loaded model: with the final
norm's statistic frozen, the logits are a sum over what every component wrote into the stream.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.encoders import causal
from jaxinterp.encoders.causal import CausalConfig
from jaxinterp.encoders.sites import Edit, Reducer
from jaxinterp.encoders.stack import Params


def logit_lens(
    params: Params,
    config: CausalConfig,
    residuals: Float[Array, "layers batch seq d"],
    *,
    reduce: Reducer | None = None,
) -> Any:
    """What the model would say if its blocks stopped here: final norm and unembedding per layer.

    Args:
        params: the model's parameters.
        config: its config.
        residuals: streams, for instance the captured `resid_post`.
        reduce: maps the logits `(batch, seq, vocab)` of a layer to what is kept, since all of them
            are large: `lambda logits: jax.lax.top_k(logits, 5)`.

    Returns:
        `(layers, batch, seq, vocab)` logits, or what the reducer keeps, layers leading.

    Reference:
        nostalgebraist, "interpreting GPT: the logit lens", 2020.
    """

    def one(residual: Array) -> Any:
        logits = causal.unembed(params, config, residual)
        return logits if reduce is None else reduce(logits)

    return jax.lax.map(one, residuals)


class Contributions(NamedTuple):
    """What each component adds to a logit (before the logit soft cap), at every position.

    Attributes:
        embed: the token embedding, `(batch, seq)`.
        positions: learned positions; zeros for rotary models.
        heads: each attention head, `(layers, batch, seq, heads)`.
        attn_bias: the bias of each attention output map, `(layers, batch, seq)`.
        mlp: each perceptron, `(layers, batch, seq)`.
        constant: biases of the final norm and of the unembedding.
    """

    embed: Float[Array, "batch seq"]
    positions: Float[Array, "batch seq"]
    heads: Float[Array, "layers batch seq heads"]
    attn_bias: Float[Array, "layers batch seq"]
    mlp: Float[Array, "layers batch seq"]
    constant: Float[Array, "batch seq"]

    def total(self) -> Float[Array, "batch seq"]:
        """The sum: the logit itself."""
        blocks = self.heads.sum((0, 3)) + self.attn_bias.sum(0) + self.mlp.sum(0)
        return self.embed + self.positions + blocks + self.constant


def attribute(
    params: Params,
    config: CausalConfig,
    tokens: Int[Array, "batch seq"],
    targets: Int[Array, "batch seq"],
    *,
    contrast: Int[Array, "batch seq"] | None = None,
    mask: Bool[Array, "batch seq"] | None = None,
    edits: Mapping[str, Edit] | None = None,
) -> Contributions:
    r"""Direct contribution of every component to the logit of `targets` (minus that of `contrast`).

    With $x = \sum_c o_c$ the last stream, $s$ its norm statistic and $g, b$ the norm's weights,
    $$ \ell_t = \sum_c \frac{o_c - \bar o_c}{s} \cdot (g \odot W_t) + b \cdot W_t + b_t, $$
    $\bar o_c = 0$ for root-mean-square norms. Norms behind attention and perceptron (Gemma) are
    frozen in the same way. Nothing of size (batch, seq, heads, d) is formed.

    Args:
        params: the model's parameters.
        config: its config.
        tokens: token ids.
        targets: the token at each position whose logit is explained.
        contrast: a token to subtract.
        mask: False at padding.
        edits: as in `causal.forward`.

    Returns:
        The contributions. Their total is the logit before the soft cap.

    Reference:
        Lieberum et al., "Does Circuit Analysis Interpretability Scale?", 2023, section 2.
    """
    columns, constant = _columns(params, targets)
    if contrast is not None:
        other, other_constant = _columns(params, contrast)
        columns, constant = columns - other, constant - other_constant
    final = params["ln_final"]
    gain = final["scale"].astype(jnp.float32) + float(config.norm_unit_offset)
    if "bias" in final:
        constant = constant + columns @ final["bias"].astype(jnp.float32)
    reader = columns * gain[None, None]  # what the frozen norm and the unembedding read
    if config.norm == "layer":
        reader = reader - reader.mean(-1, keepdims=True)

    def read(value: Array) -> Array:
        return jnp.einsum("bsd,bsd->bs", value.astype(jnp.float32), reader)

    capture = [("embed", read), ("mlp_out", read), ("z", None), ("ln_final_scale", None)]
    if config.rotary is None:
        capture.append(("pos_embed", read))
    if config.post_norms:
        capture.append(("ln1_post_scale", None))
    _, got = causal.forward(
        params, config, tokens, mask=mask, capture=tuple(capture), edits=edits, return_logits=False
    )
    heads, bias = _read_heads(params["layers"], config, got, reader)
    scale = got["ln_final_scale"][..., 0]
    return Contributions(
        embed=got["embed"] / scale,
        positions=got.get("pos_embed", jnp.zeros_like(scale)) / scale,
        heads=heads / scale[None, ..., None],
        attn_bias=bias / scale[None],
        mlp=got["mlp_out"] / scale[None],
        constant=constant,
    )


def _columns(params: Params, tokens: Array) -> tuple[Array, Array]:
    """Columns of the unembedding `(batch, seq, d)` and their biases `(batch, seq)`."""
    if "unembed" not in params:
        columns = params["embed"]["tokens"][tokens].astype(jnp.float32)
        return columns, jnp.zeros(tokens.shape)
    columns = params["unembed"]["kernel"].T[tokens].astype(jnp.float32)
    bias = params["unembed"].get("bias")
    return columns, jnp.zeros(tokens.shape) if bias is None else bias[tokens].astype(jnp.float32)


def _read_heads(
    layers: Params, config: CausalConfig, got: Mapping[str, Array], reader: Array
) -> tuple[Array, Array]:
    """Unscaled contributions of heads `(layers, batch, seq, heads)` and of the map's bias."""

    def one(scanned: tuple) -> tuple[Array, Array]:
        z, weights, post = scanned
        read = reader
        if post is not None:
            gain = post["weights"]["scale"].astype(jnp.float32) + float(config.norm_unit_offset)
            read = reader * gain[None, None] / post["scale"]
        kernel = weights["kernel"].astype(jnp.float32)
        heads = jnp.einsum("bshk,hkd,bsd->bsh", z.astype(jnp.float32), kernel, read)
        bias = weights.get("bias", jnp.zeros(reader.shape[-1]))
        return heads, read @ bias.astype(jnp.float32)

    post = None
    if config.post_norms:
        post = {"weights": layers["ln1_post"], "scale": got["ln1_post_scale"]}
    return jax.lax.map(one, (got["z"], layers["attn"]["o"], post))


def attribution_error(
    params: Params, config: CausalConfig, tokens: Int[Array, "batch seq"]
) -> Float[Array, ""]:
    """The self-check: how far contributions are from summing to the model's own top logit.

    Args:
        params: the model's parameters.
        config: its config.
        tokens: any text.

    Returns:
        The largest absolute difference over positions; about 1e-5 in float32. More means that the
        parameters do not fit the config.
    """
    uncapped, _ = causal.forward(params, replace(config, logit_softcap=None), tokens)
    assert uncapped is not None
    total = attribute(params, config, tokens, jnp.argmax(uncapped, axis=-1)).total()
    return jnp.abs(total - uncapped.max(-1)).max()
