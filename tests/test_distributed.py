"""Two processes with four virtual devices each: the whole job, a signal, a kill, bad input."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxinterp import cli, distributed

WAIT = 600  # seconds that anything may take on a machine with other work
STEPS = 60
SMALL = (
    "--tokens 1500 --held-out-tokens 300 --context 32 --width 64 --k 4 --batch 128 --points 200 "
    f"--neighbors 5 --features 4 --contexts 2 --steps {STEPS}"
).split()
PROGRAM = """
import os
import sys
sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what Gloo prints, word by word, must not fall into our lines
import jax
import numpy as np
from jaxinterp import distributed, parallel
port, process = sys.argv[1], int(sys.argv[2])
distributed.start(f"localhost:{port}", 2, process, timeout=120)
assert jax.device_count() == 8
assert distributed.is_writer() == (process == 0)
assert distributed.least(5 + process) == 5
assert distributed.gathered({"a": 0.1 * process, "b": "x" * process}) == [
    {"a": 0.0, "b": ""}, {"a": 0.1, "b": "x"}
]
sums = distributed.gathered((process, np.full(2, 0.1 + process)))
assert [type(told) for told in sums] == [tuple, tuple]
np.testing.assert_array_equal(sums[1][1], np.full(2, 1.1))
assert distributed.of_writer(process) == 0

def refused(action):
    try:
        action()
    except distributed.Agreed as error:
        print(error, flush=True)

distributed.check_same("settings", {"a": 1, "b": "x"})
refused(lambda: distributed.check_same("settings", {"a": 1, "b": process}))

def half():
    with distributed.together():
        if process == 1:
            raise ValueError("no such file")

refused(half)

mesh = parallel.make_mesh("data=-1")
rows = np.arange(8, dtype=np.float32).reshape(4, 2) + 100 * process
batch = parallel.global_batch(rows, mesh)
assert batch.shape == (8, 2)
weighted = jax.jit(lambda x: (x * np.arange(8.0)[:, None]).sum(0))(batch)
print("weighted", *np.asarray(weighted).tolist(), flush=True)
local = parallel.global_batch(rows, parallel.make_mesh("data=4", jax.local_devices()))
np.testing.assert_array_equal(np.asarray(local), rows)
np.testing.assert_array_equal(
    parallel.on_host(batch), np.concatenate([rows - 100 * process, rows - 100 * process + 100])
)

print("shares", *distributed.in_step(range(2 + 3 * process), distributed.never), flush=True)
with distributed.stop_requests() as must_stop:
    step = 0
    while not must_stop():
        step += 1
        if step == 5:
            print("ready", flush=True)
print("stopped at", step, flush=True)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@contextmanager
def started(commands, **environment):
    """Processes that are gone afterwards, whatever happens."""
    own = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = []
    try:
        for command in commands:
            running.append(subprocess.Popen([sys.executable, *map(str, command)], env=own, **pipes))
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def ended(processes):
    """Exit code, standard output and standard error of each."""
    told = [process.communicate(timeout=WAIT) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, told, strict=True)]


def printed(out):
    """Our lines: Gloo's threads print theirs word by word over each other, so any may be cut."""
    words = r"\[Gloo\]|Rank|is connected to|peer ranks\.?|Expected number of connected|is|[\d:\s]"
    return [line for line in out.splitlines() if not re.fullmatch(f"({words})*", line)]


