"""The parts that every transformer block is made of: norms, maps, rotary positions, attention.

Activations are rows (`x @ kernel`). Statistics (norms, softmax) are computed in float32 whatever
the dtype of the weights.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.encoders.sites import Tap

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


def linear(params: Mapping[str, Array], x: Float[Array, "... i"]) -> Float[Array, "... o"]:
    """`x @ kernel + bias`, the bias only where the parameters have one."""
    y = x @ params["kernel"]
    return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if "bias" in params else y


def to_heads(
    params: Mapping[str, Array], x: Float[Array, "batch seq d"]
) -> Float[Array, "batch seq heads d_head"]:
    """Maps the stream into heads: kernel `(d, heads, d_head)`."""
    d, heads, d_head = params["kernel"].shape
    y = (x @ params["kernel"].reshape(d, heads * d_head)).reshape(*x.shape[:2], heads, d_head)
    return y + params["bias"][None, None] if "bias" in params else y


def from_heads(
    params: Mapping[str, Array], z: Float[Array, "batch seq heads d_head"], tap: Tap
) -> Float[Array, "batch seq d"]:
    """Maps heads back to the stream: kernel `(heads, d_head, d)`.

    The per-head results `(batch, seq, heads, d)` are formed only when somebody asks for them.
    """
    heads, d_head, d = params["kernel"].shape
    if tap.wants("result"):
        result = tap("result", jnp.einsum("bshk,hkd->bshd", z, params["kernel"]))
        y = result.sum(2)
    else:
        y = z.reshape(*z.shape[:2], heads * d_head) @ params["kernel"].reshape(heads * d_head, d)
    return y + params["bias"][None, None] if "bias" in params else y


def norm(
    params: Mapping[str, Array],
    x: Float[Array, "... d"],
    *,
    kind: str,
    eps: float,
    unit_offset: bool = False,
    tap: Tap | None = None,
    site: str = "",
) -> Float[Array, "... d"]:
    r"""Layer norm or root-mean-square norm over the last axis, in float32.

    $y = (x - m) / \sqrt{v + \epsilon} \cdot g + b$ with $m, v$ the mean and variance (layer), or
    $m = 0$ and $v$ the mean square (rms). With `unit_offset`, $g$ is stored as $g - 1$ (Gemma).
    """
    wide = x.astype(jnp.float32)
    if kind == "layer":
        wide = wide - wide.mean(-1, keepdims=True)
    scale = jnp.sqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)
    if tap is not None:
        scale = tap(f"{site}_scale", scale)
    gain = params["scale"].astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    y = wide / scale * (gain + 1 if unit_offset else gain)
    if "bias" in params:
        y = y + params["bias"].astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    y = y.astype(x.dtype)
    return y if tap is None else tap(site, y)


def rotary_frequencies(
    d_rotary: int, theta: float, scaling: tuple[float, float, float, float] | None = None
) -> Float[Array, " half"]:
    r"""Inverse wavelengths $f_i = \theta^{-2i/d}$, with Llama 3's long-context scaling if given.

    `scaling` is `(factor, low, high, original_context)`: with wavelength $w = 2\pi/f$ and
    $s = \mathrm{clip}((c/w - low)/(high - low), 0, 1)$, $f' = (1-s) f / factor + s f$.
    """
    f = theta ** (-jnp.arange(0, d_rotary, 2, dtype=jnp.float32) / d_rotary)
    if scaling is None:
        return f
    factor, low, high, original = scaling
    if high == low:  # plain linear position interpolation
        return f / factor
    smooth = jnp.clip((original * f / (2 * jnp.pi) - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * f / factor + smooth * f


def rotate(
    x: Float[Array, "batch seq heads d_head"], angles: Float[Array, "#batch seq half"]
) -> Float[Array, "batch seq heads d_head"]:
    """Rotary positions in the half-split pairing: dimension i turns with i + half.

    Only the first `2 * half` dimensions of a head turn; the rest passes through.
    """
    half = angles.shape[-1]
    cos = jnp.cos(angles)[:, :, None, :].astype(x.dtype)
    sin = jnp.sin(angles)[:, :, None, :].astype(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def softcap(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """`cap * tanh(x / cap)`, or the identity without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def attend(
    q: Float[Array, "batch seq heads d_head"],
    k: Float[Array, "batch keys kv_heads d_head"],
    v: Float[Array, "batch keys kv_heads d_head"],
    mask: Bool[Array, "#batch seq keys"],
    tap: Tap,
    *,
    scale: float | Float[Array, ""],
    cap: float | None = None,
) -> Float[Array, "batch seq heads d_head"]:
    """Softmax attention with grouped keys: query head h reads key head h // (heads / kv_heads).

    `mask[b, i, j]` says whether position i may read position j.
    """
    batch, seq, heads, d_head = q.shape
    keys, kv_heads = k.shape[1:3]
    grouped = q.reshape(batch, seq, kv_heads, heads // kv_heads, d_head)
    scores = jnp.einsum("bikgd,bjkd->bkgij", grouped, k, preferred_element_type=jnp.float32)
    scores = softcap(scores.reshape(batch, heads, seq, keys) * scale, cap)
    scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    pattern = tap("pattern", jax.nn.softmax(tap("scores", scores), axis=-1).astype(v.dtype))
    grouped_pattern = pattern.reshape(batch, kv_heads, heads // kv_heads, seq, keys)
    z = jnp.einsum("bkgij,bjkd->bikgd", grouped_pattern, v)
    return tap("z", z.reshape(batch, seq, heads, d_head))


def mlp(
    params: Mapping[str, Mapping[str, Array]],
    x: Float[Array, "batch seq d"],
    tap: Tap,
    *,
    activation: str,
) -> Float[Array, "batch seq d"]:
    """Two-layer perceptron; gated (`act(gate) * up`) where the parameters have a gate."""
    act = ACTIVATIONS[activation]
    if "gate" in params:
        pre = tap("pre", linear(params["gate"], x))
        post = act(pre) * tap("pre_linear", linear(params["up"], x))
    else:
        post = act(tap("pre", linear(params["up"], x)))
    return linear(params["down"], tap("post", post))


def look_up(
    table: Float[Array, "rows d"], ids: Int[Array, "batch seq"]
) -> Float[Array, "batch seq d"]:
    """Rows of an embedding table; NaN where an id lies outside the table.

    An index under jit cannot raise, and the default of clamping it would give a wrong number
    that looks right. (Attention spreads the NaN over the whole sequence.)
    """
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def check_ids(ids: Int[Array, "batch seq"], size: int) -> None:
    """Refuses token ids outside a vocabulary of `size`, where their values are known.

    Raises:
        ValueError: naming the first such id and its place.
    """
    if isinstance(ids, Tracer) or not ids.size:
        return
    if not getattr(ids, "is_fully_addressable", True):
        return
    values = np.asarray(ids)
    bad = np.argwhere((values < 0) | (values >= size))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"token id {values[row, column]} at row {row}, position {column} is outside the "
            f"vocabulary of {size}: was it made by this model's tokenizer?"
        )


def causal_mask(
    seq: int, tokens_mask: Bool[Array, "batch seq"] | None, window: Int[Array, ""] | int | None
) -> Bool[Array, "#batch seq seq"]:
    """Position i reads j <= i, within `window` positions if given, and no padded position."""
    i = jnp.arange(seq)[:, None]
    j = jnp.arange(seq)[None, :]
    allowed = (j <= i) if window is None else (j <= i) & (i - j < window)
    return allowed[None] if tokens_mask is None else allowed[None] & tokens_mask[:, None, :]
