"""What a report says: plain values that every page, figure and table is drawn from.

A report is data, not layout: it goes to JSON and back without loss, so that a page can be drawn
again long after the run, without the model. Numbers that are not finite become null there, which
is read as None where a field takes that, else as NaN.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence, Sized

import numpy as np

Number = float | int | np.floating | np.integer
Integer = int | np.integer
TokenLogit = tuple[str, Number]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One headline number.

    Attributes:
        name: what is measured, as a person says it ("variance explained").
        value: the number; None or NaN is shown as "n/a".
        explanation: one sentence on what it means and how it was measured.
        unit: written after the value; may be empty.
        format: Python format specification of value and target, such as ".3f" or ".1%".
        target: what it should reach; None where nothing is asked of it.
        lower_is_better: whether the target is an upper bound.
    """

    name: str
    value: Number | None
    explanation: str = ""
    unit: str = ""
    format: str = ".3f"
    target: Number | None = None
    lower_is_better: bool = False

    def __post_init__(self):
        try:
            format(0.5, self.format)
        except ValueError as error:
            raise ValueError(
                f"metric {self.name!r}: {self.format!r} is not a number format; use e.g. '.3f'"
            ) from error


@dataclasses.dataclass(frozen=True)
class LayerDimension:
    """Intrinsic dimension of one layer's activations, by two estimators.

    Attributes:
        layer_name: the layer as the axis shows it ("0", "blocks.3", "embed").
        two_nn: TwoNN estimate; None or NaN where it has none.
        two_nn_error: its standard error, drawn as plus and minus one.
        mle: Levina-Bickel maximum-likelihood estimate; likewise.
        mle_error: its standard error.
        points: number of activation vectors the estimates rest on.
    """

    layer_name: str
    two_nn: Number | None
    two_nn_error: Number | None
    mle: Number | None
    mle_error: Number | None
    points: Integer


@dataclasses.dataclass(frozen=True)
class Curve:
    """Training curves over a shared axis of steps.

    Attributes:
        step: optimiser step of each point.
        series: name of each curve to its values, one a step; None or NaN leaves a gap.
    """

    step: tuple[Integer, ...] = ()
    series: dict[str, tuple[Number | None, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, values in self.series.items():
            _same_length(f"curve {name!r}: values", values, "steps", self.step)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of non-zero activations.

    Attributes:
        edges: bin edges in the activation's unit, one more than counts, ascending.
        counts: number of tokens in each bin.
    """

    edges: tuple[Number, ...] = ()
    counts: tuple[Integer, ...] = ()

    def __post_init__(self):
        if self.counts and len(self.edges) != len(self.counts) + 1:
            raise ValueError(
                f"a histogram of {len(self.counts)} counts has {len(self.counts) + 1} edges, "
                f"got {len(self.edges)}"
            )


@dataclasses.dataclass(frozen=True)
class Context:
    """A stretch of text on which a feature is active.

    Attributes:
        tokens: the text, token by token, as it reads (leading spaces and newlines kept).
        activations: the feature's activation on each token, zero where it is silent.
        focus: position in `tokens` of the activation for which the context was chosen.
        document: where the text is from; may be empty.
    """

    tokens: tuple[str, ...]
    activations: tuple[Number, ...]
    focus: Integer
    document: str = ""

    def __post_init__(self):
        _same_length("context: activations", self.activations, "tokens", self.tokens)
        if not 0 <= self.focus < len(self.tokens):
            raise ValueError(
                f"context: focus {self.focus} is outside its {len(self.tokens)} tokens"
            )


@dataclasses.dataclass(frozen=True)
class Feature:
    """One latent of a dictionary, as held-out text shows it.

    Attributes:
        index: its number in the dictionary.
        frequency: share of held-out tokens on which it is active, 0 to 1.
        peak: largest activation seen.
        mean_active: mean activation over the tokens on which it is active; None if there are none.
        histogram: its non-zero activations.
        promoted: output tokens whose logits its direction raises most, strongest first.
        suppressed: output tokens whose logits it lowers most, strongest first.
        contexts: where it is most active, strongest first.
    """

    index: Integer
    frequency: Number
    peak: Number
    mean_active: Number | None
    histogram: Histogram = Histogram()
    promoted: tuple[TokenLogit, ...] = ()
    suppressed: tuple[TokenLogit, ...] = ()
    contexts: tuple[Context, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a report page shows.

    Attributes:
        title: first heading.
        subtitle: one line below it.
        facts: (label, value) pairs on what was run: model, site, data, width, seed, time.
        metrics: headline numbers.
        profile: intrinsic dimension, layer by layer from input to output.
        curve: training curves.
        features: the features to browse.
        notes: sentences on method and caveats, shown at the end.
    """

    title: str
    subtitle: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    metrics: tuple[Metric, ...] = ()
    profile: tuple[LayerDimension, ...] = ()
    curve: Curve = Curve()
    features: tuple[Feature, ...] = ()
    notes: tuple[str, ...] = ()


def metric_text(metric: Metric, value: Number | None) -> str:
    """A metric's value or target as text: "0.843", "4.1 %", or "n/a"."""
    if value is None or not math.isfinite(value):
        return "n/a"
    text = format(value, metric.format).replace("%", "\N{NO-BREAK SPACE}%")
    return f"{text} {metric.unit}".rstrip()


def target_met(metric: Metric) -> bool | None:
    """Whether a metric reaches its target; None where it has no target.

    A metric that has a target and no value does not reach it.
    """
    if metric.target is None:
        return None
    if metric.value is None or not math.isfinite(metric.value):
        return False
    if metric.lower_is_better:
        return bool(metric.value <= metric.target)
    return bool(metric.value >= metric.target)


def layer_labels(names: Sequence[str]) -> tuple[list[str], str]:
    """Layer names without what all of them share, and a name for the axis that says it.

    `blocks.0.hook_out`, `blocks.1.hook_out` become `0`, `1` on an axis "layer, blocks.#.hook_out".
    """
    if len(names) < 2:
        return list(names), "layer"
    # Digits belong to the number they are part of: 10 and 11 share no prefix.
    before = os.path.commonprefix(names).rstrip("0123456789")
    rest = [name[len(before) :] for name in names]
    after = os.path.commonprefix([name[::-1] for name in rest])[::-1].lstrip("0123456789")
    short = [name[: len(name) - len(after)] for name in rest]
    if not before + after or not all(short):
        return list(names), "layer"
    return short, f"layer, {before}#{after}"


def spans_decades(values: Iterable[Number | None]) -> bool:
    """Whether numbers, all positive, differ a hundredfold, so that a logarithmic axis fits them."""
    numbers = [float(v) for v in values if v is not None and math.isfinite(v)]
    return bool(numbers) and min(numbers) > 0 and max(numbers) > 100 * min(numbers)


def _same_length(name: str, values: Sized, other: str, others: Sized) -> None:
    if len(values) != len(others):
        raise ValueError(f"{name} and {other} differ in length: {len(values)} and {len(others)}")
