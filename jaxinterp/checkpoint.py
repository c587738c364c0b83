"""Checkpoints of a training state: one thin layer over orbax."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one run in one folder; a save is whole or absent.

    This is a handle on files, not a container of numbers: what is saved is passed in, what is
    restored is returned.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, every: int = 1):
        """Opens (or makes) the folder; `every` is the number of steps between saves."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, save_interval_steps=every)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def latest(self) -> int | None:
        """The newest step saved, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, notes: dict | None = None) -> None:
        """Saves a pytree of arrays and a small JSON-able dict, if `step` is due."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            notes=ocp.args.JsonSave({"notes": notes or {}, "leaves": _leaves(state)}),
        )
        self._manager.save(step, args=items)

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict]:
        """Restores (state, notes); `like` gives structure, shapes, dtypes and shardings.

        Raises:
            ValueError: there is no checkpoint, it can't be read, or it does not fit `like` (the
                first leaf that differs is named).
        """
        step = self.latest() if step is None else step
        if step is None:
            raise ValueError(f"no checkpoint in {self._manager.directory}")
        where = f"checkpoint {step} in {self._manager.directory}"
        try:
            about = self._restore(step, notes=ocp.args.JsonRestore())["notes"]
            _check_leaves(where, about["leaves"], _leaves(like))
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            state = self._restore(step, state=ocp.args.StandardRestore(abstract))["state"]
        except (KeyError, TypeError, FileNotFoundError, json.JSONDecodeError) as error:
            raise ValueError(f"{where} can't be read ({error}): delete it to start over") from error
        return state, about["notes"]

    def _restore(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def close(self):
        """Waits for the last save to be on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _leaves(state: Any) -> dict[str, str]:
    """Path of every leaf -> its dtype and shape."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_leaves(where: str, saved: dict[str, str], wanted: dict[str, str]) -> None:
    for path in sorted({*saved, *wanted}):
        if saved.get(path) != wanted.get(path):
            raise ValueError(
                f"{where} does not fit this run: {path} is {saved.get(path, 'absent')} there and "
                f"{wanted.get(path, 'absent')} here"
            )
