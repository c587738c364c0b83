"""Tokenizers: text to ids and back, from a model folder or trained here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, SupportsInt, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the library needs of a tokenizer."""

    @property
    def bos(self) -> int:
        """Id put at the start of every row."""
        ...

    @property
    def pad(self) -> int:
        """Id behind the end of a document."""
        ...

    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    @property
    def special(self) -> frozenset[int]:
        """Ids that stand for no text, such as those of starts, ends and padding."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        ...

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """The text of each token on its own, for showing to a person."""
        ...


class FastTokenizer(NamedTuple):
    """A `tokenizer.json` read by the `tokenizers` package.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        bos: id put at the start of every row.
        pad: id behind the end of a document.
    """

    backend: object
    bos: int
    pad: int

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.backend.get_vocab_size()  # ty: ignore[missing-attribute]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)  # ty: ignore[missing-attribute]
        return [e.ids for e in encoded]

    @property
    def special(self) -> frozenset[int]:
        """Ids that stand for no text."""
        added = self.backend.get_added_tokens_decoder()  # ty: ignore[missing-attribute]
        return frozenset({self.bos, self.pad} | {i for i, t in added.items() if t.special})

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """The text of each token on its own; bytes that are no character show as U+FFFD."""
        return [self.backend.decode([int(i)], skip_special_tokens=False) for i in ids]  # ty: ignore[missing-attribute]


_BOS_NAMES = ("<bos>", "<s>", "<|begin_of_text|>", "<|endoftext|>", "[CLS]")
_PAD_NAMES = ("<pad>", "[PAD]", "<|endoftext|>", "</s>")


def load_tokenizer(folder: str | Path) -> FastTokenizer:
    """Reads `tokenizer.json` of a model folder.

    Raises:
        ValueError: the file is missing or unreadable, or has no token to start a row with.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: a model folder needs its tokenizer.json")
    backend = read_backend(path)
    bos = _first_known(backend, _BOS_NAMES)
    if bos is None:
        raise ValueError(f"{path} has none of {', '.join(_BOS_NAMES)} to start a row with")
    pad = _first_known(backend, _PAD_NAMES)
    return FastTokenizer(backend, bos, bos if pad is None else pad)


def read_backend(path: Path) -> Any:
    """The tokenizer of a `tokenizer.json`, without the lengths it cuts and fills texts to.

    Raises:
        ValueError: the file can't be read as a tokenizer.
    """
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_file(str(path))
    except Exception as error:
        raise ValueError(f"{path} can't be read as a tokenizer: {error}") from error
    # Files keep what their last user cut texts to; rows are cut and filled elsewhere.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _first_known(backend, names: Sequence[str]) -> int | None:
    ids = (backend.token_to_id(name) for name in names)
    return next((i for i in ids if i is not None), None)


def train_bpe(texts: Iterable[str], size: int) -> FastTokenizer:
    """Trains a byte-level byte-pair encoding with `<bos>` and `<pad>`; every text round-trips."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<bos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return FastTokenizer(backend, bos=0, pad=1)  # the special tokens get the first ids, in order
