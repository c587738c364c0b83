"""Crosscoders: one sparse code that is read from, and written to, several sites at once.

The sites are layers of one model, or the same layer of several models (model diffing): activations
come stacked, `x` (batch, sites, d). A latent has one activation and, at each site, an atom of its
own, whose length says how much that site takes part; `evaluation.model_diff` reads it off.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.atoms import free
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats, unit_rows
from jaxinterp.dictionaries.batch_topk import batch_topk
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.penalties import Weight, atom_norms, plain_l1
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.scores import uncentred

Params = dict[str, Array]


def crosscoder(
    recipe: Callable[..., Dictionary], *, norm: float = 0.08, **options: Any
) -> Dictionary:
    r"""Any variant as a crosscoder.

    $z = \sigma(\sum_m x_m W_{e,m}^\top + b_e)$ and $\hat x_m = z W_{d,m} + b_{d,m}$. The variant
    sees the sites laid end to end, and each latent in units of what it writes:
    $\tilde z_j = z_j \sum_m \lVert W_{d,m,j} \rVert$. That is what is compared when the strongest
    latents are chosen, what a threshold is about, and what a penalty of plain codes sums up.

    Args:
        recipe: a variant with `scores` and `atoms`, such as `topk`, `batch_topk` or `jumprelu`.
        norm: length of every atom at every site at the start.
        **options: the recipe's own arguments.

    Returns:
        The dictionary; x and target are (batch, sites, d). Codes are such that
        $\hat x_m = z W_{d,m} + b_{d,m}$. Parameters: those of the recipe, with `encoder` and
        `decoder` (width, sites, d), `decoder_bias` (sites, d).

    Reference:
        Lindsey et al. (2024), "Sparse crosscoders for cross-layer features and model diffing".
    """
    plain = recipe(scores=uncentred, atoms=free, **options)

    def init(key: Key[Array, ""], sample: Float[Array, "..."]) -> Params:
        if sample.ndim != 3:
            raise ValueError(f"a sample of shape {sample.shape}: a crosscoder reads (n, sites, d)")
        first, second = jax.random.split(key)
        _, sites, d = sample.shape
        atoms = norm * unit_rows(jax.random.normal(first, (plain.width * sites, d)))
        atoms = atoms.reshape(plain.width, sites, d)
        params = plain.init(second, joined(sample))
        return params | {
            "encoder": atoms,
            "decoder": atoms + 0.0,  # a buffer of its own, so that both can be donated
            "decoder_bias": params["decoder_bias"].reshape(sites, d),
        }

    def encode(params: Params, x: Float[Array, "... sites d"]) -> Any:
        codes = plain.encode(_by_what_is_written(params), joined(x))
        lengths = _lengths(params)
        if isinstance(codes, Codes):
            return Codes(codes.values / lengths[codes.indices], codes.indices)
        return codes / lengths.reshape((1,) * (codes.ndim - 1) + (-1,))

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b sites d"],
        target: Float[Array, "b sites d"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        return plain.loss(_by_what_is_written(params), stats, joined(x), joined(target), key)

    return plain._replace(init=init, encode=encode, decode=_decode, loss=loss)


def l1_crosscoder(width: int, *, weight: Weight = 2.0, **options: Any) -> Dictionary:
    r"""The crosscoder with an L1 penalty of summed norms.

    $L = \mathrm{E} \sum_m \lVert x_m - \hat x_m \rVert^2
    + \lambda\, \mathrm{E} \sum_j z_j \sum_m \lVert W_{d,m,j} \rVert$.

    A sum of norms makes a site that gains little from a latent drop out of it entirely. When models
    are compared, that is an artefact: latents of both come out as one model's own (see
    `evaluation.model_diff.latent_scaling`), which `batch_topk_crosscoder` avoids.

    Args:
        width: number of latents.
        weight: $\lambda$, or a schedule of it, usually rising over the first 5 % of the steps; for
            sites that were scaled to a mean norm of $\sqrt d$.
        **options: of `crosscoder` and `relu`.

    Returns:
        The dictionary; its codes are dense.

    Reference:
        Lindsey et al. (2024); constants as in ckkissane/crosscoder-model-diff-replication.
    """
    return crosscoder(partial(relu, penalty=plain_l1), width=width, weight=weight, **options)


def batch_topk_crosscoder(width: int, k: int | float, **options: Any) -> Dictionary:
    r"""The crosscoder that keeps the $kB$ latents of a batch which write most.

    Its loss does not care how a latent's length is shared among the sites, so the relative lengths
    tell a latent of one model from a shared one more reliably than under an L1 penalty.

    Args:
        width: number of latents.
        k: latents kept per row on average.
        **options: of `crosscoder` and `batch_topk`.

    Returns:
        The dictionary; its codes are dense. `threshold` is about $\tilde z$.

    Reference:
        Minder et al. (2025), "Overcoming sparsity artifacts in crosscoders to interpret
        chat-tuning", arXiv 2504.02922.
    """
    return crosscoder(batch_topk, width=width, k=k, **options)


def joined(x: Float[Array, "... sites d"]) -> Float[Array, "... all"]:
    """The sites laid end to end: to encoder and decoder they are one long vector."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _decode(params: Params, codes: Codes | Array) -> Float[Array, "... sites d"]:
    names = ("decoder", "decoder_bias")
    y = linear_decode({name: joined(params[name]) for name in names}, codes)
    return y.reshape(*y.shape[:-1], *params["decoder_bias"].shape)


def _lengths(params: Params) -> Float[Array, " width"]:
    """The summed norms of each latent's atoms; 1 where they are all zero."""
    width, sites, d = params["decoder"].shape
    total = atom_norms(params["decoder"].reshape(-1, d)).reshape(width, sites).sum(1)
    return jnp.where(total > 0, total, 1.0)


def _by_what_is_written(params: Params) -> Params:
    """The same function of x, with each latent in units of the summed norms of its atoms."""
    lengths = _lengths(params)
    return params | {
        "encoder": joined(params["encoder"]) * lengths[:, None],
        "encoder_bias": params["encoder_bias"] * lengths,
        "decoder": joined(params["decoder"]) / lengths[:, None],
        "decoder_bias": joined(params["decoder_bias"]),
    }
