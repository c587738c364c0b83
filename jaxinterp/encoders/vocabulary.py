"""The tokenizer of a model folder: its `tokenizer.json`, or transformers for older files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsInt

from jaxinterp.encoders.weights import read_json
from jaxinterp.tokenize import FastTokenizer, Tokenizer, load_tokenizer, read_backend

_OLDER = ("vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")


class SlowTokenizer(NamedTuple):
    """A tokenizer of transformers, for folders without a `tokenizer.json`.

    Attributes:
        backend: what AutoTokenizer gave.
        bos: id put at the start of every row.
        pad: id behind the end of a document.
    """

    backend: Any
    bos: int
    pad: int

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.backend)

    @property
    def special(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset({self.bos, self.pad, *self.backend.all_special_ids})

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        return self.backend(list(texts), add_special_tokens=False)["input_ids"]

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """The text of each token on its own."""
        return [self.backend.decode([int(i)]) for i in ids]


def find_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a model folder; None where it has none.

    Raises:
        ValueError: unreadable files, no token to start a row with, or older files without
            transformers to read them.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return _fast(folder)
    if not any((folder / name).is_file() for name in _OLDER):
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(
            f"{folder} has no tokenizer.json; its older files need transformers: "
            "pip install 'jaxinterp[hub]'"
        ) from error
    try:
        backend: Any = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        raise ValueError(f"{folder}: transformers can't read its tokenizer: {error}") from error
    bos = _first(backend.bos_token_id, backend.cls_token_id, backend.eos_token_id)
    if bos is None:
        raise ValueError(f"{folder}: its tokenizer has no token to start a row with")
    pad = _first(backend.pad_token_id, backend.eos_token_id, bos)
    return SlowTokenizer(backend, bos, pad)


def _fast(folder: Path) -> Tokenizer:
    """`tokenizer.json`, its special tokens as `tokenizer_config.json` names them."""
    config = folder / "tokenizer_config.json"
    names = read_json(config) if config.is_file() else {}

    def text(key: str) -> str | None:
        value = names.get(key)
        return value.get("content") if isinstance(value, dict) else value

    backend = read_backend(folder / "tokenizer.json")
    ids = {k: backend.token_to_id(t) if (t := text(f"{k}_token")) else None for k in _SPECIAL}
    bos = _first(ids["bos"], ids["cls"], ids["eos"])
    if bos is None:
        return load_tokenizer(folder)
    return FastTokenizer(backend, bos, _first(ids["pad"], ids["eos"], bos))


_SPECIAL = ("bos", "cls", "eos", "pad")


def _first(*values: int | None) -> Any:
    return next((v for v in values if v is not None), None)
