"""Activations of one site on held-in and held-out text: what a study of dictionaries reads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp import data
from jaxinterp.activations import moments, normalise
from jaxinterp.activations.harvest import harvest
from jaxinterp.encoders.encoder import Encoder


class Sides(NamedTuple):
    """Rows of both sides, scaled alike to a mean norm of sqrt(d).

    Attributes:
        held_in: to train on.
        held_out: to measure on, of other documents.
        text: the text of `held_out`.
        scale: the normalisation, of the held-in rows.
        mean: mean of the held-in rows before it.
    """

    held_in: Float[np.ndarray, "n d"]
    held_out: Float[np.ndarray, "m d"]
    text: data.Rows
    scale: normalise.Affine
    mean: Float[np.ndarray, " d"]


def two_sides(
    encoder: Encoder,
    documents: Sequence[data.Document],
    site: str,
    *,
    context: int,
    rows: int,
    seed: int,
) -> Sides:
    """Reads random rows of text; a fifth as many of held-out text as of held-in text.

    Args:
        encoder: a language model.
        documents: text, which `data.split` divides.
        site: where to read.
        context: tokens in a row of text.
        rows: rows of held-in text.
        seed: of the choice of rows.

    Raises:
        ValueError: the model has no tokenizer, or one side has no text.
    """
    if encoder.tokenizer is None:
        raise ValueError("the encoder has no tokenizer, which reading text needs")
    held_in, held_out = data.split(documents)
    if not held_in or not held_out:
        raise ValueError(
            f"{len(documents)} documents are {len(held_in)} held in and {len(held_out)} held out: "
            "give more text, so that both sides have some"
        )
    found, texts = [], []
    for side, count in ((held_in, rows), (held_out, max(rows // 5, 1))):
        tokens = data.token_rows(side, encoder.tokenizer, context)
        order = np.random.default_rng(seed).permutation(len(tokens.tokens))[:count]
        parts = harvest(encoder, tokens, (site,), order=order)
        found.append(np.concatenate([part.sites[site] for part in parts]))
        texts.append(data.Rows(*(column[order] for column in tokens)))
    scale = normalise.mean_norm(moments.coordinate_moments(found[0]))
    scaled = (np.asarray(normalise.apply(scale, x)) for x in found)
    return Sides(*scaled, texts[1], scale, found[0].mean(0))
