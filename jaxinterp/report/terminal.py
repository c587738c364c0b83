"""What a run says in a terminal: progress while it works, a table when it is done."""

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column, Table
from rich.text import Text

from jaxinterp import distributed
from jaxinterp.report.content import Metric, metric_text, target_met


class Advance(Protocol):
    """Says that more units are done, with a few words on how it goes."""

    def __call__(self, units: int = 1, note: str = "") -> None: ...  # noqa: D102


def print_metrics(
    metrics: Sequence[Metric], *, title: str = "", console: Console | None = None
) -> None:
    """Prints metrics as a table; whether a target is met is said in words as well as in colour."""
    console = console or Console()
    table = Table(title=Text(title) if title else None, title_justify="left", title_style="bold")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    for metric in metrics:
        met = target_met(metric)
        bound = "at most" if metric.lower_is_better else "at least"
        table.add_row(
            Text(metric.name),
            Text(metric_text(metric, metric.value)),
            "" if met is None else Text(f"{bound} {metric_text(metric, metric.target)}"),
            {None: "", True: "[green]met[/]", False: "[bold red]not met[/]"}[met],
        )
    console.print(table)


def training_note(numbers: Mapping[str, np.ndarray]) -> str:
    """The numbers of a training that matter, in a few words.

    Several members are shown by the range of those that still run.

    Args:
        numbers: means over the last steps, with the names that the variants report; those that are
            absent are left out.
    """
    shown = {
        "explained": ("variance_explained", "{:.3f}"),
        "L0": ("l0", "{:.1f}"),
        "dead": ("dead", "{:.1%}"),
        "weight": ("penalty_weight", "{:.3g}"),
    }
    words = []
    for word, (name, form) in shown.items():
        values = np.asarray(numbers.get(name, np.nan)).ravel()
        values = values[np.isfinite(values)]
        ends = [form.format(v) for v in (values.min(), values.max())] if values.size else []
        if ends:
            words.append(f"{word} {ends[0]}" + (f" to {ends[1]}" if values.size > 1 else ""))
    members = np.asarray(numbers.get("loss", 0.0)).ravel()
    if members.size > 1:
        words.append(f"{int(np.isfinite(members).sum())} of {members.size} run")
    return "  ".join(words)


@contextmanager
def progress(
    description: str,
    total: int | None = None,
    *,
    unit: str = "steps",
    console: Console | None = None,
    seconds: float | int = 5.0,
    clock: Callable[[], float | int] = time.monotonic,
) -> Generator[Advance]:
    """Shows how far a loop is: count, units a second, time left.

    A moving bar in a terminal; elsewhere (a log) plain lines, and a last one when it ends.

        with progress("harvest", 300_000, unit="tokens") as advance:
            for batch in batches:
                ...
                advance(batch.size)

    Args:
        description: what is being done.
        total: units to do; None if unknown.
        unit: what is counted, in the plural.
        console: where to write; if not given, standard error, in the process that writes.
        seconds: least time between two plain lines.
        clock: seconds from any origin.
    """
    console = console or Console(file=sys.stderr, quiet=not distributed.is_writer())
    shown = _bar if console.is_terminal else _lines
    with shown(description, total, unit, console, seconds, clock) as advance:
        yield advance


@contextmanager
def _bar(
    description: str,
    total: int | None,
    unit: str,
    console: Console,
    seconds: float | int,
    clock: Callable[[], float | int],
) -> Generator[Advance]:
    del seconds
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        _Counts(unit),
        TextColumn(
            "{task.fields[note]}", style="dim", markup=False, table_column=Column(no_wrap=True)
        ),
    )
    with Progress(*columns, console=console, get_time=clock, speed_estimate_period=15) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(units: int = 1, note: str = "") -> None:
            bar.update(task, advance=units)
            if note:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(
    description: str,
    total: int | None,
    unit: str,
    console: Console,
    seconds: float | int,
    clock: Callable[[], float | int],
) -> Generator[Advance]:
    start = shown = clock()
    done, last = 0, ""

    def say(text: str) -> None:
        console.print(f"{description}: {text}", markup=False, highlight=False, soft_wrap=True)

    def advance(units: int = 1, note: str = "") -> None:
        nonlocal done, shown, last
        done, last, now = done + units, note or last, clock()
        if now - shown >= seconds:
            shown = now
            say(_counts(done, total, unit, done / (now - start)) + (f", {last}" if last else ""))

    say(f"{total:,} {unit}" if total is not None else "started")
    finished = False
    try:
        yield advance
        finished = True
    finally:
        spent = clock() - start
        text = f"{done:,} {unit} in {_duration(spent)}" + (f", {last}" if last else "")
        say(text if finished else f"stopped after {text}")


class _Counts(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        if task.finished and task.finished_time:
            rate = task.completed / task.finished_time
            text = f"{task.completed:,.0f} {self.unit} in {_duration(task.finished_time)}"
            return Text(f"{text}, {_rate(rate)}/s")
        total = None if task.total is None else int(task.total)
        return Text(_counts(int(task.completed), total, self.unit, task.speed or 0.0))


def _counts(done: int, total: int | None, unit: str, rate: float | int) -> str:
    count = f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"
    if not rate:
        return count
    text = f"{count}, {_rate(rate)}/s"
    return text if total is None else f"{text}, {_duration((total - done) / rate)} left"


def _rate(rate: float | int) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _duration(seconds: float | int) -> str:
    """Seconds as "8 s", "3 min 20 s" or "2 h 05 min"."""
    whole = max(int(round(seconds)), 0)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{max(seconds, 0.0):.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
