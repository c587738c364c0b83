"""TopK sparse autoencoder: each input keeps its k strongest latents."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import (
    Codes,
    Dictionary,
    LossInfo,
    Stats,
    geometric_median,
    tangent_rows,
    unit_rows,
)
from jaxinterp.dictionaries.sparsify import (
    decode_sparse,
    largest,
    selected_scores,
    top_k_scores,
)

Params = dict[str, Array]


def topk(
    width: int,
    k: int,
    *,
    aux_k: int | None = None,
    aux_weight: float = 1 / 32,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A TopK sparse autoencoder with unit-norm atoms.

    $z = \mathrm{TopK}(\mathrm{relu}((x - b_d) W_e^\top + b_e))$, $\hat x = z W_d + b_d$, and

    $L = \mathrm{E}\lVert x - \hat x \rVert^2 / V + \alpha\,
    \mathrm{E}\lVert \mathrm{sg}(e) - \hat e \rVert^2 / \mathrm{E}\lVert e \rVert^2$,

    with $V$ the variance of the batch around its mean, $e = x - \hat x$, and $\hat e$ the
    reconstruction of $e$ from the `aux_k` strongest dead latents, whose gradient reaches the
    encoder: that is what revives them.

    Args:
        width: number of latents.
        k: latents kept per row.
        aux_k: dead latents in the auxiliary loss; None for half the input dimension.
        aux_weight: weight $\alpha$ of the auxiliary loss.
        dead_after: rows without firing after which a latent counts as dead.

    Returns:
        The dictionary. Parameters: `encoder` and `decoder` (width, d), one row per latent,
        `encoder_bias` (width), `decoder_bias` (d).

    Raises:
        ValueError: k or aux_k outside 1 .. width.

    Reference:
        Gao et al. (2024), "Scaling and evaluating sparse autoencoders", arXiv 2406.04093,
        sections 2.2-2.4 and appendix A (transposed initialisation, geometric median, AuxK).
    """
    if not 1 <= k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 1 <= k <= width")
    if aux_k is not None and not 1 <= aux_k <= width:
        raise ValueError(f"{aux_k=} with {width=}: need 1 <= aux_k <= width")

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        atoms = unit_rows(jax.random.normal(key, (width, sample.shape[1])))
        return {
            "encoder": atoms,
            "encoder_bias": jnp.zeros(width),
            "decoder": atoms + 0.0,  # a buffer of its own, so that both can be donated
            "decoder_bias": geometric_median(sample),
        }

    def encode(params: Params, x: Float[Array, "... d"]) -> Codes:
        rows = x.reshape(-1, x.shape[-1]) - params["decoder_bias"][None]
        codes = top_k_scores(rows, params["encoder"], params["encoder_bias"], k)
        return jax.tree.map(
            lambda a: a.reshape(*x.shape[:-1], k),
            Codes(jax.nn.relu(codes.values), codes.indices),
        )

    def decode(params: Params, codes: Codes) -> Float[Array, "... d"]:
        y = decode_sparse(codes, params["decoder"])
        return y + params["decoder_bias"].reshape((1,) * (y.ndim - 1) + (-1,))

    def revival(params: Params, stats: Stats, x: Array, error: Array) -> Array:
        """Relative error of the dead latents' attempt at what the live ones left over."""
        dead = stats.silent > dead_after
        n = min(aux_k or x.shape[1] // 2, width)
        rows = x - params["decoder_bias"][None]

        def attempt() -> Array:
            scores = jax.lax.stop_gradient(
                rows @ params["encoder"].T + params["encoder_bias"][None]
            )
            indices = largest(jnp.where(dead[None], scores, -jnp.inf), n).indices
            values = selected_scores(rows, params["encoder"], params["encoder_bias"], indices)
            values = jnp.where(dead[indices], jax.nn.relu(values), 0.0)
            guess = decode_sparse(Codes(values, indices), params["decoder"])
            return jnp.square(error - guess).sum() / (jnp.square(error).sum() + 1e-30)

        return jax.lax.cond(dead.any(), attempt, lambda: jnp.zeros(()))

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b d"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        codes = encode(params, x)
        error = target - decode(params, codes)
        variance = jnp.square(target - target.mean(0, keepdims=True)).sum()
        unexplained = jnp.square(error).sum() / variance
        aux = revival(params, stats, x, jax.lax.stop_gradient(error))
        active = codes.values > 0
        fired = jnp.zeros(width, bool).at[codes.indices].max(active)
        metrics = {
            "variance_explained": 1 - unexplained,
            "l0": active.sum(-1).mean(dtype=jnp.float32),
            "aux": aux,
            "dead": (stats.silent > dead_after).mean(dtype=jnp.float32),
        }
        return unexplained + aux_weight * aux, LossInfo(metrics, fired)

    def project(params: Params) -> Params:
        return params | {"decoder": unit_rows(params["decoder"])}

    def tangent(params: Params, gradient: Params) -> Params:
        return gradient | {"decoder": tangent_rows(params["decoder"], gradient["decoder"])}

    return Dictionary(width, init, encode, decode, loss, project, tangent)
