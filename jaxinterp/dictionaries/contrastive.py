"""Contrast of adjacent tokens: the first latents of a dictionary hold what lasts along a text."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Params, Stats, latents
from jaxinterp.dictionaries.penalties import Weight, weight_at


def contrastive(dictionary: Dictionary, *, high: int, weight: Weight = 0.1) -> Dictionary:
    r"""Any dictionary, with a loss that tells a token's predecessor from other tokens by the code.

    With $u_i$ and $v_i$ the first `high` latents' codes of a token and of the one before it,

    $L = L_\text{dictionary}(x_t) - \frac{w}{2} \mathrm{E}_i \left[
    \log \frac{e^{u_i \cdot v_i}}{\sum_j e^{u_i \cdot v_j}}
    + \log \frac{e^{u_i \cdot v_i}}{\sum_j e^{u_j \cdot v_i}} \right]$.

    The other tokens are those of the whole batch, so a batch should hold short pieces of many
    texts; pairs (seq = 2) are the form of the paper. There the dictionary is a Matryoshka BatchTopK
    whose first prefix is `high`. The codes are those of `encode`: a variant that selects over the
    batch in training is contrasted by its codes of inference.

    Args:
        dictionary: any variant on rows (n, d).
        high: how many of the first latents are contrasted.
        weight: $w$, or a schedule of it; per nat.

    Returns:
        The dictionary with another `init` and `loss`, whose x and target are (batch, seq, d): every
        token but the first of its sequence is reconstructed. Parameters, `encode` and `decode` are
        those of the dictionary given, and so is the file that it is saved to. `Stats.silent`
        and with it the dictionary's `dead_after` count sequences, not rows.

    Raises:
        ValueError: high outside 1 .. width, or sequences of fewer than two tokens.

    Reference:
        Bhalla et al. (2025), "Temporal sparse autoencoders", arXiv 2511.05541; raw dot products and
        w = 0.1 as in its code.
    """
    if not 1 <= high <= dictionary.width:
        raise ValueError(f"{high=} with {dictionary.width} latents: need 1 <= high <= width")

    def init(key: Key[Array, ""], sample: Float[Array, "n seq d"]) -> Params:
        return dictionary.init(key, sample.reshape(-1, sample.shape[-1]))

    def first_codes(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n high"]:
        codes = latents(dictionary.encode(params, x))
        if not isinstance(codes, Codes):
            return codes[:, :high]
        # An index beyond `high` falls out of bounds, and what it holds away.
        rows = jnp.arange(len(x))[:, None]
        return jnp.zeros((len(x), high)).at[rows, codes.indices].add(codes.values, mode="drop")

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b seq d"],
        target: Float[Array, "b seq d"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        if x.ndim != 3 or x.shape[1] < 2:
            raise ValueError(f"x of shape {x.shape}: need (batch, seq, d) of at least two tokens")
        before, now, wanted = (
            a.reshape(-1, a.shape[-1]) for a in (x[:, :-1], x[:, 1:], target[:, 1:])
        )
        value, info = dictionary.loss(params, stats, now, wanted, key)
        alike = first_codes(params, now) @ first_codes(params, before).T
        own = jnp.arange(len(alike))
        both = (alike, alike.T)
        nats = [optax.softmax_cross_entropy_with_integer_labels(a, own).mean() for a in both]
        contrast = sum(nats, jnp.zeros(())) / 2
        metrics = info.metrics | {"contrast": contrast}
        return value + weight_at(weight, stats.step) * contrast, info._replace(metrics=metrics)

    return dictionary._replace(init=init, loss=loss)
