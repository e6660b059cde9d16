"""Stops, checkpoints and signals against a real process, through the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit
from state import requests
from state.rows import read_rows
from state.run_dir import RunDir
from tests.fixtures import tiny
from trainer import runner
from trainer.signals import Flags

ROOT = Path(__file__).parents[2]
LONG = ("steps = 60", "steps = 100000"), ("checkpoint_every = 20", "checkpoint_every = 1000")


def firehose(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("signals"), *LONG).path


@pytest.fixture
def running(config: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], RunDir]]:
    """A run that has trained its first steps."""
    run = RunDir(tmp_path / "tiny")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "run", str(config), "--runs-dir", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait(lambda: (run.read_live() or {}).get("step", 0) >= 10, process)
        yield process, run
    finally:
        process.kill()
        process.communicate()


def wait(condition: Any, process: subprocess.Popen[str], limit: float = 300.0) -> None:
    """Poll until a condition holds; fail where the process ends first or the limit passes."""
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)


def last_step(run: RunDir) -> int:
    step: int = read_rows(run.loss)[-1][0]
    return step


def test_stop_ends_at_a_boundary_and_resumes(
    running: tuple[subprocess.Popen[str], RunDir], config: Path
) -> None:
    process, run = running
    runs = ["--runs-dir", str(run.root.parent)]
    done = firehose("stop", "tiny", "--json", *runs)
    assert done.returncode == 0, done.stderr
    assert process.wait(30) == Exit.STOPPED == 75
    step = last_step(run)
    assert step % 10 == 0
    assert json.loads(done.stdout)["message"] == f"stopped at step {step}"
    assert json.loads(firehose("status", "tiny", "--json", *runs).stdout)["state"] == "stopped"

    resumed = firehose("run", str(config), "--resume", "must", "--until", str(step + 5), "--json", *runs)
    assert resumed.returncode == Exit.STOPPED, resumed.stderr
    assert json.loads(resumed.stdout)["step"] == step + 5
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, step + 6))


def test_checkpoint_is_written_and_the_run_goes_on(running: tuple[subprocess.Popen[str], RunDir]) -> None:
    process, run = running
    done = firehose("checkpoint", "tiny", "--json", "--runs-dir", str(run.root.parent))
    assert done.returncode == 0, done.stderr
    step = int(json.loads(done.stdout)["message"].rsplit(" ", 1)[1])
    assert (run.checkpoints / f"step_{step}/checkpoint.json").exists()
    wait(lambda: (run.read_live() or {})["step"] > step, process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_after_the_step_it_is_in(
    running: tuple[subprocess.Popen[str], RunDir], number: signal.Signals
) -> None:
    process, run = running
    os.kill(process.pid, number)
    assert process.wait(30) == Exit.STOPPED
    assert (run.checkpoints / f"step_{last_step(run)}/checkpoint.json").exists()


def test_bare_sigusr1_stops_at_a_boundary(running: tuple[subprocess.Popen[str], RunDir]) -> None:
    process, run = running
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait(30) == Exit.STOPPED
    assert last_step(run) % 10 == 0


def test_a_second_run_is_locked_out(running: tuple[subprocess.Popen[str], RunDir], config: Path) -> None:
    process, run = running
    done = firehose("run", str(config), "--json", "--runs-dir", str(run.root.parent))
    assert done.returncode == Exit.LOCKED
    assert f"pid {process.pid}" in json.loads(done.stdout)["error"]["message"]
    assert process.poll() is None


def test_a_killed_run_shows_as_crashed(running: tuple[subprocess.Popen[str], RunDir]) -> None:
    process, run = running
    process.kill()
    process.wait(10)
    done = firehose("status", "tiny", "--json", "--runs-dir", str(run.root.parent))
    assert json.loads(done.stdout)["state"] == "crashed"


def test_a_second_signal_leaves_at_once_writing_nothing(tmp_path: Path) -> None:
    """In a process of its own that ignores the first flag, as a step that never ends would."""
    code = (
        "import os, signal; from trainer.signals import Flags; flags = Flags().install()\n"
        "os.kill(os.getpid(), signal.SIGTERM); assert flags.stop is signal.SIGTERM\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr  # 143 to a shell
    assert done.stdout == ""


def test_a_signal_while_a_request_is_served_is_taken_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two `firehose checkpoint` in quick succession must not look like one checkpoint and one bare stop."""
    config = tiny.make(tmp_path).path
    plan = runner.plan(config, name=None, runs_dir=tmp_path / "runs", resume="never")
    flags = Flags()
    flags.request = True
    asked = requests.Request(id="a", kind="checkpoint", target=[1, 1], time=0.0)
    monkeypatch.setattr(requests, "pending", lambda run: asked if not plan.run.answer.exists() else None)
    serve = requests.serve

    def serve_late(*rest: Any, **named: Any) -> None:
        flags.request = True  # the second signal
        serve(*rest, **named)

    monkeypatch.setattr(requests, "serve", serve_late)
    assert runner.train(plan, flags=flags)["exit"] == Exit.OK
    assert json.loads(plan.run.answer.read_text())["step"] == 10
    assert "another SIGUSR1" in plan.run.log.read_text()


