"""From numbers to discrete codes and, for gradients, straight through them.

Three ways to be discrete: the nearest of a few vectors (`nearest`), for each coordinate the nearest
of a few learned values (`nearest_value`), or a fixed grid (`finite_levels`). None has a derivative
worth following, so a loss takes the discrete value forwards and leaves the derivative of the number
that it came from (`straight_through`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.dictionaries.sparsify import top_k_scores


def straight_through(hard: Float[Array, "..."], soft: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""`hard`, exactly, with the derivative of `soft`: $\mathrm{sg}(h) + s - \mathrm{sg}(s)$.

    The order matters: $s + \mathrm{sg}(h - s)$, the usual form, is rounded off the code.

    Reference:
        Bengio et al. (2013), "Estimating or propagating gradients through stochastic neurons for
        conditional computation", arXiv 1308.3432.
    """
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))


def nearest(x: Float[Array, "... _"], codebook: Float[Array, "size d"]) -> Int[Array, "..."]:
    r"""The code word at the least Euclidean distance; the first of several.

    $\arg\min_j \lVert x - c_j \rVert^2 = \arg\max_j\, (x - m) \cdot (c_j - m) - \tfrac12 \lVert
    c_j - m \rVert^2$ with $m$ the mean code word: a top-1 of affine scores, which never needs the
    distances. Taking $m$ away keeps the digits of a codebook far from the origin.

    Args:
        x: rows.
        codebook: one code word a row.

    Raises:
        ValueError: rows of another dimension.
    """
    if x.shape[-1] != codebook.shape[-1]:
        raise ValueError(
            f"activations of dimension {x.shape[-1]} for a dictionary of dimension "
            f"{codebook.shape[-1]}: is this the layer that it was trained on?"
        )
    centre = jax.lax.stop_gradient(codebook).mean(0, keepdims=True)
    words = jax.lax.stop_gradient(codebook) - centre
    rows = jax.lax.stop_gradient(x).reshape(-1, x.shape[-1]) - centre
    with jax.default_matmul_precision("highest"):
        chosen = top_k_scores(rows, words, -0.5 * jnp.square(words).sum(1), 1)
    return chosen.indices.reshape(x.shape[:-1])


def nearest_value(
    x: Float[Array, "... n"], values: Float[Array, "n levels"]
) -> tuple[Float[Array, "... n"], Int[Array, "... n"]]:
    """For each coordinate the nearest of its own values, and which one it is.

    The value is a gather, so its gradient reaches the chosen entry of `values` and nothing else.
    """
    apart = jnp.abs(x[..., None] - values.reshape((1,) * (x.ndim - 1) + values.shape))
    places = jnp.argmin(jax.lax.stop_gradient(apart), -1)
    return values[jnp.arange(values.shape[0]).reshape((1,) * (x.ndim - 1) + (-1,)), places], places


def pull(moving: Float[Array, "..."], fixed: Float[Array, "..."]) -> Float[Array, ""]:
    r"""$\mathrm{E}\,(m - \mathrm{sg}(f))^2$ over all entries: draws the first to the second.

    With q the code of z, `pull(q, z)` is the codebook loss and `pull(z, q)` the commitment loss.

    Reference:
        van den Oord et al. (2017), "Neural discrete representation learning", arXiv 1711.00937,
        equation 3 (there the squared norm: d times as much).
    """
    return jnp.square(moving - jax.lax.stop_gradient(fixed)).mean(dtype=jnp.float32)


def finite_levels(z: Float[Array, "..."], levels: int) -> Float[Array, "..."]:
    r"""Finite scalar quantisation: each number becomes one of `levels` places in [-1, 1].

    $q = \mathrm{round}(h \tanh(z + s) - o) / \lfloor L/2 \rfloor$ with $h = (1 + \varepsilon)
    (L - 1)/2$, $o = \frac12$ for even L and 0 for odd, and $s = \mathrm{artanh}(o / h)$, so that
    $z = 0$ gives $q = 0$. The derivative is that of the expression without the rounding.

    Args:
        z: any numbers, no unit.
        levels: L; an even number has one place more below zero than above. With 2, the origin lies
            at the end of the range, where there is no slope left: `binary` is the code to take.

    Returns:
        Places; the codebook is implicit, and every one of its words can be reached.

    Raises:
        ValueError: fewer than two levels.

    Reference:
        Mentzer et al. (2023), "Finite scalar quantization: VQ-VAE made simple", arXiv 2309.15505.
        Its code shifts by $\tan(o / h)$, which moves the origin for even L; the inverse of tanh is
        meant and used here.
    """
    if levels < 2:
        raise ValueError(f"{levels=}: a code needs at least 2")
    half = (levels - 1) / 2 * (1 + 1e-3)
    offset = 0.0 if levels % 2 else 0.5
    shift = jnp.arctanh(jnp.asarray(offset / half, z.dtype))
    bounded = jnp.tanh(z + shift) * half - offset
    return straight_through(jnp.round(bounded), bounded) / (levels // 2)


def perplexity(counts: Float[Array, "... size"]) -> Float[Array, "..."]:
    r"""$\exp(-\sum_j p_j \ln p_j)$ of counts: how many code words are in use, as equals.

    Between 1 (one word does everything, or nothing was counted) and the number of words.
    """
    counts = counts.astype(jnp.float32)
    p = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1.0)
    return jnp.exp(-(p * jnp.log(jnp.where(p > 0, p, 1.0))).sum(-1))
