import runpy
import sys

import pytest

from jaxinterp import running
from jaxinterp.config import Processes


def code_of(command):
    return running.run(command, lambda: (None, Processes()))


def refuse(config, must_stop):
    raise ValueError("the file says\n \x1b[2J\x07 café: give another")


def test_bad_input_is_one_line_that_no_terminal_obeys(capsys):
    assert code_of(refuse) == 2
    assert capsys.readouterr().err == "error: the file says ?[2J? café: give another\n"


def test_a_command_that_ends_well_gives_0():
    seen = []
    assert code_of(lambda config, must_stop: seen.append(must_stop())) == 0
    assert seen == [False]


def test_an_experiment_says_what_is_wrong_with_its_model(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["inspect_model.py", "--model", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("experiments.inspect_model", run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no such model folder")