def test_detach_says_why_a_run_was_refused(
    running: tuple[subprocess.Popen[str], RunDir], config: Path
) -> None:
    process, run = running
    done = firehose("run", str(config), "--detach", "--json", "--runs-dir", str(run.root.parent))
    assert done.returncode == Exit.LOCKED
    assert json.loads(done.stdout)["error"]["code"] == Exit.LOCKED
    assert process.poll() is None


def test_detach_leaves_a_run_that_goes_on(config: Path, tmp_path: Path) -> None:
    runs = ["--runs-dir", str(tmp_path)]
    done = firehose("run", str(config), "--detach", "--json", *runs)
    assert done.returncode == 0, done.stderr
    pid = json.loads(done.stdout)["pid"]
    assert json.loads(firehose("status", "tiny", "--json", *runs).stdout)["state"] == "running"
    stopped = firehose("stop", "tiny", "--now", *runs)
    assert stopped.returncode == 0, stopped.stderr
    assert RunDir(tmp_path / "tiny").condition(0.0).process.pid == pid  # type: ignore[union-attr]


def test_signals_at_random_moments_kill_nobody_and_are_served_once() -> None:
    """The short form of `make faults`: 40 to a loop without torch, 3 to a real run."""
    command = [sys.executable, "-m", "tests.faults.signals", "--count", "40", "--real", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


WATCHED = """
import signal, sys

def heard():
    return callable(signal.getsignal(signal.SIGUSR1))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(name, heard(), flush=True)

sys.meta_path.insert(0, Finder())
from trainer.cli import main
main()
"""


def test_the_handler_is_there_before_anything_heavy(tmp_path: Path) -> None:
    (tmp_path / "data/tiny").mkdir(parents=True)
    config = tiny.write_config(tmp_path)
    words = ["run", str(config), "--runs-dir", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.NOT_FOUND, done.stderr
    lines = done.stdout.split("\n")
    assert "torch True" in lines and "torch False" not in lines


def test_a_fork_of_a_run_and_a_run_that_ends_ignore_sigusr1() -> None:
    code = (
        "import os, signal; from trainer.signals import Flags; flags = Flags().install()\n"
        "if (child := os.fork()) == 0:\n"
        "    os.kill(os.getpid(), signal.SIGUSR1); os._exit(3 if flags.request else 0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flags.request)\n"
        "os.kill(os.getpid(), signal.SIGUSR1); print(flags.request)\n"
        "flags.retire(); flags.request = False\n"
        "os.kill(os.getpid(), signal.SIGUSR1); print(flags.request)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "False", "True", "False"]), done.stderr
