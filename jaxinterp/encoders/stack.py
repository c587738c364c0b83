"""The stack of transformer blocks that every encoder here shares: scanned, tapped, cut in segments.

Parameters of the blocks are stacked on a leading layer axis and scanned, so compile time does not
grow with depth. A bias, a gate, a layer scale exists where the parameters have one; everything
else in which model families differ is a field of the config.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinterp.encoders import blocks
from jaxinterp.encoders.sites import Plan, Tap

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: `theta`, the share of a head's dimensions that turn, scaling."""

    theta: float = 10_000.0
    fraction: float = 1.0
    scaling: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Shape and kind of the blocks.

    Attributes:
        n_layers: blocks.
        d_model: width of the residual stream.
        n_heads: query heads.
        n_kv_heads: key and value heads; divides `n_heads`.
        d_head: width of a head.
        d_mlp: hidden width of the perceptron.
        causal: position i reads positions up to i only.
        norm: "layer" or "rms".
        norm_eps: added to the variance.
        norm_unit_offset: norm weights are stored as `weight - 1`.
        norm_after: norms follow the additions (BERT) instead of preceding attention and perceptron.
        activation: a key of `blocks.ACTIVATIONS`.
        gated: the perceptron is `act(gate) * up`.
        parallel: attention and perceptron read the same stream and are added together.
        post_norms: a norm after attention and after the perceptron, before they are added.
        layer_scale: a learned gain per channel in that same place.
        query_norm: root-mean-square norm of each head's queries and keys before rotation.
        rotary: rotary positions; None for learned positions.
        local_rotary: rotary positions of the windowed layers where they differ.
        windows: per layer, how many positions back attention reads; 0 for all. Empty: all.
        attention_scale: multiplies the scores; None for `d_head ** -0.5`.
        attention_scale_by_depth: divides the scores of layer i by i + 1 as well.
        attention_softcap: `cap * tanh(scores / cap)`.
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    causal: bool = True
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_unit_offset: bool = False
    norm_after: bool = False
    activation: str = "silu"
    gated: bool = True
    parallel: bool = False
    post_norms: bool = False
    layer_scale: bool = False
    query_norm: bool = False
    rotary: Rotary | None = Rotary()
    local_rotary: Rotary | None = None
    windows: tuple[int, ...] = ()
    attention_scale: float | None = None
    attention_scale_by_depth: bool = False
    attention_softcap: float | None = None

    def __post_init__(self):
        """Refuses shapes that cannot be."""
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads=} is not a multiple of {self.n_kv_heads=}")
        if self.windows and len(self.windows) != self.n_layers:
            raise ValueError(f"{len(self.windows)} windows for {self.n_layers=}")
        if self.norm not in ("layer", "rms"):
            raise ValueError(f"{self.norm=}; known: layer, rms")
        if self.activation not in blocks.ACTIVATIONS:
            raise ValueError(f"{self.activation=}; known: {', '.join(blocks.ACTIVATIONS)}")
        if self.rotary and int(self.d_head * self.rotary.fraction) % 2:
            raise ValueError(
                f"{self.d_head=} x {self.rotary.fraction=}: the number of rotated dimensions must "
                "be even"
            )


def block_sites(config: BlockConfig) -> tuple[str, ...]:
    """The sites of one block, in the order of the computation."""
    ln1, ln2 = ("ln1_scale", "ln1"), ("ln2_scale", "ln2")
    return (
        *("resid_pre", *(() if config.norm_after else ln1), "q", "k", "v"),
        *(("rot_q", "rot_k") if config.rotary else ()),
        *("scores", "pattern", "z", "result"),
        *(("ln1_post_scale", "ln1_post") if config.post_norms else ()),
        "attn_out",
        *(() if config.parallel else ("resid_mid",)),
        *(ln1 if config.norm_after else ln2),
        "pre",
        *(("pre_linear",) if config.gated else ()),
        "post",
        *(("ln2_post_scale", "ln2_post") if config.post_norms else ()),
        *("mlp_out", "resid_post", *(ln2 if config.norm_after else ())),
    )


def run_stack(
    layers: Params,
    config: BlockConfig,
    x: Float[Array, "batch seq d"],
    start: int,
    stop: int,
    mask: Bool[Array, "batch seq"] | None,
    wanted: Plan,
) -> tuple[Float[Array, "batch seq d"], list[dict[str, Any]]]:
    """Runs blocks `start` to `stop - 1`.

    Args:
        layers: parameters of the blocks, stacked.
        config: their config.
        x: the residual stream.
        start: first block.
        stop: one past the last block.
        mask: False at positions that nobody may read.
        wanted: captures and edits.

    Returns:
        The residual stream, and for each segment a dict of what was captured, layers leading.
    """
    seq = x.shape[1]
    shared = _Shared(
        rotary=_angles(config, config.rotary, seq),
        local_rotary=_angles(config, config.local_rotary, seq),
        mask=mask,
        allowed=None if config.windows else _allowed(config, seq, mask, None),
    )
    pieces = []
    for first, last in wanted.segments(start, stop):
        whole = (first, last) == (0, config.n_layers)

        # Scanning over the stacked weights gives cheap gradients; a segment indexes them instead,
        # since slicing a part of the stack would copy it.
        def body(x: Array, scanned: tuple, first: int = first) -> tuple[Array, dict]:
            layer, weights = scanned
            if weights is None:
                weights = jax.tree.map(lambda w: w[layer], layers)
            tap = Tap(wanted, layer, first)
            x = _block(weights, config, x, layer, shared, tap)
            return x, tap.record

        x, record = jax.lax.scan(body, x, (jnp.arange(first, last), layers if whole else None))
        pieces.append(record)
    return x, pieces


