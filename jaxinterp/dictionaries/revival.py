"""Bringing back latents that no input activates any more."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinterp.dictionaries.base import Codes
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
    residual = jax.lax.stop_gradient(residual)
    k = min(k or max(x.shape[-1] // 2, 1), dead.shape[0])
    weight, dead = dead, dead > 0

    def attempt() -> Array:
        rows, matrix, bias = scores.affine(params, x)
        parts = (rows, matrix, bias, params["decoder"], weight)
        split = ambient_split(len(rows), len(matrix))
        if split is None:
            return measure(_attempt(*parts, k=k, signed=signed), residual)
        # With half of the dimension as k, exchanging candidates would send as much as all scores.
        on_device = partial(_attempt, k=k, signed=signed, split=split)
        by_row, by_latent = split.by_row(), split.by_latent()
        specs = (by_row, by_latent, by_latent, by_latent, by_latent)
        return measure(split.run(on_device, parts, specs, by_row), residual)

    return jax.lax.cond(dead.any(), attempt, lambda: jnp.zeros(()))


def _attempt(
    rows: Float[Array, "n d"],
    matrix: Float[Array, "width d"],
    bias: Float[Array, " width"],
    decoder: Float[Array, "width t"],
    weight: Bool[Array, " width"] | Float[Array, " width"],
    *,
    k: int,
    signed: bool,
    split: Split | None = None,
) -> Float[Array, "n t"]:
    """What the chosen dead latents write; with a split, from the part that one device has."""
    activate = (lambda h: h) if signed else jax.nn.relu
    dead = weight > 0

    def strength(scores: Array) -> Array:
        return jnp.where(dead[None], jnp.abs(activate(scores)), -1.0)

    parts = jax.lax.stop_gradient((rows, matrix, bias))
    mine = largest_of_product(*parts, min(k, len(matrix)), strength)
    indices, chosen = mine.indices, dead[mine.indices]
    if split is not None:
        chosen = chosen & among_largest(mine, k, split)
    values = activate(selected_scores(rows, matrix, bias, indices)) * weight[indices]
    written = decode_sparse(Codes(jnp.where(chosen, values, 0.0), indices), decoder)
    return written if split is None else split.add_latents(written)


def check_aux_k(aux_k: int | None, width: int) -> None:
    """Refuses a number of dead latents that no dictionary of this width can have."""
    if aux_k is not None and not 1 <= aux_k <= width:
        raise ValueError(f"{aux_k=} with {width=}: need 1 <= aux_k <= width")
