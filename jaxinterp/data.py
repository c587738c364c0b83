"""Text to rows of tokens: what is installed here, local files, or a hub data set.

A document has a stable name and a text. Which side of the held-out split a document falls on is a
property of its name alone, so it is the same on every machine and after every update of the text.
"""

import ast
import hashlib
import importlib.util
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

INSTALLED = "installed"
_DEPENDENCIES = ("numpy", "scipy", "jax")
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "turtledemo", "lib2to3"}
_SHORTEST_DOCSTRING = 40
_PASSAGE = 2000
_TEXT_SUFFIXES = {".txt", ".md", ".rst", ".text"}
_TABLE_SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow"}


class Document(NamedTuple):
    """A text and the stable name it goes by."""

    name: str
    text: str


class Rows(NamedTuple):
    """Documents cut into rows of one length.

    Attributes:
        tokens: token ids; a row starts with the beginning-of-sequence token and holds a piece of
            one document.
        mask: False at the padding behind a document's end.
        document: index into the documents of each row.
        offset: index, among the document's tokens, of a row's second token.
    """

    tokens: Int[np.ndarray, "rows seq"]
    mask: Bool[np.ndarray, "rows seq"]
    document: Int[np.ndarray, " rows"]
    offset: Int[np.ndarray, " rows"]


def is_held_out(name: str, share: float = 0.1) -> bool:
    """Whether the document of this name belongs to the held-out `share` of the text."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split(documents: Iterable[Document], share: float = 0.1) -> tuple[list[Document], ...]:
    """Splits documents into (held in, held out) by their names."""
    sides: tuple[list[Document], list[Document]] = ([], [])
    for document in documents:
        sides[is_held_out(document.name, share)].append(document)
    return sides


def load_text(source: str, *, column: str = "text", split_name: str = "train") -> list[Document]:
    """Reads documents from a source.

    Args:
        source: "installed" (see `installed_text`), a text / jsonl / json / parquet / arrow file,
            a folder of such files, or the name of a data set on the Hugging Face hub.
        column: the column that holds the text, for tables.
        split_name: the split to read, for hub data sets.

    Returns:
        The documents, in a fixed order. A text file is cut at blank lines into documents of
        about two thousand characters; a table is one document per row.

    Raises:
        ValueError: no such source, an empty file, a file that is not UTF-8, or a missing column.
    """
    if source == INSTALLED:
        return installed_text()
    path = Path(source).expanduser()
    if path.is_dir():
        known = _TEXT_SUFFIXES | set(_TABLE_SUFFIXES)
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in known and f.is_file())
        if not files:
            raise ValueError(f"no text or table files in {path}; known: {', '.join(sorted(known))}")
        return [d for f in files for d in _load_file(f, column)]
    if path.exists():
        return _load_file(path, column)
    if path.suffix.lower() in _TEXT_SUFFIXES | set(_TABLE_SUFFIXES) or source.startswith(
        (".", "/", "~")
    ):
        raise ValueError(f"no such file: {source}")
    return _load_hub(source, column, split_name)


def _load_file(path: Path, column: str) -> list[Document]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; give a file with text in it")
    if path.suffix.lower() in _TABLE_SUFFIXES:
        return _load_table(_TABLE_SUFFIXES[path.suffix.lower()], str(path), column)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}): convert it, e.g. "
            f"iconv -f latin1 -t utf-8 {path.name}"
        ) from error
    documents = [Document(f"{path.name}:{i}", t) for i, t in enumerate(_passages(text))]
    if not documents:
        raise ValueError(f"{path} holds only white space; give a file with text in it")
    return documents


def _passages(text: str) -> list[str]:
    """Cuts a text at blank lines into passages of at least `_PASSAGE` characters (but the last)."""
    passages: list[list[str]] = [[]]
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        if paragraph.strip():
            if sum(map(len, passages[-1])) >= _PASSAGE:
                passages.append([])
            passages[-1].append(paragraph.strip())
    return ["\n\n".join(p) for p in passages if p]


def _load_table(kind: str, path: str, column: str) -> list[Document]:
    import datasets

    try:
        table = datasets.load_dataset(kind, data_files=path, split="train")
    except Exception as error:
        raise ValueError(f"{path} can't be read as {kind}: {error}") from error
    return _rows_of(table, column, Path(path).name)


def _load_hub(name: str, column: str, split_name: str) -> list[Document]:
    import datasets

    try:
        table = datasets.load_dataset(name, split=split_name)
    except Exception as error:
        raise ValueError(
            f"{name!r} is neither a file or folder here nor a data set that the hub gave: {error}"
        ) from error
    return _rows_of(table, column, name)


def _rows_of(table, column: str, name: str) -> list[Document]:
    if column not in table.column_names:
        raise ValueError(f"{name} has no column {column!r}; it has {', '.join(table.column_names)}")
    documents = [Document(f"{name}:{i}", str(t)) for i, t in enumerate(table[column]) if t]
    if not documents:
        raise ValueError(f"{name}: column {column!r} holds no text")
    return documents


def installed_text() -> list[Document]:
    """English that every Python installation with jax carries, read from this one.

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
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST_DOCSTRING:
                yield text


def token_rows(documents: Sequence[Document], tokenizer, seq: int) -> Rows:
    """Cuts documents into rows of `seq` tokens; a row never spans two documents.

    Args:
        documents: the texts.
        tokenizer: see `tokenize.Tokenizer`.
        seq: row length, the beginning-of-sequence token included; at least 2.

    Returns:
        The rows, in document order.

    Raises:
        ValueError: no documents, no text in them, or `seq` < 2.
    """
    if seq < 2:
        raise ValueError(f"{seq=}: a row needs at least 2 tokens")
    pieces, where = [], []
    for index, ids in enumerate(tokenizer.encode_batch([d.text for d in documents])):
        for offset in range(0, len(ids), seq - 1):
            pieces.append(ids[offset : offset + seq - 1])
            where.append((index, offset))
    if not pieces:
        raise ValueError(f"{len(documents)} documents with no tokens in them: give some text")
    tokens = np.full((len(pieces), seq), tokenizer.pad, np.int32)
    mask = np.zeros((len(pieces), seq), bool)
    tokens[:, 0], mask[:, 0] = tokenizer.bos, True
    for row, ids in enumerate(pieces):
        tokens[row, 1 : len(ids) + 1] = ids
        mask[row, 1 : len(ids) + 1] = True
    document, offset = np.asarray(where, np.int32).T
    return Rows(tokens, mask, document, offset)
