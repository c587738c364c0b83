"""From one vector per position to one vector per input."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.encoders import blocks
from jaxinterp.encoders.shapes import (
    Shapes,
    attention_shapes,
    linear_shapes,
    mlp_shapes,
    norm_shapes,
)
from jaxinterp.encoders.sites import Plan, Tap
from jaxinterp.encoders.stack import Params, apply_norm

if TYPE_CHECKING:
    from jaxinterp.encoders.bidirectional import BidirectionalConfig


def pool_shapes(config: "BidirectionalConfig") -> Shapes:
    """Parameters of pooling and of the projection behind it."""
    d, heads = config.d_model, config.n_heads
    return (
        linear_shapes("pooler", (d,), (d,))
        | {"pool.probe": (d,)}
        | attention_shapes("pool.attn", d, heads, heads, config.d_head)
        | norm_shapes("pool.ln", d)
        | mlp_shapes("pool.mlp", d, config.d_mlp)
        | linear_shapes("proj", (d,), (config.d_out,))
    )


def pool(
    params: Params, config: "BidirectionalConfig", x: Float[Array, "batch seq d"], inputs: Array
) -> Float[Array, "batch d"]:
    """The pooled vector.

    Args:
        params: the model's parameters.
        config: its config; `pooling` says how, `pooler` whether a map and a tanh follow.
        x: the last hidden states, normed.
        inputs: the model's inputs, in which the end of a text is looked for.

    Raises:
        ValueError: an unknown way of pooling.
    """
    if config.pooling == "first":
        y = x[:, 0]
    elif config.pooling == "last":
        y = x[:, -1]
    elif config.pooling == "end":
        # The first end token; or, where its id isn't known, the largest id, which it is in CLIP.
        ends = inputs if config.end_token is None else inputs == config.end_token
        y = jnp.take_along_axis(x, jnp.argmax(ends, axis=1)[:, None, None], axis=1)[:, 0]
    elif config.pooling == "attention":
        y = _attend(params["pool"], config, x)
    else:
        raise ValueError(f"{config.pooling=}; known: first, last, end, attention")
    return jnp.tanh(blocks.linear(params["pooler"], y)) if config.pooler else y


def _attend(params: Params, config: "BidirectionalConfig", x: Array) -> Array:
    """A learned query reads all positions; a perceptron is added to what it gets (SigLIP)."""
    tap = Tap(Plan((), ()), -1, None)
    batch, seq, d = x.shape
    probe = jnp.broadcast_to(params["probe"][None, None], (batch, 1, d))
    q = blocks.to_heads(params["attn"]["q"], probe)
    k, v = (blocks.to_heads(params["attn"][name], x) for name in "kv")
    everywhere = jnp.ones((1, 1, seq), bool)
    z = blocks.attend(q, k, v, everywhere, tap, scale=config.d_head**-0.5)
    y = blocks.from_heads(params["attn"]["o"], z, tap)
    h = apply_norm(params["ln"], config, y)
    return (y + blocks.mlp(params["mlp"], h, tap, activation=config.activation))[:, 0]
