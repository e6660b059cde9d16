"""Asking a running trainer for something: a request file, a signal that says it is there, and the wait for the answer.

The trainer reads the request at its next boundary, serves it and answers; a request is addressed to one process, so
that one left behind by a crash never reaches the resumed run. Who asks holds the run's mailbox from the look at what
waits until the signal is delivered, and who serves holds it while the request goes: so a signal never comes without
what it stands for, which would mean to stop.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import write_atomic
from state.process import Process, catches
from state.run_dir import RunDir, record_id

Kind = Literal["checkpoint", "stop", "stop-now", "bounds"]
POLL = 0.1  # seconds between two looks for an answer
KEPT = 8  # earlier answers
MAILBOX_SECONDS = (
    1.0  # that a trainer waits for somebody who is asking; a sender that hangs must not hold it up
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. target: pid and start time of the process it is meant for. time: seconds since 1970.

    Of "bounds": config is the whole text of the new config, base the digest of the one it was made from, plan what
    the history calls it.
    """

    id: str
    kind: Kind
    target: list[int]
    time: float
    config: str | None = None
    base: str | None = None
    plan: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request: the step it was served at, and a sentence. refused: nothing of it was done.

    earlier: the answers before this one, newest first: who asked may not have looked yet.
    """

    id: str
    kind: Kind
    step: int
    message: str
    refused: bool = False
    earlier: list["Answer"] = []


@contextlib.contextmanager
def mailbox(run: RunDir, *, timeout: float) -> Iterator[None]:
    """Hold a run's request and answer for a moment; after `timeout` seconds, and where there is no flock, go on without."""
    try:
        descriptor = os.open(run.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.002)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def pending(run: RunDir) -> Request | None:
    """The request that waits for the process now running, or None; one that is answered waits no more.

    A file that cannot be read is no request: the trainer then goes by the signal alone.
    """
    request = _read(run.request, Request)
    record = _read(run.process, Process)
    if not request or not record or request.target != record_id(record):
        return None
    return None if answered(run, request) else request


def answered(run: RunDir, request: Request) -> Answer | None:
    """The answer to a request, or None where there is none yet."""
    newest = _read(run.answer, Answer)
    return next((a for a in (newest, *newest.earlier) if a.id == request.id), None) if newest else None


def serve(run: RunDir, request: Request, *, step: int, message: str, refused: bool = False) -> None:
    """Answer a request and take it away; the trainer calls it once what was asked is durable."""
    before = _read(run.answer, Answer)
    earlier = [msgspec.structs.replace(before, earlier=[]), *before.earlier][:KEPT] if before else []
    answer = Answer(
        id=request.id, kind=request.kind, step=step, message=message, refused=refused, earlier=earlier
    )
    with mailbox(run, timeout=MAILBOX_SECONDS):
        write_atomic(run.answer, msgspec.json.encode(answer))
        current = _read(run.request, Request)
        if current and current.id == request.id:
            run.request.unlink(missing_ok=True)


def send(
    run: RunDir,
    kind: Kind,
    *,
    now: float,
    config: str | None = None,
    base: str | None = None,
    plan: str | None = None,
) -> Request:
    """Ask the run's process: write the request, then signal. A stop outranks whatever else is still waiting.

    Who asks for the same as what waits, or for a checkpoint while a stop waits, shares that request. config, base,
    plan: of "bounds", see `Request`. Raises FirehoseError(NOT_SIGNALABLE), changing nothing, where no process runs, it
    is another one than recorded, it runs elsewhere, or it has no handler yet for a signal that would kill it; and where
    something else waits that this must not replace.
    """
    with mailbox(run, timeout=10 * MAILBOX_SECONDS):
        process = signalable(run, kind, now)
        waiting = pending(run)
        request = Request(
            id=os.urandom(8).hex(),
            kind=kind,
            target=record_id(process),
            time=now,
            config=config,
            base=base,
            plan=plan,
        )
        if waiting and _shares(request, waiting):
            request = waiting
        elif waiting and kind in ("checkpoint", "bounds"):
            raise _refused(
                run, f"another request ({waiting.kind}) waits to be served", "the same again in a moment"
            )
        else:
            write_atomic(run.request, msgspec.json.encode(request))
        try:
            _signal(run, process, _number(kind))
        except FirehoseError:
            run.request.unlink(missing_ok=True)
            raise
    return request


def _shares(request: Request, waiting: Request) -> bool:
    """Whether what waits is what is asked for."""
    if request.kind == "bounds":
        return waiting.kind == "bounds" and (waiting.config, waiting.base) == (request.config, request.base)
    return waiting.kind == request.kind or (request.kind == "checkpoint" and waiting.kind.startswith("stop"))


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

    Raises FirehoseError: TIMEOUT, the request then still waiting; UNEXPECTED where the run died without serving it;
    REFUSED where new bounds were not taken, with the trainer's reason.
    """
    deadline = clock() + timeout
    while True:
        condition = run.condition(clock())
        served = answered(run, request)
        ended = not condition.alive or (condition.process and record_id(condition.process) != request.target)
        if ended or (served and not request.kind.startswith("stop")):
            if served is None and condition.state == "crashed":
                raise FirehoseError(
                    Exit.UNEXPECTED,
                    f"the run {run.name!r} died before it served the request",
                    path=run.log,
                    next=f"firehose run {run.config} --resume must",
                )
            if request.kind == "bounds" and (served is None or served.refused):
                why = served.message if served else f"the run is {condition.state}; it ended before"
                raise FirehoseError(
                    Exit.REFUSED,
                    f"the new bounds were not taken: {why}",
                    path=run.config,
                    next=f"firehose status {run.root}",
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
