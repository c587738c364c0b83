"""The variants that keep a fixed number of latents in every row, up to how these are chosen."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import revival
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats, geometric_median
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, Objective, relative_error, unexplained, whole
from jaxinterp.dictionaries.info import dead_latents, loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.revival import check_aux_k

Params = dict[str, Array]
# (rows, matrix, bias) -> codes, for scores `rows @ matrix.T + bias`
Select = Callable[[Array, Array, Array], Codes]


def fixed_k(
    width: int,
    select: Select,
    *,
    select_training: Callable[..., Codes] | None = None,
    signed: bool = False,
    aux_k: int | None = None,
    aux_weight: Weight = 1 / 32,
    aux_measure: Measure = relative_error,
    measure: Measure = unexplained,
    objective: Objective = whole,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    atoms: Callable[[], atom_kinds.Atoms] = atom_kinds.unit,
    centre: Callable[[Array], Array] = geometric_median,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A dictionary whose codes are chosen by `select`, with an auxiliary loss against death.

    $L = \mathrm{error}(\hat x, x) + \alpha\, \mathrm{aux}$.

    Args:
        width: number of latents.
        select: `(rows, matrix, bias) -> Codes`.
        select_training: `(step, rows, matrix, bias) -> Codes` in the loss; None for `select`.
        signed: whether codes may be negative, those of the auxiliary loss too.
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
        The dictionary; its codes are `Codes`.

    Raises:
        ValueError: aux_k outside 1 .. width.
    """
    check_aux_k(aux_k, width)
    encoder, kind = scores(), atoms()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        return atom_kinds.start(key, sample, width, encoder, kind, centre)

    def encode(params: Params, x: Float[Array, "... d"]) -> Codes:
        return encoders.over_rows(lambda p, rows: select(*encoder.affine(p, rows)), params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        dead = dead_latents(stats, dead_after)
        params, attempt = revival.attempt(params, encoder, x, dead, aux_k, signed=signed)
        parts = encoder.affine(params, x)
        codes = select_training(stats.step, *parts) if select_training else select(*parts)
        x_hat, error = objective(params, codes, target, measure)
        aux = revival.attempt_error(attempt, target - x_hat, dead, aux_measure)
        info = loss_info(codes, x_hat, target, stats, dead_after, {"aux": aux})
        return error + weight_at(aux_weight, stats.step) * aux, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)


def check_k(k: int, width: int) -> None:
    """Refuses a number of latents that no row can have."""
    if not 1 <= k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 1 <= k <= width")


def rectified(codes: Codes) -> Codes:
    """Codes that are not negative."""
    return Codes(jax.nn.relu(codes.values), codes.indices)


def keep_first(codes: Codes, kept: Float[Array, ""]) -> Codes:
    """Sorted codes with only the first `kept`, a traced number, of each row."""
    rank = jnp.arange(codes.values.shape[-1])[None]
    return Codes(jnp.where(rank < kept, codes.values, 0.0), codes.indices)
