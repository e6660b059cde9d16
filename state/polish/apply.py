"""Applying a plan: ask the run to stop at its boundary, change what it goes by in one transaction, start it again.

Before the transaction's journal is written nothing has happened but a stop at a boundary; after it, whoever comes next
finishes it. So the same command again, after any interruption, ends where it would have ended.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from curriculum.console import wrapped
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, write_atomic
from curriculum.sources import check_sources, known_arms, open_corpus
from state import journal, requests, spawn
from state.lock import RunLock
from state.polish import pivot, polish
from state.polish.polish import Plan
from state.recover import look
from state.requests import Request
from state.run_dir import RunDir, read_object, record_id
from state.store import StateStore, utc_now

Say = Callable[[str], None]
LOCK_SECONDS = 30.0  # for a process that has ended to be gone
# Exit codes of a run that did start.
TRAINED = (Exit.OK, Exit.ALARMS, Exit.HALTED, Exit.NON_FINITE, Exit.STOPPED)
APPLY_LOG = "polish/apply.log"


def confirm(plan: Plan, path: Path, confirmed: Sequence[str], *, yes: bool) -> None:
    """Raise FirehoseError(REFUSED) unless every source that a plan disables was named."""
    missing = [name for name in plan.disables if name not in confirmed]
    if missing and not yes:
        flags = " ".join(f"--confirm {name}" for name in plan.disables)
        raise FirehoseError(
            Exit.REFUSED,
            f"the plan takes every pull from {', '.join(missing)}, and that was not confirmed",
            path=path,
            arm=missing[0],
            next=f"firehose polish apply {path} {flags}",
        )


def applied(run: RunDir, plan: Plan) -> journal.Entry | None:
    """The transaction that applied this very plan, finished or begun, or None."""
    begun = journal.unfinished(run)
    for entry in [*journal.entries(run), *([begun] if begun else [])]:
        for operation in entry.operations:
            if isinstance(operation, journal.Record) and operation.event.get("plan") == plan.sha256:
                return entry
    return None


def apply(
    run: RunDir,
    plan: Plan,
    path: Path,
    *,
    confirmed: Sequence[str] = (),
    yes: bool = False,
    resume: bool = True,
    timeout: float = 600.0,
    say: Say,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Do what a plan says; what came of it, by the names of `--json`. Raises FirehoseError.

    say gets a line for every phase.
    """
    entry = _applied_before(run, plan, path, say, clock)
    if entry is None:
        polish.refuse_stale(run, plan, path, clock())
        confirm(plan, path, confirmed, yes=yes)
        if plan.kind == "live":
            return _live(run, plan, path, timeout, say, clock)
        _check_data(run, plan)
        stop(run, plan, timeout, say, clock)
        with RunLock(run.lock).acquire(timeout=LOCK_SECONDS):
            journal.redo(run)
            entry = applied(run, plan)
            if entry is None:
                entry = _commit(run, plan, path, say, clock)
    outcome: dict[str, Any] = {
        "run": run.name,
        "kind": plan.kind,
        "outcome": "applied",
        "archive": str(run.archive / entry.name),
        "lineage": plan.lineage,
        "step": polish.current_state(run).step,
        "pid": None,
    }
    _drop_draft(run, plan)
    if not resume:
        say(f"not resumed, as told; to go on: firehose run {run.config} --resume must")
        return outcome
    say("starting the run again")
    started = spawn.detached(run.root, ["run", str(run.config.absolute()), "--resume", "must"])
    if started.code is not None and started.code not in TRAINED:
        raise FirehoseError(
            Exit(started.code) if started.code in set(Exit) else Exit.UNEXPECTED,
            f"the run took the change and then did not start: {last_words(started.said)}",
            path=started.log,
            changed=f"all that the plan says; what was there before is in {run.archive / entry.name}",
            next=f"firehose run {run.config} --resume must",
        )
    say(f"resumed: pid {started.pid}, messages in {started.log}")
    return {**outcome, "pid": started.pid, "log": str(started.log)}


def last_words(said: str) -> str:
    """The error in what a process said, or the last line of it."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")


def _applied_before(
    run: RunDir, plan: Plan, path: Path, say: Say, clock: Callable[[], float]
) -> journal.Entry | None:
    """The transaction of an apply that was interrupted after it had decided, finished now; None where there was none."""
    entry = applied(run, plan)
    if entry is None:
        return None
    if journal.unfinished(run) is not None:
        with RunLock(run.lock).acquire(timeout=LOCK_SECONDS):
            journal.redo(run)
        say("finished what was begun and cut short")
    process = read_object(run.process)
    state = polish.current_state(run)
    if polish.running(run, clock()) or state.lineage != plan.lineage or _same(process) != plan.pins.process:
        raise FirehoseError(
            Exit.STALE_PLAN,
            f"the plan was applied already, as {entry.name}; a plan is applied once, and nothing was changed now",
            path=path,
            next=f"firehose polish history {run.root}",
        )
    say(f"the plan is in force already: {entry.name}")
    return entry


def _same(record: dict[str, Any] | None) -> list[int] | None:
    return [record["pid"], record["start"]] if record and "pid" in record and "start" in record else None


def _check_data(run: RunDir, plan: Plan) -> None:
    """Read every source's files whole, while the run still trains: a launch would refuse damaged ones."""
    config = polish.check(plan.config, run.config, Path(plan.config_file))
    check_sources(config, open_corpus(config), known=known_arms(polish.current_state(run).payload))


