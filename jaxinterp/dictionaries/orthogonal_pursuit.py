"""Sparse autoencoder whose encoder is orthogonal matching pursuit on the decoder's atoms."""

from typing import Any

from jaxtyping import Array

from jaxinterp.dictionaries.base import Codes, Dictionary
from jaxinterp.dictionaries.fixed_k import check_k, fixed_k
from jaxinterp.dictionaries.matching import merge_repeats
from jaxinterp.dictionaries.refitting import nonnegative_codes, orthogonal_codes
from jaxinterp.dictionaries.scores import matched


def orthogonal_pursuit(
    width: int,
    k: int,
    *,
    signed: bool = False,
    tolerance: float | Array = 0.0,
    **parts: Any,
) -> Dictionary:
    r"""The best k coefficients on atoms that are chosen one after the other.

    $z = \mathrm{OMP}_k(x - b_d; W_d)$, $\hat x = z W_d + b_d$; loss as `topk`. The codes are least
    squares on the chosen atoms, so the reconstruction error has no gradient through them: only the
    decoder learns.

    Args:
        width: number of latents.
        k: latents per row.
        signed: whether codes may be negative; otherwise the least squares are non-negative.
        tolerance: length of the residual, in units of the activations, at which a row is done.
        **parts: the keywords of `fixed_k.fixed_k`, but for `scores`.

    Returns:
        The dictionary. Parameters: `decoder` (width, d), unit rows, and `decoder_bias` (d).

    Raises:
        ValueError: k outside 1 .. width; when it encodes, as `matching.matching_codes`.

    Reference:
        Pati, Rezaiifar & Krishnaprasad (1993); as an autoencoder: overcomplete, whose non-negative
        least squares stop after ten steps and are not exact.
    """
    check_k(k, width)
    codes_of = orthogonal_codes if signed else nonnegative_codes

    def select(rows: Array, matrix: Array, bias: Array) -> Codes:
        del bias
        return merge_repeats(codes_of(rows, matrix, k, tolerance=tolerance))

    return fixed_k(width, select, signed=signed, scores=matched, **parts)
