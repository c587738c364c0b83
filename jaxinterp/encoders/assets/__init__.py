"""The language model that ships with the library, in Hugging Face format."""

from pathlib import Path

EMBEDDED = "tiny"


def folder(name: str = EMBEDDED) -> Path:
    """The folder of a shipped model.

    Raises:
        ValueError: no such model ships.
    """
    path = Path(__file__).parent / name
    if not path.is_dir():
        shipped = sorted(p.name for p in path.parent.iterdir() if (p / "config.json").is_file())
        raise ValueError(f"no shipped model {name!r}; shipped: {', '.join(shipped) or 'none'}")
    return path
