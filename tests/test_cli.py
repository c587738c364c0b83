"""The command line as a user meets it: whole runs on little text, and every kind of bad input."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jaxinterp import cli, pipeline, run_folder
from jaxinterp.config import RunConfig
from jaxinterp.dictionaries import formats
from jaxinterp.encoders import assets
from jaxinterp.inputs import load_inputs
from jaxinterp.present import present

SMALL = (
    "--tokens 1500 --held-out-tokens 300 --context 32 --width 64 --k 4 --steps 60 --batch 128 "
    "--points 200 --neighbors 5 --features 6 --contexts 3"
).split()


def call(capsys, *arguments):
    """Runs the command in this process: exit code and standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_folder):
    out = tmp_path_factory.mktemp("runs")
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--name", "first", "--out", str(out), "--text", str(text_folder), *SMALL])
    assert stop.value.code == 0
    return out


def test_a_run_leaves_everything_it_promises(finished):
    folder = finished / "first"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["l0"] <= 4
    assert 0 < metrics["variance_explained"] < 1
    assert metrics["held_in_tokens"] >= 1500
    assert len(metrics["geometry"]["layers"]) == 6
    assert all(layer["two_nn_error"] > 0 for layer in metrics["geometry"]["layers"])
    dictionary, _, header = formats.load(folder / "dictionary")
    assert dictionary.width == 64
    assert header["source"]["site"] == "L2.resid_post"
    page = (folder / "report.html").read_text()
    assert len(page) > 20_000
    for figure in ("layer_profile.png", "scales.png", "training.png"):
        assert (folder / "figures" / figure).read_bytes()[:4] == b"\x89PNG"
    leftovers = [p.name for p in folder.rglob("*") if p.name.startswith(".")]
    assert leftovers == []


def test_the_same_command_again_finds_its_results(finished, text_folder, capsys):
    folder = finished / "first"
    before = (folder / "dictionary" / "dictionary.safetensors").stat().st_mtime_ns
    arguments = ["demo", "--name", "first", "--out", finished, "--text", text_folder, *SMALL]
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "variance explained" in out
    assert (folder / "dictionary" / "dictionary.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_rerun_is_bit_equal(finished, text_folder, capsys):
    arguments = ["demo", "--name", "second", "--out", finished, "--text", text_folder, *SMALL]
    assert call(capsys, *arguments)[0] == 0
    for name in ("metrics.json", "dictionary/dictionary.safetensors", "figures/training.png"):
        one, two = (finished / run / name for run in ("first", "second"))
        assert one.read_bytes() == two.read_bytes(), name


def test_report_alone_writes_the_page_again(finished, capsys):
    code, out, _ = call(capsys, "report", "--help")
    assert code == 0
    assert "jaxinterp report --name" in out
    assert "contexts shown per feature" in out
    page = finished / "first" / "report.html"
    whole = page.read_bytes()
    page.unlink()
    assert call(capsys, "report", "--name", "first", "--out", finished)[0] == 0
    assert page.read_bytes() == whole


def test_report_shows_as_many_features_as_asked_and_names_what_is_damaged(
    finished, text_folder, tmp_path, capsys
):
    folder = shutil.copytree(finished / "first", tmp_path / "first")
    report = ["report", "--name", "first", "--out", tmp_path]
    other = shutil.copytree(text_folder, tmp_path / "text")
    for file in other.iterdir():
        file.write_text(file.read_text().replace("size", "length"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"text": str(other)}))
    code, _, err = call(capsys, *report)
    assert code == 2
    assert f"{other} is not the text of the run in {folder}: give the old text back" in err
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "text.json").unlink()  # as in a run of an older version
    with (folder / "training.jsonl").open("a") as log:
        log.write('{"step": 61, "lo')
    assert call(capsys, *report, "--features", 2, "--contexts", 1)[0] == 0
    page = (folder / "report.html").read_text()
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["features"]
    assert [len(feature["packed"]) for feature in shown] == [1, 1]
    whole = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({k: whole[k] for k in whole if k != "l0"}))
    code, _, err = call(capsys, *report)
    assert code == 2
    assert "evaluation.json lacks 'l0': delete it and run demo again" in err
    code, _, err = call(capsys, *report, "--features", 0)
    assert "features is 0: it must be at least 1" in err


