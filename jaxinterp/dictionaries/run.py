"""A training run that survives being stopped: checkpoints and logs around a fit."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries.train import Progress, Stopped, steps_taken
from jaxinterp.distributed import MustStop, Preempted, never
from jaxinterp.logging import Tracker


def run(
    fit: Callable[[Any, Any], Iterator[Progress]],
    state: Any,
    checkpoints: Checkpoints,
    *,
    position: Any = (),
    trackers: Sequence[Callable[[int], Tracker]] = (),
    every: int = 500,
    score: Callable[[Progress], float] | None = None,
    must_stop: MustStop = never,
) -> Iterator[Progress]:
    """Goes through a fit, or goes on with one that was stopped at any moment.

    What was logged is on disk before the checkpoint that comes after it, and a log is cut back to
    the step of the checkpoint that is gone on from: no line is lost or there twice.

        go = lambda state, position: fit_feed(learner, state, feed, steps=10_000, position=position)
        with Checkpoints(folder / "checkpoints", keep=1, config=settings) as checkpoints:
            for at in run(go, state, checkpoints, position=feed.init(), trackers=[log]):
                ...

    Args:
        fit: `(state, position) -> progress`, with `train.fit` or `train.fit_feed` in it.
        state: where a run begins. Donated.
        checkpoints: of this run; a checkpoint of other settings is refused.
        position: the feed's state where a run begins; () where there is no feed.
        trackers: each is opened at the step where the run stands.
        every: steps between two checkpoints, at least; one more is made at the end.
        score: how good a state is, on held-out rows for example, higher is better; None for the
            mean variance explained since the last progress. The best checkpoint is kept.
        must_stop: of `distributed.stop_requests`; asked after every progress, by all processes.

    Yields:
        Where the run stands, with empty info, and then every progress of the fit.

    Raises:
        Stopped: as the fit; the last good state is saved first.
        Preempted: this run was asked to stop; the state is saved first.
        ValueError: the newest checkpoint is of another run.
    """
    begin = {"state": state, "position": position}
    if checkpoints.latest() is not None:
        begin, _ = checkpoints.restore(begin)
    state, position = begin["state"], begin["position"]
    saved = step = steps_taken(state)
    opened = [tracker(step) for tracker in trackers]

    def keep(step: int, state: Any, position: Any, score: float | None) -> None:
        for tracker in opened:
            tracker.flush()
        checkpoints.save(step, {"state": state, "position": position}, score=score)

    try:
        yield Progress(step, state, {}, position)
        at = None
        for at in fit(state, position):
            for tracker in opened:
                tracker.log(at.step, means(at.info))
            if at.step // every > saved // every:
                keep(at.step, at.state, at.position, (score or explained)(at))
                saved = at.step
            yield at
            if must_stop():
                if saved != at.step:
                    keep(at.step, at.state, at.position, (score or explained)(at))
                raise Preempted
        if at is not None and saved != at.step:
            keep(at.step, at.state, at.position, (score or explained)(at))
    except Stopped as stop:
        if stop.step != saved:
            keep(stop.step, stop.state, stop.position, None)
        raise
    finally:
        for tracker in opened:
            tracker.close()


def means(info: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean of each number over the steps of a progress; one value a member of a sweep."""
    return {name: np.asarray(np.mean(v, axis=0, dtype=np.float64)) for name, v in info.items()}


def explained(at: Progress) -> float:
    """Mean variance explained since the last progress; of several members, that of the best."""
    values = at.info.get("variance_explained")
    if values is None:
        return float("nan")
    each = np.asarray(values, np.float64).mean(0)
    return float(np.nanmax(each)) if np.isfinite(each).any() else float("nan")
