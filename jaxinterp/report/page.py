"""The report as one self-contained web page: opens from disk, loads nothing."""

import base64
import dataclasses
import hashlib
import json
import string
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jaxinterp.files import write_text
from jaxinterp.report.content import (
    Context,
    Feature,
    LayerDimension,
    Metric,
    Number,
    Report,
    layer_labels,
    metric_text,
    spans_decades,
    target_met,
)
from jaxinterp.report.json_form import to_json

SCRIPTS = ("axes.js", "charts.js", "tokens.js", "detail.js", "features.js")


def write_page(path: Path, report: Report) -> None:
    """Writes the report as one HTML file, whole or not at all.

    The page holds its style, script and data. Its content security policy names the hashes of
    the first two and allows nothing else, so that text in the data can neither run nor load.

    Args:
        path: the file to write.
        report: what to show.
    """
    style = _asset("page.css")
    # Its own scope: no name of ours is a property of `window`.
    script = "(() => {\n" + '"use strict";\n' + "\n".join(map(_asset, SCRIPTS)) + "})();\n"
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    text = string.Template(_asset("page.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        title=escape(report.title),
        subtitle=f'<p class="lead">{escape(report.subtitle)}</p>' if report.subtitle else "",
        facts=_facts(report.facts),
        metrics=_metrics(report.metrics),
        profile=_profile(report.profile),
        notes=_notes(report.notes),
        data=_data(report),
    )
    # Half of a surrogate pair is text in Python but can't be written as UTF-8.
    write_text(Path(path), text.encode("utf-8", "replace").decode("utf-8"))


def _asset(name: str) -> str:
    return (files("jaxinterp.report") / name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _data(report: Report) -> str:
    """The numbers behind charts and features, as JSON that can't end its script element."""
    vocabulary: dict[str, int] = {}
    plain = to_json(Report(report.title, profile=report.profile, curve=report.curve))
    series = report.curve.series
    names, axis = layer_labels([layer.layer_name for layer in report.profile])
    data = {
        "profile": plain["profile"],
        "layers": {"names": names, "axis": axis},
        "curve": {
            **plain["curve"],
            "logarithmic": [name for name, values in series.items() if spans_decades(values)],
        },
        "features": [_feature(feature, vocabulary) for feature in report.features],
        # Every token once: text repeats, and a report may have a million tokens of it.
        "vocabulary": list(vocabulary),
    }
    # The vocabulary is read after the features have filled it.
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _feature(feature: Feature, vocabulary: dict[str, int]) -> dict[str, Any]:
    return {
        "index": int(feature.index),
        "frequency": _short(feature.frequency),
        "peak": _short(feature.peak),
        "mean_active": _short(feature.mean_active),
        "histogram": {
            "edges": [_short(edge) for edge in feature.histogram.edges],
            "counts": [int(count) for count in feature.histogram.counts],
        },
        "promoted": [(token, _short(logit)) for token, logit in feature.promoted],
        "suppressed": [(token, _short(logit)) for token, logit in feature.suppressed],
        "packed": [_context(context, vocabulary) for context in feature.contexts],
    }


def _context(context: Context, vocabulary: dict[str, int]) -> list[Any]:
    """A context as document, focus, token numbers, and (position, activation) flattened."""
    ids = [vocabulary.setdefault(token, len(vocabulary)) for token in context.tokens]
    active = [(i, _short(a)) for i, a in enumerate(context.activations) if a != 0]
    return [context.document, int(context.focus), ids, [x for pair in active for x in pair]]


def _short(value: Number | None) -> float | None:
    """Five significant digits, more than a page shows; None where there is no number."""
    short = None if value is None else float(f"{value:.5g}")
    return short if short is not None and abs(short) < float("inf") else None


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    pairs = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{"".join(pairs)}</dl>'


def _metrics(metrics: Sequence[Metric]) -> str:
    if not metrics:
        return ""
    cards = "\n".join(_metric(metric) for metric in metrics)
    return (
        '<section aria-labelledby="metrics"><h2 id="metrics">Metrics</h2>\n'
        f'<div class="metrics">{cards}</div></section>'
    )


def _metric(metric: Metric) -> str:
    met, target = target_met(metric), ""
    if met is not None:
        bound = "≤" if metric.lower_is_better else "≥"
        verdict = '<span class="met">met</span>' if met else '<span class="missed">not met</span>'
        wanted = escape(metric_text(metric, metric.target))
        target = f'<p class="target">target {bound} {wanted}: {verdict}</p>'
    caption = f'<p class="caption">{escape(metric.explanation)}</p>' if metric.explanation else ""
    value = escape(metric_text(dataclasses.replace(metric, unit=""), metric.value))
    if metric.unit:
        value += f'<span class="unit">{escape(metric.unit)}</span>'
    return f'<div><h3>{escape(metric.name)}</h3><p class="value">{value}</p>{target}{caption}</div>'


def _profile(profile: Sequence[LayerDimension]) -> str:
    if not profile:
        return '<p class="empty">No layer was measured.</p>'
    rows = "\n".join(
        f"<tr><td>{escape(layer.layer_name)}</td>"
        f"<td>{_estimate(layer.two_nn, layer.two_nn_error)}</td>"
        f"<td>{_estimate(layer.mle, layer.mle_error)}</td><td>{layer.points:,}</td></tr>"
        for layer in profile
    )
    return (
        '<p class="unit">TwoNN and maximum-likelihood (MLE) estimates; '
        "bars are one standard error either side.</p>\n"
        '<div class="profile"><div id="layers"></div>\n'
        '<div class="table" tabindex="0" role="region" aria-label="Intrinsic dimension, table">'
        '<table><thead><tr><th scope="col">layer</th><th scope="col">TwoNN</th>'
        '<th scope="col">MLE</th><th scope="col">points</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _estimate(value: Number | None, error: Number | None) -> str:
    value, error = _short(value), _short(error)
    if value is None:
        return "n/a"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section aria-labelledby="notes"><h2 id="notes">Notes</h2><ul>{items}</ul></section>'
