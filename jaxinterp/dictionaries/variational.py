"""Variational sparse autoencoders: Gaussian codes under a prior, as published and as they ran."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import revival
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.errors import Measure, Objective, unexplained, whole
from jaxinterp.dictionaries.fixed_k import check_k, rectified
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.sparsify import largest
from jaxinterp.dictionaries.topk import topk

Params = dict[str, Array]


class Spread(NamedTuple):
    """How far codes are spread around their mean.

    Attributes:
        init: `(width, d) -> params`.
        log_variance: `(params, x) -> log variance` (n, width), or (1, 1) where it is fixed.
    """

    init: Callable[[int, int], Params]
    log_variance: Callable[[Params, Array], Array]


def unit_spread() -> Spread:
    """Variance one for every code."""
    return Spread(lambda width, d: {}, lambda params, x: jnp.zeros((1, 1)))


def learned_spread(first: float = 0.0) -> Spread:
    """Log variances that are linear in the input: `variance` (width, d), `variance_bias` (width).

    Args:
        first: log variance before the first step.
    """

    def init(width: int, d: int) -> Params:
        return {"variance": jnp.zeros((width, d)), "variance_bias": jnp.full(width, first)}

    def log_variance(params: Params, x: Array) -> Array:
        centred = x - params["decoder_bias"][None]
        return centred @ params["variance"].T + params["variance_bias"][None]

    return Spread(init, log_variance)


def kl_to_standard(
    mean: Float[Array, "n width"], log_variance: Float[Array, "#n #width"]
) -> Float[Array, "n width"]:
    r"""KL divergence of Gaussians from the standard one, in nats, entry by entry.

    $\frac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2)$.
    """
    return 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance)


def variational(
    width: int,
    k: int,
    *,
    weight: Weight = 1e-3,
    spread: Callable[[], Spread] = unit_spread,
    aux_k: int | None = None,
    aux_weight: Weight = 1 / 32,
    measure: Measure = unexplained,
    objective: Objective = whole,
    dead_after: int = 100_000,
    **parts: Any,
) -> Dictionary:
    r"""A TopK autoencoder of Gaussian codes.

    $\mu = (x - b_d) W_e^\top + b_e$, in training $z = \mathrm{TopK}(\mathrm{relu}(\mu + \sigma
    \epsilon))$, $\epsilon \sim N(0, 1)$, at inference $z = \mathrm{TopK}(\mathrm{relu}(\mu))$;

    $L = \mathrm{error}(\hat x, x) + \beta\, \mathrm{E} \sum_j \mathrm{KL}(N(\mu_j, \sigma_j^2)
    \Vert N(0, 1)) + \alpha\, \mathrm{aux}$, the KL over all latents, kept or not.

    A negative control: the noise of all latents competes for the k places, and the prior pulls
    every mean to zero, so that latents die as $\beta$ grows.

    Args:
        width: number of latents.
        k: latents kept per row.
        weight: $\beta$, or a schedule of it.
        spread: `unit_spread` or `learned_spread`.
        aux_k: dead latents in the auxiliary loss; None for half the input dimension.
        aux_weight: $\alpha$, or a schedule of it.
        measure: the reconstruction error.
        objective: what is measured: `whole`, or nested prefixes (`matryoshka`).
        dead_after: rows without activity after which a latent counts as dead.
        **parts: further keywords of `topk` (`scores`, `atoms`, `centre`).

    Returns:
        The dictionary; its codes are `Codes`. Parameters: as `topk`, and those of the spread.

    Raises:
        ValueError: k or aux_k outside 1 .. width.

    Reference:
        "Variational sparse autoencoders", arXiv 2509.22994; its formulas were read in summaries,
        and that the KL is the textbook one is an inference.
    """
    check_k(k, width)
    encoder, noise = parts.get("scores", encoders.linear)(), spread()
    plain = topk(width, k, aux_k=aux_k, objective=objective, dead_after=dead_after, **parts)

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        return plain.init(key, sample) | noise.init(width, sample.shape[1])

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        dead = dead_latents(stats, dead_after)
        params, attempt = revival.attempt(params, encoder, x, dead, aux_k)
        mean = encoders.dense_scores(encoder, params, x)
        log_variance = noise.log_variance(params, x)
        drawn = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)
        codes = rectified(_strongest(drawn, k))
        x_hat, error = objective(params, codes, target, measure)
        kl = kl_to_standard(mean, log_variance).sum(1).mean(dtype=jnp.float32)
        aux = revival.attempt_error(attempt, target - x_hat, dead)
        info = loss_info(codes, x_hat, target, stats, dead_after, {"kl": kl, "aux": aux})
        total = error + weight_at(weight, stats.step) * kl
        return total + weight_at(aux_weight, stats.step) * aux, info

    return plain._replace(init=init, loss=loss)


def variational_mean(width: int, k: int, *, weight: Weight = 1e-3, **parts: Any) -> Dictionary:
    r"""The same with nothing drawn: codes are their means, and the KL is half their square.

    $L = L_{\mathrm{TopK}} + \beta\, \mathrm{E}\, \frac12 \lVert \mathrm{relu}(\mu) \rVert^2$: a
    TopK autoencoder that pays for the energy of all its scores above zero.

    Args:
        width: number of latents.
        k: latents kept per row.
        weight: $\beta$, or a schedule of it.
        **parts: the keywords of `topk`.

    Returns:
        The dictionary; parameters and codes as `topk`.

    Raises:
        ValueError: k or aux_k outside 1 .. width.

    Reference:
        What the evaluated models of arXiv 2509.22994 were, according to an audit of their code
        whose writer is not established: nothing was sampled in any of them.
    """
    plain = topk(width, k, **parts)
    encoder = parts.get("scores", encoders.linear)()

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        value, info = plain.loss(params, stats, x, target, key)
        mean = jax.nn.relu(encoders.dense_scores(encoder, params, x))
        kl = kl_to_standard(mean, jnp.zeros((1, 1))).sum(1).mean(dtype=jnp.float32)
        info = info._replace(metrics=info.metrics | {"kl": kl})
        return value + weight_at(weight, stats.step) * kl, info

    return plain._replace(loss=loss)


def _strongest(scores: Float[Array, "n width"], k: int) -> Codes:
    """The k largest with their places; the choice has no gradient, what is chosen has one."""
    indices = largest(jax.lax.stop_gradient(scores), k).indices
    return Codes(jnp.take_along_axis(scores, indices, axis=1), indices)
