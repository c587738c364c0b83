"""Dictionaries on the Hugging Face hub, through the hub's own client.

Who may read and write is the client's affair (`hf auth login`); nothing here asks for a token, and
what the client says of an error is told without any.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxinterp.dictionaries.formats.describe import fields
from jaxinterp.dictionaries.formats.stored import Stored

_WEIGHTS = (".safetensors", ".npz", ".pt")
_TAGS = {"saelens": ["saelens"], "sparsify": ["sparsify"]}


def download(name: str, *, revision: str | None = None) -> Path:
    """Fetches one dictionary; the client keeps it in its cache.

    Args:
        name: `owner/name`, or `owner/name/folder/in/it`; only the files of that folder are
            fetched, not those of all dictionaries of a repository.
        revision: branch, tag or commit.

    Returns:
        The folder.

    Raises:
        ValueError: the client is not installed or gave nothing, or the folder has no dictionary;
            those that the repository has are named.
    """
    owner, repository, *inner = name.strip("/").split("/")
    repo, folder = f"{owner}/{repository}", "/".join(inner)
    client = _client()
    try:
        names = client.HfApi().list_repo_files(repo, revision=revision)
    except Exception as error:
        raise ValueError(f"{name!r} is neither here nor on the hub: {_told(error)}") from None
    wanted = _files(repo, folder, names)
    try:
        root = client.snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except Exception as error:
        raise ValueError(f"the hub did not give {name!r}: {_told(error)}") from None
    return Path(root) / folder


def upload(folder: str | Path, name: str, *, private: bool = False, message: str = "") -> str:
    """Sends a dictionary with a card that says what it is, in one commit.

    Args:
        folder: a dictionary in any format that is known; all files in it that are not hidden are
            sent.
        name: `owner/name`, or `owner/name/folder/in/it`; the repository is made if it is not there.
        private: whether a new repository is seen by its owners only.
        message: of the commit.

    Returns:
        The name to give to `load`.

    Raises:
        ValueError: no whole dictionary in the folder, the client is not installed, or the hub
            refused.
    """
    from jaxinterp.dictionaries.formats.recognise import open_stored

    folder, name = Path(folder).expanduser(), name.strip("/")
    if name.count("/") < 1:
        raise ValueError(f"{name!r} is no name on the hub: give owner/name")
    stored = open_stored(folder)
    owner, repository, *inner = name.split("/")
    repo, place = f"{owner}/{repository}", PurePosixPath(*inner)
    client = _client()
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder))
    content: dict[str, Any] = {str(place / p.relative_to(folder).as_posix()): p for p in paths}
    content.setdefault(str(place / "README.md"), card(stored, name).encode())
    operations = [
        client.CommitOperationAdd(at, str(kept) if isinstance(kept, Path) else kept)
        for at, kept in content.items()
    ]
    try:
        api = client.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        told = message or f"Add a {stored.variant} dictionary"
        api.create_commit(repo, operations, commit_message=told)
    except Exception as error:
        raise ValueError(f"the hub refused {name!r}: {_told(error)}") from None
    return name


def card(stored: Stored, name: str) -> str:
    """A model card: what the dictionary is and how it is opened.

    Args:
        stored: the dictionary.
        name: its name on the hub.
    """
    tags = ["sparse-autoencoder", "interpretability", *_TAGS.get(stored.format, [])]
    rows = [f"| {key} | {value.replace('|', '/')} |" for key, value in fields(stored).items()]
    lines = [
        "---",
        "library_name: jaxinterp",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
        "",
        f"# {name.rpartition('/')[2]}",
        "",
        "A dictionary of directions in the activations of a model, with sparse codes.",
        "",
        "| | |",
        "|---|---|",
        *rows,
        *(["", *(f"- {note}" for note in stored.notes)] if stored.notes else []),
        "",
        "```python",
        "from jaxinterp import dictionaries",
        "",
        f'dictionary, params, header = dictionaries.load("{name}")',
        "codes = dictionary.encode(params, activations)",
        "reconstruction = dictionary.decode(params, codes)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _files(repo: str, folder: str, names: Sequence[str]) -> list[str]:
    """The files of one dictionary: those of its folder, and of a final checkpoint below it."""
    within = f"{folder}/" if folder else ""
    own = [n for n in names if n.startswith(within)]
    direct = [n for n in own if "/" not in n.removeprefix(within)]
    direct += [n for n in own if n.removeprefix(within).startswith("checkpoints/final")]
    if not any(n.endswith(_WEIGHTS) for n in direct):
        places = sorted({n.rpartition("/")[0] for n in own if n.endswith(_WEIGHTS)})
        few = ", ".join(places[:5]) or "none"
        raise ValueError(
            f"{repo}/{folder} on the hub has no dictionary of its own. Folders below with weights "
            f"({len(places)}): {few}"
        )
    return direct


def _hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder on the way to it, is one that is not shown."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _told(error: Exception) -> str:
    """What went wrong, in one line and without anything that looks like a token."""
    return re.sub(r"hf_\w+", "hf_...", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            "names on the hub need its client: pip install 'jaxinterp[hub]', or give a folder"
        ) from error
    return huggingface_hub
