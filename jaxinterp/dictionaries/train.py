"""Training over many batches: compiled stretches of steps that stop before they spoil a state."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinterp.activations.feed import Feed, batch_rows
from jaxinterp.dictionaries.learner import Learner, is_finite
from jaxinterp.distributed import Agreed
from jaxinterp.parallel import on_host

_SILENT_STEPS = 200  # without any active latent, after which nothing will come back
_AHEAD = 8  # steps that are asked for before the first of them is done


class Progress(NamedTuple):
    """Where a fit stands after some steps.

    Attributes:
        step: steps taken since the beginning of the run.
        state: the training state; valid until the fit goes on, which reuses its memory.
        info: for each number that the learner reports, its values over the steps since the last
            progress, steps first.
        position: the feed's state after the batches taken so far; () where there is no feed.
    """

    step: int
    state: Any
    info: dict[str, np.ndarray]
    position: Any = ()


class Stopped(Agreed):
    """A fit that can't go on; every process that takes part finds so at the same step.

    Attributes:
        step: steps that were taken and are good.
        state: the training state after them.
        position: the feed's state after them; () where there is no feed.
    """

    def __init__(self, message: str, step: int, state: Any, position: Any = ()):
        super().__init__(message)
        self.step, self.state, self.position = step, state, position


def fit(
    learner: Learner,
    state: Any,
    data: Any,
    *,
    steps: int,
    batch: int,
    seed: int,
    chunk: int = 50,
) -> Iterator[Progress]:
    """Trains on rows that fit in device memory, many steps to one compiled call.

    Every epoch visits each row once, in an order that depends on `seed` and the epoch alone, so a
    run that is resumed from any step sees what an unbroken run would have seen.

    Args:
        learner: what learns.
        state: where to start; its step count says how many batches to skip. Donated.
        data: all rows (n, ...), or arrays of n rows that belong together: a pair, a dict by site.
        steps: total steps of the run.
        batch: rows in a step.
        seed: seed of the order of the rows.
        chunk: steps between two progress reports.

    Yields:
        Progress after every `chunk` steps and at the end.

    Raises:
        ValueError: fewer rows than a batch, arrays of different numbers of rows, or a batch or a
            chunk below 1.
        Stopped: a loss or gradient that is not finite (the rows that hold NaN or infinity are
            named), or no active latent for 200 steps.
    """
    _check_positive(batch=batch, chunk=chunk)
    leaves = jax.tree_util.tree_leaves_with_path(data)
    lengths = {jax.tree_util.keystr(path): len(leaf) for path, leaf in leaves}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{number} rows in data{path}" for path, number in lengths.items())
        raise ValueError(f"{told}: rows that belong together have the same number in all arrays")
    n = next(iter(lengths.values()))
    if n < batch:
        raise ValueError(f"{n} rows for a batch of {batch}: harvest more tokens or lower the batch")
    step = guarded(learner)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: Any, data: Any, order: Array) -> tuple[Any, dict[str, Array]]:
        (state, _), info = jax.lax.scan(lambda s, i: step(s, take(data, i)), (state, True), order)
        return state, info

    def take(data: Any, rows: Any) -> Any:
        return jax.tree.map(lambda column: column[rows], data)

    def blame(at: int) -> str:
        rows = batch_rows(n, batch=batch, seed=seed, step=at)
        return _name_rows(jax.tree.map(np.asarray, take(data, rows)), rows, "the data")

    done, silent = steps_taken(state), 0
    while done < steps:
        last = min((done // chunk + 1) * chunk, steps)
        order = [batch_rows(n, batch=batch, seed=seed, step=t) for t in range(done, last)]
        state, info = run(state, data, np.stack(order).astype(np.int32))
        info = {name: np.asarray(values) for name, values in info.items()}
        silent = _check(info, done, silent, state, lambda _: (), blame)
        done = last
        yield Progress(done, state, info)


def fit_feed(
    learner: Learner,
    state: Any,
    feed: Feed,
    *,
    steps: int,
    position: Any = None,
    chunk: int = 50,
) -> Iterator[Progress]:
    """Trains on batches from a feed; the next batch is made while the device is at work.

    Args:
        learner: what learns from the feed's batches: rows, or with `sweep.by_site` a dict of them.
        state: where to start. Donated.
        feed: the batches.
        steps: total steps of the run; `state` may have taken some of them.
        position: the feed's state that belongs to `state`; None for its beginning.
        chunk: steps between two progress reports.

    Yields:
        Progress after every `chunk` steps and at the end, with the position of the feed.

    Raises:
        ValueError: a chunk below 1.
        Stopped: as in `fit`; the batch of the feed and the rows in it are named.
    """
    _check_positive(chunk=chunk)
    step = jax.jit(guarded(learner), donate_argnums=0)
    position = feed.init() if position is None else position
    done, silent = steps_taken(state), 0
    while done < steps:
        last = min((done // chunk + 1) * chunk, steps)
        begin, first, carry, infos = position, done, (state, jnp.asarray(True)), []
        for _ in range(done, last):
            position, batch = feed.next(position)
            carry, info = step(carry, learner.place(batch))
            infos.append(info)
            # Batches that wait take memory, and 32 waiting steps bring virtual devices to a halt.
            jax.block_until_ready(infos[-_AHEAD:][0])
        state = carry[0]
        info = {k: np.stack([np.asarray(i[k]) for i in infos]) for k in infos[0]}

        def positions(at: int, begin: Any = begin, first: int = first) -> tuple[Any, Any]:
            """The feed's state before the batch of step `at`, and that batch."""
            place = begin
            for _ in range(first, at):
                place, _ = feed.next(place)
            return place, feed.next(place)[1]

        def blame(at: int, positions: Callable = positions) -> str:
            batch = positions(at)[1]
            return _name_rows(batch, np.arange(len(jax.tree.leaves(batch)[0])), f"batch {at}")

        silent = _check(info, done, silent, state, lambda at: positions(at)[0], blame)
        done = last
        yield Progress(done, state, info, position)