def test_contexts_show_where_a_feature_is_strongest(finished):
    folder = finished / "first"
    config = run_folder.read_config(folder)
    report = present(config, load_inputs(config), folder)
    assert len(report.features) == 6
    for feature in report.features:
        strongest = [max(c.activations) for c in feature.contexts]
        at_focus = [c.activations[c.focus] for c in feature.contexts]
        assert at_focus == strongest == sorted(strongest, reverse=True)
        assert strongest[0] == pytest.approx(feature.peak, rel=1e-3)
        assert sum(feature.histogram.counts) == pytest.approx(
            feature.frequency * json.loads((folder / "metrics.json").read_text())["held_out_tokens"]
        )
        assert feature.promoted[0][1] > 0 > feature.suppressed[0][1]


def test_train_and_geometry_are_parts_of_the_job(finished, text_folder, capsys):
    rest = ["--out", finished, "--text", text_folder, *SMALL]
    code, out, _ = call(capsys, "geometry", "--name", "parts", *rest)
    assert code == 0
    assert out.count("resid_post") == 6
    layers = json.loads((finished / "parts" / "geometry.json").read_text())["layers"]
    for layer in layers:
        assert layer["recommended"]["low"] < layer["recommended"]["value"]
        assert layer["scan"]["values"][0] == pytest.approx(layer["two_nn"], rel=0.05)
        assert layer["scan"]["neighbors"] == [1, 2, 4, 8, 16, 32]
    assert (finished / "parts" / "figures" / "scales.png").stat().st_size > 1000
    code, out, _ = call(capsys, "train", "--name", "parts", *rest)
    assert code == 0
    assert '"variance_explained"' in out
    same = "activations/held_in/chunks/000000000/000000000000"
    assert (finished / "parts" / same).read_bytes() == (finished / "first" / same).read_bytes()


