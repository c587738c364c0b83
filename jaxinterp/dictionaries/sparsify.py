"""Choosing which latents are active, and computing with only those.

Nothing of shape (batch, width) is made here except the scores themselves, once, forward.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.dictionaries.base import Codes


def largest(scores: Float[Array, "batch width"], k: int) -> Codes:
    """The k largest scores of each row, with their places.

    Both results stay alive on purpose: XLA turns a top-k of which only a part is used into a full
    sort of every row, tens of times slower.
    """
    values, indices = jax.lax.top_k(scores, k)
    return Codes(*jax.lax.optimization_barrier((values, indices)))


def selected_scores(
    x: Float[Array, "batch d"],
    encoder: Float[Array, "width d"],
    bias: Float[Array, " width"],
    indices: Int[Array, "batch k"],
) -> Float[Array, "batch k"]:
    """`x . encoder[i] + bias[i]` for the chosen latents i of each row."""
    return jnp.einsum("bd,bkd->bk", x, encoder[indices]) + bias[indices]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def top_k_scores(
    x: Float[Array, "batch d"],
    encoder: Float[Array, "width d"],
    bias: Float[Array, " width"],
    k: int,
) -> Codes:
    """The k largest of `x @ encoder.T + bias` in each row; gradients touch only those k.

    Args:
        x: rows to encode.
        encoder: one row per latent.
        bias: per latent.
        k: latents to keep.

    Returns:
        The kept scores, largest first, and their indices.
    """
    return largest(x @ encoder.T + bias[None], k)


def _top_k_forward(x: Array, encoder: Array, bias: Array, k: int) -> tuple[Codes, tuple]:
    codes = top_k_scores(x, encoder, bias, k)
    return codes, (x, encoder, bias, codes.indices)


def _top_k_backward(k: int, residuals: tuple, cotangent: Codes) -> tuple[Array, Array, Array]:
    x, encoder, bias, indices = residuals
    _, pullback = jax.vjp(lambda x, e, b: selected_scores(x, e, b, indices), x, encoder, bias)
    return pullback(cotangent.values)


top_k_scores.defvjp(_top_k_forward, _top_k_backward)


def decode_sparse(codes: Codes, atoms: Float[Array, "width d"]) -> Float[Array, "... d"]:
    """`sum_k values[k] * atoms[indices[k]]`: reads k rows of the dictionary per input."""
    return jnp.einsum("...k,...kd->...d", codes.values, atoms[codes.indices])
