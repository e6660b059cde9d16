"""A scenario: a folder, something done to it, what was acknowledged, and what must hold whenever that is cut short.

The action runs in a fork of this process, which has everything imported, so that one fault costs milliseconds.
"""

import contextlib
import gc
import json
import os
import pickle
import shutil
import signal
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curriculum.errors import FirehoseError
from curriculum.files import unusable
from tests.faults.shim import Fault, Shim
from tests.faults.trace import Recorder, Trace

Acknowledge = Callable[[Any], None]
PATIENCE = 60  # seconds after which an action that neither ends nor fails counts as hanging


@dataclass(frozen=True)
class Scenario:
    """One thing that writes.

    make: fills an empty folder. act: does it, telling `acknowledge` each thing that it may from then on rely on.
    check: raises AssertionError (or anything) where a folder that a fault left, with these acknowledgements, is not
    what was promised; it also recovers, as the next command would, and ends with the action done. recover: that
    recovery alone, itself put under faults by `tests.faults.compound`. broken: a writer that is wrong on purpose, which
    must be caught. parts: the only ones that it is for; none named: all. short: whether `make test` has it too.
    looks: whether calls that only read are put under faults, too; those of commands are made of parts that have it. stride: killed at every n-th call. warm: imports what the action needs, once, before the forks.
    """

    name: str
    make: Callable[[Path], None]
    act: Callable[[Path, Acknowledge], None]
    check: Callable[[Path, list[Any]], None]
    recover: Callable[[Path], None] | None = None
    broken: bool = False
    parts: tuple[str, ...] = ()
    short: bool = True
    looks: bool = True
    stride: int = 1
    warm: Callable[[], None] = lambda: None


@dataclass
class Outcome:
    """How an action under a fault went. error: None where it returned; it was killed where `ended` is False."""

    acks: list[Any] = field(default_factory=list)
    ended: bool = False
    error: dict[str, Any] | None = None
    injected: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list)
    trace: Trace | None = None
    status: int = 0


@dataclass
class Row:
    """A line of the table: a scenario under one kind of fault. bad: what did not hold, a sentence each."""

    scenario: str
    fault: str
    injected: int = 0
    refused: int = 0
    bad: list[str] = field(default_factory=list)
    broken: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.broken:
            return "caught" if self.bad else "NOT CAUGHT"
        return "ok" if not self.bad else "BAD"

    def line(self) -> str:
        """The row as text, in columns."""
        counts = f"{self.injected:>8,} {self.refused:>8,} {len(self.bad):>6,}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.scenario:30} {self.fault:22} {counts}  {self.verdict}{note}"


def table(rows: list[Row]) -> str:
    """The rows as text, and what is wrong under it."""
    lines = [f"{'scenario':30} {'fault':22} {'faults':>8} {'refused':>8} {'bad':>6}  verdict"]
    lines += [row.line() for row in rows]
    for row in rows:
        if row.bad and not row.broken:
            lines += [f"BAD {row.scenario}, {row.fault}: {what}" for what in row.bad[:5]]
    return "\n".join(lines)


def proved(rows: list[Row], least: int, what: str) -> int:
    """The exit status of a part: 1 where something is bad, was not caught, or fewer faults were put in than promised."""
    failed = [row for row in rows if row.verdict in ("BAD", "NOT CAUGHT")]
    total = sum(row.injected for row in rows)
    print(table(rows), flush=True)
    if total < least:
        print(f"proved nothing: {total:,} {what}, {least:,} promised")
        return 1
    print(
        f"{total:,} {what}; at least {least:,} promised; {len(failed)} of {len(rows)} lines bad\n", flush=True
    )
    return 1 if failed else 0


def scratch() -> Path:
    """A folder for the work, in memory where there is room."""
    shared = Path("/dev/shm")
    usable = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 28
    return Path(tempfile.mkdtemp(prefix="firehose-faults-", dir=shared if usable else None))


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """`scratch`, removed at the end."""
    folder = scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy(source: Path, target: Path) -> Path:
    """Copy a folder, names of one file staying names of one file."""
    first: dict[int, str] = {}
    target.mkdir()
    for folder, names, files in os.walk(source):
        inside = target / os.path.relpath(folder, source)
        for name in names:
            (inside / name).mkdir()
        for name in files:
            path = Path(folder, name)
            inode = path.stat().st_ino
            if inode in first:
                (inside / name).hardlink_to(first[inode])
            else:
                first[inode] = os.fspath(inside / name)
                shutil.copyfile(path, inside / name)
    return target


