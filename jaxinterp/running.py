"""From a command to an exit code, in one process or in this one of several.

Exit codes:
    0    done.
    1    another process of the run was lost, or something unforeseen (with a traceback).
    2    settings or input that can't be: one message says which, and what to do.
    130  Ctrl-C.
    143  SIGTERM to any process: all of them saved the training state, at the same step.
After 1, 130 and 143 the same command goes on where it was.
"""

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from jaxinterp.config import Processes

if TYPE_CHECKING:  # JAX is imported by the command that needs it, so that --help is quick
    from jaxinterp.distributed import MustStop


def run(
    command: Callable[[Any, "MustStop"], None], settings: Callable[[], tuple[Any, Processes]]
) -> int:
    """Runs a command in one process or in this one of several; see the exit codes above.

    Bad input becomes one message, not a traceback; `JAXINTERP_TRACEBACK=1` in the environment shows
    where it came from.
    """
    try:
        config, processes = settings()
        processes.check()
        if processes.several:
            from jaxinterp import distributed

            distributed.start(
                processes.coordinator,
                processes.processes,
                processes.process,
                timeout=processes.timeout,
                heartbeat=processes.heartbeat,
            )
    except Exception as error:
        return _failed(error)
    if not processes.several:
        return _obeyed(command, config, None)[0]
    code, agreed = _obeyed(command, config, processes)
    if not agreed:
        _leave_alone(code)
    import jax

    jax.distributed.shutdown()
    return code


def _obeyed(
    command: Callable[[Any, "MustStop"], None], config: Any, processes: Processes | None
) -> tuple[int, bool]:
    """Runs a command to its exit code, and whether all processes end in this way."""
    from jaxinterp import distributed

    try:
        if processes is not None:
            distributed.check_same("the settings", _told(command, config))
        stall = None if processes is None else processes.stall
        with distributed.stop_requests(stall=stall) as must_stop:
            command(config, must_stop)
            distributed.gathered(None)  # the others wait for the one that writes
    except distributed.Preempted:
        print("stopped by a signal: the same command goes on from there", file=sys.stderr)
        return 143, True
    except KeyboardInterrupt:
        print(
            "\nstopped: what is finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130, False
    except Exception as error:
        if processes is not None and _is_loss(error):
            reason = str(error).strip().splitlines()[0][:200]
            print(
                f"error: another process of this run was lost ({reason}): start the same command "
                "again in all of them, it goes on from the last checkpoint",
                file=sys.stderr,
            )
            return 1, False
        if processes is not None and not isinstance(error, ValueError | OSError):
            traceback.print_exc()
            return 1, False
        return _failed(error), isinstance(error, distributed.Agreed)
    return 0, True


def _failed(error: Exception) -> int:
    """Says what is wrong with the input."""
    if not isinstance(error, ValueError | OSError):
        raise error
    if os.environ.get("JAXINTERP_TRACEBACK"):
        traceback.print_exception(error)
    # A message may quote a file, whose control characters a terminal would obey.
    told = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    print(f"error: {told}", file=sys.stderr)
    return 2


def _is_loss(error: Exception) -> bool:
    """Whether JAX's runtime failed as it does when the other side of a collective is gone."""
    import jax

    signs = ("Gloo", "NCCL", "peer", "heartbeat", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(s in str(error) for s in signs)


def _told(command: Callable[..., None], config: Any) -> dict[str, Any]:
    """What all processes must have in common."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("jaxinterp", "jax", "jaxlib")}
    return {"command": getattr(command, "__name__", "")} | dataclasses.asdict(config) | packages


def _leave_alone(code: int) -> NoReturn:
    """Ends this process at once: an orderly end would wait for others, which wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
