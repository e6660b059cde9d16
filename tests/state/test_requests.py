"""Requests reach exactly the process they were meant for, never kill it, and are waited for with an end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from state import requests
from state.requests import Request, pending, send, serve, signalable, wait
from state.run_dir import RunDir

ROOT = Path(__file__).parents[2]
# A trainer as requests see it: "deaf" has no handlers, "busy" has them and never looks, "serving" serves.
TRAINER = """
import os, signal, sys, time
from pathlib import Path
from state import requests
from state.run_dir import RunDir
run, kind = RunDir(Path(sys.argv[1])), sys.argv[2]
run.begin(time.time())
HEARD = (signal.SIGUSR1, signal.SIGTERM)
if kind != "deaf":
    for number in HEARD:
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # what comes while nobody waits is kept for `sigwait`
run.write_live({"pid": os.getpid(), "time": time.time(), "step": 1})
os.write(1, b"ready\\n")
step = 0
while True:
    number = signal.pause() if kind == "deaf" else signal.sigwait(HEARD)
    step += 100
    request = requests.pending(run)
    os.write(1, f"{signal.Signals(number).name} {request and request.kind}\\n".encode())
    if kind == "serving" and request:
        requests.serve(run, request, step=step, message=f"{request.kind} at step {step}")
        if request.kind != "checkpoint":
            run.end("stopped", exit_code=75, step=step, now=time.time())
            sys.exit(75)
