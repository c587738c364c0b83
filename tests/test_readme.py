"""Every Python block of the README runs, in order, in one namespace."""

import re
from pathlib import Path

import jax

README = Path(__file__).parent.parent / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    namespace: dict = {}
    with jax.numpy_rank_promotion("allow"):  # as it is where a reader pastes them
        for block in blocks:
            exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "variance explained" in printed


def test_files_that_the_readme_names_are_there():
    text = README.read_text()
    named = re.findall(r"`((?:experiments|configs|jaxinterp|tests|tpu_scripts)/[\w/.]+)`", text)
    named += re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert named
    for name in named:
        assert (README.parent / name).exists(), name
