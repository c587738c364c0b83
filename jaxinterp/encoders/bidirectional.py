"""Encoders that read all positions at once: BERT, RoBERTa, ViT, DINOv2, and the towers of CLIP.

The blocks are those of the language models; what differs is the way in (tokens or patches) and the
way out (pooling, a projection, a head). CLIP's text tower is causal, which is a config field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxinterp.encoders import blocks, images
from jaxinterp.encoders.pooling import pool, pool_shapes
from jaxinterp.encoders.shapes import Shapes, linear_shapes, norm_shapes, stack_shapes
from jaxinterp.encoders.sites import Capture, Edit, Plan, Tap, check_within, collect, plan
from jaxinterp.encoders.stack import BlockConfig, Params, Rotary, apply_norm, block_sites, run_stack

Inputs = Num[
    Array, "batch ..."
]  # token ids (batch, seq) or images (batch, height, width, channels)


@dataclass(frozen=True, kw_only=True)
class BidirectionalConfig(BlockConfig):
    """Shape and family of an encoder of tokens or images.

    Attributes:
        vocab_size: tokens; 0 for an encoder of images.
        context: rows of the table of positions (text).
        token_types: kinds of tokens (BERT's two sentences); 0 for none.
        padding_id: where set, positions count the tokens that are not this one, from it onwards.
        image_size: height and width that the positions were learned for, in pixels.
        patch_size: height and width of a patch, in pixels.
        channels: channels of an image.
        class_token: whether a learned token precedes the patches.
        registers: learned tokens between that one and the patches; they have no position.
        antialias: how positions are carried over to another grid, see `images.resize_positions`.
        embed_norm: whether a norm follows the embedding.
        final_norm: whether a norm follows the blocks.
        pooling: "first" token, "last", "end" (of text), "attention", or "" for none.
        end_token: the token that ends a text; None for the largest id in it.
        pooler: whether the pooled vector passes a map and a tanh.
        masked_head: whether there is a head that predicts tokens.
        classes: outputs of a classifier on the pooled vector; 0 for none.
        classify_mean: the classifier also reads the mean of the patches.
        d_out: width of the projection of the pooled vector; 0 for none.

    The blocks' attributes are those of `stack.BlockConfig`.
    """

    causal: bool = False
    norm: str = "layer"
    gated: bool = False
    rotary: Rotary | None = None
    vocab_size: int = 0
    context: int = 0
    token_types: int = 0
    padding_id: int | None = None
    image_size: tuple[int, int] = (0, 0)
    patch_size: tuple[int, int] = (1, 1)
    channels: int = 3
    class_token: bool = False
    registers: int = 0
    antialias: bool = False
    embed_norm: bool = False
    final_norm: bool = False
    pooling: str = ""
    end_token: int | None = None
    pooler: bool = False
    masked_head: bool = False
    classes: int = 0
    classify_mean: bool = False
    d_out: int = 0

    def __post_init__(self):
        """Refuses shapes that cannot be."""
        super().__post_init__()
        if (self.classes or self.d_out) and not self.pooling:
            raise ValueError("a classifier or projection needs a way of pooling")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the positions were learned for."""
        return (
            self.image_size[0] // self.patch_size[0],
            self.image_size[1] // self.patch_size[1],
        )


class Output(NamedTuple):
    """What the encoder says.

    Attributes:
        tokens: `(batch, seq, d)`, after the final norm where there is one.
        pooled: `(batch, d_out)`, one vector per input, projected where the model projects; or None.
        logits: `(batch, seq, vocab)` of the masked head, or `(batch, classes)`; or None.
    """

    tokens: Array
    pooled: Array | None
    logits: Array | None


def sites(config: BidirectionalConfig) -> tuple[str, ...]:
    """The sites that a model of this config has, in the order of the computation."""
    text = ("embed", *(("type_embed",) if config.token_types else ()), "pos_embed")
    return (
        *(text if config.vocab_size else ("patch_embed", "pos_embed")),
        "tokens",
        *(("ln_embed_scale", "ln_embed") if config.embed_norm else ()),
        *block_sites(config),
        *(("ln_final_scale", "ln_final") if config.final_norm else ()),
        *(("pooled",) if config.pooling else ()),
        *(("proj",) if config.d_out else ()),
        *(("logits",) if config.masked_head or config.classes else ()),
    )


def shapes(config: BidirectionalConfig) -> Shapes:
    """The shape of every parameter that a model of this config may have, by path."""
    d = config.d_model
    positions = config.context
    if not config.vocab_size:
        positions = config.grid[0] * config.grid[1] + config.class_token
    return (
        {
            "embed.tokens": (config.vocab_size, d),
            "embed.types": (config.token_types, d),
            "embed.positions": (positions, d),
            "embed.class": (d,),
            "embed.registers": (config.registers, d),
        }
        | linear_shapes("embed.patches", (*config.patch_size, config.channels), (d,))
        | norm_shapes("ln_embed", d)
        | stack_shapes(config)
        | norm_shapes("ln_final", d)
        | pool_shapes(config)
        | linear_shapes("masked_head.map", (d,), (d,))
        | norm_shapes("masked_head.ln", d)
        | {"masked_head.bias": (config.vocab_size,)}
        | linear_shapes("classifier", (d * (2 if config.classify_mean else 1),), (config.classes,))
    )


def forward(
    params: Params,
    config: BidirectionalConfig,
    inputs: Inputs,
    *,
    mask: Bool[Array, "batch seq"] | None = None,
    token_types: Int[Array, "batch seq"] | None = None,
    capture: Sequence[Capture] = (),
    edits: Mapping[str, Edit] | None = None,
    return_logits: bool = True,
) -> tuple[Output | None, dict[str, Any]]:
    """Runs the model, editing and capturing at named sites.

    In a model whose norms follow the additions (BERT), `resid_mid` and `resid_post` are the sums
    and `ln1`, `ln2` what the norms make of them; the next block reads `ln2`.

    Args:
        params: the model's parameters.
        config: its config (static).
        inputs: token ids, or normalised images with channels last (of any size that is a multiple
            of the patch).
        mask: False at padding, which is never attended to; None where there is none.
        token_types: kind of each token; None for all 0.
        capture: sites, or `(site, reducer)` pairs; static. See `sites.resolve` for the spellings.
        edits: site -> pure `(value, layer) -> value`, applied before capture; `layer` is -1
            outside the blocks.
        return_logits: if False, only the layers that a capture needs are run, and None is
            returned in place of the output.

    Returns:
        The output, and a dict from each captured site, as named by the caller, to its value. A
        site of several layers has a leading layer axis.

    Raises:
        ValueError: as `causal.forward`; images of a wrong shape or range.
    """
    wanted = plan(capture, edits or {}, config.n_layers, sites(config))
    x, stem = _embed(params, config, inputs, token_types, wanted)
    head = return_logits or wanted.needs_head()
    stop = config.n_layers if head else wanted.last_layer() + 1
    x, pieces = run_stack(params["layers"], config, x, 0, stop, mask, wanted)
    output, top = _read_out(params, config, x, inputs, wanted) if head else (None, {})
    return (output if return_logits else None), collect(wanted, [stem, *pieces, top])


def run_layers(
    params: Params,
    config: BidirectionalConfig,
    x: Float[Array, "batch seq d"],
    start: int,
    stop: int,
    *,
    mask: Bool[Array, "batch seq"] | None = None,
    capture: Sequence[Capture] = (),
    edits: Mapping[str, Edit] | None = None,
) -> tuple[Float[Array, "batch seq d"], dict[str, Any]]:
    """Runs the blocks `start` to `stop - 1` on a residual stream; arguments as `forward`.

    Sites of every layer mean those that run; others that do not run are refused.
    """
    if not 0 <= start <= stop <= config.n_layers:
        raise ValueError(f"{start=}, {stop=}: need 0 <= start <= stop <= {config.n_layers}")
    wanted = plan(capture, edits or {}, config.n_layers, sites(config))
    check_within(wanted, start, stop, config.n_layers)
    x, pieces = run_stack(params["layers"], config, x, start, stop, mask, wanted)
    return x, collect(wanted, pieces)


def embed(
    params: Params,
    config: BidirectionalConfig,
    inputs: Inputs,
    *,
    token_types: Int[Array, "batch seq"] | None = None,
) -> Float[Array, "batch seq d"]:
    """The residual stream before the first block."""
    return _embed(params, config, inputs, token_types, Plan((), ()))[0]


def _embed(
    params: Params, config: BidirectionalConfig, inputs: Array, types: Array | None, wanted: Plan
) -> tuple[Array, dict]:
    tap = Tap(wanted, -1, None)
    if config.vocab_size:
        x = _embed_text(params["embed"], config, inputs, types, tap)
    else:
        x = _embed_images(params["embed"], config, inputs, tap)
    x = tap("tokens", x)
    if config.embed_norm:
        x = apply_norm(params["ln_embed"], config, x, tap, "ln_embed")
    return x, tap.record


def _embed_text(
    params: Params, config: BidirectionalConfig, tokens: Array, types: Array | None, tap: Tap
) -> Array:
    if tokens.ndim != 2:
        raise ValueError(f"token ids of shape {tokens.shape}: (batch, seq) needed")
    blocks.check_ids(tokens, config.vocab_size)
    x = tap("embed", blocks.look_up(params["tokens"], tokens))
    if config.token_types:
        types = jnp.zeros_like(tokens) if types is None else types
        blocks.check_ids(types, config.token_types)
        x = x + tap("type_embed", blocks.look_up(params["types"], types))
    seq, pad = tokens.shape[1], config.padding_id
    places = jnp.broadcast_to(jnp.arange(seq)[None], tokens.shape)
    reach = config.context
    if pad is not None:
        real = (tokens != pad).astype(jnp.int32)
        places, reach = jnp.cumsum(real, axis=1) * real + pad, config.context - pad - 1
    if seq > reach:
        raise ValueError(f"sequence of {seq} tokens, learned positions for {reach}: shorten it")
    return x + tap("pos_embed", blocks.look_up(params["positions"], places))


def _embed_images(params: Params, config: BidirectionalConfig, pixels: Array, tap: Tap) -> Array:
    if pixels.ndim != 4 or not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {pixels.shape} and type {pixels.dtype}: normalised "
            "(batch, height, width, channels) floats needed"
        )
    images.check_images(pixels, config.patch_size, config.channels, config.image_size)
    batch, height, width, _ = pixels.shape
    kernel = params["patches"]["kernel"]
    flat = params["patches"] | {"kernel": kernel.reshape(-1, config.d_model)}
    patches = images.cut_patches(pixels.astype(kernel.dtype), config.patch_size)
    x = tap("patch_embed", blocks.linear(flat, patches))
    first, table = int(config.class_token), params["positions"]
    grid = (height // config.patch_size[0], width // config.patch_size[1])
    cells = images.resize_positions(table[first:], config.grid, grid, antialias=config.antialias)
    if config.class_token:
        start = jnp.broadcast_to(params["class"][None, None], (batch, 1, config.d_model))
        x = jnp.concatenate([start, x], axis=1)
    positions = jnp.concatenate([table[:first], cells])[None]
    x = x + tap("pos_embed", jnp.broadcast_to(positions, x.shape))
    if config.registers:
        registers = jnp.broadcast_to(
            params["registers"][None], (batch, config.registers, config.d_model)
        )
        x = jnp.concatenate([x[:, :first], registers, x[:, first:]], axis=1)
    return x


def _read_out(
    params: Params, config: BidirectionalConfig, x: Array, inputs: Array, wanted: Plan
) -> tuple[Output, dict]:
    tap = Tap(wanted, -1, None)
    if config.final_norm:
        x = apply_norm(params["ln_final"], config, x, tap, "ln_final")
    pooled = logits = None
    if config.pooling:
        pooled = tap("pooled", pool(params, config, x, inputs))
        if config.classes:
            features = pooled
            if config.classify_mean:
                patches = x[:, int(config.class_token) + config.registers :]
                features = jnp.concatenate([pooled, patches.mean(1)], axis=-1)
            logits = tap("logits", blocks.linear(params["classifier"], features))
        if config.d_out:
            pooled = tap("proj", blocks.linear(params["proj"], pooled))
    if config.masked_head:
        head = params["masked_head"]
        h = blocks.ACTIVATIONS[config.activation](blocks.linear(head["map"], x))
        h = apply_norm(head["ln"], config, h)
        logits = jnp.einsum("bsd,vd->bsv", h, params["embed"]["tokens"]) + head["bias"][None, None]
        logits = tap("logits", logits)
    return Output(x, pooled, logits), tap.record
