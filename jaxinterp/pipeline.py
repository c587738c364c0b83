"""The main job in stages; each reads what earlier stages wrote and writes its own whole.

A stage whose result is there is not run again, so a run that was stopped goes on where it was.

Several processes run the same stages: each harvests pieces of the text and measures a part of what
is held out with its own devices, all train one dictionary on the devices of all, and process 0
writes the results. What the text is cut into does not depend on how many they are, so neither do
the activations and their order.
"""

import dataclasses
import functools
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from jaxinterp import data, distributed, files, logging, placement, training
from jaxinterp.activations import feed, normalise, store
from jaxinterp.activations.harvest import Harvest, harvest
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.config import RunConfig
from jaxinterp.data import Document, Rows
from jaxinterp.dictionaries import formats, registry, train
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.fold import fold
from jaxinterp.dictionaries.learner import Learner
from jaxinterp.dictionaries.run import means, run
from jaxinterp.dictionaries.sharding import sharded
from jaxinterp.distributed import MustStop, in_step, never
from jaxinterp.encoders import hf
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.sites import resolve
from jaxinterp.evaluation import behaviour, reconstruction
from jaxinterp.layer_dimension import dimension_of
from jaxinterp.parallel import on_host
from jaxinterp.report.terminal import Advance, progress, training_note
from jaxinterp.tokenize import Tokenizer
from jaxinterp.training import Plan

LAYERS = "resid_post"
_BATCH = 32  # rows in a forward
_CHUNK = 4  # forwards to a piece of the text
_ROWS = 4096  # activations in a call of the dictionary
_FIRST_POSITION = 16  # for geometry: rows that begin alike give equal points before this
_STEPS = 50  # training steps between two lines of the log


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
    mesh, own = placement.meshes(config.mesh, batch=_BATCH)
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
    second = _take(held_out, tokenizer, config.context, config.held_out_tokens, config.seed)
    site = f"L{request.layers[0]}.{request.site}"
    return Inputs(encoder, tokenizer, site, held_out, first, second, chosen, mesh, own)


def check_inputs(inputs: Inputs) -> None:
    """Refuses processes that read different text.

    Raises:
        Agreed: in every process.
    """
    sides = {"held-in text": inputs.held_in, "held-out text": inputs.held_out}
    digests = {n: hashlib.sha256(rows.tokens.tobytes()).hexdigest() for n, rows in sides.items()}
    distributed.check_same("the data", digests)