def steps_taken(state: Any) -> int:
    """Steps that a training state has behind it; of several members, the most."""
    return int(np.max(np.asarray(state.step)))


def guarded(learner: Learner) -> Callable[..., tuple[tuple[Any, Array], dict[str, Array]]]:
    """A step that keeps the last good state: `((state, good), batch) -> ((state, good), info)`.

    Once no loss of the learner is finite, or no gradient, the state stays as it was before. The
    choice is element by element, so it joins the optimiser's own pass over the parameters.
    """

    def step(carry: tuple[Any, Array], batch: Any) -> tuple[tuple[Any, Array], dict[str, Array]]:
        state, good = carry
        new, info = learner.step(state, batch)
        good = good & is_finite(info).any()
        return (jax.tree.map(functools.partial(jnp.where, good), new, state), good), info

    return step


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}: it must be at least 1")


def _check(
    info: dict[str, np.ndarray],
    done: int,
    silent: int,
    state: Any,
    position: Callable[[int], Any],
    blame: Callable[[int], str],
) -> int:
    """Refuses to go on where it makes no sense; returns steps since a latent was active."""
    members = tuple(range(1, info["loss"].ndim))
    bad = ~np.asarray(is_finite(info)).any(axis=members)
    if bad.any():
        step = done + int(bad.argmax())
        told = f"the loss is not finite at step {step}: {blame(step)}"
        raise Stopped(told, step, state, position(step))
    if "l0" not in info:
        return 0
    for active in np.atleast_1d((info["l0"] > 0).any(axis=members)):
        silent = 0 if active else silent + 1
    if silent >= _SILENT_STEPS:
        step = done + len(info["loss"])
        told = (
            f"no latent was active in the last {silent} steps, at step {step}: lower the penalty, "
            "the thresholds or the learning rate"
        )
        raise Stopped(told, step, state, position(step))
    return silent


def _name_rows(batch: Any, rows: np.ndarray, where: str) -> str:
    """Which rows of a batch hold NaN or infinity, in words."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        values = np.asarray(on_host(leaf), np.float32).reshape(len(rows), -1)
        bad = np.unique(rows[~np.isfinite(values).all(1)])
        if len(bad):
            shown = ", ".join(str(row) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
            site = f" of {''.join(str(getattr(p, 'key', p)) for p in path)}" if path else ""
            return f"row {shown}{site} in {where} holds NaN or infinity"
    return "the activations are finite, so training diverged: lower the learning rate"
