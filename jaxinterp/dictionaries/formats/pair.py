"""A file of tensors and the JSON that says what they are, written together or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxinterp import files


def write(
    folder: Path,
    tensors: str,
    put: Callable[[Path], None],
    header: str,
    content: Mapping[str, Any],
) -> None:
    """Writes both; of an older pair in the folder, either both files stay or none.

    Args:
        folder: made if it is not there.
        tensors: name of the file of tensors.
        put: writes it to the path that it is given.
        header: name of the JSON.
        content: what goes into it.

    Raises:
        ValueError: the content is not JSON's; nothing was written.
    """
    try:
        text = files.json_text(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{header} can't hold what it should say: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with files.whole(folder / header) as described:
        described.write_text(text, "utf-8")
        with files.whole(folder / tensors) as partial:
            put(partial)
            # Stopped from here on, the folder holds no dictionary, rather than two in one.
            (folder / header).unlink(missing_ok=True)