"""


@pytest.fixture
def trainer(run: RunDir) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started = []

    def start(kind: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(run.root), kind],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert heard(process) == "ready"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def refused(run: RunDir, kind: requests.Kind = "stop") -> str:
    with pytest.raises(FirehoseError) as caught:
        send(run, kind, now=time.time())
    assert caught.value.exit_code is Exit.NOT_SIGNALABLE and caught.value.changed == "nothing"
    assert not run.request.exists()
    return caught.value.message


def test_a_checkpoint_is_asked_for_served_and_answered_then_a_stop(run: RunDir, trainer: Any) -> None:
    process = trainer("serving")
    request = send(run, "checkpoint", now=time.time())
    assert wait(run, request, timeout=30) == "checkpoint at step 100"
    assert heard(process) == "SIGUSR1 checkpoint" and not run.request.exists()
    assert process.poll() is None
    request = send(run, "stop", now=time.time())
    assert wait(run, request, timeout=30) == "stop at step 200"
    assert process.wait() == 75 and run.condition(time.time()).state == "stopped"
    assert "not running (it is stopped)" in refused(run)


def test_stop_now_is_sigterm(run: RunDir, trainer: Any) -> None:
    process = trainer("serving")
    assert wait(run, send(run, "stop-now", now=time.time()), timeout=30) == "stop-now at step 100"
    assert heard(process) == "SIGTERM stop-now"


def test_a_process_without_a_handler_is_left_alone(run: RunDir, trainer: Any) -> None:
    process = trainer("deaf")
    assert "does not listen to SIGUSR1" in refused(run)
    assert "does not listen to SIGTERM" in refused(run, "stop-now")
    assert process.poll() is None


def test_a_pid_that_is_somebody_elses_by_now_is_not_signalled(run: RunDir, trainer: Any) -> None:
    process = trainer("busy")
    record = json.loads(run.process.read_text())
    run.process.write_text(json.dumps({**record, "start": record["start"] + 1}))
    assert "it is crashed" in refused(run)
    run.process.write_text(json.dumps({**record, "machine": "elsewhere"}))
    assert "not of this machine" in refused(run)
    run.process.unlink()
    assert "not running" in refused(run)
    assert process.poll() is None


def test_a_time_out_says_that_the_request_still_waits_and_a_stop_outranks_it(
    run: RunDir, trainer: Any
) -> None:
    process, clock = trainer("busy"), Clock()
    first = send(run, "checkpoint", now=time.time())
    assert heard(process) == "SIGUSR1 checkpoint"
    with pytest.raises(FirehoseError, match="still pending") as caught:
        wait(run, first, timeout=5, clock=clock, sleep=clock.sleep)
    assert caught.value.exit_code is Exit.TIMEOUT and run.request.exists()
    assert send(run, "checkpoint", now=time.time()) == first, "asked again, it is the same request"
    assert heard(process) == "SIGUSR1 checkpoint"
    stop = send(run, "stop", now=time.time())
    assert pending(run) == stop != first
    assert send(run, "checkpoint", now=time.time()) == stop
    assert run.condition(time.time()).state == "stopping"


def test_a_run_that_dies_instead_of_answering(run: RunDir, trainer: Any) -> None:
    process, clock = trainer("busy"), Clock()
    request = send(run, "checkpoint", now=time.time())

    def kill(seconds: float) -> None:
        process.kill()
        process.wait()
        clock.sleep(seconds)

    with pytest.raises(FirehoseError, match="died before") as caught:
        wait(run, request, timeout=60, clock=clock, sleep=kill)
    assert caught.value.exit_code is Exit.UNEXPECTED


def test_a_request_left_by_a_crash_does_not_reach_the_next_process(run: RunDir) -> None:
    run.begin(time.time())
    record = json.loads(run.process.read_text())
    for target, expected in (([record["pid"], record["start"]], True), ([record["pid"], 1], False)):
        request = Request(id="a", kind="stop", target=target, time=0.0)
        run.request.write_bytes(json.dumps(request_dict(request)).encode())
        assert (pending(run) is not None) is expected
    run.request.write_text("{")
    assert pending(run) is None


def request_dict(request: Request) -> dict[str, Any]:
    return {"id": request.id, "kind": request.kind, "target": request.target, "time": request.time}


def test_an_answer_takes_away_its_own_request_only(run: RunDir) -> None:
    newer = Request(id="b", kind="stop", target=[1, 1], time=0.0)
    run.request.write_text(json.dumps(request_dict(newer)))
    serve(run, Request(id="a", kind="checkpoint", target=[1, 1], time=0.0), step=1, message="done")
    assert run.request.exists()
    serve(run, newer, step=2, message="done")
    assert not run.request.exists() and json.loads(run.answer.read_text())["id"] == "b"


def test_a_signal_that_fails_withdraws_the_request(
    run: RunDir, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer("busy")

    def fail(descriptor: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", fail)
    assert "has just ended" in refused(run)
    assert signalable(run, "stop", time.time()).pid != os.getpid()


def test_what_is_answered_waits_no_more_and_stays_readable_when_the_next_is_answered(
    run: RunDir, trainer: Any
) -> None:
    trainer("busy")
    first = send(run, "checkpoint", now=time.time())
    left = run.request.read_bytes()
    serve(run, first, step=10, message="done at 10")
    run.request.write_bytes(left)  # as by one who had read it before and writes it again
    assert pending(run) is None
    second = send(run, "checkpoint", now=time.time())
    assert second != first
    serve(run, second, step=20, message="done at 20")
    assert [wait(run, asked, timeout=0.0) for asked in (first, second)] == ["done at 10", "done at 20"]


def test_new_bounds_share_a_request_only_with_the_same_and_give_way_to_a_stop(
    run: RunDir, trainer: Any
) -> None:
    trainer("busy")
    asked = {"now": time.time(), "config": "a = 1", "base": "b" * 64}
    bounds = send(run, "bounds", **asked)
    assert send(run, "bounds", **asked) == bounds == pending(run)
    for kind, more in (("bounds", {"config": "a = 2"}), ("checkpoint", {"config": None, "base": None})):
        with pytest.raises(FirehoseError, match=r"another request \(bounds\) waits") as caught:
            send(run, kind, **{**asked, **more})  # type: ignore[arg-type]
        assert caught.value.exit_code is Exit.NOT_SIGNALABLE and pending(run) == bounds
    stop = send(run, "stop", now=time.time())
    assert pending(run) == stop
    serve(run, bounds, step=10, message="no", refused=True)
    assert pending(run) == stop
    with pytest.raises(FirehoseError, match="not taken: no") as caught:
        wait(run, bounds, timeout=0.0)
    assert caught.value.exit_code is Exit.REFUSED


def test_who_serves_waits_for_who_asks_but_not_for_ever(
    run: RunDir, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer("busy")
    request = send(run, "checkpoint", now=time.time())
    monkeypatch.setattr(requests, "MAILBOX_SECONDS", 0.02)
    naps: list[float] = []
    monkeypatch.setattr(requests.time, "sleep", naps.append)
    with requests.mailbox(run, timeout=0.0):
        serve(run, request, step=1, message="done")
    assert naps, "it did not wait for the one who holds the mailbox"
    assert wait(run, request, timeout=0.0) == "done"
    naps.clear()
    serve(run, request, step=1, message="done")
    assert naps == []
