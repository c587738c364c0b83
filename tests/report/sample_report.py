"""A report as a run would give it: real English, made-up activations."""

import re

import numpy as np

from jaxinterp.report import (
    Context,
    Curve,
    Feature,
    Histogram,
    LayerDimension,
    Metric,
    Report,
)

TEXT = """The with statement is used to wrap the execution of a block with methods defined by a
context manager. This allows common try...except...finally usage patterns to be encapsulated
for convenient reuse.

The execution of the with statement with one "item" proceeds as follows:

    with EXPRESSION as TARGET:
        SUITE

If an exception caused the suite to be exited, its type, value, and traceback are passed as
arguments to __exit__(). Otherwise, three None arguments are supplied.
"""
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!--"


def make_report(features: int = 12, contexts: int = 6, length: int = 48) -> Report:
    """A report with `features` features numbered 3, 10, 17, ..."""
    rng = np.random.default_rng(0)
    words = re.findall(r" ?\w+|\n| +(?= )|[^\w\s]+|\s", TEXT)
    return Report(
        title="Features of a tiny language model",
        subtitle="TopK dictionary on blocks.3.hook_resid_post, Python documentation",
        facts=(
            ("model", "tiny-lm, 6 layers, 192 wide"),
            ("training tokens", "300,000"),
            ("width", "1,536"),
            ("active a token", "32"),
            ("seed", "0"),
            ("time", "3 min 12 s"),
        ),
        metrics=(
            Metric("Variance explained", 0.843, "Share of held-out variance.", "", ".3f", 0.8),
            Metric(
                "Cross-entropy recovered", 0.871, "Loss with the reconstruction.", "", ".3f", 0.9
            ),
            Metric("Dead features", 0.041, "Never active.", "", ".1%", 0.1, lower_is_better=True),
            Metric("Active features", 32.0, "Mean over held-out tokens.", "a token", ".1f"),
            Metric("Stability", float("nan"), "Not measured in this run."),
        ),
        profile=tuple(
            LayerDimension(
                name,
                None if i == 2 else 6 + 3 * np.sin(i) + i,
                None if i == 2 else 0.4 + 0.1 * i,
                np.float32(7 + 3 * np.sin(i) + i),
                0.5,
                np.int64(4096),
            )
            for i, name in enumerate(["embed", "0", "1", "2", "3", "4", "5"])
        ),
        curve=Curve(
            tuple(range(0, 2000, 50)),
            {
                "loss": tuple(300 * np.exp(-np.arange(40) / 6) + 1.2),
                "variance explained": tuple(0.85 - 0.8 * np.exp(-np.arange(40) / 8)),
                "dead fraction": tuple(
                    np.where(np.arange(40) < 3, np.nan, 0.2 / (np.arange(40) + 1))
                ),
            },
        ),
        features=tuple(
            make_feature(rng, 3 + 7 * i, words, contexts, length) for i in range(features)
        ),
        notes=("Contexts are from held-out text.", "Error bars are one standard error."),
    )


def make_feature(rng, index: int, words: list[str], contexts: int, length: int) -> Feature:
    peak = float(rng.uniform(2, 12))
    shown = tuple(make_context(rng, peak * 0.93**i, words, length) for i in range(contexts))
    values = np.minimum(rng.exponential(peak / 5, 4000), peak)
    counts, edges = np.histogram(values, 30, (0, peak))
    promoted, suppressed = (
        [
            (str(w), float(v))
            for w, v in zip(
                rng.choice(words, 8), sorted(rng.uniform(0.5, 4, 8), reverse=True), strict=True
            )
        ]
        for _ in range(2)
    )
    return Feature(
        index=index,
        frequency=float(rng.uniform(0.0001, 0.05)),
        peak=peak,
        mean_active=float(values.mean()),
        histogram=Histogram(tuple(edges.tolist()), tuple(counts.tolist())),
        promoted=tuple(promoted),
        suppressed=tuple((w, -v) for w, v in suppressed),
        contexts=shown,
    )


def make_context(rng, peak: float, words: list[str], length: int) -> Context:
    start = int(rng.integers(0, max(1, len(words) - length)))
    tokens = tuple(words[start : start + length])
    focus = int(rng.integers(len(tokens) // 3, len(tokens)))
    active = rng.random(len(tokens)) < 0.12
    values = np.where(active, rng.uniform(0, peak, len(tokens)), 0.0)
    values[focus] = peak
    return Context(tokens, tuple(values.tolist()), focus, "pydoc_data.topics: with")


def hostile_report() -> Report:
    """A report whose every text tries to be markup."""
    context = Context(
        (HOSTILE, "\u202e\u2028", "\ud800", "\n\n\t", ""), (3.0, 0, 1, 0, 0), 0, HOSTILE
    )
    feature = Feature(
        7,
        0.5,
        3.0,
        None,
        promoted=((HOSTILE, 1.0),),
        suppressed=(("&lt;", -1.0),),
        contexts=(context,),
    )
    return Report(
        title=HOSTILE,
        subtitle=HOSTILE,
        facts=((HOSTILE, HOSTILE),),
        metrics=(Metric(HOSTILE, 1.0, HOSTILE, HOSTILE, ".1f", 2.0),),
        profile=(LayerDimension(HOSTILE, 1.0, 0.1, None, None, 10),),
        curve=Curve((0,), {HOSTILE: (1.0,)}),
        features=(feature,),
        notes=(HOSTILE, "$title ${data}"),
    )
