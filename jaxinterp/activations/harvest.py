"""Activation rows from a model: a jitted capture over batches of tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.data import Rows
from jaxinterp.encoders.encoder import Encoder


class Harvest(NamedTuple):
    """Activations of the real tokens of one batch, padding and row starts left out.

    Attributes:
        sites: captured site -> rows (n, d), or (layers, n, d) for a site of several layers.
        token: token id of each row.
        row: index of the `Rows` row it came from.
        position: index of the token within that row.
    """

    sites: dict[str, Float[np.ndarray, "... n d"]]
    token: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]


def capture_function(encoder: Encoder, sites: Sequence[str]) -> Callable[..., dict[str, Array]]:
    """A jitted `(params, tokens, mask) -> captured`; runs only the layers the sites need."""
    sites = tuple(sites)

    @jax.jit
    def run(params: Any, tokens: Array, mask: Array) -> dict[str, Array]:
        return encoder.forward(
            params, encoder.config, tokens, mask=mask, capture=sites, return_logits=False
        )[1]

    return run


def harvest(
    encoder: Encoder,
    rows: Rows,
    sites: Sequence[str],
    *,
    order: Int[np.ndarray, " m"] | None = None,
    batch: int = 32,
) -> Iterator[Harvest]:
    """Captures sites over rows of tokens, batch by batch.

    Args:
        encoder: the model.
        rows: tokens and masks.
        sites: residual-like sites `(batch, seq, d)`; see `encoders.sites`.
        order: which rows, in which order; None for all as they come.
        batch: rows in a forward; the last batch is filled up so that all compile to one program.

    Yields:
        One `Harvest` per batch. The first position of a row is left out: it holds the
        beginning-of-sequence token, which is the same everywhere and often of enormous norm.
    """
    order = np.arange(len(rows.tokens)) if order is None else order
    run = capture_function(encoder, sites)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        filled = np.resize(chosen, batch)
        captured = run(encoder.params, rows.tokens[filled], rows.mask[filled])
        real = rows.mask[chosen].copy()
        real[:, 0] = False
        row, position = np.nonzero(real)
        values = {name: np.asarray(v)[..., row, position, :] for name, v in captured.items()}
        token = rows.tokens[chosen][row, position]
        yield Harvest(values, token, chosen[row].astype(np.int32), position.astype(np.int32))
