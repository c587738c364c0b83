"""Cross-layer transcoder whose latents learn the threshold above which they are active."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import cross_layer, thresholds, triangle
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.errors import Measure, squared_error
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.kernels import rectangle
from jaxinterp.dictionaries.penalties import Activity, Penalty, Weight, tanh, weight_at

Params = dict[str, Array]


def cross_layer_jumprelu(
    layers: int,
    width: int,
    *,
    weight: Weight = 1.0,
    penalty: Penalty = tanh,
    first_threshold: float | Array = 0.03,
    bandwidth: float | Array = 1.0,
    kernel: thresholds.Kernel = rectangle,
    reach_scores: bool = True,
    pre_activation_weight: Weight = 0.0,
    threshold: Callable[[], thresholds.Threshold] = thresholds.direct,
    measure: Measure = squared_error,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A JumpReLU cross-layer transcoder.

    $z_l = h_l\, 1[h_l > \theta_l]$ with $h_l = x_l W_{e,l}^\top + b_{e,l}$,
    $\hat y_t = \sum_{l \le t} z_l W_{l \to t} + b_t$, and

    $L = \mathrm{E} \sum_t \lVert y_t - \hat y_t \rVert^2
    + \lambda\, \mathrm{E} \sum_{l,j} \tanh(c\, z_{lj} \lVert W_{lj} \rVert)
    + \mu\, \mathrm{E} \sum_{l,j\ \mathrm{dead}} \mathrm{relu}(\theta_{lj} - h_{lj})
    \lVert W_{lj} \rVert$,

    with $\lVert W_{lj} \rVert$ the length of all that the latent writes, to all layers. Scale the
    activations of each layer to unit variance first: $c$, the first threshold and the bandwidth
    presume it. (These three, and that the pseudo-gradient reaches the scores, are as remembered
    from the reference, not checked against it; the start is not the reference's.)

    Args:
        layers: of the model.
        width: latents of each layer.
        weight: $\lambda$, or a schedule of it; rising from 0 over the whole run is usual.
        penalty: from `penalties`; `Activity.norms` are the $\lVert W_{lj} \rVert$.
        first_threshold: thresholds before the first step.
        bandwidth: of the pseudo-gradient.
        kernel: its kernel, from `kernels`.
        reach_scores: whether the pseudo-gradient also reaches the encoder.
        pre_activation_weight: $\mu$, or a schedule of it.
        threshold: `direct` or `logarithmic`.
        measure: the reconstruction error, over all layers laid end to end.
        dead_after: rows without activity after which a latent counts as dead.

    Returns:
        The dictionary, whose own `width` is `layers * width`. Its batch and its sample are pairs
        (x, target), (batch, layers, d) each. Its codes are dense, (..., layers * width). Parameters
        as in `cross_layer.start`, and `threshold` or `log_threshold` (layers, width).

    Raises:
        ValueError: a concrete first threshold or bandwidth that is not positive, or activations of
            another number of layers.

    Reference:
        See `cross_layer`, there section 2 and the appendix on training.
    """
    thresholds.check_positive(first_threshold=first_threshold, bandwidth=bandwidth)
    levels = threshold()

    def init(key: Key[Array, ""], sample: Any) -> Params:
        first = jnp.full((layers, width), first_threshold, jnp.float32)
        return cross_layer.start(layers, width, key, sample) | levels.init(first)

    def activate(h: Float[Array, "n all"], level: Float[Array, " all"]) -> tuple[Array, Array]:
        epsilon = jnp.asarray(bandwidth, jnp.float32)
        return thresholds.jump(h, level, epsilon, kernel, reach_scores)

    def encode(params: Params, x: Float[Array, "... layers d"]) -> Float[Array, "... all"]:
        h = cross_layer.layer_scores(params, cross_layer.stacked_rows(x, layers))
        z, _ = activate(cross_layer.flat(h), levels.read(params).reshape(-1))
        return z.reshape(*x.shape[:-2], layers * width)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b layers d_in"],
        target: Float[Array, "b layers d_out"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        flat = cross_layer.flat_in_place
        h = flat(cross_layer.layer_scores(params, cross_layer.stacked_rows(x, layers)))
        level, norms = flat(levels.read(params)), flat(triangle.source_norms(params["decoder"]))
        z, count = activate(h, level)
        by_layer = cross_layer.layers_in_place(z, layers).swapaxes(0, 1)
        y_hat = cross_layer.flat(cross_layer.write(params, by_layer, None))
        wanted = cross_layer.flat(target)
        cost = penalty(Activity(z, norms, count))
        missing = jax.nn.relu(level[None] - h)
        stats = cross_layer.stats_in_place(stats, layers)
        asleep = jnp.where(dead_latents(stats, dead_after), norms, 0.0)
        pull = (missing @ asleep).mean(dtype=jnp.float32)
        info = loss_info(z, y_hat, wanted, stats, dead_after, {"penalty": cost})
        value = measure(y_hat, wanted) + weight_at(weight, stats.step) * cost
        value = value + weight_at(pre_activation_weight, stats.step) * pull
        return value, cross_layer.info_by_layer(info, layers)

    return Dictionary(
        layers * width,
        init,
        encode,
        cross_layer.decode_dense,
        loss,
        levels.project,
        lambda params, gradient: gradient,
    )
