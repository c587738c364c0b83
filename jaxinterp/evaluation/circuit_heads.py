"""Which attention heads belong to a circuit? Those that say something they otherwise never say.

Every head's output, on examples where a task is at work and on examples where it is not, becomes
one discrete code: the strongest latent of a small dictionary. A head whose codes on the positive
examples never occur on the negative ones is taken for a part of the circuit.

    codes = head_codes(dictionary, params, outputs)             # (examples, heads)
    novelty = novel_codes(codes, positive)
    score = novelty.share()                                     # or .unique
    found = probabilities(score) > 1 / score.size

No gradient, no patching: one forward over a handful of examples. What it can't see: a head of the
circuit that does the same on both kinds of examples, at the position that is read.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Real

from jaxinterp.dictionaries.base import Codes, Dictionary, latents


class Novelty(NamedTuple):
    """What codes of the positives have that the negatives lack.

    Attributes:
        unique: number of different codes that occur on positives only.
        union: number of different codes that occur at all.
        shared: number of different codes that occur on both.
    """

    unique: Int[Array, "..."]
    union: Int[Array, "..."]
    shared: Int[Array, "..."]

    def share(self) -> Float[Array, "..."]:
        """Purity: share of all codes that occur on positives only; between 0 and 1."""
        return self.unique / self.union

    def overlap(self) -> Float[Array, "..."]:
        """Jaccard index of the codes on positives and on negatives."""
        return self.shared / self.union


def head_codes(
    dictionary: Dictionary, params: Any, outputs: Float[Array, "examples ... d"]
) -> Int[Array, "examples ..."]:
    """One discrete code per example and head: the latent of largest size.

    Args:
        dictionary: one for all heads, trained on these rows or on others.
        params: its parameters.
        outputs: of every head at the position of interest; heads on one axis or more (layer, head).

    Returns:
        The latent; the dictionary's width where none is active, a code of its own.
    """
    codes = latents(dictionary.encode(params, outputs))
    size = jnp.abs(codes.values if isinstance(codes, Codes) else codes)
    best = jnp.argmax(size, -1)
    if isinstance(codes, Codes):
        best = jnp.take_along_axis(codes.indices, best[..., None], -1)[..., 0]
    return jnp.where(size.max(-1) > 0, best, dictionary.width)


def novel_codes(
    codes: Int[Array, "examples ..."], positive: Bool[Array | np.ndarray, " _"]
) -> Novelty:
    r"""Codes that a head uses on positives and never on negatives.

    $u_h = |C^+_h \setminus C^-_h|$ with $C^\pm_h$ the sets of codes of head h. It compares examples
    with each other, so the number of possible codes costs nothing.

    Args:
        codes: of each example and head.
        positive: which examples show the task.

    Raises:
        ValueError: no positive or no negative example: there is nothing to set against each other.

    Reference:
        O'Neill & Bui (2024), "Sparse autoencoders enable scalable and reliable circuit
        identification in language models", arXiv 2405.12522. The size of its dictionaries and
        their penalty were not verified.
    """
    positive = _both_kinds(codes, positive)
    flat = codes.reshape(codes.shape[0], -1).T
    counts = jax.vmap(lambda one: _novelty(one[:, None] == one[None], positive))(flat)
    return jax.tree.map(lambda a: a.reshape(codes.shape[1:]), counts)


def novel_pairs(
    codes: Int[Array, "examples ..."], positive: Bool[Array | np.ndarray, " _"]
) -> Novelty:
    """Pairs of codes that two heads use together on positives and never on negatives.

    An edge of the circuit where neither head need be new on its own. Costs heads^2 examples^2.

    Args:
        codes: of each example and head.
        positive: which examples show the task.

    Returns:
        Counts of shape (heads, heads), all axes of heads flattened into one; symmetric.

    Raises:
        ValueError: as `novel_codes`.
    """
    positive = _both_kinds(codes, positive)
    flat = codes.reshape(codes.shape[0], -1).T
    same = flat[:, :, None] == flat[:, None]

    def row(one: Array) -> Novelty:
        return jax.vmap(lambda other: _novelty(one & other, positive))(same)

    return jax.lax.map(row, same)


def probabilities(
    scores: Real[Array, "..."], axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Softmax of head scores over all heads, or over some axes (each layer's heads by themselves).

    Args:
        scores: of the heads: numbers of novel codes, or their shares.
        axis: axes of heads that compete; None for all.
    """
    return jax.nn.softmax(jnp.asarray(scores, jnp.float32), axis)


def _novelty(same: Bool[Array, "n n"], positive: Bool[Array, " n"]) -> Novelty:
    """Counts of different codes from which examples have the same one."""

    def different(which: Array) -> Array:
        """Codes among the chosen examples: those at their first occurrence there."""
        earlier = jnp.tril(same & which[None], -1).any(1)
        return (which & ~earlier).sum()

    shared_too = (same & ~positive[None]).any(1)
    unique = different(positive & ~shared_too)
    return Novelty(unique, different(jnp.ones_like(positive)), different(positive & shared_too))


def _both_kinds(codes: Array, positive: Array | np.ndarray) -> Bool[Array, " examples"]:
    if positive.shape != codes.shape[:1]:
        raise ValueError(f"{positive.shape[0]} labels for {codes.shape[0]} examples")
    if not isinstance(positive, Tracer):
        count = int(np.asarray(positive).sum())
        if not 0 < count < len(positive):
            raise ValueError(
                f"{count} positive of {len(positive)} examples: it takes at least one of each kind"
            )
    return jnp.asarray(positive, bool)
