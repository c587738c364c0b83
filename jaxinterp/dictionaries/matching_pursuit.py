"""Matching-pursuit sparse autoencoder: the encoder is k steps of pursuit on the decoder's atoms."""

from typing import Any

from jaxtyping import Array

from jaxinterp.dictionaries.base import Codes, Dictionary
from jaxinterp.dictionaries.fixed_k import check_k, fixed_k
from jaxinterp.dictionaries.matching import matching_codes, merge_repeats
from jaxinterp.dictionaries.scores import matched


def matching_pursuit(
    width: int,
    k: int,
    *,
    signed: bool = False,
    tolerance: float | Array = 0.0,
    stop_at_repeat: bool = False,
    **parts: Any,
) -> Dictionary:
    r"""MP-SAE: later atoms explain only what the earlier ones left over.

    $z = \mathrm{MP}_k(x - b_d; W_d)$, $\hat x = z W_d + b_d$; loss as `topk`, its gradient through
    all k steps. So a child feature that is hardly visible beside its parent is found once the
    parent is taken off, which one linear look at x can't do.

    The number of steps belongs to the encoder, not to the parameters: the same parameters with
    another `k` or `tolerance` give shorter or longer codes,

        exact = matching_pursuit(width, 4 * k, tolerance=0.1).encode(params, x)

    Args:
        width: number of latents.
        k: steps, and so at most as many latents per row.
        signed: whether codes may be negative.
        tolerance: length of the residual, in units of the activations, at which a row is done.
        stop_at_repeat: a row is done after the first choice of a latent that it has already, as in
            SAELens; without it the repeated latent's values add up.
        **parts: the keywords of `fixed_k.fixed_k`, but for `scores`.

    Returns:
        The dictionary. Parameters: `decoder` (width, d), unit rows, and `decoder_bias` (d).

    Raises:
        ValueError: k outside 1 .. width; when it encodes, as `matching.matching_codes`.

    Reference:
        Costa et al. (2025), "From flat to hierarchical: extracting sparse representations with
        matching pursuit", arXiv 2506.03093. The signed maximum, the values through the chosen
        rows and the stops are those of overcomplete and SAELens; the paper's training settings
        are not verified.
    """
    check_k(k, width)

    def select(rows: Array, matrix: Array, bias: Array) -> Codes:
        del bias
        stops = {"tolerance": tolerance, "stop_at_repeat": stop_at_repeat}
        return merge_repeats(matching_codes(rows, matrix, k, signed=signed, **stops))

    return fixed_k(width, select, signed=signed, scores=matched, **parts)
