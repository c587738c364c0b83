"""The folder of a run: opened for one config, marked with it, and read again.

Several processes share one folder, on a disk that all of them see: each writes its share of the
activations and of the checkpoints there, process 0 everything else.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxinterp import distributed, files
from jaxinterp.config import RunConfig

_TEXT = "text.json"  # digests of what the run reads
_LAG = 30.0  # seconds after which a network disk shows what another machine has written


def open_run(config: RunConfig) -> Path:
    """The run's folder: a new one, or the one of a run with the same config.

    Only process 0 looks at it and makes it; see `begin` for the others.

    Raises:
        ValueError: impossible settings, or a folder that can't be written or holds something else.
    """
    config.check()
    folder = Path(config.out).expanduser() / config.name
    if not distributed.is_writer():
        return folder
    if (folder / "config.json").exists():
        fields, found = config.outcome(), _read_settings(folder)
        found = {k: v for k, v in found.items() if k in fields or not hasattr(config, k)}
        different = sorted(k for k in {*found, *fields} if found.get(k) != fields.get(k))
        if different:
            told = "; ".join(
                f"{k}: {found.get(k)!r} there, {fields.get(k)!r} now" for k in different
            )
            raise ValueError(
                f"{folder} holds a run with other settings ({told}): choose another name "
                "(--name NAME), or delete that folder"
            )
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        in_use = any(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error}): choose another --out") from error
    if in_use:
        raise ValueError(f"{folder} is in use and is no run of this kind: choose another --name")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} can't be written: choose another --out")
    return folder


def begin(config: RunConfig, folder: Path, text: Mapping[str, str]) -> None:
    """Marks the folder as this run's, once its inputs were found good.

    Args:
        config: its settings.
        folder: where it lies.
        text: digests of its text; see `inputs.digests`.

    Raises:
        ValueError: the run there has other text, or another process does not see the folder.
    """
    marked = folder / "config.json"
    with distributed.together():
        if distributed.is_writer() and not marked.exists():
            files.write_json(folder / _TEXT, dict(text))
            files.write_json(marked, dataclasses.asdict(config))  # last: it is the mark
        if distributed.is_writer():
            check_text(config, folder, text)
    with distributed.together():
        end = time.monotonic() + _LAG
        while not marked.exists():
            if time.monotonic() > end:
                raise ValueError(
                    f"{folder} of process 0 is not there: give --out on a disk that all processes "
                    "share"
                )
            time.sleep(0.1)


def check_text(config: RunConfig, folder: Path, text: Mapping[str, str]) -> None:
    """Refuses text that has changed since the run began; runs of old versions don't tell.

    Raises:
        ValueError: it has.
    """
    kept = folder / _TEXT
    if kept.exists() and files.read_json(kept) != dict(text):
        raise ValueError(
            f"{config.text} is not the text of the run in {folder}: give the old text back, or run "
            "demo under another name"
        )


def read_config(folder: Path) -> RunConfig:
    """The config that a run was started with.

    Raises:
        ValueError: there is none, or it has fields that this version does not know.
    """
    fields = _read_settings(folder)
    unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(RunConfig)})
    if unknown:
        raise ValueError(f"{folder / 'config.json'} has unknown settings: {', '.join(unknown)}")
    return RunConfig(**fields)


def _read_settings(folder: Path) -> dict[str, Any]:
    """The stored settings, with the tuples that JSON made lists of."""
    found = files.read_json(folder / "config.json")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
