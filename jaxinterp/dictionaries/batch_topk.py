"""BatchTopK sparse autoencoder: k latents per row on average, chosen over the whole batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import revival
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats, geometric_median
from jaxinterp.dictionaries.batch_selection import batch_top_k
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, Objective, squared_error, unexplained, whole
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.revival import check_aux_k

Params = dict[str, Array]


def batch_topk(
    width: int,
    k: int | float,
    *,
    threshold_decay: float = 0.99,
    threshold_from: int = 0,
    aux_k: int | None = None,
    aux_weight: Weight = 1 / 32,
    aux_measure: Measure = unexplained,
    measure: Measure = squared_error,
    objective: Objective = whole,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    atoms: Callable[[], atom_kinds.Atoms] = atom_kinds.unit,
    centre: Callable[[Array], Array] = geometric_median,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A BatchTopK sparse autoencoder.

    Training keeps the $kB$ largest of $\mathrm{relu}(h)$, $h = (x - b_d) W_e^\top + b_e$, in a
    batch of B rows, and follows the smallest kept score by a running mean $\theta$. Inference looks
    at one row alone: $z = h\, 1[h > \theta]$, so codes there hold k latents on average only.

    $L = \mathrm{E}\lVert x - \hat x \rVert^2 + \alpha\, \mathrm{aux}$, the auxiliary loss that of
    `topk`.

    Args:
        width: number of latents.
        k: latents kept per row on average; $kB$ is rounded down.
        threshold_decay: what stays of $\theta$ in a step. The first value is taken as it is.
        threshold_from: step from which $\theta$ is followed.
        aux_k: dead latents in the auxiliary loss; None for half the input dimension.
        aux_weight: $\alpha$, or a schedule of it.
        aux_measure: how the auxiliary reconstruction of the residual is measured.
        measure: the reconstruction error.
        objective: what is measured: `whole`, or nested prefixes (`matryoshka`).
        scores: the encoder.
        atoms: the kind of decoder.
        centre: first decoder bias.
        dead_after: rows without activity after which a latent counts as dead.

    Returns:
        The dictionary; its codes are dense. Parameters: as `topk`, and `threshold` (), float32,
        which the loss sets itself; -1 until then, when inference keeps all positive scores.

    Raises:
        ValueError: k or aux_k outside 0 .. width.

    Reference:
        Bussmann et al. (2024), arXiv 2412.06410; the running mean is that of dictionary_learning,
        which decays by 0.999 from step 1000 on.
    """
    if not 0 < k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 0 < k <= width")
    check_aux_k(aux_k, width)
    encoder, kind = scores(), atoms()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        params = atom_kinds.start(key, sample, width, encoder, kind, centre)
        return params | {"threshold": jnp.asarray(-1.0, jnp.float32)}

    def encode_rows(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n width"]:
        h = encoders.dense_scores(encoder, params, x)
        # Asked this way round, scores that are NaN stay so: a bad row shows.
        return jnp.where(h <= jnp.maximum(params["threshold"], 0.0), 0.0, h)

    def encode(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... width"]:
        return encoders.over_rows(encode_rows, params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        dead = dead_latents(stats, dead_after)
        params, attempt = revival.attempt(params, encoder, x, dead, aux_k)
        h = encoders.dense_scores(encoder, params, x)
        z = batch_top_k(h, max(int(k * x.shape[0]), 1))
        x_hat, error = objective(params, z, target, measure)
        aux = revival.attempt_error(attempt, target - x_hat, dead, aux_measure)
        threshold = followed_threshold(
            params["threshold"], z, stats.step, decay=threshold_decay, start=threshold_from
        )
        own = {"aux": aux, "threshold": threshold}
        assigned = {"threshold": threshold}
        info = loss_info(z, x_hat, target, stats, dead_after, own, assigned)
        return error + weight_at(aux_weight, stats.step) * aux, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)


def followed_threshold(
    threshold: Float[Array, ""],
    z: Float[Array, "b width"],
    step: Array,
    *,
    decay: float = 0.99,
    start: int = 0,
) -> Float[Array, ""]:
    """The running mean of the smallest kept score; a batch without any leaves it alone.

    Args:
        threshold: before this batch; negative if there was none.
        z: what was kept of the batch.
        step: optimiser steps taken.
        decay: what stays of the threshold. The first value is taken as it is.
        start: step from which the threshold is followed.
    """
    least = jnp.where(z > 0, z, jnp.inf).min().astype(jnp.float32)
    mean = decay * threshold + (1 - decay) * least
    use = (step >= start) & jnp.isfinite(least)
    new = jnp.where(use, jnp.where(threshold < 0, least, mean), threshold)
    return jax.lax.stop_gradient(new)
