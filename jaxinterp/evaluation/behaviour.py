"""What a reconstruction does to the model: cross-entropy with the activation replaced."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxinterp.data import Rows
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.encoders.encoder import Encoder


class CrossEntropy(NamedTuple):
    """Mean next-token losses in nats, over the same tokens.

    Attributes:
        clean: of the untouched model.
        spliced: with the site replaced by its reconstruction.
        ablated: with the site replaced by zeros.
        mean_ablated: with the site replaced by its mean over the text.
    """

    clean: float
    spliced: float
    ablated: float
    mean_ablated: float

    def recovered(self) -> float:
        """`(ablated - spliced) / (ablated - clean)`: 1 is lossless, 0 no better than zeros."""
        return (self.ablated - self.spliced) / (self.ablated - self.clean)

    def recovered_over_mean(self) -> float:
        """The same against mean ablation, a harder baseline."""
        return (self.mean_ablated - self.spliced) / (self.mean_ablated - self.clean)


def cross_entropy(
    encoder: Encoder,
    dictionary: Dictionary,
    params: object,
    rows: Rows,
    site: str,
    mean: np.ndarray,
    *,
    batch: int = 32,
) -> CrossEntropy:
    """Splices a dictionary into a language model and reads its loss.

    The first position of every row is left as it is: the dictionary never saw it (see
    `activations.harvest`), and every position attends to it.

    Args:
        encoder: a language model.
        dictionary: any variant.
        params: its parameters.
        rows: text.
        site: the residual-like site that the dictionary was trained on.
        mean: the site's mean activation (d,).
        batch: rows in a forward.

    Returns:
        The losses.
    """

    def replaced(value: Array, new: Array) -> Array:
        first = (jnp.arange(value.shape[1]) == 0)[None, :, None]
        return jnp.where(first, value, new)

    def nats(model_params: object, tokens: Array, mask: Array, edit) -> Array:
        edits = {} if edit is None else {site: lambda value, layer: replaced(value, edit(value))}
        logits, _ = encoder.forward(model_params, encoder.config, tokens, mask=mask, edits=edits)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
        return (losses * mask[:, 1:]).sum()

    @jax.jit
    def all_nats(model_params: object, params: object, mean: Array, tokens: Array, mask: Array):
        edits = (
            None,
            lambda v: dictionary.decode(params, dictionary.encode(params, v)),
            jnp.zeros_like,
            lambda v: jnp.broadcast_to(mean[None, None], v.shape),
        )
        return jnp.stack([nats(model_params, tokens, mask, edit) for edit in edits])

    total, count = np.zeros(4), 0
    for start in range(0, len(rows.tokens), batch):
        tokens, mask = rows.tokens[start : start + batch], rows.mask[start : start + batch]
        missing = ((0, batch - len(tokens)), (0, 0))
        tokens, mask = np.pad(tokens, missing), np.pad(mask, missing)
        total += np.asarray(all_nats(encoder.params, params, jnp.asarray(mean), tokens, mask))
        count += int(mask[:, 1:].sum())
    return CrossEntropy(*(float(t) for t in total / count))