def test_any_variant_trains_with_any_optimiser(finished, text_folder, capsys):
    rest = ["--out", finished, "--text", text_folder, *SMALL, "--name", "jump"]
    chosen = "--variant jumprelu --target-l0 8 --steps 120 --optimizer adam_b1_0 --clip 1".split()
    chosen += ["--average", "0.9", "--resample-every", "20", "--options", "bandwidth=0.3"]
    code, out, _ = call(capsys, "train", *rest, *chosen)
    assert code == 0
    _, params, header = formats.load(finished / "jump" / "dictionary")
    assert header["variant"] == "jumprelu"
    assert header["options"]["bandwidth"] == 0.3
    assert header["options"]["weight"] > 0
    assert params["threshold"].shape == (64,)
    log = (finished / "jump" / "training.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 120]
    assert lines[-1]["l0"] < lines[0]["l0"]


def interrupt(process):
    """Ctrl-C, again if need be: Python loses one that arrives inside a callback from C.

    Not soon again: one that arrives while Python shuts down ends it with another exit code.
    """
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the run does not stop")


@pytest.mark.slow
@pytest.mark.parametrize(("when", "steps"), [("harvest", 60), ("train dictionary", 6000)])
def test_a_run_stopped_by_a_signal_goes_on_where_it_was(
    finished, text_folder, tmp_path, when, steps
):
    # A job that a shell put in the background ignores SIGINT, and so would what it starts.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from jaxinterp.cli import main; main()"
    command = [sys.executable, "-c", program, "demo", "--name", "first", "--out", str(tmp_path)]
    command += ["--text", str(text_folder), *SMALL, "--steps", str(steps)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith(when):
            break
    rest = interrupt(process)
    assert process.returncode == 130
    assert rest.strip().endswith("the same command goes on from there")
    # The only traceback allowed is Python's own, of an interrupt that it lost in a callback.
    assert "Traceback" not in rest or "Exception ignored" in rest
    assert not (tmp_path / "first" / "metrics.json").exists()
    assert not (tmp_path / "first" / "dictionary").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    resumed = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert resumed["l0"] <= 4
    if steps == 60:
        unbroken = json.loads((finished / "first" / "metrics.json").read_text())
        assert resumed["l0"] == pytest.approx(unbroken["l0"], rel=1e-5)
        assert resumed["variance_explained"] == pytest.approx(
            unbroken["variance_explained"], rel=1e-4
        )


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(finished, text_folder, tmp_path, capsys):
    command = ["train", "--name", "first", "--out", tmp_path, "--text", text_folder, *SMALL]
    log = tmp_path / "first" / "training.jsonl"

    def terminate():
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=terminate, daemon=True)
    sender.start()
    code, _, err = call(capsys, *command, "--checkpoint-every", "12")
    sender.join()
    assert code == 143
    assert err.strip().endswith("stopped by a signal: the same command goes on from there")
    saved = [int(p.name) for p in (tmp_path / "first" / "checkpoints").iterdir()]
    assert max(saved) == json.loads(log.read_text().splitlines()[-1])["step"] < 60
    assert not (tmp_path / "first" / "dictionary").exists()
    assert call(capsys, *command)[0] == 0
    one, two = (f / "first/dictionary/dictionary.safetensors" for f in (finished, tmp_path))
    assert one.read_bytes() == two.read_bytes()


@pytest.fixture
def broken_model(tmp_path):
    """A copy of the shipped model to damage."""
    return shutil.copytree(
        assets.folder(), tmp_path / "model", ignore=shutil.ignore_patterns("*.py")
    )


def bad_input_cases():
    def truncated(tmp, model):
        file = model / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100_000])
        return ["--model", model]

    def wrong_config(tmp, model):
        (model / "config.json").write_text("not json")
        return ["--model", model]

    def other_architecture(tmp, model):
        (model / "config.json").write_text('{"model_type": "mystery"}')
        return ["--model", model]

    def empty_text(tmp, model):
        (tmp / "empty.txt").write_text("")
        return ["--text", tmp / "empty.txt"]

    def latin_text(tmp, model):
        (tmp / "latin.txt").write_bytes("d\u00e9j\u00e0 vu".encode("latin1"))
        return ["--text", tmp / "latin.txt"]

    def one_document(tmp, model):
        (tmp / "short.txt").write_text("a few words")
        return ["--text", tmp / "short.txt"]

    def short_documents(tmp, model):
        (tmp / "short").mkdir()
        for i in range(60):
            (tmp / "short" / f"{i}.txt").write_text(f"file {i} of many short ones")
        return ["--text", tmp / "short"]

    return {
        "missing model": (lambda tmp, model: ["--model", tmp / "none"], "no such model folder"),
        "truncated safetensors": (truncated, "truncated"),
        "config is no JSON": (wrong_config, "config.json can't be read as JSON"),
        "unknown architecture": (other_architecture, "unknown model_type 'mystery'"),
        "empty text": (empty_text, "empty.txt is empty"),
        "not UTF-8": (latin_text, "latin.txt is not UTF-8"),
        "too little text": (one_document, "too few to hold some out"),
        "missing text": (lambda tmp, model: ["--text", tmp / "x.txt"], "no such file"),
        "unknown site": (
            lambda tmp, model: ["--site", "L2.resid_pots"],
            "did you mean 'resid_post'",
        ),
        "unknown layer": (lambda tmp, model: ["--site", "L9.resid_post"], "this model has 0..5"),
        "no token's": (lambda tmp, model: ["--site", "L2.pattern"], "one vector per token"),
        "short documents": (short_documents, "lie behind position 16 of their rows, too few for 5"),
        "no tracker": (lambda tmp, model: ["--trackers", "wandb"], "pip install wandb"),
        "width": (lambda tmp, model: ["--width", "-5"], "width is -5: it must not be negative"),
        "seed": (lambda tmp, model: ["--seed", "-1"], "seed is -1: it must not be negative"),
        "several layers": (lambda tmp, model: ["--site", "resid_post"], "reads one layer"),
        "k above width": (lambda tmp, model: ["--k", "65"], "k is 65 with a width of 64"),
        "few points": (lambda tmp, model: ["--points", "5"], "5 points for 5 neighbours"),
        "context": (lambda tmp, model: ["--context", "9999"], "reaches 256"),
        "negative": (lambda tmp, model: ["--steps", "0"], "steps is 0"),
        "unknown variant": (
            lambda tmp, model: ["--variant", "topq"],
            "variant is 'topq': choose one of abs_topk",
        ),
        "unknown option": (lambda tmp, model: ["--options", "auxk=3"], "auxk"),
        "no option": (lambda tmp, model: ["--options", "auxk"], "not of the form name=value"),
        "no weight": (lambda tmp, model: ["--target-l0", "9"], "no penalty weight to control"),
        "two sites": (
            lambda tmp, model: ["--variant", "l1_crosscoder"],
            "does not learn from the activations of one site",
        ),
        "average": (lambda tmp, model: ["--average", "2"], "a decay lies between 0 and 1"),
    }