def _commit(run: RunDir, plan: Plan, path: Path, say: Say, clock: Callable[[], float]) -> journal.Entry:
    """The transaction, under the lock."""
    polish.refuse_stale(run, plan, path, clock())
    store = StateStore(run.state)
    found = look(run, store)
    for item in found.findings:
        say(wrapped(str(item)))
    for payload in (found.state.payload if found.state else {}, found.settled.payload or {}):
        run.record_once(payload.get("events", []))
    tx = pivot.transaction(run, plan, found, store, now=utc_now())
    where = f"checkpoint of step {found.weights.step} durable" if found.weights else "no checkpoint yet"
    say(f"{where}; archiving to {run.archive / tx.name}")
    entry = tx.commit(progress=lambda words: say(f"  {words}"))
    say(f"new state committed: lineage {plan.lineage[:8]}")
    return entry


# The stop at the boundary, and its withdrawal.


def asked(run: RunDir) -> Path:
    """The file that says which request is a polish's."""
    return polish.folder(run) / "asked.json"


def stop(run: RunDir, plan: Plan, timeout: float, say: Say, clock: Callable[[], float]) -> None:
    """Ask a living run to stop at its boundary, and wait until it has. Raises FirehoseError."""
    process = polish.running(run, clock())
    if process is None:
        say(f"the run does not run: {run.condition(clock()).state}")
        return
    say(f"requested: a stop at the next boundary, of pid {process.pid}")
    request = requests.send(run, "stop", now=clock())
    note = {"request": request.id, "plan": plan.name, "target": request.target}
    with failing_writes(asked(run)):
        asked(run).parent.mkdir(exist_ok=True)
    write_atomic(asked(run), msgspec.json.encode(note), durable=False)
    say("signalled; waiting for the boundary")
    try:
        _wait(run, request, timeout, clock)
    except FirehoseError as error:
        if error.exit_code is Exit.TIMEOUT and requests.pending(run):
            error.changed = "nothing; the run stops at its next boundary all the same"
            error.next = (
                f"the same command again goes on from there; firehose polish cancel {run.root} withdraws it"
            )
        raise
    state = polish.current_state(run)
    say(f"boundary reached: stopped at step {state.step}")


def _wait(run: RunDir, request: Request, timeout: float, clock: Callable[[], float]) -> None:
    """Wait for a stop, looking twice a second whether it was withdrawn."""
    deadline = clock() + timeout
    while True:
        try:
            requests.wait(run, request, timeout=max(0.0, min(0.5, deadline - clock())), clock=clock)
            return
        except FirehoseError as error:
            if error.exit_code is not Exit.TIMEOUT:
                raise
            waiting = requests.pending(run)
            if waiting is not None and waiting.id != request.id and waiting.kind == "checkpoint":
                raise FirehoseError(
                    Exit.TIMEOUT,
                    "the polish was withdrawn before its boundary: firehose polish cancel",
                    path=run.request,
                    next=f"firehose polish status {run.root}",
                ) from None
            if clock() >= deadline:
                raise


def cancel(run: RunDir, now: float) -> Request:
    """Withdraw a stop that a polish asked for and that is not served yet: the run goes on after its boundary.

    The signal cannot be taken back, so the request becomes one for a checkpoint. Raises FirehoseError(NOT_FOUND).
    """
    note = read_object(asked(run)) or {}
    with requests.mailbox(run, timeout=10.0):  # the run must not serve it between the look and the write
        waiting = requests.pending(run)
        process = polish.running(run, now)
        if process is None or waiting is None or waiting.id != note.get("request") or waiting.kind != "stop":
            raise FirehoseError(
                Exit.NOT_FOUND,
                "no polish waits for its boundary",
                path=run.request,
                next=f"firehose polish status {run.root}",
            )
        instead = Request(id=os.urandom(8).hex(), kind="checkpoint", target=record_id(process), time=now)
        write_atomic(run.request, msgspec.json.encode(instead))
    asked(run).unlink(missing_ok=True)
    return instead


def _live(
    run: RunDir, plan: Plan, path: Path, timeout: float, say: Say, clock: Callable[[], float]
) -> dict[str, Any]:
    """Have a living run take the plan's bounds at its next boundary; it makes the change itself."""
    if polish.running(run, clock()) is None:
        raise FirehoseError(
            Exit.NOT_SIGNALABLE,
            f"the run {run.name!r} does not run, so it cannot take bounds as it runs",
            path=path,
            next=f"plan without --live: firehose polish plan {run.root}",
        )
    send: Callable[..., Request] = requests.send
    request = send(run, "bounds", now=clock(), config=plan.config, base=plan.pins.config, plan=plan.sha256)
    say("requested and signalled; waiting for the boundary")
    message = requests.wait(run, request, timeout=timeout, clock=clock)
    say(message)
    _drop_draft(run, plan)
    state = polish.current_state(run)
    return {
        "run": run.name,
        "kind": plan.kind,
        "outcome": "applied",
        "lineage": state.lineage,
        "step": state.step,
        "pid": request.target[0],
    }


def _drop_draft(run: RunDir, plan: Plan) -> None:
    """The draft that a plan was made from is the run's config now."""
    if polish.draft(run).exists() and polish.draft(run).read_bytes().decode() == plan.config:
        polish.discard_draft(run)
