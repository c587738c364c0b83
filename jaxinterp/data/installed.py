"""English that every Python installation with jax carries, read from this one."""

import ast
import hashlib
import importlib.util
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from jaxinterp.data.documents import Document

INSTALLED = "installed"
_DEPENDENCIES = ("numpy", "scipy", "jax")
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "turtledemo", "lib2to3"}
_SHORTEST_DOCSTRING = 40


def installed_text() -> list[Document]:
    """Reference text and docstrings of this Python installation, the same order every time.

    The topics of the language reference (`pydoc_data.topics`) and the docstrings of the standard
    library, numpy, scipy and jax, found by parsing the sources: nothing is imported or run. One
    document per topic and per source file. Docstrings that occur twice are kept once.
    """
    from pydoc_data import topics

    documents = [Document(f"topic/{name}", text) for name, text in sorted(topics.topics.items())]
    seen: set[bytes] = set()
    documents += _docstrings("python", Path(sysconfig.get_paths()["stdlib"]), seen)
    for package in _DEPENDENCIES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            documents += _docstrings(package, Path(spec.origin).parent, seen)
    return documents


def _docstrings(label: str, root: Path, seen: set[bytes]) -> Iterator[Document]:
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts):
            continue
        texts = []
        for text in _file_docstrings(path):
            digest = hashlib.sha256(text.encode()).digest()
            if digest not in seen:
                seen.add(digest)
                texts.append(text)
        if texts:
            yield Document(f"{label}/{relative.as_posix()}", "\n\n".join(texts))


def _file_docstrings(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, ValueError, OSError):
        return  # a source file for another version of Python, or not text: not our text either
    for node in _statements(tree):
        if isinstance(node, kinds):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST_DOCSTRING:
                yield text


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """As `ast.walk`, without going into expressions, which hold no docstring."""
    kinds = (ast.stmt, ast.excepthandler, ast.match_case)
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        parts = (getattr(node, field, None) for field in node._fields)
        lists = (part for part in parts if isinstance(part, list))
        waiting.extend(one for part in lists for one in part if isinstance(one, kinds))
