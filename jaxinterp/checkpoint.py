"""Checkpoints of a training state: one thin layer over orbax."""

import gc
import json
import logging
import math
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32
from orbax.checkpoint import checkpoint_managers

from jaxinterp import distributed

_UNKNOWN = -1e300  # a score below every other; orbax wants one


class _Unreadable(ValueError):
    """A checkpoint whose files are damaged."""


class Checkpoints:
    """The checkpoints of one run in one folder; a save is whole or absent.

    This is a handle on files, not a container of numbers: what is saved is passed in, what is
    restored is returned. Every process of a run opens the same folder, on a disk that all share,
    and calls the same methods; each writes and reads its own part of the arrays.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        every: int = 1,
        config: Mapping[str, Any] | None = None,
    ):
        """Opens (or makes) the folder.

        Args:
            folder: of the checkpoints.
            keep: newest ones that are kept, besides the one with the highest score.
            every: steps between saves.
            config: settings of the run, saved with each checkpoint; one of other settings is
                refused. None to save and compare nothing.

        Raises:
            ValueError: what is in the folder can't be read.
        """
        policies = checkpoint_managers.preservation_policy

        def read(metrics: Any) -> float:
            return metrics["score"]

        best = policies.BestN(n=1, get_metric_fn=read, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=read,  # without it, the scores are not written to disk
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(n=keep), best]),
            save_interval_steps=every,
        )
        try:
            self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)
        except ValueError as error:  # the scores are read here
            raise ValueError(
                f"the checkpoints in {folder} can't be read ({error}): delete the newest"
            ) from error
        self._config = None if config is None else json.loads(json.dumps(dict(config)))

    def latest(self) -> int | None:
        """The newest step saved, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step saved with the highest score; the newest where none has a score, or None."""
        self._manager.wait_until_finished()
        steps = self._manager.all_steps()
        return max(steps, key=lambda step: (self._score(step), step)) if steps else None

    def _score(self, step: int) -> float:
        return (self._manager.metrics(step) or {}).get("score", _UNKNOWN)

    def save(
        self,
        step: int,
        state: Any,
        notes: dict | None = None,
        *,
        score: float | None = None,
    ) -> None:
        """Saves a pytree of arrays, if `step` is due.

        Args:
            step: its number.
            state: arrays; they may be donated as soon as this returns.
            notes: a small JSON-able dict.
            score: how good the state is, higher is better; None (or NaN) if that is not known.
        """
        about = {
            "notes": notes or {},
            "leaves": _leaves(state),
            "sums": _sums(state),
            "config": self._config,
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(about)
        )
        known = score is not None and math.isfinite(score)
        self._manager.save(step, args=items, metrics={"score": score if known else _UNKNOWN})

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict]:
        """Restores (state, notes); `like` gives structure, shapes, dtypes and shardings.

        Every array is compared with the checksum that it was saved with. Where the newest
        checkpoint is damaged, the one before it is restored, with a warning; the damaged one is
        kept under another name.

        Raises:
            ValueError: there is no checkpoint, it is damaged and so are those before it, it is of
                a run with other settings (they are named), or it does not fit `like` (the first
                leaf that differs is named).
        """
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        if not steps:
            raise ValueError(f"no checkpoint in {self._manager.directory}")
        damaged: dict[int, str] = {}
        for number in steps:
            told = found = None
            try:
                found = self._read(number, like)
            except _Unreadable as error:
                told = str(error)
            told = next(filter(None, distributed.gathered(told)), None)
            if told is None and found is not None:
                self._set_aside(damaged, number)
                return found
            damaged[number] = str(told)
        raise ValueError(f"{damaged[steps[0]]}: delete it to start over")

    def _read(self, step: int, like: Any) -> tuple[Any, dict]:
        where = f"checkpoint {step} in {self._manager.directory}"
        with _reading(where):
            about = self._restore(step, notes=ocp.args.JsonRestore())["notes"]
            leaves = about["leaves"]
        self._check_config(where, about.get("config"))
        _check_leaves(where, leaves, _leaves(like))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with _reading(where):
            state = self._restore(step, state=ocp.args.StandardRestore(abstract))["state"]
            sums = _sums(state)
            changed = [path for path, saved in about.get("sums", {}).items() if saved != sums[path]]
            if changed:
                raise ValueError(f"{changed[0]} does not have the checksum it was saved with")
        return state, about["notes"]

    def _set_aside(self, damaged: Mapping[int, str], step: int) -> None:
        """Makes room for new saves of steps whose checkpoints are damaged."""
        for number, told in damaged.items():
            folder = Path(self._manager.directory) / str(number)
            kept = folder.with_name(f"{number}.damaged")
            if distributed.is_writer():
                warnings.warn(f"{told}: kept as {kept.name}, going on from {step}", stacklevel=3)
                folder.rename(kept)
        if damaged:
            distributed.gathered(None)  # nobody looks before they are renamed
            self._manager.reload()

    def _check_config(self, where: str, saved: Mapping[str, Any] | None) -> None:
        if self._config is None or saved is None:
            return
        fields = sorted({*saved, *self._config})
        other = [name for name in fields if saved.get(name) != self._config.get(name)]
        if other:
            told = "; ".join(
                f"{name}: {saved.get(name)!r} there, {self._config.get(name)!r} here"
                for name in other
            )
            raise ValueError(
                f"{where} is of a run with other settings ({told}): give another folder, or "
                "delete it to start over"
            )

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


@contextmanager
def _reading(where: str) -> Generator[None]:
    """Makes any sign of damaged files one error.

    What orbax raises for them is of several types, a bare Exception among them; its unfinished
    tasks would tell of the same once more, in hundreds of lines, when they are collected.
    """
    told, hook = logging.getLogger("asyncio"), sys.unraisablehook
    before = told.disabled
    told.disabled, sys.unraisablehook = True, lambda _: None
    message = None
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = str(error)
    except Exception as error:
        if type(error) is not Exception:
            raise
        message = str(error)
    finally:
        if message is not None:
            gc.collect()
        told.disabled, sys.unraisablehook = before, hook
    if message is not None:
        raise _Unreadable(f"{where} can't be read ({message.strip().splitlines()[0][:200]})")


def _sums(state: Any) -> dict[str, int]:
    """Path of every array -> a checksum that does not depend on how it lies on devices."""
    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    on_devices = {path: leaf for path, leaf in leaves.items() if isinstance(leaf, jax.Array)}
    return {path: int(total) for path, total in jax.jit(_totals)(on_devices).items()}


def _totals(leaves: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {path: _total(leaf) for path, leaf in leaves.items()}


def _total(leaf: Array) -> UInt32[Array, ""]:
    """Sum of the bits of every element times an odd number of its own, modulo 2^32."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    bits = min(leaf.dtype.itemsize, 4) * 8  # of eight bytes become two numbers
    words = jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)
    weights = jnp.ones((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weights = weights * jnp.uint32(2 * size + 1) + 2 * along
    return (words * weights).sum(dtype=jnp.uint32)


def _leaves(state: Any) -> dict[str, str]:
    """Path of every leaf -> its dtype and shape."""
    return {
        jax.tree_util.keystr(path): f"{getattr(leaf, 'dtype', type(leaf))}{list(np.shape(leaf))}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_leaves(where: str, saved: dict[str, str], wanted: dict[str, str]) -> None:
    for path in sorted({*saved, *wanted}):
        if saved.get(path) != wanted.get(path):
            raise ValueError(
                f"{where} does not fit this run: {path} is {saved.get(path, 'absent')} there and "
                f"{wanted.get(path, 'absent')} here"
            )
