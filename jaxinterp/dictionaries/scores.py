"""How well each latent matches an input: the encoder, up to the choice of what is active.

Every family here ends in an affine map, `scores = rows @ matrix.T + bias`, and hands out these
three arrays instead of the product. A top-k variant then takes gradients of the kept scores alone,
whatever the encoder, and a threshold variant forms the product with `dense_scores`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Params = dict[str, Array]


class Scores(NamedTuple):
    """An encoder.

    Attributes:
        init: `(key, params, sample) -> params`: the encoder's own parameters, given those of the
            decoder and some activations (n, d).
        affine: `(params, x) -> (rows, matrix, bias)` for x (n, d).
    """

    init: Callable[[Key[Array, ""], Params, Array], Params]
    affine: Callable[[Params, Array], tuple[Array, Array, Array]]


def linear() -> Scores:
    r"""Scores $(x - b_d) W_e^\top + b_e$; the encoder starts as a copy of the decoder."""

    def affine(params: Params, x: Array) -> tuple[Array, Array, Array]:
        check_dimension(x, params["encoder"])
        return _centred(params, x), params["encoder"], params["encoder_bias"]

    return Scores(_transposed, affine)


def uncentred() -> Scores:
    r"""Scores $x W_e^\top + b_e$: the decoder's bias is not subtracted from the input.

    For dictionaries whose input and target are different activations, and for Gemma Scope's.
    """

    def affine(params: Params, x: Array) -> tuple[Array, Array, Array]:
        check_dimension(x, params["encoder"])
        return x, params["encoder"], params["encoder_bias"]

    return Scores(_transposed, affine)


def tied() -> Scores:
    r"""Scores $(x - b_d) W_d^\top + b_e$: the atoms read what they write."""

    def init(key: Key[Array, ""], params: Params, sample: Array) -> Params:
        del key, sample
        return {"encoder_bias": jnp.zeros(params["decoder"].shape[0])}

    def affine(params: Params, x: Array) -> tuple[Array, Array, Array]:
        check_dimension(x, params["decoder"])
        return _centred(params, x), params["decoder"], params["encoder_bias"]

    return Scores(init, affine)


def matched() -> Scores:
    r"""Scores $(x - b_d) W_d^\top$: each atom is its own filter, with no parameters besides."""

    def init(key: Key[Array, ""], params: Params, sample: Array) -> Params:
        del key, params, sample
        return {}

    def affine(params: Params, x: Array) -> tuple[Array, Array, Array]:
        check_dimension(x, params["decoder"])
        atoms = params["decoder"]
        return _centred(params, x), atoms, jnp.zeros(atoms.shape[0], atoms.dtype)

    return Scores(init, affine)


def mlp(hidden: int) -> Scores:
    r"""Scores $\mathrm{gelu}((x - b_d) H^\top + b_h) W_e^\top + b_e$: one hidden layer.

    The first layer holds both signs of a random frame and the last layer reads the difference along
    each atom, so that at the start the scores follow those of a transposed decoder.

    Args:
        hidden: units of the hidden layer; even.

    Returns:
        The encoder. Parameters: `hidden` (hidden, d), `hidden_bias` (hidden), `encoder`
        (width, hidden), `encoder_bias` (width).

    Raises:
        ValueError: an odd or empty hidden layer.
    """
    if hidden < 2 or hidden % 2:
        raise ValueError(f"{hidden=}: need an even number of at least 2")

    def init(key: Key[Array, ""], params: Params, sample: Array) -> Params:
        del sample
        width, d = params["decoder"].shape
        # gelu(a) - gelu(-a) = a: two signs of one frame are the identity on its span.
        half = jax.random.normal(key, (hidden // 2, d)) / jnp.sqrt(jnp.asarray(hidden / 2))
        frame = jnp.concatenate([half, -half])
        return {
            "hidden": frame,
            "hidden_bias": jnp.zeros(hidden),
            "encoder": params["decoder"] @ frame.T,
            "encoder_bias": jnp.zeros(width),
        }

    def affine(params: Params, x: Array) -> tuple[Array, Array, Array]:
        check_dimension(x, params["hidden"])
        rows = _centred(params, x) @ params["hidden"].T + params["hidden_bias"][None]
        return jax.nn.gelu(rows, approximate=False), params["encoder"], params["encoder_bias"]

    return Scores(init, affine)


def firing_at(rate: float, *, above: float = 0.0, encoder: Callable[[], Scores] = linear) -> Scores:
    """Another encoder whose first biases make each latent active on the same share of the sample.

    Args:
        rate: that share, in 0 .. 1: the first mean number of active latents over the width.
        above: score from which a latent is active: 0, or the first threshold of JumpReLU.
        encoder: the encoder.

    Raises:
        ValueError: a rate outside 0 .. 1.

    Reference:
        Anthropic interpretability team (2025), "Circuits updates - January 2025", from memory: a
        rate of 10000 over the width.
    """
    if not 0 < rate < 1:
        raise ValueError(f"{rate=} must be a share between 0 and 1")
    inner = encoder()

    def init(key: Key[Array, ""], params: Params, sample: Array) -> Params:
        own = inner.init(key, params, sample)
        scores = dense_scores(inner, params | own, sample.astype(jnp.float32))
        level = jnp.quantile(scores, 1 - rate, axis=0)
        return own | {"encoder_bias": own["encoder_bias"] + above - level}

    return Scores(init, inner.affine)


def dense_scores(scores: Scores, params: Params, x: Float[Array, "n d"]) -> Float[Array, "n width"]:
    """The scores of all latents."""
    rows, matrix, bias = scores.affine(params, x)
    return rows @ matrix.T + bias[None]


def over_rows(encode: Callable[[Params, Array], Any], params: Params, x: Array) -> Any:
    """Encodes x (..., d) with a function of (n, d); every leaf gets the leading axes back."""
    codes = encode(params, x.reshape(-1, x.shape[-1]))
    return jax.tree.map(lambda a: a.reshape(*x.shape[:-1], *a.shape[1:]), codes)


def _transposed(key: Key[Array, ""], params: Params, sample: Array) -> Params:
    del key, sample
    # Buffers of their own, so that encoder and decoder can both be donated.
    return {
        "encoder": params["decoder"] + 0.0,
        "encoder_bias": jnp.zeros(params["decoder"].shape[0]),
    }


def _centred(params: Params, x: Array) -> Array:
    return x - params["decoder_bias"][None]


def check_dimension(x: Array, matrix: Array) -> None:
    """Refuses rows of another dimension than the dictionary's, for the affine map of any encoder.

    Raises:
        ValueError: their last axes differ.
    """
    if x.shape[-1] != matrix.shape[-1]:
        raise ValueError(
            f"activations of dimension {x.shape[-1]} for a dictionary of dimension "
            f"{matrix.shape[-1]}: is this the layer that it was trained on?"
        )
