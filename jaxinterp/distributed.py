"""Several processes that run one program: start, agree, notice that one must go or is gone.

Every process runs the same command. JAX's own runtime connects them (`jax.distributed`); this file
gives it time limits and sentences that say what to do. One rule keeps processes from waiting for
each other for ever: what may fail in one process alone goes into `together`, and everything else
is done by all of them in the same order.
"""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxinterp.messages import pack, unpack

Item = TypeVar("Item")
MustStop = Callable[[], bool]
_LATER = 60  # seconds after this file's own time limit at which the runtime's is up


class Agreed(ValueError):
    """Bad input that every process of a run refuses at the same place."""


class Preempted(Exception):
    """A run that was asked to stop and did so at the same place in every process."""


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 300,
    heartbeat: int = 100,
) -> None:
    """Connects this process with the others; call it before anything touches a device.

    Args:
        coordinator: `host:port` of process 0; None where the platform knows it (TPU pods, Slurm,
            Open MPI, Kubernetes).
        processes: how many there are; None likewise.
        process: which this is, from 0; None likewise.
        timeout: seconds to wait for the others, now and when leaving.
        heartbeat: seconds without a sign of life after which a process counts as lost; JAX's
            runtime then ends the others with a message of its own.

    Where others are missing when the time is up, this process ends with exit code 2 and a message:
    the runtime, which would abort, can't be told to give up.

    Raises:
        ValueError: an incomplete description, no platform that knows the rest, or no coordinator
            there within the time.
    """
    given = [coordinator is not None, processes is not None, process is not None]
    if any(given) and not all(given):
        raise ValueError(
            f"{coordinator=}, {processes=}, {process=}: give all three, or none where the "
            "platform knows them"
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(f"{process=} of {processes=}: processes are counted from 0")
    if coordinator is not None:
        print(f"process {process} of {processes} joins at {coordinator}", file=sys.stderr)
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"coordinator is {coordinator!r}: write it as host:port")
        if process:
            _wait_for(host, int(port), timeout)
        else:
            _refuse_taken(int(port))
    among = "all processes" if processes is None else f"all {processes} processes"
    missing = threading.Timer(timeout, _give_up, [f"{among} joined within {timeout} s"])
    missing.daemon = True
    missing.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=timeout + _LATER,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=timeout,
        )
    except ValueError as error:
        raise ValueError(
            f"this is no TPU pod and no Slurm, Open MPI or Kubernetes job that JAX knows ({error}) "
            "so say how the processes find each other: a coordinator host:port, how many they are "
            "and which this is"
        ) from error
    finally:
        missing.cancel()


def _give_up(wanted: str) -> None:
    print(
        f"error: not {wanted}: were they all started, with the same coordinator and number of "
        "processes, and can they reach each other?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _wait_for(host: str, port: int, timeout: int) -> None:
    """Waits until somebody listens there: the runtime itself would abort without an exception."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"nobody answers at the coordinator {host}:{port} within {timeout} s "
                    f"({error}): was process 0 started, and can its port be reached from here?"
                ) from error
            time.sleep(0.2)


def _refuse_taken(port: int) -> None:
    """Process 0 listens at the port: somebody else's program there would be taken for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(f"port {port} is in use here ({error}): give another one") from error


def is_writer() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def gathered(value: Any) -> list[Any]:
    """A value of every process, in the order of the processes, in each of them.

    Every process must call this; so must they everything below that says what is agreed. Values
    arrive as they were: float64 is not rounded.

    Args:
        value: plain Python or NumPy; see `messages.pack`.
    """
    message = pack(value)  # what can't be told is refused in a run of one process too
    if jax.process_count() == 1:
        return [value]
    told = np.frombuffer(message, np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(told)))
    room = 1 << int(sizes.max()).bit_length()  # few shapes, since each is compiled
    padded = np.pad(told, (0, room - len(told)))
    everyone = multihost_utils.process_allgather(padded)
    pairs = zip(everyone, sizes.tolist(), strict=True)
    return [unpack(row[:size].tobytes()) for row, size in pairs]


def of_writer(value: Any) -> Any:
    """What the process that writes files says, in every process."""
    return gathered(value)[0]


def check_same(what: str, value: Mapping[str, Any]) -> None:
    """Refuses to go on when processes were started with different settings.

    Args:
        what: what is compared, for the message.
        value: plain fields.

    Raises:
        Agreed: in every process alike, naming the first field that differs and the processes.
    """
    first, *others = gathered(dict(value))
    for number, other in enumerate(others, 1):
        for name in sorted({*first, *other}):
            if first.get(name) != other.get(name):
                raise Agreed(
                    f"{what}: {name} is {first.get(name)!r} in process 0 and {other.get(name)!r} "
                    f"in process {number}: start all processes with the same settings"
                )


@contextmanager
def together() -> Generator[None]:
    """Goes on after a block only if it went well in every process.

    The block must hold nothing that waits for other processes: they may have failed.

    Raises:
        Agreed: in every process, with the message of the first in which the block raised a
            ValueError or OSError. A run of one process raises its error as it is.
    """
    told = None
    try:
        yield
    except (ValueError, OSError) as error:
        if jax.process_count() == 1 or isinstance(error, Agreed):
            raise
        told = str(error)
    for process, message in enumerate(gathered(told)):
        if message is not None:
            where = "" if process == jax.process_index() else f"process {process}: "
            raise Agreed(f"{where}{message}")


def least(number: int) -> int:
    """The smallest of a number over all processes: steps that all can take, when shards differ."""
    return min(gathered(number))


@contextmanager
def stop_requests(*, stall: int | None = None) -> Generator[MustStop]:
    """Turns SIGTERM, which is how platforms announce that a machine goes, into a question.

    Gives `must_stop() -> bool`: whether any process was told to stop, agreed by all, so that all
    save the same step. Every process must ask at the same places; between two of them a signal
    waits. The signal's old meaning is back afterwards.

    Args:
        stall: seconds without a question after which this process ends with exit code 1, and
            writes to standard error where it was. A process that hangs, on a disk or in a
            collective, still has a heartbeat; this is what ends it. None for no limit.
    """
    told = threading.Event()

    def is_alive() -> None:
        if stall is not None:
            faulthandler.dump_traceback_later(stall, exit=True)

    def must_stop() -> bool:
        is_alive()
        return any(gathered(told.is_set()))

    is_alive()

    # Signals reach the main thread; elsewhere (a notebook's worker) they keep their meaning.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set()) if in_main else None
    try:
        yield must_stop
    finally:
        if stall is not None:
            faulthandler.cancel_dump_traceback_later()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def never() -> bool:
    """The `must_stop` of a caller that nobody asks to stop."""
    return False


def in_step(items: Iterable[Item], must_stop: MustStop) -> Iterator[Item]:
    """Goes through this process' items while the others go through theirs, which may be more.

    Args:
        items: of this process.
        must_stop: of `stop_requests`; asked before every item.

    Yields:
        The items.

    Raises:
        Preempted: in every process at the same turn.
    """
    rest, nothing = iter(items), object()
    while True:
        if must_stop():
            raise Preempted
        item: Any = next(rest, nothing)
        if least(item is nothing):
            return
        if item is not nothing:
            yield item