def made(scenario: Scenario, folder: Path) -> Path:
    """The scenario's folder as it is before the action, made in a fork so that nothing of it stays in this process."""
    template = folder / "template"
    template.mkdir()
    outcome = run(replace(scenario, act=lambda root, _: scenario.make(root)), template)
    if outcome.error or not outcome.ended:
        raise RuntimeError(f"{scenario.name} cannot be set up: {outcome}")
    return template


def run(
    scenario: Scenario,
    root: Path,
    fault: Fault | None = None,
    *,
    shimmed: bool = False,
    record: bool = False,
    gate: Callable[[int], None] | None = None,
) -> Outcome:
    """Do the action in a fork. record: keep the trace. gate: called with the child's pid, which waits for its return."""
    gc.disable()  # a collection in the fork would copy every page it looks at
    gc.freeze()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _child(
            scenario, root, fault, shimmed or record or fault is not None, record, gate is not None, theirs
        )
    gc.unfreeze()
    gc.enable()
    theirs.close()
    outcome = Outcome()
    with ours:
        if gate is not None:
            gate(child)
            ours.sendall(b"x")
        data = b"".join(iter(lambda: ours.recv(1 << 16), b""))
    outcome.status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    while data:
        size = int.from_bytes(data[:8], "little")
        if len(data) < 8 + size:
            break
        kind, value = pickle.loads(data[8 : 8 + size])
        data = data[8 + size :]
        if kind == "ack":
            outcome.acks.append(value)
        else:
            outcome.ended = True
            for name, item in value.items():
                setattr(outcome, name, item)
    if outcome.status == -signal.SIGALRM:
        outcome.error = {"kind": "hang", "message": f"neither ended nor failed in {PATIENCE} s"}
    return outcome


def _child(
    scenario: Scenario,
    root: Path,
    fault: Fault | None,
    shimmed: bool,
    record: bool,
    waits: bool,
    channel: socket.socket,
) -> None:
    """The fork's life: it never returns. What it says goes over a socket, which no shim and no tracer counts."""
    leave = os._exit
    signal.alarm(PATIENCE)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)

    def tell(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        channel.sendall(len(data).to_bytes(8, "little") + data)

    os.chdir(root)  # some keep what they could not write in the working folder
    recorder = Recorder(root) if record else None
    shim = Shim(root, fault, recorder)
    if waits:
        channel.recv(1)

    def acknowledge(value: Any) -> None:
        if recorder is not None:
            recorder.acknowledge(value)
        tell("ack", value)

    error = None
    try:
        if shimmed:
            shim.install()
        scenario.act(root, acknowledge)
    except FirehoseError as caught:
        error = {"kind": "FirehoseError", **caught.as_dict(), "code": int(caught.exit_code)}
    except OSError as caught:  # as `console.command` does
        named = unusable(caught)
        error = {"kind": type(caught).__name__, "message": str(caught)}
        if named is not None:
            error = {"kind": "FirehoseError", **named.as_dict()}
    except BaseException as caught:
        where = "".join(traceback.format_tb(caught.__traceback__)[-3:])
        error = {"kind": type(caught).__name__, "message": str(caught), "where": where}
    trace = recorder.trace if recorder else None
    with contextlib.suppress(BaseException):
        tell("end", {"error": error, "injected": shim.injected, "calls": shim.calls, "trace": trace})
    leave(0)


def sound(scenario: Scenario, root: Path, acks: list[Any]) -> str | None:
    """None where the check holds, else what it said."""
    try:
        scenario.check(root, acks)
    except BaseException as error:  # a check that dies in any way found something
        if isinstance(error, KeyboardInterrupt):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})".replace(
            "\n", " "
        )
    return None


def write_json(path: Path, rows: list[Row]) -> None:
    """Keep the rows for the table of all parts."""
    body = [{**vars(row), "bad": len(row.bad), "verdict": row.verdict} for row in rows]
    path.write_text(json.dumps(body, indent=1))
