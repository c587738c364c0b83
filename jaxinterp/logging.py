"""Where the numbers of a run go: JSON lines always, TensorBoard and Weights & Biases if installed.

A tracker is opened at the step where its run goes on, so that nothing is written twice:

    trackers = [jsonl(folder / "training.jsonl", at=step), tensorboard(folder / "events", at=step)]
    for tracker in trackers:
        tracker.log(step, {"loss": 0.1, "l0": np.array([31.9, 64.2])})
"""

import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinterp import files

Numbers = Mapping[str, Any]
# Of each tracker that is not ours: its name, what to install, and the packages that will do.
_PACKAGES = {
    "tensorboard": ("TensorBoard", "tensorboardX", (("tensorboardX",), ("tensorboard", "torch"))),
    "wandb": ("Weights & Biases", "wandb", (("wandb",),)),
}


class Tracker(NamedTuple):
    """Something that is told the numbers of a run.

    Attributes:
        log: `(step, numbers) -> None`; a number may be an array, one value a member of a sweep.
        flush: `() -> None`: what was logged is on disk, or on its way, when it returns.
        close: `() -> None`.
    """

    log: Callable[[int, Numbers], None]
    flush: Callable[[], None]
    close: Callable[[], None]


def jsonl(path: str | Path, *, at: int = 0) -> Tracker:
    """Appends one line of JSON per call, with `step` first.

    Lines of later steps than `at`, and a last line that a kill tore, are taken off first: the run
    that goes on from step `at` writes them again. NaN and infinity become null.

    Args:
        path: of the file; its folder is made.
        at: step at which the run goes on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = "".join(json.dumps(line) + "\n" for line in read_jsonl(path) if line["step"] <= at)
        if kept != path.read_text("utf-8"):
            files.write_text(path, kept)
    file = path.open("a", encoding="utf-8")

    def log(step: int, numbers: Numbers) -> None:
        # One write of a whole line, past Python's buffer: another process may read along.
        file.write(json.dumps({"step": step} | {k: _plain(v) for k, v in numbers.items()}) + "\n")
        file.flush()

    def flush() -> None:
        file.flush()
        os.fsync(file.fileno())

    return Tracker(log, flush, file.close)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a torn last one is left out.

    Raises:
        ValueError: a line before the last that is not JSON.
    """
    lines = Path(path).read_text("utf-8").split("\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error})") from error
    return found


def check_installed(tracker: str) -> None:
    """Refuses a tracker, "tensorboard" or "wandb", whose packages are not installed.

    Raises:
        ValueError: what to install.
    """
    called, package, ways = _PACKAGES[tracker]
    if not any(all(map(importlib.util.find_spec, way)) for way in ways):
        raise ValueError(f"{called} is not installed: pip install {package}, or leave it out")


def tensorboard(folder: str | Path, *, at: int = 0) -> Tracker:
    """Writes scalars for TensorBoard; those of steps after `at` are purged.

    Raises:
        ValueError: neither tensorboardX nor PyTorch with tensorboard is installed.
    """
    check_installed("tensorboard")
    light = importlib.util.find_spec("tensorboardX")
    module = importlib.import_module("tensorboardX" if light else "torch.utils.tensorboard")
    writer = module.SummaryWriter(str(folder), purge_step=at + 1)

    def log(step: int, numbers: Numbers) -> None:
        for name, value in _flat(numbers):
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.flush, writer.close)


def wandb(
    folder: str | Path, *, at: int = 0, name: str = "", config: Mapping[str, Any] | None = None
) -> Tracker:
    """Sends scalars to Weights & Biases; a run that goes on keeps its identifier.

    The service itself refuses steps that it has already seen, so lines that a killed run had sent
    after its last checkpoint stay as they were, which is what they would be again.

    Args:
        folder: for its files and for `wandb_id`, which names the run.
        at: step at which the run goes on.
        name: shown for the run.
        config: settings shown for the run.

    Raises:
        ValueError: wandb is not installed.
    """
    check_installed("wandb")
    module = importlib.import_module("wandb")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "wandb_id"
    if not at or not known.exists():
        files.write_text(known, os.urandom(8).hex())
    run = module.init(
        dir=str(folder),
        id=known.read_text(),
        name=name or None,
        config=dict(config or {}),
        resume="allow",
    )

    def log(step: int, numbers: Numbers) -> None:
        run.log(dict(_flat(numbers)), step=step)

    return Tracker(log, lambda: None, run.finish)


def _plain(value: Any) -> Any:
    """A number or nested list of numbers for JSON, rounded to 7 digits."""
    if np.ndim(value):
        return [_plain(v) for v in np.asarray(value)]
    number = float(value)
    return float(f"{number:.7g}") if math.isfinite(number) else None


def _flat(numbers: Numbers) -> Iterator[tuple[str, float]]:
    """Scalars by name; the values of an array as name/0, name/1, ..."""
    for name, value in numbers.items():
        values = np.asarray(value)
        for index in np.ndindex(values.shape):
            yield "/".join([name, *map(str, index)]), float(values[index])
