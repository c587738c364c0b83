"""What a reconstruction does to the model: its predictions with the activation replaced."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxinterp.data import Rows
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.encoders.encoder import Encoder


class CrossEntropy(NamedTuple):
    """Mean next-token losses, and divergences from the untouched model, in nats a token.

    Attributes:
        clean: loss of the untouched model.
        spliced: with the site replaced by its reconstruction.
        ablated: with the site replaced by zeros.
        mean_ablated: with the site replaced by its mean over the text.
        spliced_divergence: KL(clean || spliced) of the next-token distributions.
        ablated_divergence: KL(clean || ablated).
        mean_ablated_divergence: KL(clean || mean ablated).
    """

    clean: float
    spliced: float
    ablated: float
    mean_ablated: float
    spliced_divergence: float
    ablated_divergence: float
    mean_ablated_divergence: float

    def recovered(self) -> float:
        """`(ablated - spliced) / (ablated - clean)`: 1 is lossless, 0 no better than zeros."""
        return (self.ablated - self.spliced) / (self.ablated - self.clean)

    def recovered_over_mean(self) -> float:
        """The same against mean ablation, a harder baseline."""
        return (self.mean_ablated - self.spliced) / (self.mean_ablated - self.clean)

    def divergence_recovered(self) -> float:
        """`1 - KL(clean || spliced) / KL(clean || ablated)`.

        Unlike the losses it sees every change of the predictions, also one that happens to suit
        the text: it can't exceed 1.
        """
        return 1 - self.spliced_divergence / self.ablated_divergence

    def divergence_recovered_over_mean(self) -> float:
        """The same against mean ablation."""
        return 1 - self.spliced_divergence / self.mean_ablated_divergence


def cross_entropy(
    encoder: Encoder,
    dictionary: Dictionary,
    params: object,
    rows: Rows,
    site: str,
    mean: np.ndarray,
    *,
    into: str | None = None,
    batch: int = 32,
) -> CrossEntropy:
    """Splices a dictionary into a language model and reads its predictions.

    The first position of every row is left as it is: the dictionary never saw it (see
    `activations.harvest`), and every position attends to it.

    Args:
        encoder: a language model.
        dictionary: any variant, in the model's units (see `dictionaries.fold`).
        params: its parameters.
        rows: text.
        site: the residual-like site that the dictionary reads.
        mean: the mean activation (d,) of the site that is replaced.
        into: the site that is replaced, if another: what a transcoder writes.
        batch: rows in a forward.

    Returns:
        The losses and divergences, over the same tokens.
    """
    into = into or site

    total, count = np.zeros(7), 0
    for start in range(0, len(rows.tokens), batch):
        tokens, mask = rows.tokens[start : start + batch], rows.mask[start : start + batch]
        missing = ((0, batch - len(tokens)), (0, 0))
        tokens, mask = np.pad(tokens, missing), np.pad(mask, missing)
        arrays = encoder.params, params, jnp.asarray(mean), tokens, mask
        total += np.asarray(_sums(encoder.forward, encoder.config, dictionary, site, into, *arrays))
        count += int(mask[:, 1:].sum())
    return CrossEntropy(*(float(t) for t in total / count))


@functools.partial(
    jax.jit, static_argnums=(0, 1, 2, 3, 4)
)  # several parameters of a dictionary compile once
def _sums(
    forward: Callable[..., Any],
    config: Any,
    dictionary: Dictionary,
    site: str,
    into: str,
    model_params: object,
    params: object,
    mean: Array,
    tokens: Array,
    mask: Array,
) -> Array:
    """Sums over tokens of the four losses and the three divergences."""

    def replaced(value: Array, new: Array) -> Array:
        first = (jnp.arange(value.shape[1]) == 0)[None, :, None]
        return jnp.where(first, value, new)

    def log_probabilities(edit: Callable[[Array], Array] | None) -> Array:
        edits = {} if edit is None else {into: lambda value, layer: replaced(value, edit(value))}
        logits, _ = forward(model_params, config, tokens, mask=mask, edits=edits)
        return jax.nn.log_softmax(logits[:, :-1])

    captured = {"capture": (site,), "return_logits": False}
    read = forward(model_params, config, tokens, mask=mask, **captured)[1][site]
    edits = (
        lambda v: dictionary.decode(params, dictionary.encode(params, read)),
        jnp.zeros_like,
        lambda v: jnp.broadcast_to(mean[None, None], v.shape),
    )
    clean = log_probabilities(None)

    def nats(log_p: Array) -> Array:
        picked = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
        return -(picked * mask[:, 1:]).sum()

    losses, divergences = [nats(clean)], []
    for edit in edits:
        log_p = log_probabilities(edit)
        divergence = optax.losses.kl_divergence_with_log_targets(log_p, clean)
        losses.append(nats(log_p))
        divergences.append((divergence * mask[:, 1:]).sum())
    return jnp.stack(losses + divergences)
