"""What every stage of the main job starts from: a model, text, a plan, devices; checked first."""

import hashlib
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxinterp import data, distributed, placement, training
from jaxinterp.activations.harvest import check_sites
from jaxinterp.config import RunConfig
from jaxinterp.data import Document, Rows
from jaxinterp.encoders import hf
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.sites import resolve
from jaxinterp.tokenize import Tokenizer
from jaxinterp.training import Plan

FORWARD_ROWS = 32  # rows of text in a forward
_FIRST_POSITION = 16  # for geometry: rows that begin alike give equal points before this


class Inputs(NamedTuple):
    """What every stage starts from.

    Attributes:
        encoder: the model.
        tokenizer: its tokenizer.
        site: where the dictionary reads, in the short spelling.
        documents: held-out documents.
        held_in: rows to harvest, already in the order of the run.
        held_out: rows to measure on.
        plan: the dictionary to train.
        mesh: the devices of all processes, which train it; None for one device.
        own: the devices of this process, which harvest and measure; None likewise.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    site: str
    documents: list[Document]
    held_in: Rows
    held_out: Rows
    plan: Plan
    mesh: Mesh | None = None
    own: Mesh | None = None


def load_inputs(config: RunConfig) -> Inputs:
    """Loads the model and the text, and checks the settings against them before any work."""
    mesh, own = placement.meshes(config.mesh, batch=FORWARD_ROWS)
    encoder = hf.load(config.model, mesh=own)
    shape = encoder.config
    if encoder.tokenizer is None:
        raise ValueError(f"{config.model} has no tokenizer.json, which reading text needs")
    if config.context > shape.context:
        raise ValueError(f"context is {config.context}; {config.model} reaches {shape.context}")
    asked = config.site or f"L{(shape.n_layers - 1) // 2}.resid_post"
    request = resolve(asked, shape.n_layers, encoder.sites(shape))[0]
    if not (request.single and request.layers):
        raise ValueError(f"site is {asked!r}: a dictionary reads one layer, e.g. 'L2.resid_post'")
    chosen = training.plan(config, shape.d_model)
    training.build(config, chosen)
    placement.check_mesh(mesh, width=int(chosen.options["width"]), batch=config.batch)
    held_in, held_out = data.split(data.load_text(config.text, column=config.text_column))
    if not held_in or not held_out:
        raise ValueError(
            f"{config.text} has {len(held_in) + len(held_out)} documents, too few to hold some "
            "out: give more text"
        )
    tokenizer = encoder.tokenizer
    first = _take(held_in, tokenizer, config.context, config.tokens, config.seed)
    tokens, least = int(first.mask[:, 1:].sum()), max(config.batch, 2 * config.neighbors)
    if tokens < least:
        raise ValueError(
            f"{config.text} gives {tokens} held-in tokens for a batch of {config.batch} and "
            f"{config.neighbors} neighbours: give more text or lower --batch"
        )
    behind = int(eligible(first).sum())
    if behind < 2 * config.neighbors:
        raise ValueError(
            f"{behind} of {tokens} held-in tokens of {config.text} lie behind position "
            f"{_first_position(first)} of their rows, too few for {config.neighbors} neighbours: "
            "give longer documents"
        )
    second = _take(held_out, tokenizer, config.context, config.held_out_tokens, config.seed)
    site = f"L{request.layers[0]}.{request.site}"
    check_sites(encoder, (site,), second)
    return Inputs(encoder, tokenizer, site, held_out, first, second, chosen, mesh, own)


def check_inputs(inputs: Inputs) -> dict[str, str]:
    """Refuses processes that read different text; returns its `digests`.

    Raises:
        Agreed: in every process.
    """
    found = digests(inputs)
    distributed.check_same("the data", found)
    return found


def digests(inputs: Inputs) -> dict[str, str]:
    """What tells the text of a run from any other: a digest of the tokens of either side."""
    sides = {"held-in text": inputs.held_in, "held-out text": inputs.held_out}
    return {n: hashlib.sha256(rows.tokens.tobytes()).hexdigest() for n, rows in sides.items()}


def eligible(rows: Rows) -> np.ndarray:
    """A mask (rows, seq) of the tokens whose activations may be points of a layer's cloud."""
    mask = rows.mask.copy()
    mask[:, : _first_position(rows)] = False
    return mask


def _first_position(rows: Rows) -> int:
    return min(_FIRST_POSITION, rows.tokens.shape[1] // 2)


def _take(
    documents: list[Document], tokenizer: Tokenizer, context: int, tokens: int, seed: int
) -> Rows:
    """Rows of at least `tokens` tokens in a random order, or all there are."""
    rows = data.token_rows(documents, tokenizer, context)
    order = np.random.default_rng(seed).permutation(len(rows.tokens))
    enough = np.cumsum(rows.mask[order, 1:].sum(1)) < tokens
    count = min(int(enough.sum()) + 1, len(order))
    return Rows(*(a[order[:count]] for a in rows))
