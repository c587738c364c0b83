import io

import pytest
from rich.console import Console

from jaxinterp.report import Metric, print_metrics, progress
from jaxinterp.report.terminal import _duration


def plain():
    return Console(file=io.StringIO(), width=100, force_terminal=False)


def test_metrics_say_their_verdict_in_words(report):
    console = plain()
    print_metrics(report.metrics, title="Result", console=console)
    lines = console.file.getvalue().splitlines()
    verdicts = {
        metric.name: next(line for line in lines if metric.name in line)
        for metric in report.metrics
    }
    assert "not met" in verdicts["Cross-entropy recovered"]
    assert "at least 0.900" in verdicts["Cross-entropy recovered"]
    assert "not met" not in verdicts["Variance explained"]
    assert "met" in verdicts["Variance explained"]
    assert "at most" in verdicts["Dead features"]
    assert "met" not in verdicts["Active features"]
    assert "n/a" in verdicts["Stability"]


def test_names_are_not_markup():
    console = plain()
    print_metrics([Metric("[bold]x[/]", 1.0)], title="run [/x]", console=console)
    assert "[bold]x[/]" in console.file.getvalue()
    assert "run [/x]" in console.file.getvalue()


def ticking(step):
    now = [0.0]

    def clock():
        now[0] += step
        return now[0]

    return clock


def test_a_log_gets_few_plain_lines():
    console = plain()
    with progress(
        "harvest", 1000, unit="tokens", console=console, seconds=5, clock=ticking(0.5)
    ) as advance:
        for i in range(100):
            advance(10, f"loss {i}")
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "harvest: 1,000 tokens"
    assert lines[1] == "harvest: 100 of 1,000 tokens, 20/s, 45 s left, loss 9"
    assert lines[-1] == "harvest: 1,000 tokens in 50 s, loss 99"
    assert len(lines) == 12
    assert "\x1b" not in console.file.getvalue()


def test_unknown_total():
    console = plain()
    with progress("read", unit="files", console=console, seconds=1, clock=ticking(1)) as advance:
        advance()
    assert console.file.getvalue().splitlines()[1] == "read: 1 files, 1/s"


def test_interrupted_says_how_far_it_came():
    console = plain()

    def interrupted():
        with progress("train", 10, console=console) as advance:
            advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "train: stopped after 4 steps" in console.file.getvalue()


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    with progress("train", 20, unit="steps", console=console) as advance:
        for _ in range(20):
            advance(note="loss [1]")
    text = console.file.getvalue()
    assert "20 steps in" in text
    assert "loss [1]" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.25, "8.2 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert _duration(seconds) == text
