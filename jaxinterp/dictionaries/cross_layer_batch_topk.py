"""Cross-layer transcoder that shares a number of latents among the layers and rows of a batch."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import cross_layer
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.batch_selection import batch_top_k
from jaxinterp.dictionaries.batch_topk import followed_threshold
from jaxinterp.dictionaries.errors import Measure, squared_error
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.revival import attempt_error, check_aux_k

Params = dict[str, Array]


def cross_layer_batch_topk(
    layers: int,
    width: int,
    k: int | float,
    *,
    threshold_decay: float = 0.99,
    threshold_from: int = 0,
    aux_k: int | None = None,
    aux_weight: Weight = 1 / 32,
    measure: Measure = squared_error,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A BatchTopK cross-layer transcoder.

    Training keeps the $kTB$ largest of the scores $h_l = x_l W_{e,l}^\top + b_{e,l}$ of the T
    layers and B rows of a batch, so layers may take different shares; it follows the smallest kept
    score by a running mean $\theta$, and inference keeps $z = h\, 1[h > \theta]$, row by row.
    $\hat y_t = \sum_{l \le t} z_l W_{l \to t} + b_t$,
    $L = \mathrm{E} \sum_t \lVert y_t - \hat y_t \rVert^2 + \alpha\, \mathrm{aux}$, with the
    auxiliary loss of `cross_layer_topk`, which has no unit.

    Args:
        layers: of the model.
        width: latents of each layer.
        k: latents kept per layer and row on average; the total is rounded down.
        threshold_decay: what stays of $\theta$ in a step. The first value is taken as it is.
        threshold_from: step from which $\theta$ is followed.
        aux_k: dead latents of each layer in the auxiliary loss; None for half the input dimension.
        aux_weight: $\alpha$, or a schedule of it.
        measure: the reconstruction error, over all layers laid end to end; scale the layers to
            equal variance first.
        dead_after: rows without activity after which a latent counts as dead.

    Returns:
        The dictionary, whose own `width` is `layers * width`. Its batch and its sample are pairs
        (x, target), (batch, layers, d) each. Its codes are dense, (..., layers * width). Parameters
        as in `cross_layer.start`, and `threshold` (), which the loss sets itself; -1 until then.

    Raises:
        ValueError: k or aux_k outside 0 .. width, or activations of another number of layers.

    Reference:
        See `cross_layer`; the selection over layers as in utahnlp/crosslayer-coding.
    """
    if not 0 < k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 0 < k <= width")
    check_aux_k(aux_k, width)

    def init(key: Key[Array, ""], sample: Any) -> Params:
        params = cross_layer.start(layers, width, key, sample)
        return params | {"threshold": jnp.asarray(-1.0, jnp.float32)}

    def encode(params: Params, x: Float[Array, "... layers d"]) -> Float[Array, "... all"]:
        h = cross_layer.layer_scores(params, cross_layer.stacked_rows(x, layers))
        # Asked this way round, scores that are NaN stay so: a bad row shows.
        z = jnp.where(h <= jnp.maximum(params["threshold"], 0.0), 0.0, h)
        return z.reshape(*x.shape[:-2], layers * width)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b layers d_in"],
        target: Float[Array, "b layers d_out"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        x = cross_layer.stacked_rows(x, layers)
        dead = dead_latents(stats, dead_after)
        params, attempt = cross_layer.attempt(params, x, dead, aux_k)
        h = cross_layer.layer_scores(params, x)
        z = batch_top_k(cross_layer.flat_in_place(h), max(int(k * layers * x.shape[0]), 1))
        by_layer = cross_layer.layers_in_place(z, layers).swapaxes(0, 1)
        written = cross_layer.write(params, by_layer, None)
        y_hat, wanted = cross_layer.flat(written), cross_layer.flat(target)
        aux = attempt_error(cross_layer.flat(attempt), wanted - y_hat, dead)
        threshold = followed_threshold(
            params["threshold"], z, stats.step, decay=threshold_decay, start=threshold_from
        )
        own = {"threshold": threshold}
        stats = cross_layer.stats_in_place(stats, layers)
        shown = own | {"aux": aux}
        info = loss_info(z, y_hat, wanted, stats, dead_after, shown, own)
        error = measure(y_hat, wanted) + weight_at(aux_weight, stats.step) * aux
        return error, cross_layer.info_by_layer(info, layers)

    return Dictionary(
        layers * width,
        init,
        encode,
        cross_layer.decode_dense,
        loss,
        lambda params: params,
        lambda params, gradient: gradient,
    )