def _shown(description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
    """Progress, which only process 0 shows."""
    console = Console(file=sys.stderr, quiet=not distributed.is_writer())
    return progress(description, total, unit=unit, console=console)


def _exists(path: Path) -> bool:
    """Whether process 0 sees a result, which another may see earlier or later."""
    return distributed.of_writer(path.exists())


def _take(
    documents: list[Document], tokenizer: Tokenizer, context: int, tokens: int, seed: int
) -> Rows:
    """Rows of at least `tokens` tokens in a random order, or all there are."""
    rows = data.token_rows(documents, tokenizer, context)
    order = np.random.default_rng(seed).permutation(len(rows.tokens))
    enough = np.cumsum(rows.mask[order, 1:].sum(1)) < tokens
    count = min(int(enough.sum()) + 1, len(order))
    return Rows(*(a[order[:count]] for a in rows))


def harvest_stage(
    config: RunConfig, inputs: Inputs, folder: Path, must_stop: MustStop = never
) -> None:
    """Harvests the residual stream of every layer over the held-in text, and the held-out text.

    Kept of the held-in text: every row of the dictionary's site, and of all layers the rows of a
    random sample of tokens, drawn before the harvest, for the geometry. Kept of the held-out
    text: every row of the dictionary's site and where it came from.

    The text is cut into pieces, each of which is written under its own name and harvested by one
    process: read in the order of the names, the rows are in the order of the text.
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
        size = _BATCH * _CHUNK
        pieces = range(-(-len(rows.tokens) // size))
        tokens = {  # of each piece, in each store
            name: [int(mask[p * size : (p + 1) * size, 1:].sum()) for p in pieces]
            for name, (mask, _) in kept.items()
        }

        def writer(name: str, piece: int, meta: dict[str, Any] = meta) -> store.Writer:
            return store.create(folder / "activations" / name, meta, writer=f"{piece:09d}")

        with distributed.together():
            mine = pieces[jax.process_index() :: jax.process_count()]
            left = [p for p in mine if any(writer(n, p).rows < tokens[n][p] for n in kept)]
        if sum(distributed.gathered(len(left))):
            order = np.arange(len(rows.tokens))
            order = order[np.isin(order // size, left)]
            parts = harvest(inputs.encoder, rows, sites, order=order, batch=_BATCH)
            count = int(rows.mask[order, 1:].sum())
            with _shown(f"harvest {side} text", count, "tokens") as advance:
                for piece in in_step(left, must_stop):
                    group = []
                    forwards = -(-int((order // size == piece).sum()) // _BATCH)
                    for part in itertools.islice(parts, forwards):
                        group.append(part)
                        advance(len(part.token))
                    for name, (_, keep) in kept.items():
                        joined = _joined([keep(part) for part in group])
                        to = writer(name, piece)
                        to.append({field: a[to.rows :] for field, a in joined.items()})
        with distributed.together():
            for name in kept:
                _check_rows(folder / "activations" / name, sum(tokens[name]))


def _check_rows(url: Path, wanted: int) -> None:
    rows = store.open_store(url).rows
    if rows != wanted:
        raise ValueError(
            f"{url} holds {rows} rows instead of {wanted}: it was written by another version, or "
            "changed; delete it and start again"
        )


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


def startup_report(config: RunConfig, inputs: Inputs) -> str:
    """What training will put on each device; see `placement.startup_report`."""
    return placement.startup_report(
        training.build(config, inputs.plan),
        inputs.encoder.config.d_model,
        batch=config.batch,
        rows=int(inputs.held_in.mask[:, 1:].sum()),
        mesh=inputs.mesh,
    )


def train_stage(
    config: RunConfig, inputs: Inputs, folder: Path, must_stop: MustStop = never
) -> None:
    """Trains the dictionary; checkpoints on the way, metrics to `training.jsonl`.

    Raises:
        Preempted: it was asked to stop; the state is saved.
        ValueError: training that can't go on (`train.Stopped`), or checkpoints of another run.
    """
    target = folder / "dictionary"
    if _exists(target / "dictionary.json"):
        return
    with distributed.together():
        rows = store.open_store(folder / "activations" / "held_in").read("activations")
    affine = training.normalisation(inputs.plan.normalisation, jnp.asarray(rows))
    learner, state, fit = _fitting(config, inputs, normalise.apply(affine, rows))
    with Checkpoints(folder / "checkpoints", keep=2, config=config.outcome()) as checkpoints:
        going = run(
            fit,
            state,
            checkpoints,
            trackers=_trackers(config, folder) if distributed.is_writer() else (),
            every=config.checkpoint_every,
            must_stop=must_stop,
        )
        start = next(going)
        state, done = start.state, start.step
        with _shown("train dictionary", config.steps - done, "steps") as advance:
            for at in going:
                advance(at.step - done, training_note(means(at.info)))
                state, done = at.state, at.step
    dictionary = registry.build(inputs.plan.variant, inputs.plan.options)
    trained = jax.tree.map(jnp.asarray, on_host(learner.params(state)))
    options = training.finished_options(inputs.plan, state)
    source = {"model": config.model, "site": inputs.site, "text": config.text, "seed": config.seed}
    with distributed.together():
        if distributed.is_writer():
            _, params = fold(dictionary, trained, affine)
            formats.save(target, inputs.plan.variant, options, params, source)


def _fitting(
    config: RunConfig, inputs: Inputs, rows: jax.Array
) -> tuple[Learner, Any, Callable[[Any, Any], Iterator[train.Progress]]]:
    """What learns, its first state, and its way through the rows.

    On one device the rows lie there. On a mesh they stay in the memory of the hosts, and of every
    batch, which is the same as on one device, each device is given its part.
    """
    learner, mesh = training.build(config, inputs.plan), inputs.mesh
    sample, key = rows[:: max(1, len(rows) // 8192)], jax.random.key(config.seed)
    order = {"batch": config.batch, "seed": config.seed}
    chunk = min(_STEPS, max(1, config.checkpoint_every // 4))  # after each it may be stopped
    if mesh is None:
        state = jax.jit(learner.init)(key, sample)

        def fit(state: Any, position: Any) -> Iterator[train.Progress]:
            del position
            return train.fit(learner, state, rows, steps=config.steps, chunk=chunk, **order)

        return learner, state, fit
    over = NamedSharding(mesh, P("data" if "data" in mesh.shape else None))
    batches = feed.from_array(np.asarray(rows), sharding=over, **order)
    spread = sharded(learner, mesh)._replace(place=lambda batch: batch)

    def fit_on_mesh(state: Any, position: Any) -> Iterator[train.Progress]:
        del position  # as many batches as steps
        begin = np.asarray(train.steps_taken(state))
        going = train.fit_feed(
            spread, state, batches, steps=config.steps, position=begin, chunk=chunk
        )
        return (at._replace(position=()) for at in going)

    return spread, spread.init(key, np.asarray(sample)), fit_on_mesh


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


def evaluate_stage(
    config: RunConfig, inputs: Inputs, folder: Path, must_stop: MustStop = never
) -> None:
    """Measures the dictionary on held-out text, of which each process takes a part."""
    target = folder / "evaluation.json"
    if _exists(target):
        return
    with distributed.together():
        dictionary, params, _ = formats.load(folder / "dictionary")
        params = placement.params_on(inputs.own, params)
        rows = _share(read_held_out(folder)["activations"])
    placed = (placement.rows_on(inputs.own, piece) for piece in pieces(rows))
    going = in_step(placed, must_stop)
    part = reconstruction.measure(dictionary, params, going) if len(rows) else list(going)
    found = [part for part in distributed.gathered(part) if part]
    sums = functools.reduce(reconstruction.merge, found)
    mean = np.asarray(sums.fit.mean, np.float32)
    losses = _cross_entropy(inputs, dictionary, params, mean)
    metrics = sums.metrics() | {
        "cross_entropy_recovered": losses.recovered(),
        "cross_entropy_recovered_over_mean": losses.recovered_over_mean(),
        "divergence_recovered": losses.divergence_recovered(),
        "encoder_decoder_cosine": reconstruction.mean_encoder_decoder_cosine(
            params, np.asarray(sums.usage.fired)
        ),
        "cross_entropy": losses._asdict(),
        "held_in_tokens": int(inputs.held_in.mask[:, 1:].sum()),
        "held_out_tokens": int(inputs.held_out.mask[:, 1:].sum()),
    }
    per_latent = {
        n: np.asarray(getattr(sums.usage, n)) for n in ("fired", "mass", "energy", "peak")
    }
    with distributed.together():
        if distributed.is_writer():
            files.write_arrays(folder / "latents.safetensors", per_latent)
            files.write_json(target, metrics)


def _share(array: np.ndarray) -> np.ndarray:
    """This process' part of rows that every process has."""
    return np.array_split(array, jax.process_count())[jax.process_index()]


def _cross_entropy(
    inputs: Inputs, dictionary: Dictionary, params: Any, mean: np.ndarray
) -> behaviour.CrossEntropy:
    """The losses over the text of all processes."""
    own = Rows(*(_share(column) for column in inputs.held_out))
    tokens, sums = int(own.mask[:, 1:].sum()), np.zeros(len(behaviour.CrossEntropy._fields))
    if tokens:
        sums += tokens * np.asarray(
            behaviour.cross_entropy(
                inputs.encoder, dictionary, params, own, inputs.site, mean, batch=_BATCH
            )
        )
    counts, totals = zip(*distributed.gathered((tokens, sums)), strict=True)
    return behaviour.CrossEntropy(*(float(total) for total in sum(totals) / sum(counts)))


def geometry_stage(
    config: RunConfig, inputs: Inputs, folder: Path, must_stop: MustStop = never
) -> None:
    """Estimates the intrinsic dimension of every layer, at several scales."""
    target = folder / "geometry.json"
    if _exists(target):
        return
    with distributed.together():
        kept = store.open_store(folder / "activations" / "layers").read("layers")
    clouds = list(enumerate(kept.swapaxes(0, 1)))
    own, found = clouds[jax.process_index() :: jax.process_count()], {}
    with _shown("dimension of every layer", len(own), "layers") as advance:
        for index, cloud in in_step(own, must_stop):
            found[index] = {"layer_name": f"L{index}.{LAYERS}"}
            found[index] |= dimension_of(jnp.asarray(cloud), config.neighbors)
            advance(1)
    everyone = {n: layer for part in distributed.gathered(found) for n, layer in part.items()}
    layers = [everyone[n] for n in sorted(everyone)]
    with distributed.together():
        if distributed.is_writer():
            files.write_json(target, {"neighbors": config.neighbors, "layers": layers})
