"""Programs that are timed in turn, each in a process of its own that sleeps while others run.

A benchmark starts a `Contestant` for each; the worker script that it names calls `serve`. This
module needs no package beyond the standard library, so that a peer's own Python can run it.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

# Threads that wait for work in a loop would take time from the contestant whose turn it is.
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
# Nor may a contestant take the whole of a GPU's memory, which JAX does by default.
QUIET |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Sample(NamedTuple):
    """One turn.

    Attributes:
        wall: seconds that passed.
        cpu: seconds of processor, all threads together.
        peak: most memory that the process has held, MiB; on a GPU, of the device's.
        libraries: how much it held before it built anything, MiB.
    """

    wall: float
    cpu: float
    peak: float
    libraries: float


class Contestant:
    """A program in another process: it runs once for each line that it is sent.

    Args:
        command: what starts the worker.
        environment: variables to set for it.

    Raises:
        ValueError: the worker ended before its first answer.
    """

    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | QUIET | (environment or {}),
        )
        self._read()

    def _read(self) -> Sample:
        line = self._process.stdout.readline()  # ty: ignore[unresolved-attribute]
        if not line:
            self._errors.seek(0)
            said = self._errors.read()[-2000:]
            raise ValueError(f"{' '.join(self._process.args)} stopped:\n{said}")
        return Sample(*json.loads(line))

    def __call__(self) -> Sample:
        """One turn."""
        print(file=self._process.stdin, flush=True)
        return self._read()

    def stop(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._errors.close()


def answers() -> TextIO:
    """Where a worker answers; from here on, what libraries print goes to standard error."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def memory() -> float:
    """Most memory that this process has held so far, in MiB."""
    # Where Linux tells it: what `getrusage` says begins with what the parent held.
    status = Path("/proc/self/status")
    told = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return (
        int(told[1]) / 1024 if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )


def serve(
    stream: TextIO,
    run: Callable[[], None],
    libraries: float,
    peak: Callable[[], float] = memory,
) -> None:
    """The worker's side: warms up twice, then runs once for each line on standard input.

    Args:
        stream: where to answer.
        run: the work; it returns when the work is done, not when it is queued.
        libraries: what `peak` said before anything was built.
        peak: most memory held so far, in MiB.
    """
    run()
    run()
    print(json.dumps((0.0, 0.0, peak(), libraries)), file=stream, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        sample = time.perf_counter() - wall, time.process_time() - cpu, peak(), libraries
        print(json.dumps(sample), file=stream, flush=True)
