"""Mutual Choice and Feature Choice: sparsity as a budget of matches of tokens and latents."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats, geometric_median
from jaxinterp.dictionaries.batch_selection import batch_top_k, column_top_k
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, Objective, squared_error, unexplained, whole
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.revival import auxiliary_error, check_aux_k

Params = dict[str, Array]


def mutual_choice(width: int, k: int | float, **parts: Any) -> Dictionary:
    r"""Any kB matches in a batch of B rows: `batch_topk`, with `aux_zipf_loss` against disuse.

    Args:
        width: number of latents.
        k: latents kept per row on average.
        **parts: the keywords of `feature_choice` but `choose_from` and `exponent`.

    Returns:
        The dictionary; parameters and codes as `feature_choice`.

    Raises:
        ValueError: k or aux_k outside 0 .. width.

    Reference:
        Ayonrinde (2024), arXiv 2411.02124.
    """
    return feature_choice(width, k, choose_from=None, **parts)


def feature_choice(
    width: int,
    k: int | float,
    *,
    choose_from: int | None = 1000,
    exponent: float = 1.0,
    offset: float = 7.0,
    decay: float = 0.99,
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
    r"""Every latent chooses its tokens: latent j keeps its $m_j$ largest scores in a batch.

    With $h = \mathrm{relu}((x - b_d) W_e^\top + b_e)$ of a batch of B rows, training keeps the
    $m_j$ largest entries of column j, $\sum_j m_j = kB$, $m_j \ge 1$ (`budgets`): no latent with a
    positive score can be without a token. Latents are ranked by their running density, and $m$
    follows Zipf's law of the rank; with `exponent` 0 all are equal. Until `choose_from`, the kB
    largest entries of the batch are kept (Mutual Choice). Inference looks at one row alone:
    $z_j = h_j\, 1[h_j > \theta_j]$ with a running mean of each latent's border (`_border`).

    $L = \mathrm{E}\lVert x - \hat x \rVert^2 + \alpha$ `aux_zipf_loss`.

    Args:
        width: number of latents.
        k: latents kept per row on average.
        choose_from: first step of Feature Choice; None for never.
        exponent: of Zipf's law of the budgets and of the auxiliary loss.
        offset: of Zipf's law, in ranks.
        decay: what stays in a step of the running densities and thresholds.
        aux_k: under-used latents in the auxiliary loss; None for half the input dimension.
        aux_weight: $\alpha$, or a schedule of it.
        aux_measure: how the auxiliary reconstruction of the residual is measured.
        measure: the reconstruction error.
        objective: what is measured: `whole`, or nested prefixes (`matryoshka`).
        scores: the encoder.
        atoms: the kind of decoder.
        centre: first decoder bias.
        dead_after: rows without activity after which a latent is reported as dead.

    Returns:
        The dictionary; its codes are dense. Parameters: as `topk`, and `threshold` and `density`
        (width), float32, which the loss sets itself; thresholds are -1 for latents never kept.

    Raises:
        ValueError: k or aux_k outside 0 .. width, or a batch that can't give each latent a token.

    Reference:
        Ayonrinde (2024), "Adaptive sparse allocation with mutual choice & feature choice sparse
        autoencoders", arXiv 2411.02124. The constants of Zipf's law, the warm-up with Mutual Choice
        and the thresholds of inference could not be checked against the paper.
    """
    if not 0 < k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 0 < k <= width")
    check_aux_k(aux_k, width)
    encoder, kind = scores(), atoms()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        own = {"threshold": jnp.full(width, -1.0), "density": jnp.full(width, k / width)}
        return atom_kinds.start(key, sample, width, encoder, kind, centre) | own

    def encode_rows(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n width"]:
        h = encoders.dense_scores(encoder, params, x)
        # Asked this way round, scores that are NaN stay so: a bad row shows.
        return jnp.where(h <= jnp.maximum(params["threshold"], 0.0)[None], 0.0, h)

    def encode(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... width"]:
        return encoders.over_rows(encode_rows, params, x)

    def choose(density: Array, step: Array, h: Array) -> Array:
        matches = max(int(k * h.shape[0]), 1)
        if choose_from is None:
            return batch_top_k(h, matches)
        by_rank = budgets(width, matches, len(h), exponent=exponent, offset=offset)
        totals = jnp.asarray(by_rank)[_rank(density)]
        # The mask alone is chosen by a branch: what it keeps has the same gradient in both.
        free = jax.lax.stop_gradient(h)
        kept = jax.lax.cond(
            step >= choose_from,
            lambda: column_top_k(free, totals) > 0,
            lambda: batch_top_k(free, matches) > 0,
        )
        return jnp.where(kept, h, 0.0)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        h = encoders.dense_scores(encoder, params, x)
        z = choose(params["density"], stats.step, h)
        x_hat, error = objective(params, z, target, measure)
        density = decay * params["density"] + (1 - decay) * (z > 0).mean(0, dtype=jnp.float32)
        density = jax.lax.stop_gradient(density)
        aux = aux_zipf_loss(
            *(params, encoder, x, target - x_hat, density, aux_k),
            exponent=exponent,
            offset=offset,
            measure=aux_measure,
        )
        new = _border(h, z, by_latent=choose_from is not None and stats.step >= choose_from)
        before = params["threshold"]
        mean = jnp.where(before < 0, new, decay * before + (1 - decay) * new)
        threshold = jax.lax.stop_gradient(jnp.where(jnp.isfinite(new), mean, before))
        own = {"aux": aux, "least_density": density.min()}
        assigned = {"threshold": threshold, "density": density}
        info = loss_info(z, x_hat, target, stats, dead_after, own, assigned)
        return error + weight_at(aux_weight, stats.step) * aux, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)


def aux_zipf_loss(
    params: Params,
    scores: encoders.Scores,
    x: Float[Array, "n d"],
    residual: Float[Array, "n t"],
    density: Float[Array, " width"],
    k: int | None,
    *,
    exponent: float = 1.0,
    offset: float = 7.0,
    measure: Measure = unexplained,
) -> Float[Array, ""]:
    r"""The auxiliary loss of `revival` for latents that are used less than Zipf's law says.

    With densities $p$ and $q_r \propto 1 / (r + \beta)^\alpha$ of the same sum, the latent of rank
    r takes part with the weight $\max(0, 1 - p / q_r)$. A latent that never fires has weight one:
    AuxK is the case where only these count.

    Args:
        params: the dictionary's parameters.
        scores: its encoder.
        x: rows to encode.
        residual: what is left to explain; no gradient flows into it.
        density: share of the rows on which each latent is active.
        k: latents per row; None for half the input dimension.
        exponent: $\alpha$.
        offset: $\beta$, in ranks.
        measure: the error of the auxiliary reconstruction.

    Reference:
        The name is that of Ayonrinde (2024), arXiv 2411.02124, whose exact form could not be
        checked: this is a loss with the properties that its summary tells.
    """
    law = jnp.asarray(_zipf(len(density), exponent, offset), jnp.float32)
    wanted = (law * density.sum())[_rank(density)]
    # Rounding must not make a latent on the curve an under-used one.
    short = 1 - density / jnp.maximum(wanted, jnp.finfo(jnp.float32).tiny)
    weight = jax.lax.stop_gradient(jnp.where(short > 1e-3, short, 0.0))
    return auxiliary_error(params, scores, x, residual, weight, k, measure=measure)


def budgets(
    width: int, matches: int, rows: int, *, exponent: float = 1.0, offset: float = 7.0
) -> Int[np.ndarray, " width"]:
    r"""How many tokens each rank may keep: $m_r \propto 1 / (r + \beta)^\alpha$, at least 1.

    One match is given to each latent and the rest by the law; what rounding leaves over goes to
    the first ranks that are not full, so that the sum is exact.

    Args:
        width: number of latents.
        matches: their sum.
        rows: most tokens that a latent can keep.
        exponent: $\alpha$.
        offset: $\beta$.

    Raises:
        ValueError: fewer matches than latents, or more than there are entries.
    """
    if not width <= matches <= width * rows:
        raise ValueError(
            f"{matches} matches for {width} latents in a batch of {rows} rows: Feature Choice "
            f"needs at least one for each latent; give a larger batch, or a larger k"
        )
    extra = np.floor((matches - width) * _zipf(width, exponent, offset)).astype(np.int64)
    counts = np.minimum(1 + extra, rows)
    left = matches - counts.sum()
    while left:
        open_ranks = np.flatnonzero(counts < rows)[:left]
        counts[open_ranks] += 1
        left -= len(open_ranks)
    return counts.astype(np.int32)


def _zipf(width: int, exponent: float, offset: float) -> Float[np.ndarray, " width"]:
    law = 1 / (np.arange(width) + 1 + offset) ** exponent
    return law / law.sum()


def _border(
    h: Float[Array, "b width"], z: Float[Array, "b width"], by_latent: bool | Bool[Array, ""]
) -> Float[Array, " width"]:
    """Halfway between the smallest kept score and the largest one that was not.

    Of each latent, infinite where it keeps none, or of all together. The smallest kept score itself
    would be too high a threshold for a latent that keeps one or two.
    """
    kept = jnp.where(z > 0, z, jnp.inf).min(0)
    left = jnp.where(z > 0, 0.0, jax.nn.relu(h)).max(0)
    kept = jnp.where(by_latent, kept, kept.min())
    left = jnp.where(by_latent, left, left.max())
    return ((kept + left) / 2).astype(jnp.float32)


def _rank(density: Float[Array, " width"]) -> Int[Array, " width"]:
    """Place of each latent in the order of falling density."""
    return jnp.argsort(jnp.argsort(-density))
