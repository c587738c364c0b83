"""Cross-layer transcoder that keeps a fixed number of latents of every layer."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import cross_layer
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.errors import unexplained
from jaxinterp.dictionaries.fixed_k import check_k, rectified
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.revival import attempt_error, check_aux_k
from jaxinterp.dictionaries.scores import check_dimension
from jaxinterp.dictionaries.sparsify import top_k_scores

Params = dict[str, Array]


def cross_layer_topk(
    layers: int,
    width: int,
    k: int,
    *,
    aux_k: int | None = None,
    aux_weight: Weight = 1 / 32,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A TopK cross-layer transcoder.

    $z_l = \mathrm{TopK}(\mathrm{relu}(x_l W_{e,l}^\top + b_{e,l}))$,
    $\hat y_t = \sum_{l \le t} z_l W_{l \to t} + b_t$, and

    $L = \frac1T \sum_t \mathrm{FVU}(\hat y_t) + \alpha\, \mathrm{aux}$,

    where FVU is the unexplained share of a layer's variance, so that layers of large activations
    do not outweigh the others, and aux the relative error of the dead latents' attempt at what is
    left over. Nothing of shape (batch, layers, width) is made: layers are coded one by one.

    Args:
        layers: of the model.
        width: latents of each layer.
        k: latents kept in each layer of a row.
        aux_k: dead latents of each layer in the auxiliary loss; None for half the input dimension.
        aux_weight: $\alpha$, or a schedule of it.
        dead_after: rows without activity after which a latent counts as dead.

    Returns:
        The dictionary, whose own `width` is `layers * width`. Its batch and its sample are pairs
        (x, target), (batch, layers, d) each. Its codes are `Codes` of `layers * k` latents, sorted
        within each layer. Parameters as in `cross_layer.start`.

    Raises:
        ValueError: k or aux_k outside 1 .. width, or activations of another number of layers.

    Reference:
        See `cross_layer`; there with JumpReLU.
    """
    check_k(k, width)
    check_aux_k(aux_k, width)

    def select(params: Params, x: Float[Array, "n layers d"]) -> Codes:
        check_dimension(x, params["encoder"])
        parts = (x.swapaxes(0, 1), params["encoder"], params["encoder_bias"])
        codes = rectified(jax.lax.map(lambda part: top_k_scores(*part, k), parts))
        # Without this, JAX 0.10 gives the indices a cotangent of a wrong shape on the way back.
        return codes._replace(indices=jax.lax.stop_gradient(codes.indices))

    def encode(params: Params, x: Float[Array, "... layers d"]) -> Codes:
        codes = _numbered(select(params, cross_layer.stacked_rows(x, layers)), width)
        return jax.tree.map(lambda a: a.reshape(*x.shape[:-2], layers * k), codes)

    def decode(params: Params, codes: Codes) -> Float[Array, "... layers d"]:
        values, indices = (a.reshape(-1, layers, k).swapaxes(0, 1) for a in codes)
        y = cross_layer.write(params, values, indices % width)
        return y.reshape(*codes.values.shape[:-1], *y.shape[1:])

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b layers d_in"],
        target: Float[Array, "b layers d_out"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        x, dead = cross_layer.stacked_rows(x, layers), dead_latents(stats, dead_after)
        params, attempt = cross_layer.attempt(params, x, dead, aux_k)
        codes = select(params, x)
        y_hat = cross_layer.write(params, *codes)
        error = jax.vmap(unexplained, 1)(y_hat, target).mean()
        both = (cross_layer.flat(y_hat), cross_layer.flat(target))
        aux = attempt_error(cross_layer.flat(attempt), both[1] - both[0], dead)
        info = loss_info(_numbered(codes, width), *both, stats, dead_after, {"aux": aux})
        return error + weight_at(aux_weight, stats.step) * aux, info

    init = partial(cross_layer.start, layers, width)
    return Dictionary(layers * width, init, encode, decode, loss, lambda p: p, lambda p, g: g)


def _numbered(codes: Codes, width: int) -> Codes:
    """Codes (layers, n, k) of each layer as codes (n, layers * k) of all latents."""
    layers, n, k = codes.values.shape
    first = width * jnp.arange(layers, dtype=codes.indices.dtype)[:, None, None]
    parts = (codes.values, codes.indices + first)
    return Codes(*(a.swapaxes(0, 1).reshape(n, layers * k) for a in parts))
