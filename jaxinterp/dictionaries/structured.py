"""Structured autoencoders: sparse codes for concepts, a low-rank part for what binds them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats, WithRest
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure
from jaxinterp.dictionaries.p_anneal import p_anneal
from jaxinterp.dictionaries.penalties import Weight, atom_norms, weight_at

Params = dict[str, Array]


def structured(
    recipe: Callable[..., Dictionary] = p_anneal,
    *,
    low_rank_weight: Weight = 0.1,
    **options: Any,
) -> Dictionary:
    r"""Any variant, with a second code of low rank beside its sparse one.

    $\hat x = (S + R) W_d + b_d$, $S$ the recipe's codes, $R = (x - b_d) A^\top$, and

    $L = L_{\mathrm{recipe}} + \gamma\, \lVert R \rVert_* / \sqrt n$

    over a batch of n rows, codes weighed by the lengths of their atoms: concepts that depend on
    each other share directions in R instead of being written into each other's sparse code. The
    sparsity penalty of the recipe is on S alone.

    Args:
        recipe: a variant with an `objective` and dense codes; with `p_anneal` the penalty goes from
            an L1 norm towards a count, as in the paper.
        low_rank_weight: $\gamma$, or a schedule of it, in units of the loss per unit of code.
        **options: the recipe's own arguments.

    Returns:
        The dictionary; its codes are `WithRest`, the recipe's codes and $R W_d$. Parameters: as the
        recipe, and `low_rank` A (width, d).

    Reference:
        "I predict therefore I am", arXiv 2503.08980, of which a summary was read: the split of the
        codes into S and R, and R's form, are inferences.
    """

    def objective(
        params: Params, codes: Codes | Array, target: Array, measure: Measure
    ) -> tuple[Array, Array]:
        x_hat = linear_decode(params, codes) + params["rest"]
        return x_hat, measure(x_hat, target)

    plain = recipe(objective=objective, **options)

    def rest(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        bias = params["decoder_bias"].reshape((1,) * (x.ndim - 1) + (-1,))
        return (x - bias) @ params["low_rank"].T @ params["decoder"]

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        params = plain.init(key, sample)
        return params | {"low_rank": jnp.zeros_like(params["decoder"])}

    def encode(params: Params, x: Float[Array, "... d"]) -> WithRest:
        return WithRest(plain.encode(params, x), rest(params, x))

    def decode(params: Params, codes: WithRest) -> Float[Array, "... d"]:
        return plain.decode(params, codes.codes) + codes.rest

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        # The objective sees the parameters and the codes; what passes them goes with the former.
        value, info = plain.loss(params | {"rest": rest(params, x)}, stats, x, target, key)
        # Rows enter a nuclear norm through their triangular factor only.
        rows = jax.lax.stop_gradient(x - params["decoder_bias"][None]).astype(jnp.float32)
        triangle = jnp.linalg.qr(rows, mode="r") * len(x) ** -0.5
        lengths = atom_norms(params["decoder"])
        size = nuclear_norm(triangle @ (lengths[:, None] * params["low_rank"]).T)
        info = info._replace(metrics=info.metrics | {"nuclear": size})
        return value + weight_at(low_rank_weight, stats.step) * size, info

    return plain._replace(init=init, encode=encode, decode=decode, loss=loss)


@jax.custom_vjp
def nuclear_norm(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    r"""$\lVert M \rVert_* = \sum_i \sigma_i$, with gradient $U V^\top$ over the $\sigma_i > 0$.

    From the Gram matrix of the shorter side. Singular values below about 1e-3 of the largest are
    rounding in float32 and have no gradient.
    """
    return _nuclear_forward(matrix)[0]


def _nuclear_forward(matrix: Array) -> tuple[Array, Array]:
    wide = matrix.shape[0] <= matrix.shape[1]
    m = matrix if wide else matrix.T
    values, vectors = jnp.linalg.eigh(jnp.einsum("mi,ni->mn", m, m, precision="highest"))
    there = values > 1e-6 * values[-1]
    sigma = jnp.sqrt(jnp.where(there, values, 0.0))
    scaled = vectors * jnp.where(there, 1 / jnp.where(there, sigma, 1.0), 0.0)[None]
    gradient = scaled @ (vectors.T @ m)
    return sigma.sum(), gradient if wide else gradient.T


nuclear_norm.defvjp(_nuclear_forward, lambda kept, g: (g * kept,))


def shrink_singular_values(
    matrix: Float[Array, "m n"], amount: float | Float[Array, ""]
) -> Float[Array, "m n"]:
    r"""The proximal map of the nuclear norm: every singular value less by `amount`, at least 0.

    $\arg\min_W \frac12 \lVert W - M \rVert^2 + t \lVert W \rVert_*$.

    Reference:
        Cai, Candes & Shen (2010), arXiv 0810.3286, theorem 2.1.
    """
    u, sigma, v = jnp.linalg.svd(matrix, full_matrices=False)
    return (u * jnp.maximum(sigma - amount, 0.0)[None]) @ v
