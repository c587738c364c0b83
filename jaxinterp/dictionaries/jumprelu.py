"""JumpReLU sparse autoencoder: each latent learns the threshold above which it is active."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries import thresholds
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, Objective, squared_error, whole
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.kernels import rectangle
from jaxinterp.dictionaries.penalties import (
    Activity,
    Penalty,
    Weight,
    atom_norms,
    count,
    weight_at,
)

Params = dict[str, Array]


def jumprelu(
    width: int,
    *,
    weight: Weight = 1.0,
    penalty: Penalty = count,
    first_threshold: float | Array = 0.01,
    bandwidth: float | Array = 0.05,
    kernel: thresholds.Kernel = rectangle,
    reach_scores: bool = False,
    pre_activation_weight: Weight = 0.0,
    threshold: Callable[[], thresholds.Threshold] = thresholds.direct,
    measure: Measure = squared_error,
    objective: Objective = whole,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    atoms: Callable[[], atom_kinds.Atoms] = atom_kinds.unit,
    centre: Callable[[Array], Array] = atom_kinds.zero_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A JumpReLU sparse autoencoder.

    $h = (x - b_d) W_e^\top + b_e$, $z = h\, 1[h > \theta]$, $\hat x = z W_d + b_d$, and

    $L = \mathrm{E} \lVert x - \hat x \rVert^2 + \lambda\, \Omega + \mu\, \mathrm{E}
    \sum_{j\ \mathrm{dead}} \mathrm{relu}(\theta_j - h_j) \lVert W_{d,j} \rVert$.

    Penalties with a pseudo-gradient for the threshold: `count`, `towards_count` and
    `towards_mean_count`. A penalty on the codes (`tanh`) reaches the threshold through them.
    `bandwidth` and `first_threshold` are in units of the scores, which presume activations of
    about unit mean square per coordinate.

    Args:
        width: number of latents.
        weight: $\lambda$, or a schedule of it.
        penalty: $\Omega$, from `penalties`.
        first_threshold: thresholds before the first step.
        bandwidth: $\varepsilon$ of the pseudo-gradient.
        kernel: its kernel, from `kernels`.
        reach_scores: whether the pseudo-gradient also reaches the encoder.
        pre_activation_weight: $\mu$, or a schedule of it: pulls dead latents up to their threshold.
        threshold: `direct` or `logarithmic`.
        measure: the reconstruction error.
        objective: what is measured: `whole`, or nested prefixes (`matryoshka`).
        scores: the encoder; Gemma Scope's is `uncentred`.
        atoms: `unit`, or `free` with the tanh penalty, which sees the atoms' lengths.
        centre: first decoder bias.
        dead_after: rows without activity after which a latent counts as dead.

    Returns:
        The dictionary; its codes are dense. Parameters: those of the encoder, `decoder` (width, d),
        `decoder_bias` (d), and `threshold` or `log_threshold` (width), in float32.

    Raises:
        ValueError: a concrete first threshold or bandwidth that is not positive.

    Reference:
        Rajamanoharan et al. (2024), arXiv 2407.14435; with `tanh`, `reach_scores` and $\mu$ = 3e-6:
        Anthropic interpretability team (2025), "Circuits updates - January 2025".
    """
    thresholds.check_positive(first_threshold=first_threshold, bandwidth=bandwidth)
    encoder, kind, levels = scores(), atoms(), threshold()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        first = jnp.full(width, first_threshold, jnp.float32)
        params = atom_kinds.start(key, sample, width, encoder, kind, centre)
        return params | levels.init(first)

    def activate(params: Params, h: Float[Array, "n width"]) -> tuple[Array, Array]:
        epsilon = jnp.asarray(bandwidth, jnp.float32)
        return thresholds.jump(h, levels.read(params), epsilon, kernel, reach_scores)

    def encode_rows(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n width"]:
        return activate(params, encoders.dense_scores(encoder, params, x))[0]

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
        h = encoders.dense_scores(encoder, params, x)
        z, active = activate(params, h)
        x_hat, error = objective(params, z, target, measure)
        norms = atom_norms(params["decoder"])
        cost = penalty(Activity(z, norms, active))
        value = error + weight_at(weight, stats.step) * cost
        if not (isinstance(pre_activation_weight, float) and pre_activation_weight == 0.0):
            missing = jax.nn.relu(levels.read(params)[None] - h)
            dead = dead_latents(stats, dead_after)
            pull = (missing @ jnp.where(dead, norms, 0.0)).mean(dtype=jnp.float32)
            value = value + weight_at(pre_activation_weight, stats.step) * pull
        info = loss_info(z, x_hat, target, stats, dead_after, {"penalty": cost})
        return value, info

    def project(params: Params) -> Params:
        return levels.project(kind.project(params))

    return Dictionary(width, init, encode, linear_decode, loss, project, kind.tangent)
