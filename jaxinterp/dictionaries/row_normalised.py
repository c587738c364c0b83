"""Dictionaries that see every activation centred or scaled by numbers of its own."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats, WithRest

Params = dict[str, Array]
# x (..., d) -> (what the dictionary sees, centre (..., 1), scale (..., 1)).
RowNorm = Callable[[Array], tuple[Array, Array, Array]]


def layer_norm(x: Float[Array, "... d"]) -> tuple[Array, Array, Array]:
    r"""$(x - \bar x) / (s + 10^{-5})$, by mean and standard deviation (n - 1) of the row's entries.

    The scale back is s, without the small number, as in SAELens.
    """
    centre = x.mean(-1, keepdims=True)
    square = jnp.square(x - centre).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    scale = jnp.sqrt(jnp.maximum(square, jnp.finfo(x.dtype).tiny))
    return (x - centre) / (scale + 1e-5), centre, scale


def root_length(x: Float[Array, "... d"]) -> tuple[Array, Array, Array]:
    r"""$x \sqrt d / \lVert x \rVert$: every row of the same length."""
    square = jnp.square(x).mean(-1, keepdims=True)
    scale = jnp.sqrt(jnp.maximum(square, jnp.finfo(x.dtype).tiny))
    return x / scale, jnp.zeros_like(scale), scale


def row_normalised(
    recipe: Callable[..., Dictionary], *, normalise: RowNorm = layer_norm, **options: Any
) -> Dictionary:
    r"""Any variant on $y = (x - c_x) / s_x$, back by $\hat x = s_x \hat y + c_x$.

    The two numbers of a row go with its codes: latent j writes $s_x z_j W_{d,j}$. They are no
    affine map of x, so they can't be folded into the weights. Loss and metrics are those of the
    normalised rows, the target normalised by the numbers of the input.

    Args:
        recipe: a variant whose codes have no rest.
        normalise: `layer_norm` or `root_length`.
        **options: the recipe's own arguments.

    Returns:
        The dictionary. Its codes are `WithRest` with a scale; parameters as the recipe's.

    Raises:
        ValueError: when it encodes, a recipe whose codes have a rest of their own.

    Reference:
        SAELens' `layer_norm` (those that OpenAI trained on GPT-2 have it, from memory, not
        verified) and `constant_norm_rescale`.
    """
    plain = recipe(**options)

    def init(key: Key[Array, ""], sample: Float[Array, "..."]) -> Params:
        return plain.init(key, normalise(sample)[0])

    def encode(params: Params, x: Float[Array, "... d"]) -> WithRest:
        y, centre, scale = normalise(x)
        codes = plain.encode(params, y)
        if isinstance(codes, WithRest):
            raise ValueError("row_normalised takes variants without a rest, such as topk")
        return WithRest(codes, jnp.broadcast_to(centre, x.shape), scale)

    def decode(params: Params, codes: WithRest) -> Float[Array, "... d"]:
        if codes.scale is None:
            raise ValueError("codes without a scale are not of a row_normalised dictionary")
        return plain.decode(params, codes.codes) * codes.scale + codes.rest

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b d"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        y, centre, scale = normalise(x)
        return plain.loss(params, stats, y, (target - centre) / scale, key)

    return plain._replace(init=init, encode=encode, decode=decode, loss=loss)
