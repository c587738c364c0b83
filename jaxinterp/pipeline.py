"""The stages of the main job up to a trained dictionary; `measuring` has those behind it.

Each reads what earlier stages wrote and writes its own whole: one whose result is there is not run
again, so a run that was stopped goes on where it was.

Several processes run the same stages: each harvests pieces of the text and measures a part of what
is held out with its own devices, all train one dictionary on the devices of all, and process 0
writes the results. What the text is cut into does not depend on how many they are, so neither do
the activations and their order.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinterp import distributed, logging, placement, training
from jaxinterp.activations import feed, normalise, store
from jaxinterp.activations.harvest import Harvest, harvest
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.config import RunConfig
from jaxinterp.data import Rows
from jaxinterp.dictionaries import formats, registry, train
from jaxinterp.dictionaries.fold import fold
from jaxinterp.dictionaries.learner import Learner
from jaxinterp.dictionaries.run import means, run
from jaxinterp.dictionaries.sharding import sharded
from jaxinterp.distributed import MustStop, in_step, never
from jaxinterp.inputs import FORWARD_ROWS, Inputs, eligible
from jaxinterp.parallel import on_host
from jaxinterp.report.terminal import progress, training_note

LAYERS = "resid_post"
_CHUNK = 4  # forwards to a piece of the text
_STEPS = 50  # training steps between two lines of the log


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
        size = FORWARD_ROWS * _CHUNK
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
            parts = harvest(inputs.encoder, rows, sites, order=order, batch=FORWARD_ROWS)
            count = int(rows.mask[order, 1:].sum())
            with progress(f"harvest {side} text", count, unit="tokens") as advance:
                for piece in in_step(left, must_stop):
                    group = []
                    forwards = -(-int((order // size == piece).sum()) // FORWARD_ROWS)
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
    where = np.flatnonzero(eligible(rows))
    chosen = np.random.default_rng((seed, 1)).permutation(where)[:points]
    sample = np.zeros(rows.mask.size, bool)
    sample[chosen] = True
    return sample.reshape(rows.mask.shape)


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
    if distributed.of_writer((target / "dictionary.json").exists()):
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
        with progress("train dictionary", config.steps - done, unit="steps") as advance:
            for at in going:
                advance(at.step - done, training_note(means(at.info)))
                state, done = at.state, at.step
    dictionary = registry.build(inputs.plan.variant, inputs.plan.options)
    trained = jax.tree.map(jnp.asarray, on_host(learner.params(state)))
    options = training.finished_options(inputs.plan, state)
    source = {"model": config.model, "site": inputs.site, "text": config.text, "seed": config.seed}
    with distributed.together():
        if distributed.is_writer():
            folded, params = fold(dictionary, trained, affine)
            around = None if folded is dictionary else affine  # what the weights can't hold
            formats.save(target, inputs.plan.variant, options, params, source, around)


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
