import dataclasses
import json
import math

import numpy as np
import pytest

from jaxinterp.report import (
    Context,
    Curve,
    Feature,
    Histogram,
    Metric,
    Report,
    from_json,
    to_json,
)
from jaxinterp.report.content import layer_labels, metric_text, spans_decades, target_met


def test_json_round_trip(report, hostile):
    nan = math.nan
    context = Context(("a",), (nan,), 0)
    feature = Feature(1, nan, nan, nan, promoted=(("a", nan),), contexts=(context,))
    unknown = Report("unknown", features=(feature,))
    for each in (report, hostile, Report("empty"), unknown):
        text = json.dumps(to_json(each), allow_nan=False)
        again = from_json(json.loads(text))
        assert json.dumps(to_json(again)) == text
    again = from_json(to_json(unknown)).features[0]
    assert math.isnan(again.peak)
    assert again.mean_active is None
    whole = dataclasses.replace(report, metrics=(), curve=Curve(), profile=())
    assert from_json(to_json(whole)) == whole


def test_numpy_and_missing_numbers_become_plain():
    feature = Feature(np.int64(3), np.float32(0.5), np.float64(2), math.nan, promoted=(("a", 1),))
    plain = to_json(Report("t", features=(feature,)))["features"][0]
    assert (plain["index"], plain["frequency"], plain["mean_active"]) == (3, 0.5, None)
    assert type(plain["index"]) is int
    assert type(plain["frequency"]) is float


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("title"), r"report\.title is missing"),
        (lambda r: r["features"][2].pop("peak"), r"report\.features\[2\]\.peak is missing"),
        (lambda r: r["features"][0].update(peak="big"), r"features\[0\]\.peak should be a number"),
        (lambda r: r["features"][0].update(index=1.5), r"index should be a whole number, got 1\.5"),
        (lambda r: r["features"][0].update(index=True), "index should be a whole number, got True"),
        (lambda r: r["features"][0].update(contexts=3), r"contexts should be a list, got 3"),
        (lambda r: r["features"][0]["promoted"].append(["a"]), "should be a list of 2"),
        (lambda r: r["features"][0]["contexts"][0].update(focus=999), "focus 999 is outside"),
        (lambda r: r["curve"]["step"].pop(), r"report\.curve: curve 'loss'.*differ in length"),
        (lambda r: r.update(title=None), "title should be text, got None"),
        (lambda r: r.update(curve=[]), r"curve should be an object"),
        (lambda r: r["metrics"][0].update(lower_is_better=1), "should be true or false, got 1"),
        (lambda r: r.update(version=99), "version 99 can't be read"),
    ],
)
def test_damaged_json_names_the_field(report, damage, message):
    value = to_json(report)
    damage(value)
    with pytest.raises(ValueError, match=message):
        from_json(value)


def test_json_of_another_kind():
    with pytest.raises(ValueError, match="report should be an object"):
        from_json([1])
    with pytest.raises(ValueError, match="version None"):
        from_json({})


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="differ in length: 1 and 2"):
        Context(("a", "b"), (0.0,), 0)
    with pytest.raises(ValueError, match="has 2 edges, got 1"):
        Histogram((0.0,), (1,))
    with pytest.raises(ValueError, match="'loss'.*2 and 1"):
        Curve((1,), {"loss": (1.0, 2.0)})
    with pytest.raises(ValueError, match="'.3q' is not a number format"):
        Metric("a", 1.0, format=".3q")


@pytest.mark.parametrize(
    ("value", "lower", "met"),
    [(0.9, False, True), (0.9, True, True), (0.8, False, False), (0.8, True, True)]
    + [(1.0, True, False), (None, False, False), (math.nan, True, False)],
)
def test_target(value, lower, met):
    assert target_met(Metric("m", value, target=0.9, lower_is_better=lower)) is met
    assert target_met(Metric("m", value)) is None


def test_metric_text():
    assert metric_text(Metric("m", 0.0412, format=".1%"), 0.0412) == "4.1\N{NO-BREAK SPACE}%"
    assert metric_text(Metric("m", 32, unit="a token", format=",.0f"), 32) == "32 a token"
    assert metric_text(Metric("m", None), None) == "n/a"
    assert metric_text(Metric("m", None), math.inf) == "n/a"


@pytest.mark.parametrize(
    ("names", "short", "axis"),
    [
        (["embed", "0", "1"], ["embed", "0", "1"], "layer"),
        (["blocks.8.out", "blocks.10.out"], ["8", "10"], "layer, blocks.#.out"),
        (["10", "11"], ["10", "11"], "layer"),
        (["a.1", "a.1"], ["1", "1"], "layer, a.#"),
        (["a", "a"], ["a", "a"], "layer"),
        (["blocks.0.out"], ["blocks.0.out"], "layer"),
        ([], [], "layer"),
    ],
)
def test_layer_labels(names, short, axis):
    assert layer_labels(names) == (short, axis)


def test_spans_decades():
    assert spans_decades([1.0, None, math.nan, 101.0])
    assert not spans_decades([1.0, 100.0])
    assert not spans_decades([0.0, 100.0])
    assert not spans_decades([])
