"""Decoder-only language models: one forward, the families' differences are fields of the config.

Parameters are a nested dict of arrays; what belongs to the blocks is stacked on a leading layer
axis and scanned, so compile time does not grow with depth. A bias, a gate, a query norm exists
where the parameters have one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxinterp.encoders import blocks
from jaxinterp.encoders.shapes import Shapes, linear_shapes, norm_shapes, stack_shapes
from jaxinterp.encoders.sites import Capture, Edit, Plan, Tap, check_within, collect, plan
from jaxinterp.encoders.stack import (
    BlockConfig,
    Params,
    Rotary,
    apply_norm,
    block_sites,
    run_stack,
)

__all__ = [
    "CausalConfig",
    "Params",
    "Rotary",
    "embed",
    "forward",
    "init",
    "run_layers",
    "shapes",
    "sites",
    "unembed",
]


@dataclass(frozen=True, kw_only=True)
class CausalConfig(BlockConfig):
    """Shape and family of a decoder-only language model.

    Attributes:
        vocab_size: tokens.
        context: longest sequence the model was made for, in tokens.
        logit_softcap: `cap * tanh(logits / cap)`.
        embed_scale: multiplies the token embeddings; None for 1.

    The blocks' attributes are those of `stack.BlockConfig`.
    """

    vocab_size: int
    context: int
    logit_softcap: float | None = None
    embed_scale: float | None = None


def sites(config: CausalConfig) -> tuple[str, ...]:
    """The sites that a model of this config has, in the order of the computation."""
    return (
        "embed",
        *(() if config.rotary else ("pos_embed",)),
        *block_sites(config),
        *("ln_final_scale", "ln_final", "logits"),
    )


def shapes(config: CausalConfig) -> Shapes:
    """The shape of every parameter that a model of this config may have, by path."""
    d, vocab = config.d_model, config.vocab_size
    return (
        {"embed.tokens": (vocab, d), "embed.positions": (config.context, d)}
        | stack_shapes(config)
        | norm_shapes("ln_final", d)
        | linear_shapes("unembed", (d,), (vocab,))
    )


def forward(
    params: Params,
    config: CausalConfig,
    tokens: Int[Array, "batch seq"],
    *,
    mask: Bool[Array, "batch seq"] | None = None,
    capture: Sequence[Capture] = (),
    edits: Mapping[str, Edit] | None = None,
    return_logits: bool = True,
) -> tuple[Float[Array, "batch seq vocab"] | None, dict[str, Any]]:
    """Runs the model, editing and capturing at named sites.

    Args:
        params: the model's parameters.
        config: its config (static).
        tokens: token ids.
        mask: False at padding, which is never attended to; None where there is none.
        capture: sites, or `(site, reducer)` pairs; static. See `sites.resolve` for the spellings.
        edits: site -> pure `(value, layer) -> value`, applied before capture; `layer` is -1
            outside the blocks. Whatever changes from run to run belongs in array arguments of
            the function you jit around this one, so that a sweep compiles once.
        return_logits: if False, only the layers that a capture needs are run, and None is
            returned in place of the logits.

    Returns:
        The logits, and a dict from each captured site, as named by the caller, to its value. A
        site of several layers has a leading layer axis.

    Raises:
        ValueError: an unknown site, a layer out of range, an edit that changes a shape, or a
            sequence longer than learned positions reach.
    """
    wanted = plan(capture, edits or {}, config.n_layers, sites(config))
    x, stem = _embed(params, config, tokens, wanted)
    head = return_logits or wanted.needs_head()
    stop = config.n_layers if head else wanted.last_layer() + 1
    x, pieces = run_stack(params["layers"], config, x, 0, stop, mask, wanted)
    logits, top = _unembed(params, config, x, wanted) if head else (None, {})
    return (logits if return_logits else None), collect(wanted, [stem, *pieces, top])


def run_layers(
    params: Params,
    config: CausalConfig,
    x: Float[Array, "batch seq d"],
    start: int,
    stop: int,
    *,
    mask: Bool[Array, "batch seq"] | None = None,
    capture: Sequence[Capture] = (),
    edits: Mapping[str, Edit] | None = None,
) -> tuple[Float[Array, "batch seq d"], dict[str, Any]]:
    """Runs the blocks `start` to `stop - 1` on a residual stream; arguments as `forward`.

    Reading one layer costs the layers before it; splicing one costs the layers after it. Sites of
    every layer mean those that run; others that do not run are refused.
    """
    if not 0 <= start <= stop <= config.n_layers:
        raise ValueError(f"{start=}, {stop=}: need 0 <= start <= stop <= {config.n_layers}")
    wanted = plan(capture, edits or {}, config.n_layers, sites(config))
    check_within(wanted, start, stop, config.n_layers)
    x, pieces = run_stack(params["layers"], config, x, start, stop, mask, wanted)
    return x, collect(wanted, pieces)


def embed(
    params: Params, config: CausalConfig, tokens: Int[Array, "batch seq"]
) -> Float[Array, "batch seq d"]:
    """The residual stream before the first block."""
    return _embed(params, config, tokens, Plan((), ()))[0]


def unembed(
    params: Params, config: CausalConfig, x: Float[Array, "batch seq d"]
) -> Float[Array, "batch seq vocab"]:
    """Final norm and unembedding of a residual stream."""
    return _unembed(params, config, x, Plan((), ()))[0]


def _embed(params: Params, config: CausalConfig, tokens: Array, wanted: Plan) -> tuple[Array, dict]:
    tap = Tap(wanted, -1, None)
    blocks.check_ids(tokens, config.vocab_size)
    x = blocks.look_up(params["embed"]["tokens"], tokens)
    if config.embed_scale is not None:
        x = x * jnp.asarray(config.embed_scale, x.dtype)
    x = tap("embed", x)
    if config.rotary is None:
        seq, reach = tokens.shape[1], params["embed"]["positions"].shape[0]
        if seq > reach:
            raise ValueError(f"sequence of {seq} tokens, learned positions for {reach}: shorten it")
        positions = jnp.broadcast_to(params["embed"]["positions"][None, :seq], x.shape)
        x = x + tap("pos_embed", positions)
    return x, tap.record


def _unembed(params: Params, config: CausalConfig, x: Array, wanted: Plan) -> tuple[Array, dict]:
    tap = Tap(wanted, -1, None)
    x = apply_norm(params["ln_final"], config, x, tap, "ln_final")
    if "unembed" in params:
        logits = blocks.linear(params["unembed"], x)
    else:  # tied to the token embedding
        logits = jnp.einsum("bsd,vd->bsv", x, params["embed"]["tokens"])
    return tap("logits", blocks.softcap(logits, config.logit_softcap)), tap.record


def init(key: Key[Array, ""], config: CausalConfig) -> dict[str, Any]:
    """Random parameters for training a model here: normal(0.02), maps into the stream shrunk.

    Args:
        key: random key.
        config: the model; tied embedding, root-mean-square norms or layer norms with bias.

    Returns:
        Float32 parameters, blocks stacked on the leading axis.
    """
    layers, d, heads, kv = config.n_layers, config.d_model, config.n_heads, config.n_kv_heads
    keys = iter(jax.random.split(key, 9))
    into_stream = 0.02 / (2 * layers) ** 0.5

    def normal(std: float, *shape: int) -> Array:
        return std * jax.random.normal(next(keys), shape)

    def new_norm(*shape: int) -> dict[str, Array]:
        gain = jnp.zeros(shape) if config.norm_unit_offset else jnp.ones(shape)
        return {"scale": gain} | ({"bias": jnp.zeros(shape)} if config.norm == "layer" else {})

    params: dict[str, Any] = {
        "embed": {"tokens": normal(0.02, config.vocab_size, d)},
        "layers": {
            "ln1": new_norm(layers, d),
            "attn": {
                "q": {"kernel": normal(0.02, layers, d, heads, config.d_head)},
                "k": {"kernel": normal(0.02, layers, d, kv, config.d_head)},
                "v": {"kernel": normal(0.02, layers, d, kv, config.d_head)},
                "o": {"kernel": normal(into_stream, layers, heads, config.d_head, d)},
            },
            "ln2": new_norm(layers, d),
            "mlp": {
                "up": {"kernel": normal(0.02, layers, d, config.d_mlp)},
                "down": {"kernel": normal(into_stream, layers, config.d_mlp, d)},
            },
        },
        "ln_final": new_norm(d),
    }
    if config.gated:
        params["layers"]["mlp"]["gate"] = {"kernel": normal(0.02, layers, d, config.d_mlp)}
    if config.rotary is None:
        params["embed"]["positions"] = normal(0.02, config.context, d)
    for name, there in (("ln1_post", config.post_norms), ("ln2_post", config.post_norms)):
        if there:
            params["layers"][name] = new_norm(layers, d)
    if config.query_norm:
        for name in ("q_norm", "k_norm"):
            params["layers"]["attn"][name] = {"scale": new_norm(layers, config.d_head)["scale"]}
    return params
