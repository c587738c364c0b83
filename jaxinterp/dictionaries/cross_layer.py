r"""What cross-layer transcoders share, whatever makes their codes sparse.

Activations come stacked, `x` and `target` (..., layers, d): typically what each MLP reads and what
it gives. The latents of a layer have one activation, read at their own layer, and one atom for each
layer from there on: $\hat y_t = \sum_{l \le t} z_l W_{l \to t} + b_t$. A feature that later
layers only carry along then takes one latent instead of one per layer.

Latents are numbered through all layers: those of layer l from `l * width` on.

Reference:
    Ameisen et al. (2025), "Circuit tracing: revealing computational graphs in language models",
    section 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Key, Shaped

from jaxinterp.dictionaries import triangle
from jaxinterp.dictionaries.base import Codes, LossInfo, Stats
from jaxinterp.dictionaries.branching import beside, if_needed
from jaxinterp.dictionaries.scores import check_dimension
from jaxinterp.dictionaries.shards import ambient_split
from jaxinterp.dictionaries.sparsify import largest, selected_scores

Params = dict[str, Array]


def start(layers: int, width: int, key: Key[Array, ""], sample: Any) -> Params:
    """The start of a transcoder, at every layer: it writes the mean of the target.

    Args:
        layers: of the model.
        width: latents of each layer.
        key: for the encoder.
        sample: pair (x, target), (n, layers, d) each; the two dimensions may differ.

    Returns:
        `encoder` (layers, width, d_in), `encoder_bias` (layers, width), `decoder` (pairs, width,
        d_out) as in `triangle`, `decoder_bias` (layers, d_out).

    Raises:
        ValueError: no such pair.
    """
    if not (isinstance(sample, tuple) and len(sample) == 2):
        raise ValueError("a cross-layer transcoder needs a pair (x, target) of (n, layers, d)")
    x, target = (stacked_rows(part, layers) for part in sample)
    bound = x.shape[2] ** -0.5
    encoder = jax.random.uniform(key, (layers, width, x.shape[2]), minval=-bound, maxval=bound)
    pairs = layers * (layers + 1) // 2
    return {
        "encoder": encoder,
        "encoder_bias": -jnp.einsum("lwd,ld->lw", encoder, x.mean(0, dtype=jnp.float32)),
        "decoder": jnp.zeros((pairs, width, target.shape[2])),
        "decoder_bias": target.mean(0, dtype=jnp.float32),
    }


def layer_scores(params: Params, x: Float[Array, "n layers d"]) -> Float[Array, "n layers width"]:
    """The scores of all latents of all layers."""
    check_dimension(x, params["encoder"])
    return jnp.einsum("nld,lwd->nlw", x, params["encoder"]) + params["encoder_bias"][None]


def write(params: Params, values: Array, indices: Array | None) -> Float[Array, "n layers d"]:
    """What arrives at each layer, for codes as in `triangle.write`."""
    y = triangle.write(values, indices, params["decoder"])
    return y.swapaxes(0, 1) + params["decoder_bias"][None]


def decode_dense(params: Params, codes: Float[Array, "... all"]) -> Float[Array, "... layers d"]:
    """What arrives at each layer, for dense codes of all latents."""
    layers, width = params["encoder_bias"].shape
    y = write(params, codes.reshape(-1, layers, width).swapaxes(0, 1), None)
    return y.reshape(*codes.shape[:-1], *y.shape[1:])


def attempt(
    params: Params,
    x: Float[Array, "n layers d_in"],
    dead: Bool[Array, " all"],
    k: int | None,
) -> tuple[Params, Float[Array, "n layers d_out"]]:
    """What the dead latents of all layers together write, and the parameters to go on with.

    As `revival.attempt`, in each layer; `revival.attempt_error` measures it, laid end to end.

    Args:
        params: the transcoder's.
        x: what each layer reads.
        dead: latents to revive, numbered through all layers; with none, 0 is written.
        k: dead latents per layer and row, fewer where fewer are dead; None for half of d_in.
    """
    check_dimension(x, params["encoder"])
    layers, width = params["encoder_bias"].shape
    kept = min(k or max(x.shape[-1] // 2, 1), width)
    needed = dead.any()

    def choose(*parts: Array) -> Codes:
        return jax.lax.map(partial(_strongest_dead, k=kept), parts)

    def write(chosen: Codes, params: Params, x: Array) -> Array:
        parts = (x.swapaxes(0, 1), params["encoder"], params["encoder_bias"], chosen.indices)
        values = jax.nn.relu(jax.lax.map(lambda layer: selected_scores(*layer), parts))
        values = jnp.where(chosen.values, values, 0.0)
        return triangle.write(values, chosen.indices, params["decoder"]).swapaxes(0, 1)

    parts = (x.swapaxes(0, 1), params["encoder"], params["encoder_bias"])
    parts = jax.lax.stop_gradient(parts)
    chosen = if_needed(needed, choose, *parts, dead.reshape(layers, width))
    (params, _), written = beside(needed, write, chosen, params, x)
    return params, written


def _strongest_dead(layer: tuple[Array, Array, Array, Array], *, k: int) -> Codes:
    """Numbers of the k dead latents of largest score, and which of them there are, as values."""
    x, encoder, bias, dead = layer
    indices = largest(jnp.where(dead[None], x @ encoder.T + bias[None], -jnp.inf), k).indices
    return Codes(dead[indices], indices)


def stacked_rows(x: Float[Array, "..."], layers: int) -> Float[Array, "n layers d"]:
    """Activations with one leading axis.

    Raises:
        ValueError: activations of another number of layers.
    """
    if x.ndim < 2 or x.shape[-2] != layers:
        raise ValueError(f"activations of shape {x.shape} for {layers=}: need (..., layers, d)")
    return x.reshape(-1, *x.shape[-2:])


def flat(x: Float[Array, "n layers d"]) -> Float[Array, "n all"]:
    """The layers laid end to end."""
    return x.reshape(len(x), x.shape[1] * x.shape[2])


def flat_in_place(x: Shaped[Array, "... layers width"]) -> Shaped[Array, "... all"]:
    """The layers laid end to end on each device, none of whose latents moves.

    Where each layer's latents are split over devices (`shards`), the order of all latents by layer
    would send most of them elsewhere. In a loss any order will do that is the same for everything;
    this one is by device first, then by layer. On one device it is the usual order.

    Args:
        x: something of each latent (layers, width), or of each row and latent (n, layers, width).
    """
    return _on_devices(lambda own: own.reshape(*own.shape[:-2], -1), x, x.shape[-1], 2, 1)


def layers_in_place(x: Shaped[Array, "... all"], layers: int) -> Shaped[Array, "... layers width"]:
    """What `flat_in_place` was given."""

    def apart(own: Array) -> Array:
        return own.reshape(*own.shape[:-1], layers, -1)

    return _on_devices(apart, x, x.shape[-1] // layers, 1, 2)


def _on_devices(
    f: Callable[[Array], Array], x: Array, width: int, axes: int, axes_after: int
) -> Array:
    """A reshape of each device's part, whose last axes, of layers and latents, `f` changes."""
    rows = x.shape[: x.ndim - axes]
    split = ambient_split(rows[0] if rows else 1, width)
    if split is None or split.latents is None:
        return f(x)
    lead = (split.rows,) if rows else ()

    def lies(last: int) -> P:
        return P(*lead, *[None] * (last - 1), split.latents)

    return jax.shard_map(f, in_specs=lies(axes), out_specs=lies(axes_after))(x)


def stats_in_place(stats: Stats, layers: int) -> Stats:
    """Statistics in the order of `flat_in_place`, for a loss that computes in it."""
    return stats._replace(silent=flat_in_place(stats.silent.reshape(layers, -1)))


def info_by_layer(info: LossInfo, layers: int) -> LossInfo:
    """What such a loss reports, in the order of the dictionary's codes."""
    return info._replace(fired=layers_in_place(info.fired, layers).reshape(-1))
