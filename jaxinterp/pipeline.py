"""The main job in stages; each reads what earlier stages wrote and writes its own whole.

A stage whose result is there is not run again, so a run that was stopped goes on where it was.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import data, files, logging, training
from jaxinterp.activations import normalise, store
from jaxinterp.activations.harvest import Harvest, harvest
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.config import RunConfig
from jaxinterp.data import Document, Rows
from jaxinterp.dictionaries import formats, registry, train
from jaxinterp.dictionaries.fold import fold
from jaxinterp.dictionaries.run import means, run
from jaxinterp.encoders import hf
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.sites import resolve
from jaxinterp.evaluation import behaviour, reconstruction
from jaxinterp.layer_dimension import dimension_of
from jaxinterp.report.terminal import progress, training_note
from jaxinterp.tokenize import Tokenizer
from jaxinterp.training import Plan

LAYERS = "resid_post"
_BATCH = 32  # rows in a forward
_CHUNK = 4  # forwards to a chunk of the store
_ROWS = 4096  # activations in a call of the dictionary
_FIRST_POSITION = 16  # for geometry: rows that begin alike give equal points before this
_CHECKPOINT_EVERY = 500  # training steps


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
    """

    encoder: Encoder
    tokenizer: Tokenizer
    site: str
    documents: list[Document]
    held_in: Rows
    held_out: Rows
    plan: Plan


def load_inputs(config: RunConfig) -> Inputs:
    """Loads the model and the text, and checks the settings against them before any work."""
    encoder = hf.load(config.model)
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
    second = _take(held_out, tokenizer, config.context, config.held_out_tokens, config.seed)
    site = f"L{request.layers[0]}.{request.site}"
    return Inputs(encoder, tokenizer, site, held_out, first, second, chosen)


def _take(
    documents: list[Document], tokenizer: Tokenizer, context: int, tokens: int, seed: int
) -> Rows:
    """Rows of at least `tokens` tokens in a random order, or all there are."""
    rows = data.token_rows(documents, tokenizer, context)
    order = np.random.default_rng(seed).permutation(len(rows.tokens))
    enough = np.cumsum(rows.mask[order, 1:].sum(1)) < tokens
    count = min(int(enough.sum()) + 1, len(order))
    return Rows(*(a[order[:count]] for a in rows))


