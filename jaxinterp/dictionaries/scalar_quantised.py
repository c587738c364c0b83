"""Latents that take one of a few values each: learned ones, or a fixed grid."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import quantise
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, unexplained
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at

Params = dict[str, Array]
# (params, scores) -> (values that the latents take, which level each is)
Grid = Callable[[Params, Array], tuple[Array, Array]]
# (values, scores, step) -> what being away from the grid costs
Cost = Callable[[Array, Array, Array], Array]


def latent_quantised(
    width: int,
    *,
    levels: int = 10,
    codebook_weight: Weight = 0.01,
    commitment_weight: Weight = 0.01,
    measure: Measure = unexplained,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    centre: Callable[[Array], Array] = atom_kinds.mean_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""Every latent snaps to the nearest of its own few learned values.

    $h = (x - b_d) W_e^\top + b_e$, $z_j = V_{j,l}$ with $l = \arg\min_l |h_j - V_{j,l}|$, $\hat x
    = z W_d + b_d$, gradients of the error straight through to h, and

    $L = \mathrm{error}(\hat x, x) + \lambda_q\, \mathrm{E}(z - \mathrm{sg}(h))^2 + \lambda_c\,
    \mathrm{E}(h - \mathrm{sg}(z))^2$, means over rows and latents.

    The paper's model has deep networks on both sides and a binary cross-entropy; its regulariser is
    weight decay (0.1 in AdamW), which is the optimiser's business here too.

    Args:
        width: number of latents; the paper takes twice as many as there are sources.
        levels: values of each latent, at first evenly from -0.5 to 0.5.
        codebook_weight: $\lambda_q$, or a schedule: draws values to the scores that chose them.
        commitment_weight: $\lambda_c$, or a schedule: draws scores to their values.
        measure: the reconstruction error.
        scores: the encoder; `mlp` for one with a hidden layer.
        centre: first decoder bias.
        dead_after: rows at exactly zero after which a latent is reported as dead.

    Returns:
        The dictionary; its codes are dense. Parameters: those of the encoder, `decoder` (width, d),
        `decoder_bias` (d), `values` (width, levels).

    Raises:
        ValueError: fewer than two levels.

    Reference:
        Hsu et al. (2023), "Disentanglement via latent quantization", arXiv 2305.18378.
    """
    _check_levels(levels)

    def extra() -> Params:
        return {"values": jnp.tile(jnp.linspace(-0.5, 0.5, levels)[None], (width, 1))}

    def grid(params: Params, h: Array) -> tuple[Array, Array]:
        return quantise.nearest_value(h, params["values"])

    def cost(values: Array, h: Array, step: Array) -> Array:
        of_values = weight_at(codebook_weight, step) * quantise.pull(values, h)
        return of_values + weight_at(commitment_weight, step) * quantise.pull(h, values)

    def code(values: Array, h: Array) -> Array:
        return quantise.straight_through(values, h)

    return _quantised(width, levels, extra, grid, code, cost, measure, scores, centre, dead_after)


def finite_scalar(
    width: int,
    *,
    levels: int = 5,
    measure: Measure = unexplained,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    centre: Callable[[Array], Array] = atom_kinds.mean_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""Every latent is rounded to a fixed grid: no codebook to learn, none to collapse.

    $h = (x - b_d) W_e^\top + b_e$, $z = q(h)$ with q of `quantise.finite_levels`, $\hat x = z W_d +
    b_d$, $L = \mathrm{error}(\hat x, x)$, gradients straight through the rounding.

    Args:
        width: number of latents; the implicit codebook has levels to the power width words.
        levels: places of each latent in [-1, 1].
        measure: the reconstruction error.
        scores: the encoder; `mlp` for one with a hidden layer.
        centre: first decoder bias.
        dead_after: rows at exactly zero after which a latent is reported as dead.

    Returns:
        The dictionary; its codes are dense.

    Raises:
        ValueError: fewer than two levels.

    Reference:
        Mentzer et al. (2023), arXiv 2309.15505; see `quantise.finite_levels` on its code.
    """
    _check_levels(levels)

    def grid(params: Params, h: Array) -> tuple[Array, Array]:
        del params
        place = quantise.finite_levels(h, levels)
        return place, jnp.round(place * (levels // 2)).astype(jnp.int32) + levels // 2

    def code(place: Array, h: Array) -> Array:
        return place  # its derivative goes through the rounding by itself

    def cost(place: Array, h: Array, step: Array) -> Array:
        return jnp.zeros(())

    return _quantised(width, levels, dict, grid, code, cost, measure, scores, centre, dead_after)


def _quantised(
    width: int,
    levels: int,
    extra: Callable[[], Params],
    grid: Grid,
    code: Callable[[Array, Array], Array],
    cost: Cost,
    measure: Measure,
    scores: Callable[[], encoders.Scores],
    centre: Callable[[Array], Array],
    dead_after: int,
) -> Dictionary:
    encoder, kind = scores(), atom_kinds.free(1.0)

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        return atom_kinds.start(key, sample, width, encoder, kind, centre) | extra()

    def encode(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... width"]:
        def rows(p: Params, x: Array) -> Array:
            return grid(p, encoders.dense_scores(encoder, p, x))[0]

        return encoders.over_rows(rows, params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        h = encoders.dense_scores(encoder, params, x)
        values, level = grid(params, h)
        z, away = code(values, h), cost(values, h, stats.step)
        x_hat = linear_decode(params, z)
        used = jnp.stack([(level == n).sum(0, dtype=jnp.float32) for n in range(levels)], -1)
        own = {"quantisation": away, "perplexity": quantise.perplexity(used).mean()}
        info = loss_info(z, x_hat, target, stats, dead_after, own)
        return measure(x_hat, target) + away, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)


def _check_levels(levels: int) -> None:
    if levels < 2:
        raise ValueError(f"{levels=}: a code needs at least 2")
