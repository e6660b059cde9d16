"""Asking a running trainer for something: a request file, a signal that says it is there, and the wait for the answer.

The trainer reads the request at its next boundary, serves it and answers; a request is addressed to one process, so
that one left behind by a crash never reaches the resumed run.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import write_atomic
from state.process import Process, catches
from state.run_dir import RunDir, record_id

Kind = Literal["checkpoint", "stop", "stop-now"]
POLL = 0.1  # seconds between two looks for an answer


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. target: pid and start time of the process it is meant for. time: seconds since 1970."""

    id: str
    kind: Kind
    target: list[int]
    time: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request: the step it was served at, and a sentence."""

    id: str
    kind: Kind
    step: int
    message: str


def pending(run: RunDir) -> Request | None:
    """The request that waits for the process now running, or None.

    A file that cannot be read is no request: the trainer then goes by the signal alone.
    """
    request = _read(run.request, Request)
    record = _read(run.process, Process)
    return request if request and record and request.target == record_id(record) else None


def serve(run: RunDir, request: Request, *, step: int, message: str) -> None:
    """Answer a request and take it away; the trainer calls it once what was asked is durable."""
    answer = Answer(id=request.id, kind=request.kind, step=step, message=message)
    write_atomic(run.answer, msgspec.json.encode(answer))
    current = _read(run.request, Request)
    if current and current.id == request.id:
        run.request.unlink(missing_ok=True)


def send(run: RunDir, kind: Kind, *, now: float) -> Request:
    """Ask the run's process: write the request, then signal. A stop outranks a checkpoint that is still waiting.

    Raises FirehoseError(NOT_SIGNALABLE), changing nothing, where no process runs, it is another one than recorded,
    it runs elsewhere, or it has no handler yet for a signal that would kill it.
    """
    process = signalable(run, kind, now)
    waiting = pending(run)
    if waiting and (waiting.kind == kind or kind == "checkpoint"):
        request = waiting
    else:
        request = Request(id=os.urandom(8).hex(), kind=kind, target=record_id(process), time=now)
    # One that waits is written again: had it been served since it was read, the signal alone would mean to stop.
    write_atomic(run.request, msgspec.json.encode(request))
    try:
        _signal(run, process, _number(kind))
    except FirehoseError:
        run.request.unlink(missing_ok=True)
        raise
    return request


def signalable(run: RunDir, kind: Kind, now: float) -> Process:
    """The process that a request of this kind may be sent to. Raises FirehoseError(NOT_SIGNALABLE) and says why not."""
    condition = run.condition(now)
    process = condition.process
    if process is None or not condition.alive:
        raise _refused(
            run, f"the run is not running (it is {condition.state})", f"firehose status {run.root}"
        )
    if process.alive() is None:
        raise _refused(
            run, f"its process is not of this machine: {process.describe()}", "ask on that machine"
        )
    number = _number(kind)
    if not catches(process.pid, number):
        raise _refused(run, f"its process does not listen to {number.name} yet", "try again in a few seconds")
    return process


def wait(
    run: RunDir,
    request: Request,
    *,
    timeout: float,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Wait until a request is served, and give back what came of it: the answer's sentence, for a stop once it ended.

    Raises FirehoseError: TIMEOUT, the request then still waiting; UNEXPECTED where the run died without serving it.
    """
    deadline = clock() + timeout
    while True:
        condition = run.condition(clock())
        answer = _read(run.answer, Answer)
        served = answer if answer and answer.id == request.id else None
        ended = not condition.alive or (condition.process and record_id(condition.process) != request.target)
        if ended or (served and request.kind == "checkpoint"):
            if served is None and condition.state == "crashed":
                raise FirehoseError(
                    Exit.UNEXPECTED,
                    f"the run {run.name!r} died before it served the request",
                    path=run.log,
                    next=f"firehose run {run.config} --resume must",
                )
            return served.message if served else f"the run is {condition.state}"
        if clock() >= deadline:
            raise FirehoseError(
                Exit.TIMEOUT,
                f"no answer in {timeout:g} s; the request is still pending and will be served at the next boundary",
                path=run.request,
                changed="the request stays; remove its file to withdraw it",
                next=f"firehose status {run.root}",
            )
        sleep(POLL)


def _number(kind: Kind) -> signal.Signals:
    return signal.SIGTERM if kind == "stop-now" else signal.SIGUSR1


def _signal(run: RunDir, process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: the descriptor pins it, then its start time is compared once more."""
    try:
        descriptor = os.pidfd_open(process.pid)
        try:
            if not process.alive():
                raise ProcessLookupError
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
    except OSError as error:
        why = f"its process cannot be signalled: {error.strerror or 'it has just ended'}"
        raise _refused(run, why, f"firehose status {run.root}") from None


def _refused(run: RunDir, why: str, next: str) -> FirehoseError:
    return FirehoseError(Exit.NOT_SIGNALABLE, f"run {run.name!r}: {why}", path=run.process, next=next)


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except (OSError, ValueError):
        return None