@pytest.mark.parametrize("case", bad_input_cases())
def test_bad_input_gives_one_message_and_code_2(
    case, tmp_path, broken_model, text_folder, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    make, message = bad_input_cases()[case]
    settings = ["--text", text_folder, *SMALL, *make(tmp_path, broken_model)]
    code, _, err = call(capsys, "demo", "--name", "bad", "--out", tmp_path / "out", *settings)
    assert code == 2
    assert message in err
    assert err.strip().count("\n") == 0
    assert err.startswith("error: ")
    assert list((tmp_path / "out").rglob("*.*")) == []  # nothing half-written


def test_a_folder_of_another_run_is_refused(finished, text_folder, capsys):
    arguments = ["demo", "--name", "first", "--out", finished, "--text", text_folder, *SMALL]
    code, _, err = call(capsys, *arguments, "--seed", "1")
    assert code == 2
    assert "seed: 0 there, 1 now" in err
    (finished / "taken").mkdir()
    (finished / "taken" / "thesis.tex").write_text("precious")
    code, _, err = call(capsys, "demo", "--name", "taken", "--out", finished)
    assert code == 2
    assert "in use" in err
    assert (finished / "taken" / "thesis.tex").read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "demo", "--out", tmp_path / "file")
    assert code == 2
    assert "can't be written" in err


def test_fewer_tokens_than_a_batch(tmp_path, text_folder, capsys):
    settings = ["--text", text_folder, *SMALL, "--batch", "100000"]
    code, _, err = call(capsys, "demo", "--name", "big", "--out", tmp_path, *settings)
    assert code == 2
    assert "for a batch of 100000" in err


def test_report_needs_a_finished_run(tmp_path, capsys):
    code, _, err = call(capsys, "report", "--name", "none", "--out", tmp_path)
    assert code == 2
    assert "jaxinterp demo --name none" in err


# Each with its own settings, and a help test beside what it does.
OTHERS = {"harvest", "report", "plan", "inspect", "convert"}


@pytest.mark.parametrize("command", sorted(set(cli.COMMANDS) - OTHERS))
def test_help_teaches_with_examples(command, capsys):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"jaxinterp {command} --name" in out
    assert "latents kept per token" in out


def test_harvest_writes_a_store_goes_on_and_refuses_another_config(tmp_path, text_folder, capsys):
    code, out, _ = call(capsys, "harvest", "--help")
    assert code == 0
    assert "jaxinterp harvest --store" in out
    assert "in one forward" in out
    store = tmp_path / "store"
    arguments = ["harvest", "--store", store, "--text", text_folder, "--context", 32]
    arguments += ["--sites", "L1.resid_post", "L3.mlp_out", "--batch", 8]
    code, out, err = call(capsys, *arguments, "--tokens", 300)
    assert code == 0
    assert "300 rows of L1.resid_post float32[128], L3.mlp_out float32[128]" in out
    assert "tokens" in err
    code, out, _ = call(capsys, *arguments, "--tokens", 500, "--batch", 4)
    assert code == 0
    assert "500 rows" in out
    for change, message in (
        (["--seed", 1], "seed: 0 there, 1 here"),
        (["--sites", "L1.resid_pots"], "did you mean 'resid_post'"),
        (["--text", tmp_path / "none.jsonl"], "no such file"),
    ):
        code, _, err = call(capsys, *arguments, *change)
        assert code == 2
        assert err.startswith("error: ")
        assert err.strip().count("\n") == 0
        assert message in err


def test_an_unknown_option_gives_code_2_and_the_nearest_one(capsys):
    code, _, err = call(capsys, "demo", "--stepz", "5")
    assert code == 2
    assert "--steps" in err


def test_config_survives_json(tmp_path):
    config = RunConfig(out=str(tmp_path), name="a", k=7, learning_rate=3e-4, options=("aux_k=2",))
    folder = run_folder.open_run(config)
    run_folder.begin(config, folder, {})
    assert run_folder.read_config(folder) == config
    assert run_folder.open_run(config) == folder
    assert run_folder.open_run(dataclasses.replace(config, trackers=("wandb",))) == folder


def test_sampled_tokens_are_real_and_as_many_as_asked(shipped, text_folder):
    config = RunConfig(text=str(text_folder), tokens=1500, context=32, width=64, batch=128)
    inputs = load_inputs(config)
    sample = pipeline._sample_tokens(inputs.held_in, 100, 0)
    assert sample.sum() == 100
    assert not (sample & ~inputs.held_in.mask).any()
    assert not sample[:, :16].any()
    assert np.array_equal(sample, pipeline._sample_tokens(inputs.held_in, 100, 0))
