"""The folder of a run: where everything is, which process works on it, and what happened to it."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sync_folder, write_atomic, write_verified
from state.findings import FindingError, finding
from state.process import Process, read_process, this_process

HEARTBEAT_LIMIT = (
    120.0  # seconds without a word after which a process that cannot be seen from here counts as gone
)
CLEAN_ENDS = ("finished", "stopped", "halted")


@dataclass(frozen=True, slots=True)
class Condition:
    """What a run is doing, derived from its files and its process, never stored.

    state: starting | running | stopping | stopped | halted | crashed | finished. heartbeat_age: seconds since the
    trainer last wrote its live file.
    """

    state: str
    alive: bool
    process: Process | None
    heartbeat_age: float | None


class RunDir:
    """`runs/NAME/` (DESIGN 7.1). Making one touches nothing; the paths are attributes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name
        self.config = root / "config.toml"
        self.effective = root / "effective.json"
        self.checkpoints = root / "checkpoints"
        self.archive = root / "archive"
        self.history = root / "history.jsonl"
        self.log = root / "run.log"
        self.journal = root / "journal"
        self.state = self._own("state.json")
        self.versions = self._own("state.json.d")
        self.loss = self._own("loss.json")
        self.pulls = self._own("pulls.json")
        self.samples = self._own("samples.json")
        self.live = self._own("live.json")
        self.lock = self._own("lock")
        self.process = self._own("process.json")
        self.request = self._own("request.json")
        self.answer = self._own("answer.json")

    def _own(self, suffix: str) -> Path:
        return self.root / f"{self.name}.{suffix}"

    def exists(self) -> bool:
        """Whether this is the folder of a run."""
        return self.effective.exists() or self.state.exists()

    def called(self) -> str:
        """What a command is told to find it from the current folder: its name where that is enough, else its path."""
        usual = Path(os.environ.get("FIREHOSE_RUNS", "runs"))
        return self.name if self.root.resolve() == (usual / self.name).resolve() else str(self.root)

    def create(self) -> None:
        """Make the folder and its parts, durably, where they are missing. Raises FirehoseError(WRITE_FAILED)."""
        with failing_writes(self.root):
            for folder in (self.checkpoints, self.archive):
                folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self.root)
            sync_folder(self.root.parent)

    def record(self, event: dict[str, Any]) -> None:
        """Append one event to `history.jsonl`, durable when this returns. Raises FirehoseError(WRITE_FAILED).

        What a write that was cut left on the last line was never acknowledged, and goes: `_whole`.
        """
        line = (
            json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        )
        with failing_writes(self.history):
            descriptor = os.open(self.history, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                end = _whole(self.history.read_bytes())
                os.ftruncate(descriptor, end)
                write_verified(descriptor, line, end)
            finally:
                os.close(descriptor)
            if end == 0:
                sync_folder(self.root)

    def record_once(self, events: Iterable[dict[str, Any]]) -> None:
        """Append those of the events that the history does not have yet, by their `id`. Raises as `record` does."""
        with failing_writes(self.history):
            known = self.history.read_bytes() if self.history.exists() else b""
        known = known[: _whole(known)]
        for event in events:
            if f'"id": {json.dumps(event["id"], ensure_ascii=False)}'.encode() not in known:
                self.record(event)

    def events(self) -> list[dict[str, Any]]:
        """The history, oldest first; a torn last line is passed over. Raises FindingError(DAMAGED) on any other."""
        if not self.history.exists():
            return []
        data = self.history.read_bytes()
        *lines, _ = data[: _whole(data)].split(b"\n")
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                events.append(json.loads(line))
            except ValueError as error:
                where = f"{self.history}:{number}"
                found = finding(
                    "F0001", f"a line of the history is not JSON: {error}", fix=f"correct {where}"
                )
                raise FindingError(Exit.DAMAGED, found, path=where) from None
        return events

    def write_live(self, live: dict[str, Any]) -> None:
        """Replace the live file, for monitors only: not synced, never read by a resume. NaN is written as null."""
        write_atomic(self.live, msgspec.json.encode(live), durable=False)

    def read_live(self) -> dict[str, Any] | None:
        """The live file, or None where there is none that can be read."""
        return read_object(self.live)

    def begin(self, now: float) -> None:
        """Say which process runs this run from now on; the trainer calls it, under the lock, before it loads anything.

        What was asked of an earlier process, or answered by it, goes.
        """
        for path in (self.request, self.answer):
            with failing_writes(path):
                path.unlink(missing_ok=True)
        self._write_process({**msgspec.to_builtins(this_process(now)), "end": None})

    def end(self, how: str, *, exit_code: int, step: int, now: float) -> None:
        """Say how the run ended: "finished", "stopped", "halted", or "failed" with an error.

        A process that is gone without having said so has crashed.
        """
        record = read_object(self.process) or {}
        self._write_process(
            {**record, "end": {"how": how, "exit_code": exit_code, "step": step, "time": now}}
        )

    def go_on(self) -> None:
        """Take `end` back: the process that said so goes on with the run, and what is asked of it stays asked."""
        self._write_process({**(read_object(self.process) or {}), "end": None})

    def _write_process(self, record: dict[str, Any]) -> None:
        write_atomic(self.process, json.dumps(record, indent=2).encode())

    def condition(self, now: float) -> Condition:
        """What the run is doing. now: seconds since 1970."""
        record, live = read_object(self.process), self.read_live()
        process = read_process(record)
        if process is None or record is None:
            return Condition("stopped", False, None, None)
        beat = live.get("time") if live and live.get("pid") == process.pid else None
        if not isinstance(beat, int | float) or beat < process.since:
            beat = None  # of an earlier process
        age = None if beat is None else now - beat
        alive = process.alive()
        if alive is None:
            alive = now - (beat or process.since) < HEARTBEAT_LIMIT
        end = record.get("end")
        if end or not alive:
            how = end.get("how") if isinstance(end, dict) else None
            return Condition(how if how in CLEAN_ENDS else "crashed", False, process, age)
        request = read_object(self.request) or {}
        asked = str(request.get("kind")).startswith("stop") and request.get("target") == record_id(process)
        if asked or (live and beat and live.get("stopping")):
            return Condition("stopping", True, process, age)
        return Condition("running" if beat else "starting", True, process, age)


def _whole(history: bytes) -> int:
    """Length of the lines that were written whole: without a last one that has no end, or a hole (a power cut's)."""
    end = history.rfind(b"\n") + 1
    last = history.rfind(b"\n", 0, max(0, end - 1)) + 1
    return last if b"\0" in history[last:end] else end


def record_id(process: Process) -> list[int]:
    """Pid and start time: what a request is addressed to."""
    return [process.pid, process.start]


def no_state(run: RunDir) -> FirehoseError:
    """The error for a run without a state file."""
    return FirehoseError(
        Exit.NOT_FOUND,
        f"the run {run.name!r} has no state file",
        path=run.state,
        next=f"firehose run {run.config} makes it from the newest checkpoint, or at step 0",
    )


def list_runs(runs_root: Path) -> list[RunDir]:
    """The runs in a folder, by name."""
    if not runs_root.is_dir():
        return []
    return [run for path in sorted(runs_root.iterdir()) if (run := RunDir(path)).exists()]


def find(name: str, runs_root: Path) -> RunDir:
    """The run of that name, or at that path. Raises FirehoseError(NOT_FOUND) with the nearest names."""
    for root in (runs_root / name, Path(name)):
        if (run := RunDir(root)).exists():
            return run
    known = [run.name for run in list_runs(runs_root)]
    import difflib  # costs a few milliseconds that only this error should pay

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FirehoseError(
        Exit.NOT_FOUND,
        f"there is no run {name!r} in {runs_root}{hint}",
        path=runs_root,
        next="firehose list" if known else "firehose run CONFIG",
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is none that can be read."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