@dataclass(frozen=True)
class _Shared:
    """What all layers use: rotation angles `(1, seq, half)`, padding mask, full attention mask."""

    rotary: Array | None
    local_rotary: Array | None
    mask: Array | None
    allowed: Array | None


def _angles(config: BlockConfig, rotary: Rotary | None, seq: int) -> Array | None:
    if rotary is None:
        return None
    d_rotary = int(config.d_head * rotary.fraction)
    frequencies = blocks.rotary_frequencies(d_rotary, rotary.theta, rotary.scaling)
    return (jnp.arange(seq, dtype=jnp.float32)[:, None] * frequencies[None, :])[None]


def _allowed(config: BlockConfig, seq: int, mask: Array | None, window: Array | None) -> Array:
    """`(#batch, seq, seq)`: whether position i may read position j."""
    if config.causal:
        return blocks.causal_mask(seq, mask, window)
    everywhere = jnp.ones((1, seq, seq), bool)
    return everywhere if mask is None else everywhere & mask[:, None, :]


def _block(
    weights: Params, config: BlockConfig, x: Array, layer: Array, shared: _Shared, tap: Tap
) -> Array:
    x = tap("resid_pre", x)
    h = x if config.norm_after else apply_norm(weights["ln1"], config, x, tap, "ln1")
    attn_out = _attention(weights["attn"], config, h, layer, shared, tap)
    if config.post_norms:
        attn_out = apply_norm(weights["ln1_post"], config, attn_out, tap, "ln1_post")
    if config.layer_scale:
        attn_out = attn_out * weights["attn_gain"][None, None]
    attn_out = tap("attn_out", attn_out)
    mid = x if config.parallel else tap("resid_mid", x + attn_out)
    if config.norm_after:  # the perceptron adds to the normed stream
        mid = h = apply_norm(weights["ln1"], config, mid, tap, "ln1")
    else:
        h = apply_norm(weights["ln2"], config, mid, tap, "ln2")
    mlp_out = blocks.mlp(weights["mlp"], h, tap, activation=config.activation)
    if config.post_norms:
        mlp_out = apply_norm(weights["ln2_post"], config, mlp_out, tap, "ln2_post")
    if config.layer_scale:
        mlp_out = mlp_out * weights["mlp_gain"][None, None]
    mlp_out = tap("mlp_out", mlp_out)
    post = tap("resid_post", mid + mlp_out + attn_out if config.parallel else mid + mlp_out)
    return apply_norm(weights["ln2"], config, post, tap, "ln2") if config.norm_after else post


def _attention(
    weights: Params, config: BlockConfig, h: Array, layer: Array, shared: _Shared, tap: Tap
) -> Array:
    q, k, v = (blocks.to_heads(weights[name], h) for name in "qkv")
    if config.query_norm:
        q = apply_norm(weights["q_norm"], config, q)
        k = apply_norm(weights["k_norm"], config, k)
    q, k, v = tap("q", q), tap("k", k), tap("v", v)
    angles, allowed = shared.rotary, shared.allowed
    if allowed is None:
        window = jnp.asarray([w or h.shape[1] for w in config.windows])[layer]
        allowed = _allowed(config, h.shape[1], shared.mask, window)
    if angles is not None and shared.local_rotary is not None:
        is_local = jnp.asarray([w > 0 for w in config.windows])[layer]
        angles = jnp.where(is_local, shared.local_rotary, angles)
    if angles is not None:
        q = tap("rot_q", blocks.rotate(q, angles))
        k = tap("rot_k", blocks.rotate(k, angles))
    scale = config.d_head**-0.5 if config.attention_scale is None else config.attention_scale
    if config.attention_scale_by_depth:
        scale = scale / (layer + 1).astype(jnp.float32)
    z = blocks.attend(q, k, v, allowed, tap, scale=scale, cap=config.attention_softcap)
    return blocks.from_heads(weights["o"], z, tap)


def apply_norm(
    weights: Params,
    config: BlockConfig,
    x: Float[Array, "... d"],
    tap: Tap | None = None,
    site: str = "",
) -> Float[Array, "... d"]:
    """The norm that this config asks for, tapped as `site`."""
    return blocks.norm(
        weights,
        x,
        kind=config.norm,
        eps=config.norm_eps,
        unit_offset=config.norm_unit_offset,
        tap=tap,
        site=site,
    )