def pair(*arguments, others=(), port=None):
    """The command lines of two processes; `others` is what only the second is given."""
    join = ["--coordinator", f"localhost:{port or free_port()}", "--processes", 2]
    join += ["--timeout", 120, "--heartbeat", 4]
    return [
        ["-m", "jaxinterp", *arguments, *join, "--process", i, *(others if i else ())]
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def outputs():
    """What both processes print; the second one is sent SIGTERM once it runs."""
    port = free_port()
    with started([["-c", PROGRAM, port, i] for i in range(2)]) as processes:
        seen = []
        for line in processes[1].stdout:
            seen.append(line)
            if line == "ready\n":
                processes[1].terminate()
                break
        told = ended(processes)
        for code, _, errors in told:
            assert code == 0, errors[-3000:]
    return [told[0][1], "".join(seen) + told[1][1]]


def test_different_settings_are_named_in_every_process(outputs):
    for output in outputs:
        assert "settings: b is 0 in process 0 and 1 in process 1" in output


def test_what_fails_in_one_process_is_refused_in_all(outputs):
    assert "process 1: no such file" in outputs[0]
    assert "\nno such file" in outputs[1]


def test_a_global_batch_is_computed_on_by_all(outputs):
    rows = np.concatenate([np.arange(8.0).reshape(4, 2) + 100 * p for p in range(2)])
    expected = (rows * np.arange(8.0)[:, None]).sum(0)
    for output in outputs:
        line = next(line for line in output.splitlines() if line.startswith("weighted"))
        np.testing.assert_allclose([float(x) for x in line.split()[1:]], expected)


def test_uneven_shares_are_gone_through_to_their_ends(outputs):
    assert "shares 0 1\n" in outputs[0]
    assert "shares 0 1 2 3 4\n" in outputs[1]


def test_a_signal_to_one_stops_all_at_the_same_step(outputs):
    stops = [output.splitlines()[-1] for output in outputs]
    assert stops[0] == stops[1]
    assert stops[0].startswith("stopped at")


def in_this_process(*arguments):
    """The exit code of a command on this process' devices."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def alone(tmp_path_factory, text_folder):
    """The job in one process on one device."""
    out = tmp_path_factory.mktemp("alone")
    assert in_this_process("demo", "--name", "a", "--out", out, "--text", text_folder, *SMALL) == 0
    return out / "a"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, which runs of one shape share."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, text_folder, cache):
    """The job in two processes: the run's folder, and what each printed."""
    out = tmp_path_factory.mktemp("together")
    command = pair("demo", "--name", "a", "--out", out, "--text", text_folder, *SMALL)
    with started(command, **cache) as processes:
        told = ended(processes)
    assert [code for code, *_ in told] == [0, 0], told[0][2][-2000:] + told[1][2][-2000:]
    return out / "a", told


def numbers(value, path=""):
    """Path and value of every number in what JSON holds."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in pairs:
            yield from numbers(part, f"{path}/{name}")
    elif isinstance(value, int | float):
        yield path, value


def check_dictionary(folder, expected, rtol, atol):
    found, wanted = (load_file(f / "dictionary/dictionary.safetensors") for f in (folder, expected))
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


def test_two_processes_give_what_one_gives(alone, unbroken):
    folder, _ = unbroken
    check_dictionary(folder, alone, rtol=1e-5, atol=1e-5)
    found, wanted = (
        dict(numbers(json.loads((f / "metrics.json").read_text()))) for f in (folder, alone)
    )
    assert set(found) == set(wanted)
    assert len(wanted) > 100
    for name, value in wanted.items():
        # The shrinkage is one minus a number near one: what is left has fewer digits.
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name in ("report.html", "figures/scales.png", "training.jsonl"):
        assert (folder / name).exists()


def test_only_process_0_prints_and_no_activation_is_harvested_twice(alone, unbroken):
    folder, told = unbroken
    shown = [printed(out) for _, out, _ in told]
    assert "report: " in shown[0][-1]
    assert shown[1] == []
    errors = [error for *_, error in told]
    assert errors[0].count("8 devices (cpu), 2 processes, mesh data=8") == 1
    assert "train dictionary: " in errors[0]
    assert errors[1].splitlines()[1:] == []  # besides whom it joins
    for name in ("held_in", "held_out", "layers"):
        mine, theirs = (
            {p.relative_to(f) for p in (f / "activations" / name).rglob("0*") if p.is_file()}
            for f in (folder, alone)
        )
        assert mine == theirs


def logged(folder):
    """The last step of the log; 0 while there is none."""
    log = folder / "training.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def wait_for_step(folder, step, processes):
    end = time.monotonic() + WAIT
    while logged(folder) < step:
        stopped = [process for process in processes if process.poll() is not None]
        assert not stopped, stopped[0].stderr.read()[-3000:]
        assert time.monotonic() < end, f"no step {step}"
        time.sleep(0.02)


def newest(folder):
    steps = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()]
    return max(steps, default=0)


@pytest.fixture(scope="module")
def signalled(tmp_path_factory, text_folder, unbroken, cache):
    """The same run, told to stop by SIGTERM to one process: its folder, and how each ended."""
    out = tmp_path_factory.mktemp("signalled")
    shutil.copytree(unbroken[0] / "activations", out / "a" / "activations")
    shutil.copy(unbroken[0] / "config.json", out / "a")
    command = ["train", "--name", "a", "--out", out, "--text", text_folder, *SMALL]
    with started(pair(*command, "--checkpoint-every", 40), **cache) as processes:
        wait_for_step(out / "a", 10, processes)
        processes[1].send_signal(signal.SIGTERM)
        told = ended(processes)
    return command, out / "a", told


def test_a_signal_saves_everywhere_at_the_same_step_and_ends_with_143(signalled):
    _, folder, told = signalled
    assert [code for code, *_ in told] == [143, 143], told[0][2][-2000:]
    for *_, error in told:
        assert error.strip().endswith("the same command goes on from there")
        assert "Traceback" not in error
    # No checkpoint was due: the one there is was made for the signal, where the log ends.
    assert newest(folder) == logged(folder)
    assert newest(folder) in (10, 20, 30)
    assert not (folder / "dictionary").exists()


def test_a_run_goes_on_on_another_mesh(signalled, unbroken, tmp_path):
    command, folder, _ = signalled
    shutil.copytree(folder, tmp_path / "a")
    code = in_this_process(*command, "--out", tmp_path, "--mesh", "data=2,model=4")
    assert code == 0
    check_dictionary(tmp_path / "a", unbroken[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_kill_ends_the_others_and_costs_one_interval_at_most(
    signalled, unbroken, cache, tmp_path
):
    command, folder = [*signalled[0], "--out", tmp_path], tmp_path / "a"
    shutil.copytree(signalled[1], folder)
    begun = newest(folder)
    with started(pair(*command, "--checkpoint-every", 8), **cache) as processes:
        wait_for_step(folder, begun + 8, processes)
        processes[1].kill()
        (code, _, error), _ = ended(processes)
    assert code not in (0, 2, 143)
    assert "another process of this run was lost" in error or "coordination" in error.lower()
    reached = logged(folder)
    assert newest(folder) >= reached - 8
    assert reached < STEPS
    assert not (folder / "dictionary").exists()
    with started(pair(*command), **cache) as processes:
        told = ended(processes)
    assert [code for code, *_ in told] == [0, 0], told[0][2][-2000:]
    check_dictionary(folder, unbroken[0], rtol=0, atol=0)


@pytest.mark.slow
def test_a_process_that_stands_still_ends_the_others_in_time(signalled, cache, tmp_path):
    """It still holds its connections: only its signs of life are missing."""
    command, folder, _ = signalled
    shutil.copytree(folder, tmp_path / "a")
    with started(pair(*command, "--out", tmp_path), **cache) as processes:
        wait_for_step(tmp_path / "a", newest(folder) + 1, processes)
        processes[1].send_signal(signal.SIGSTOP)
        start = time.monotonic()
        code, _, error = ended(processes[:1])[0]
        assert time.monotonic() - start < 40
        assert code not in (0, 2, 143)
        assert "another process of this run was lost" in error or "coordination" in error.lower()
        processes[1].send_signal(signal.SIGCONT)
        assert ended(processes[1:])[0][0] not in (0, 2, 143)
    assert not (tmp_path / "a" / "dictionary").exists()


def test_processes_with_other_settings_are_refused_and_nothing_is_left(tmp_path, text_folder):
    command = ["demo", "--out", tmp_path / "out", "--text", text_folder, *SMALL]
    with started(pair(*command, others=("--width", 128))) as processes:
        told = ended(processes)
    for code, out, error in told:
        assert code == 2
        assert "the settings: width is 64 in process 0 and 128 in process 1" in error
        assert "Traceback" not in error
        assert printed(out) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mesh", "data=3"], "a mesh of data=3 does not fit 8 devices"),
        (["--mesh", "model=-1", "--width", "60"], "60 can't be split over model=8"),
        (["--mesh", "data=-1", "--batch", "100"], "batch 100 can't be split over data=8"),
        (["--mesh", "rows=8"], "the axes are data and model, not rows"),
        (["--mesh", "data"], "write axes as 'data=-1,model=4'"),
        (["--processes", "2"], "give all three"),
        (
            [
                "--coordinator",
                "localhost:1",
                "--processes",
                "2",
                "--process",
                "1",
                "--timeout",
                "1",
            ],
            "nobody answers at the coordinator localhost:1 within 1 s",
        ),
        (["--heartbeat", "0"], "heartbeat is 0"),
        (["--checkpoint-every", "0"], "checkpoint_every is 0"),
    ],
)
def test_bad_meshes_and_processes_give_one_message(tmp_path, text_folder, capsys, arguments, said):
    command = ["train", "--out", tmp_path / "out", "--text", text_folder, *SMALL]
    assert in_this_process(*command, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert said in error[-1]
    assert list((tmp_path / "out").rglob("*.*")) == []


def test_a_platform_that_nobody_knows_is_said(tmp_path, text_folder):
    command = ["-m", "jaxinterp", "harvest", "--distributed", "--store", tmp_path / "store"]
    with started([command]) as processes:
        ((code, _, error),) = ended(processes)
    assert code == 2
    assert error.startswith("error: this is no TPU pod and no Slurm, Open MPI or Kubernetes job")
    assert not (tmp_path / "store").exists()


def test_nobody_at_the_coordinator_is_said_in_time():
    start = time.monotonic()
    with pytest.raises(ValueError, match="nobody answers at the coordinator localhost"):
        distributed.start(f"localhost:{free_port()}", 2, 1, timeout=1)
    assert time.monotonic() - start < 30


def test_a_process_that_never_comes_is_said_in_time_by_the_others():
    program = "import sys; from jaxinterp import distributed as d; "
    program += "d.start(sys.argv[1], 2, 0, timeout=2)"
    with started([["-c", program, f"localhost:{free_port()}"]]) as processes:
        ((code, _, error),) = ended(processes)
    assert code == 2
    assert error.splitlines()[1].startswith("error: not all 2 processes joined within 2 s")
    assert len(error.splitlines()) == 2


def test_a_process_that_hangs_ends_and_says_where():
    program = """
import time
from jaxinterp import distributed
def stuck():
    time.sleep(600)
with distributed.stop_requests(stall=1):
    stuck()
"""
    with started([["-c", program]]) as processes:
        ((code, _, error),) = ended(processes)
    assert code == 1
    assert error.startswith("Timeout (0:00:01)!")
    assert "in stuck" in error


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use"):
            distributed.start(f"localhost:{port}", 2, 0, timeout=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("localhost:1", 2, None), "give all three"),
        ((None, 2, 0), "give all three"),
        (("localhost:1", 2, 2), "counted from 0"),
        (("localhost", 2, 1), "host:port"),
    ],
)
def test_an_incomplete_description_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        distributed.start(*arguments, timeout=1)


def test_one_process_needs_no_agreement():
    assert jax.process_count() == 1
    distributed.check_same("settings", {"a": 1})
    assert distributed.least(7) == 7
    assert distributed.is_writer()
    with pytest.raises(OSError, match="full"), distributed.together():
        raise OSError("disk full")
    assert list(distributed.in_step(range(3), distributed.never)) == [0, 1, 2]


def test_a_signal_is_a_question_and_then_again_a_signal():
    before = signal.getsignal(signal.SIGTERM)
    with distributed.stop_requests() as must_stop:
        assert not must_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert must_stop()
        with pytest.raises(distributed.Preempted):
            list(distributed.in_step(range(3), must_stop))
    assert signal.getsignal(signal.SIGTERM) == before
