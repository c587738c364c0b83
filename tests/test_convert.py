"""From one format to another on the command line, checked before it is kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxinterp import cli, convert
from jaxinterp.dictionaries import formats
from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.stored import opened

FIXTURES = Path(__file__).parent / "dictionaries" / "fixtures"
TOPK = FIXTURES / "saelens" / "topk"


def command(*arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(a) for a in arguments])
    return stopped.value.code


@pytest.mark.parametrize("to", ["jaxinterp", "saelens", "sparsify", "dictionary_learning"])
def test_a_dictionary_goes_to_a_format_and_back(to, tmp_path, capsys):
    assert command("convert", TOPK, tmp_path / "there", "--to", to) == 0
    told = capsys.readouterr().out
    assert "topk" in told
    assert "20 latents, reads 8" in told
    assert "k = 4" in told
    assert "checked on 64 random rows (4.0 latents active)" in told
    assert command("convert", tmp_path / "there", tmp_path / "back", "--to", "saelens") == 0
    one, other = formats.open_stored(TOPK), formats.open_stored(tmp_path / "back")
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(lazy.whole(other.tensors[name]), lazy.whole(tensor))


@pytest.mark.parametrize("name", ["inspect", "convert"])
def test_help_teaches_with_examples(name, capsys):
    assert command(name, "--help") == 0
    told = capsys.readouterr().out
    assert f"jaxinterp {name} path/to/sae" in told
    assert (name == "convert") == ("dictionary_learning" in told)


def test_inspect_says_what_a_file_holds(capsys):
    assert command("inspect", FIXTURES / "saelens" / "jumprelu_whitened") == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {name: value.strip() for name, value in lines.items()}
    assert told["variant"].startswith("jumprelu")
    assert told["normalisation"] == "centre and matrix 8 x 8"
    assert told["site"] == "blocks.2.hook_resid_post"
    assert told["active"].startswith("thresholds 0 to 0.5145, median 0.3667")
    assert told["parameters"].startswith("368 in float32")


def test_a_copy_with_other_codes_is_not_kept(tmp_path, monkeypatch):
    form = formats.FORMATS["saelens"]

    def forgets_the_threshold(folder, stored):
        tensors = stored.tensors | {"threshold": lazy.held("t", np.zeros(20, np.float32))}
        return form.write(folder, stored._replace(tensors=tensors))

    wrong = form._replace(write=forgets_the_threshold)
    monkeypatch.setitem(formats.FORMATS, "saelens", wrong)
    with pytest.raises(ValueError, match="other codes on random input.*not kept"):
        convert.convert(FIXTURES / "saelens" / "jumprelu", tmp_path / "new", "saelens")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1e-3, False)])
def test_codes_at_a_threshold_may_switch_by_rounding(more, kept):
    """One score of the check lies at a threshold, the next number above it at that of the copy."""
    stored = formats.open_stored(FIXTURES / "saelens" / "jumprelu")
    x = np.random.default_rng(0).standard_normal((64, 8))
    x = (x * np.geomspace(0.1, 1000, 64)[:, None]).astype(np.float32)
    never = lazy.held("t", np.full(20, -1, np.float32))
    codes = convert._run(*opened(stored._replace(tensors=stored.tensors | {"threshold": never})), x)
    row, latent = np.argwhere(np.abs(codes[0] - 3) < 1)[0]
    threshold = lazy.whole(stored.tensors["threshold"]).copy()
    score = codes[0][row, latent]

    def at(value):
        threshold[latent] = value
        return stored._replace(
            tensors=stored.tensors | {"threshold": lazy.held("t", threshold.copy())}
        )

    one, other = at(np.nextafter(score, np.float32(0))), at(score * np.float32(1 + more))
    if kept:
        assert convert.compare(one, other).endswith("largest, but 1 codes at a threshold")
    else:
        with pytest.raises(ValueError, match="other codes on random input"):
            convert.compare(one, other)


def test_what_a_terminal_would_obey_is_not_shown(tmp_path, capsys):
    shutil.copytree(TOPK, tmp_path, dirs_exist_ok=True)
    config = (tmp_path / "cfg.json").read_text()
    assert '"tiny"' in config
    (tmp_path / "cfg.json").write_text(config.replace('"tiny"', '"a\\u001b[2Jb"'))
    assert command("inspect", tmp_path) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "a?[2Jb" in told


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, capsys):
    jump, folder = FIXTURES / "saelens" / "jumprelu", tmp_path / "new"
    assert command("convert", jump, folder, "--to", "sparsify") == 2
    assert "sparsify keeps top-k and group-max" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    folder.mkdir()  # an empty one is as good as none
    assert command("convert", jump, folder, "--to", "jaxinterp") == 0
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert command("convert", TOPK, folder, "--to", "jaxinterp") == 2
    assert "is there already: give a new folder" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere"),
        (FIXTURES / "sparsify", "7 dictionaries: give one of them"),
        (FIXTURES / "relatives.safetensors", "relatives.safetensors, no format of: jaxinterp"),
    ],
)
def test_what_is_no_dictionary_is_told(path, message, capsys, tmp_path):
    path = tmp_path / path if path == "nowhere" else path
    assert command("inspect", path) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_mixed_formats_are_told(tmp_path):
    shutil.copytree(TOPK, tmp_path, dirs_exist_ok=True)
    shutil.copy(FIXTURES / "sparsify" / "topk" / "sae.safetensors", tmp_path)
    with pytest.raises(ValueError, match="several formats: saelens .*; sparsify"):
        formats.open_stored(tmp_path)
