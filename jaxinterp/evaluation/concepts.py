"""What latents stand for, where concepts are known: names, and how far to trust them.

    table = sum_of(count(codes, present) for ... in naming data)   # tables of batches add up
    names = name_latents(table)                                    # latent -> concept
    confidence(count(new codes, new present), names.concept)       # on data that named nothing

A name is a claim about when a latent fires. It is made on one part of the data and judged on
another, or the best of many latents looks better than it is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.dictionaries.base import Codes, WithRest, latents


class Table(NamedTuple):
    """How often latents fire and concepts are present; tables of several batches add up.

    Attributes:
        both: rows on which a latent fires and a concept is present.
        fired: rows on which a latent fires.
        present: rows on which a concept is present.
        rows: rows.
    """

    both: Float[Array, "width concepts"]
    fired: Float[Array, " width"]
    present: Float[Array, " concepts"]
    rows: Float[Array, ""]


class Names(NamedTuple):
    """The concept dictionary.

    Attributes:
        concept: what each latent stands for; -1 for a latent that never fired with any.
        f1: of that name.
        latent: the latent that is best for each concept; -1 if none ever fired with it.
    """

    concept: Int[np.ndarray, " width"]
    f1: Float[np.ndarray, " width"]
    latent: Int[np.ndarray, " concepts"]


class Confidence(NamedTuple):
    """How well a latent's name says when it fires; NaN for a latent without a name.

    Attributes:
        precision: share of the rows with the concept on which the latent fires: of the firings
            that the name predicts, those that happen.
        recall: share of the latent's rows that have the concept: of the firings that happen, those
            that the name predicts.
        f1: harmonic mean of the two.
    """

    precision: Float[np.ndarray, " width"]
    recall: Float[np.ndarray, " width"]
    f1: Float[np.ndarray, " width"]


def count(
    codes: Codes | WithRest | Float[Array, "n width"],
    present: Bool[Array | np.ndarray, "n concepts"],
    width: int,
    *,
    above: float | Array = 0.0,
) -> Table:
    """One batch's table.

    Args:
        codes: of the batch, in either form.
        present: which concepts each row has.
        width: number of latents.
        above: size from which a latent counts as firing.

    Raises:
        ValueError: no rows, or no concepts.
    """
    there = jnp.asarray(present, jnp.float32)
    if not there.size:
        raise ValueError(f"concepts of shape {there.shape}: need at least one row and one concept")
    codes = latents(codes)
    rows = jnp.asarray(len(there), jnp.float32)
    if isinstance(codes, Codes):
        on = (jnp.abs(codes.values) > above).astype(jnp.float32)
        both = (
            jnp.zeros((width, there.shape[1]))
            .at[codes.indices]
            .add(on[:, :, None] * there[:, None])
        )
        fired = jnp.zeros(width).at[codes.indices].add(on)
        return Table(both, fired, there.sum(0), rows)
    on = (jnp.abs(codes) > above).astype(jnp.float32)
    return Table(on.T @ there, on.sum(0), there.sum(0), rows)


def name_latents(table: Table) -> Names:
    """Gives every latent the concept with which its F1 is highest, and every concept its latent.

    Raises:
        ValueError: a concept that is on all rows or on none: firing can't follow it.
    """
    both, fired, present, rows = jax.tree.map(lambda a: np.asarray(a, np.float64), table)
    for concept in np.flatnonzero((present == 0) | (present == rows)):
        raise ValueError(
            f"concept {concept} is present on {present[concept]:.0f} of {rows:.0f} rows: a latent "
            "can only be named after what is there at times"
        )
    f1 = 2 * both / np.maximum(fired[:, None] + present[None], 1)
    concept = np.where(both.any(1), f1.argmax(1), -1)
    latent = np.where(both.any(0), f1.argmax(0), -1)
    return Names(concept, f1.max(1), latent)


def confidence(table: Table, concept: Int[np.ndarray, " width"]) -> Confidence:
    """Judges names on data that did not make them.

    Args:
        table: of that data.
        concept: of each latent, -1 for none.

    Reference:
        Wang et al. (2024), "RecSAE", arXiv 2411.06112 (precision and recall of predicted against
        true firings on held-out sequences; the predictor there is a language model).
    """
    both, fired, present, _ = jax.tree.map(lambda a: np.asarray(a, np.float64), table)
    named = np.maximum(concept, 0)
    hits, predicted = both[np.arange(len(both)), named], present[named]
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(fired, 1)
    f1 = 2 * hits / np.maximum(predicted + fired, 1)
    return Confidence(*(np.where(concept >= 0, a, np.nan) for a in (precision, recall, f1)))
