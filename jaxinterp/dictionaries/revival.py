"""Bringing back latents that no input activates any more."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.branching import beside, if_needed
from jaxinterp.dictionaries.errors import Measure, relative_error
from jaxinterp.dictionaries.scores import Scores
from jaxinterp.dictionaries.shards import Split, ambient_split
from jaxinterp.dictionaries.sparsify import (
    among_largest,
    decode_sparse,
    largest_of_product,
    selected_scores,
)

Params = dict[str, Array]


def auxiliary_error(
    params: Params,
    scores: Scores,
    x: Float[Array, "n d"],
    residual: Float[Array, "n t"],
    dead: Bool[Array, " width"] | Float[Array, " width"],
    k: int | None,
    *,
    signed: bool = False,
    measure: Measure = relative_error,
) -> Float[Array, ""]:
    r"""How badly the dead latents reconstruct what the live ones left over (AuxK).

    $\hat e = \sum_{j \in K} \mathrm{relu}(h_j) W_{d,j}$ with $K$ the `k` dead latents of largest
    score in each row, measured against $\mathrm{sg}(x - \hat x)$. Its gradient reaches the rows of
    the encoder of these latents: that is what revives them. Only the k kept scores have a gradient;
    the selection has none.

    Args:
        params: the dictionary's parameters.
        scores: its encoder.
        x: rows to encode.
        residual: what is left to explain; no gradient flows into it.
        dead: latents to revive; with none, the error is 0. Of numbers in 0 .. 1 each is the weight
            of its latent's code in $\hat e$, and the latents above 0 are those to revive.
        k: dead latents per row; fewer where fewer are dead. None for half the input dimension.
        signed: whether codes may be negative; the largest magnitudes are kept then.
        measure: the error of $\hat e$ as a reconstruction of the residual.

    Reference:
        Gao et al. (2024), arXiv 2406.04093, appendix A.2.
    """
    _, written = attempt(params, scores, x, dead, k, signed=signed)
    return attempt_error(written, residual, dead, measure)


def attempt(
    params: Params,
    scores: Scores,
    x: Float[Array, "n d"],
    dead: Bool[Array, " width"] | Float[Array, " width"],
    k: int | None,
    *,
    signed: bool = False,
) -> tuple[Params, Float[Array, "n t"]]:
    r"""What the dead latents write, $\hat e$ of `auxiliary_error`, and parameters to go on with.

        params, written = attempt(params, scores, x, dead, k)  # before anything else uses them
        x_hat = ...
        auxiliary = attempt_error(written, x - x_hat, dead)

    The parameters are as they were. What else the loss does with them leaves its gradients there,
    and $\hat e$ adds its own to these only where latents are dead: in all other steps nothing of
    the size of the parameters is filled with zeros and added up.

    Args:
        params: the dictionary's parameters, all of them floating.
        scores: its encoder.
        x: rows to encode.
        dead: latents to revive, or their weights.
        k: dead latents per row; None for half the input dimension.
        signed: whether codes may be negative.

    Returns:
        The parameters, and $\hat e$ (n, t), which is 0 where no latent is dead.
    """
    k = min(k or max(x.shape[-1] // 2, 1), dead.shape[0])
    rows, matrix, bias = jax.lax.stop_gradient(scores.affine(params, x))
    split = ambient_split(len(rows), len(matrix))
    chosen = _chosen(rows, matrix, bias, dead > 0, k, signed, split)

    def write(fixed: tuple, params: Params, x: Array) -> Array:
        parts = (*scores.affine(params, x), params["decoder"], *fixed)
        if split is None:
            return _written(*parts, signed=signed)
        on_device = partial(_written, signed=signed, split=split)
        by_row, by_latent, by_both = split.by_row(), split.by_latent(), split.by_both()
        specs = (by_row, *4 * (by_latent,), by_both, by_both)
        return split.run(on_device, parts, specs, by_row)

    (params, _), written = beside((dead > 0).any(), write, (dead, *chosen), params, x)
    return params, written


def attempt_error(
    written: Float[Array, "n t"],
    residual: Float[Array, "n t"],
    dead: Bool[Array, " width"] | Float[Array, " width"],
    measure: Measure = relative_error,
) -> Float[Array, ""]:
    """How badly an `attempt` reconstructs the residual, as in `auxiliary_error`."""
    error = measure(written, jax.lax.stop_gradient(residual))
    return jnp.where(dead.any(), error, 0.0)


def _chosen(
    rows: Float[Array, "n d"],
    matrix: Float[Array, "width d"],
    bias: Float[Array, " width"],
    dead: Bool[Array, " width"],
    k: int,
    signed: bool,
    split: Split | None,
) -> Codes:
    """Numbers of the k dead latents of largest score, and which of them there are, as values.

    With a split, on each device the numbers of its own part.
    """

    def of_part(rows: Array, matrix: Array, bias: Array, dead: Array) -> Codes:
        def strength(scores: Array, dead: Array) -> Array:
            return jnp.where(dead[None], jnp.abs(_activation(signed)(scores)), -1.0)

        mine = largest_of_product(rows, matrix, bias, min(k, len(matrix)), strength, dead)
        kept = dead[mine.indices]
        return Codes(kept if split is None else kept & among_largest(mine, k, split), mine.indices)

    def of_all(*parts: Array) -> Codes:
        if split is None:
            return of_part(*parts)
        # With half of the dimension as k, exchanging candidates would send as much as all scores.
        specs = (split.by_row(), *3 * (split.by_latent(),))
        return split.run(of_part, parts, specs, split.by_both())

    return if_needed(dead.any(), of_all, rows, matrix, bias, dead)


def _written(
    rows: Float[Array, "n d"],
    matrix: Float[Array, "width d"],
    bias: Float[Array, " width"],
    decoder: Float[Array, "width t"],
    weight: Bool[Array, " width"] | Float[Array, " width"],
    kept: Bool[Array, "n k"],
    indices: Int[Array, "n k"],
    *,
    signed: bool,
    split: Split | None = None,
) -> Float[Array, "n t"]:
    """What the chosen dead latents write; with a split, from the part that one device has."""
    values = _activation(signed)(selected_scores(rows, matrix, bias, indices)) * weight[indices]
    written = decode_sparse(Codes(jnp.where(kept, values, 0.0), indices), decoder)
    return written if split is None else split.add_latents(written)


def _activation(signed: bool) -> Callable[[Array], Array]:
    return (lambda h: h) if signed else jax.nn.relu


def check_aux_k(aux_k: int | None, width: int) -> None:
    """Refuses a number of dead latents that no dictionary of this width can have."""
    if aux_k is not None and not 1 <= aux_k <= width:
        raise ValueError(f"{aux_k=} with {width=}: need 1 <= aux_k <= width")
