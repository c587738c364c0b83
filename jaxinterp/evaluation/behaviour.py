"""What a reconstruction does to the model: its predictions with the activation replaced."""

import functools
import math
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

    A share that is recovered is NaN where there is nothing to recover.

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
        return _share(self.ablated - self.spliced, self.ablated - self.clean)

    def recovered_over_mean(self) -> float:
        """The same against mean ablation, a harder baseline."""
        return _share(self.mean_ablated - self.spliced, self.mean_ablated - self.clean)

    def divergence_recovered(self) -> float:
        """`1 - KL(clean || spliced) / KL(clean || ablated)`.

        Unlike the losses it sees every change of the predictions, also one that happens to suit
        the text: it can't exceed 1.
        """
        return 1 - _share(self.spliced_divergence, self.ablated_divergence)

    def divergence_recovered_over_mean(self) -> float:
        """The same against mean ablation."""
        return 1 - _share(self.spliced_divergence, self.mean_ablated_divergence)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


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

    Only places that `rows.keep` has are replaced, since the dictionary saw no others (see
    `activations.harvest`), and never the first of a row, which every position attends to. The
    losses are over all tokens.

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
        The losses and divergences, over the same tokens, computed in float32 or wider.

    Raises:
        ValueError: no row has two tokens.
    """
    into, count = into or site, int(rows.mask[:, 1:].sum())
    if not count:
        raise ValueError(
            f"no tokens to measure on in {len(rows.tokens)} rows: give rows of two tokens or more"
        )
    total = np.zeros(7)
    for start in range(0, len(rows.tokens), batch):
        part = [a[start : start + batch] for a in (rows.tokens, rows.mask, rows.keep)]
        tokens, mask, keep = (np.pad(a, ((0, batch - len(a)), (0, 0))) for a in part)
        arrays = encoder.params, params, jnp.asarray(mean), tokens, mask, keep
        total += np.asarray(_sums(encoder.forward, encoder.config, dictionary, site, into, *arrays))
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
    keep: Array,
) -> Array:
    """Sums over tokens of the four losses and the three divergences."""

    def replaced(value: Array, new: Array) -> Array:
        seen = keep & (jnp.arange(keep.shape[1]) > 0)[None]
        return jnp.where(seen[:, :, None], new, value)

    def log_probabilities(edit: Callable[[Array], Array] | None) -> Array:
        edits = {} if edit is None else {into: lambda value, layer: replaced(value, edit(value))}
        logits, _ = forward(model_params, config, tokens, mask=mask, edits=edits)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return jax.nn.log_softmax(logits[:, :-1].astype(wide))

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
