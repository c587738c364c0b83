"""The data flows one way: no package imports one that comes after it."""

import ast
from pathlib import Path

import pytest

import jaxinterp

ROOT = Path(jaxinterp.__file__).parent
ORDER = {
    "geometry": 0,
    "encoders": 1,
    "activations": 2,
    "dictionaries": 3,
    "interventions": 4,
    "evaluation": 5,
    "report": 6,
}
FILES = sorted(ROOT.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_back_along_the_flow(path):
    package = path.relative_to(ROOT).parts[0]
    if package not in ORDER:
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "jaxinterp" and len(parts) > 1 and parts[1] in ORDER:
            assert ORDER[parts[1]] <= ORDER[package], f"{path} imports {name}"
            if package == "geometry":
                assert parts[1] == "geometry", f"geometry is a leaf: {path} imports {name}"


def test_importing_the_library_changes_no_setting_and_touches_no_device():
    """In a fresh process: no jax.config change, no backend started, no torch."""
    import subprocess
    import sys

    program = """
import jax, sys
before = {n: getattr(jax.config, n) for n in ("jax_enable_x64", "jax_numpy_rank_promotion")}
import jaxinterp, jaxinterp.pipeline, jaxinterp.present, jaxinterp.cli
import jaxinterp.encoders, jaxinterp.geometry, jaxinterp.dictionaries
after = {n: getattr(jax.config, n) for n in before}
assert before == after, (before, after)
assert "torch" not in sys.modules and "transformers" not in sys.modules
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was touched on import"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
