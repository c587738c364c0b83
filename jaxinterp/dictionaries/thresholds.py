"""A learned threshold for each latent: the steps of JumpReLU and their pseudo-gradients."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxinterp.dictionaries.kernels import rectangle
from jaxinterp.dictionaries.sparsify import count_true

Params = dict[str, Array]
Kernel = Callable[[Array], Array]


class Threshold(NamedTuple):
    """How a threshold is parameterised. Kept in float32: Adam's steps vanish in bfloat16.

    Attributes:
        init: `thresholds (width) -> params`.
        read: `params -> thresholds (width)`, in units of the scores, at least zero.
        project: `params -> params`.
    """

    init: Callable[[Array], Params]
    read: Callable[[Params], Array]
    project: Callable[[Params], Params]


def direct() -> Threshold:
    """Parameter `threshold`, kept at zero or more by projection.

    The projection comes after the step: a clamp inside the forward would have no gradient at zero
    and hold a latent there for ever.
    """
    return Threshold(
        lambda thresholds: {"threshold": thresholds},
        lambda params: params["threshold"],
        lambda params: params | {"threshold": jnp.maximum(params["threshold"], 0.0)},
    )


def logarithmic() -> Threshold:
    """Parameter `log_threshold`; positive by construction.

    Adam moves it by about the learning rate per step whatever the gradient, so a small threshold
    grows by a small factor only: give it a learning rate of its own.
    """
    return Threshold(
        lambda thresholds: {"log_threshold": jnp.log(thresholds)},
        lambda params: jnp.exp(params["log_threshold"].astype(jnp.float32)),
        lambda params: params,
    )


def check_positive(**levels: float | Array) -> None:
    """Refuses a first threshold or a bandwidth, given by name, that is concrete and not positive.

    Raises:
        ValueError: there is one.
    """
    for name, value in levels.items():
        if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name}={value} must be positive, in units of the scores")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def jump(
    scores: Float[Array, "n width"],
    threshold: Float[Array, " width"],
    bandwidth: Float[Array, ""],
    kernel: Kernel = rectangle,
    reach_scores: bool = False,
) -> tuple[Float[Array, "n width"], Float[Array, " n"]]:
    r"""Scores above their threshold, and how many of them there are in each row.

    $z = h\, 1[h > \theta]$ and $L_0 = \sum_j 1[h_j > \theta_j]$, with pseudo-gradients

    $\partial z / \partial \theta = -\frac{\theta}{\varepsilon} K$,
    $\partial L_0 / \partial \theta = -\frac1\varepsilon K$,
    $\partial z / \partial h = 1[h > \theta]$, where $K = K((h - \theta) / \varepsilon)$.

    Args:
        scores: $h$.
        threshold: $\theta$, float32; compared and accumulated in float32.
        bandwidth: $\varepsilon$, in units of the scores.
        kernel: $K$, from `kernels`.
        reach_scores: the steps depend on $h - \theta$ alone, so the negated pseudo-gradients go to
            the scores too, and through them to the encoder.

    Returns:
        (codes, active latents per row in float32).

    Reference:
        Rajamanoharan et al. (2024), arXiv 2407.14435; the form that reaches the scores: Anthropic
        interpretability team (2025), "Circuits updates - January 2025", as SAELens states it.
    """
    # Asked this way round, scores that are NaN stay so: a bad row shows.
    idle = scores.astype(jnp.float32) <= threshold[None]
    return jnp.where(idle, 0.0, scores), count_true(~idle, 1).astype(jnp.float32)


def _jump_forward(
    scores: Array, threshold: Array, bandwidth: Array, kernel: Kernel, reach_scores: bool
) -> tuple[tuple[Array, Array], tuple]:
    outputs = jump(scores, threshold, bandwidth, kernel, reach_scores)
    return outputs, (scores, threshold, bandwidth)


def _jump_backward(
    kernel: Kernel, reach_scores: bool, residuals: tuple, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    scores, threshold, bandwidth = residuals
    to_codes, to_count = cotangents
    above = scores.astype(jnp.float32) - threshold[None]
    # What one unit of each step is worth: its height theta in the codes, one in the count.
    worth = to_codes * threshold[None] + to_count[:, None]
    pull = kernel(above * (1 / bandwidth)) * worth
    to_scores = jnp.where(above > 0, to_codes, 0.0)
    if reach_scores:
        to_scores = to_scores + pull / bandwidth
    return to_scores.astype(scores.dtype), -pull.sum(0) / bandwidth, jnp.zeros_like(bandwidth)


jump.defvjp(_jump_forward, _jump_backward)