def harvest_stage(config: RunConfig, inputs: Inputs, folder: Path) -> None:
    """Harvests the residual stream of every layer over the held-in text, and the held-out text.

    Kept of the held-in text: every row of the dictionary's site, and of all layers the rows of a
    random sample of tokens, drawn before the harvest, for the geometry. Kept of the held-out
    text: every row of the dictionary's site and where it came from.
    """
    sampled = _sample_tokens(inputs.held_in, config.points, config.seed)

    def site_rows(part: Harvest) -> dict[str, np.ndarray]:
        return {"activations": part.sites[inputs.site]}

    def sampled_layers(part: Harvest) -> dict[str, np.ndarray]:
        layers = part.sites[LAYERS][:, sampled[part.row, part.position]]
        return {"layers": layers.swapaxes(0, 1)}

    def placed_rows(part: Harvest) -> dict[str, np.ndarray]:
        return site_rows(part) | {"row": part.row, "position": part.position}

    # Of each store: which tokens are kept (rows, seq), and what is kept of them.
    held_in = {"held_in": (inputs.held_in.mask, site_rows), "layers": (sampled, sampled_layers)}
    held_out = {"held_out": (inputs.held_out.mask, placed_rows)}
    for side, rows, sites, kept in (
        ("held in", inputs.held_in, (inputs.site, LAYERS), held_in),
        ("held out", inputs.held_out, (inputs.site,), held_out),
    ):
        data = {f: getattr(config, f) for f in ("text", "text_column", "context", "points", "seed")}
        meta = {
            "model": config.model,
            "sites": list(sites),
            "tokenizer": config.model,
            "data": data | {"rows": len(rows.tokens), "tokens": int(rows.mask[:, 1:].sum())},
            "normalisation": None,
        }
        writers = {name: store.create(folder / "activations" / name, meta) for name in kept}
        before = {  # activations of each store before each row of text
            name: np.concatenate([[0], np.cumsum(mask[:, 1:].sum(1))])
            for name, (mask, _) in kept.items()
        }
        if all(writer.rows == before[name][-1] for name, writer in writers.items()):
            continue
        stored = min(
            int(np.searchsorted(before[name], writer.rows, "right")) - 1
            for name, writer in writers.items()
        )
        begin = stored // (_BATCH * _CHUNK) * _BATCH * _CHUNK
        order = np.arange(begin, len(rows.tokens))
        parts = harvest(inputs.encoder, rows, sites, order=order, batch=_BATCH)
        left = int(rows.mask[begin:, 1:].sum())
        with progress(f"harvest {side} text", left, unit="tokens") as advance:
            for start in range(begin, len(rows.tokens), _BATCH * _CHUNK):
                group = []
                for part in itertools.islice(parts, _CHUNK):
                    group.append(part)
                    advance(len(part.token))
                for name, (_, keep) in kept.items():
                    joined = _joined([keep(part) for part in group])
                    there = writers[name].rows - before[name][start]
                    writers[name].append({field: a[there:] for field, a in joined.items()})


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sample_tokens(rows: Rows, points: int, seed: int) -> np.ndarray:
    """A mask (rows, seq) of the tokens whose activations at all layers are kept."""
    eligible = rows.mask.copy()
    eligible[:, : min(_FIRST_POSITION, rows.tokens.shape[1] // 2)] = False
    where = np.flatnonzero(eligible)
    chosen = np.random.default_rng((seed, 1)).permutation(where)[:points]
    sample = np.zeros(eligible.size, bool)
    sample[chosen] = True
    return sample.reshape(eligible.shape)


def train_stage(config: RunConfig, inputs: Inputs, folder: Path) -> None:
    """Trains the dictionary; checkpoints on the way, metrics to `training.jsonl`."""
    target = folder / "dictionary"
    if (target / "dictionary.json").exists():
        return
    rows = jnp.asarray(store.open_store(folder / "activations" / "held_in").read("activations"))
    affine = training.normalisation(inputs.plan.normalisation, rows)
    rows = normalise.apply(affine, rows)
    learner = training.build(config, inputs.plan)
    state = jax.jit(learner.init)(jax.random.key(config.seed), rows[:: max(1, len(rows) // 8192)])

    def fit(state: Any, position: Any) -> Iterator[train.Progress]:
        del position
        return train.fit(
            learner, state, rows, steps=config.steps, batch=config.batch, seed=config.seed
        )

    settings = dataclasses.asdict(config)
    with Checkpoints(folder / "checkpoints", keep=1, config=settings) as checkpoints:
        going = run(
            fit, state, checkpoints, trackers=_trackers(config, folder), every=_CHECKPOINT_EVERY
        )
        start = next(going)
        state, done = start.state, start.step
        with progress("train dictionary", config.steps - done, unit="steps") as advance:
            for at in going:
                advance(at.step - done, training_note(means(at.info)))
                state, done = at.state, at.step
    dictionary = registry.build(inputs.plan.variant, inputs.plan.options)
    _, params = fold(dictionary, learner.params(state), affine)
    source = {"model": config.model, "site": inputs.site, "text": config.text, "seed": config.seed}
    options = training.finished_options(inputs.plan, state)
    formats.save(target, inputs.plan.variant, options, params, source)


def _trackers(config: RunConfig, folder: Path) -> list[Callable[[int], logging.Tracker]]:
    """Where the metrics of a training go, each to be opened at a step."""
    known = {
        "tensorboard": lambda at: logging.tensorboard(folder / "tensorboard", at=at),
        "wandb": lambda at: logging.wandb(
            folder / "wandb", at=at, name=config.name, config=dataclasses.asdict(config)
        ),
    }
    lines = [lambda at: logging.jsonl(folder / "training.jsonl", at=at)]
    return lines + [known[name] for name in config.trackers]


def read_held_out(folder: Path) -> dict[str, np.ndarray]:
    """Held-out `activations` (n, d), and the `row` and `position` (n) that each came from."""
    held_out = store.open_store(folder / "activations" / "held_out")
    return {name: held_out.read(name) for name in ("activations", "row", "position")}


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive pieces of one size (but the last), so that a jitted function compiles once."""
    return (array[i : i + _ROWS] for i in range(0, len(array), _ROWS))


def evaluate_stage(config: RunConfig, inputs: Inputs, folder: Path) -> None:
    """Measures the dictionary on held-out text."""
    target = folder / "evaluation.json"
    if target.exists():
        return
    dictionary, params, _ = formats.load(folder / "dictionary")
    tokens = int(inputs.held_out.mask[:, 1:].sum())
    sums = reconstruction.measure(dictionary, params, pieces(read_held_out(folder)["activations"]))
    mean = np.asarray(sums.fit.mean, np.float32)
    losses = behaviour.cross_entropy(
        inputs.encoder, dictionary, params, inputs.held_out, inputs.site, mean, batch=_BATCH
    )
    metrics = sums.metrics() | {
        "cross_entropy_recovered": losses.recovered(),
        "cross_entropy_recovered_over_mean": losses.recovered_over_mean(),
        "divergence_recovered": losses.divergence_recovered(),
        "encoder_decoder_cosine": reconstruction.mean_encoder_decoder_cosine(
            params, np.asarray(sums.usage.fired)
        ),
        "cross_entropy": losses._asdict(),
        "held_in_tokens": int(inputs.held_in.mask[:, 1:].sum()),
        "held_out_tokens": tokens,
    }
    per_latent = {
        n: np.asarray(getattr(sums.usage, n)) for n in ("fired", "mass", "energy", "peak")
    }
    files.write_arrays(folder / "latents.safetensors", per_latent)
    files.write_json(target, metrics)


def geometry_stage(config: RunConfig, inputs: Inputs, folder: Path) -> None:
    """Estimates the intrinsic dimension of every layer, at several scales."""
    target = folder / "geometry.json"
    if target.exists():
        return
    kept = store.open_store(folder / "activations" / "layers")
    points = jnp.asarray(kept.read("layers")).swapaxes(0, 1)
    layers = []
    with progress("dimension of every layer", len(points), unit="layers") as advance:
        for index, cloud in enumerate(points):
            layers.append(
                {"layer_name": f"L{index}.{LAYERS}"} | dimension_of(cloud, config.neighbors)
            )
            advance(1)
    files.write_json(target, {"neighbors": config.neighbors, "layers": layers})
