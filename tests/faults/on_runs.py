"""Scenarios of commands: each on a copy of a small run, its outcome compared with that of the command left alone.

A run is looked at through `view`: everything in it but what differs between any two runs of a command (times, pids,
identities, locks). After any fault a run must look as before the command or as after it, once the journal is redone; and
the command given again must end in what it would have come to.
"""

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum.errors import FirehoseError
from state import journal
from state.envelope import open_envelope
from state.journal import Transaction
from state.lock import RunLock
from state.rows import Mark, RowFile
from state.run_dir import RunDir
from state.store import StateStore, sweep_temporaries
from tests.faults.scenario import Acknowledge, Scenario, copy
from tests.faults.scenario import run as fork

NOW = "2026-01-02T03:04:05Z"
DIFFERS = {
    re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"): b"UUID",
    re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"): b"TIME",
    re.compile(rb"\b[0-9a-f]{64}\b"): b"SHA",
    re.compile(rb'"(serial|time)": ?[0-9.]+'): b"N",
    re.compile(rb'"config_file_from_here": ?"[^"]*"'): b"PATH",
}
LEFT_OUT = re.compile(
    r".*\.(lock|lock\.json|live\.json|process\.json|request\.json|answer\.json|tmp)|run\.log|errored\.state\.json|.*\.state\.json\.d/.*"
)


def plain(data: bytes) -> str:
    """Bytes of a file without what differs between any two runs of a command."""
    for pattern, stand_in in DIFFERS.items():
        data = pattern.sub(stand_in, data)
    return data.decode(errors="backslashreplace")


def view(run: RunDir) -> dict[str, str]:
    """What a run looks like: every file that matters, by its path."""
    found = {}
    for path in sorted(path for path in run.root.rglob("*") if path.is_file()):
        name = str(path.relative_to(run.root))
        if LEFT_OUT.fullmatch(name):
            continue
        data = path.read_bytes().replace(os.fsencode(run.root.parents[1]), b"FOLDER")
        if path == run.state:
            with contextlib.suppress(FirehoseError):  # a damaged one is looked at byte by byte
                data = json.dumps(open_envelope(data, path).payload, sort_keys=True).encode()
        found[name] = plain(data)
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def recover(run: RunDir) -> None:
    """What every command that changes a run does first."""
    with RunLock(run.lock):
        journal.redo(run)
        sweep_temporaries(*(folder for folder in (run.root, run.versions, run.archive) if folder.is_dir()))


def sound_run(run: RunDir) -> None:
    """Every state file can be read, and every row that the state speaks of is there."""
    for path in run.versions.glob("*.json") if run.versions.is_dir() else ():
        if path.stem.isdigit():
            open_envelope(path.read_bytes(), path)
    run.events()
    current, _ = StateStore(run.state).read()
    for name, mark in (current.payload.get("rows") or {}).items() if current else ():
        path = getattr(run, name)
        data = path.read_bytes()[: mark["bytes"]]
        assert Mark(**mark) == mark_of(data, mark["rows"]), f"{path.name} lost committed rows"


def mark_of(data: bytes, rows: int) -> Mark:
    import hashlib

    return Mark(len(data), rows, hashlib.sha256(data).hexdigest())


def on_run(
    name: str,
    prepare: Callable[[Path], None],
    act: Callable[[Path, Acknowledge], None],
    root: str = "run",
    *,
    short: bool = False,
    warm: Callable[[], None] = lambda: None,
    damaged: bool = False,
) -> Scenario:
    """A scenario that knows by itself what must come out: the views before and after are taken as it is set up.

    damaged: the run is no sound one before the action.
    """

    def make(folder: Path) -> None:
        prepare(folder)
        with tempfile.TemporaryDirectory() as aside:
            beside = copy(folder, Path(aside, "folder"))
            seen = [view(RunDir(beside / root))]
            act(beside, lambda value: seen.append(view(RunDir(beside / root))))
        (folder / "expected.json").write_text(json.dumps(seen))

    def check(folder: Path, acks: list[Any]) -> None:
        run, expected = RunDir(folder / root), json.loads((folder / "expected.json").read_text())
        if not damaged:
            sound_run(run)
        recover(run)
        seen = view(run)
        if not damaged or seen == expected[-1]:
            sound_run(run)
        legal = expected[len(acks) :]
        assert seen in legal, f"neither before nor after: {[differences(seen, other) for other in legal]}"
        act_again = seen != expected[-1]
        if act_again and len(expected) == 2:
            act(folder, lambda value: None)
            seen = view(run)
            assert seen == expected[-1], f"done again, it differs in {differences(seen, expected[-1])}"
            sound_run(run)
        left = [path.name for path in run.root.iterdir() if path.name.startswith((".", "journal"))]
        assert not left, f"left behind: {left}"

    def warmed() -> None:
        """Done once here, so that no fork imports anything again."""
        warm()
        with tempfile.TemporaryDirectory() as aside, contextlib.chdir(aside):
            make(Path(aside))
            act(Path(aside), lambda value: None)

    return Scenario(
        name,
        make,
        act,
        check,
        lambda folder: recover(RunDir(folder / root)),
        short=short,
        looks=False,
        warm=warmed,
    )


# Transactions.


def small_run(folder: Path) -> None:
    """A run's folder with a state, rows and something like a checkpoint; nothing of torch."""
    run = RunDir(folder / "run")
    run.create()
    rows = RowFile(run.loss)
    rows.open(None, run.archive, "begin")
    mark = rows.append([b"[1,0.5]", b"[2,0.25]"])
    payload = {"rows": {"loss": mark.as_dict()}, "text": "state " * 50}
    StateStore(run.state, now=lambda: NOW).create(payload, config_sha256="c" * 64)
    run.config.write_text("old config\n" * 20)
    (run.checkpoints / "step_20").mkdir()
    (run.checkpoints / "step_20/model").write_text("weights")
    run.record({"event": "launch", "step": 0})


def changed_run(folder: Path) -> None:
    small_run(folder)
    change(RunDir(folder / "run"), "step_20")


def change_it(folder: Path, acknowledge: Acknowledge) -> None:
    change(RunDir(folder / "run"), "step_20")
    acknowledge("changed")


def change(run: RunDir, checkpoint: str) -> None:
    """A transaction with one of each operation."""
    with RunLock(run.lock):
        store = StateStore(run.state, now=lambda: NOW)
        current, _ = store.read()
        assert current is not None
        from state.envelope import seal

        tx = Transaction(run, "repair", "a change", now=NOW)
        tx.put(run.config, b"new config\n" * 30)
        tx.put(
            run.state, seal(store.prepare({**current.payload, "new": True}, step=1, config_sha256="c" * 64))
        )
        tx.put(run.root / "polish" / "new.json", b"{}")
        tx.keep(run.state, run.versions / f"{current.serial}.json")
        tx.aside(run.checkpoints / checkpoint)
        tx.record({"event": "repair", "step": 20})
        tx.commit()


def undo(folder: Path, acknowledge: Acknowledge) -> None:
    run = RunDir(folder / "run")
    with RunLock(run.lock):
        journal.undo(run, None, now=NOW)
    acknowledge("undone")


# Commands of the program, on a run that was trained a little.


@functools.cache
def trained() -> Path:
    """A folder with a tiny config, its data and its run, stopped at step 20; made once in a process, with torch."""
    folder = Path(tempfile.mkdtemp(prefix="firehose-faults-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    code = (
        "import sys; from pathlib import Path; from tests.fixtures import tiny; from tests.fixtures.runs import go; "
        "go(tiny.make(Path(sys.argv[1])).path, until=20)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, env={**os.environ}
    )
    return folder


# The trainer itself: resumed at step 20, to 30, with its boundary and its checkpoint.


def resumed(folder: Path) -> None:
    for path in trained().iterdir():
        shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copy(path, folder)
    with tempfile.TemporaryDirectory() as aside:
        beside = copy(folder, Path(aside, "folder"))
        resume(beside, lambda value: None)
        expected = outcome(RunDir(beside / "runs/tiny"))
    (folder / "expected.json").write_text(json.dumps(expected))


def with_torch() -> None:
    import safetensors.torch  # noqa: F401

    from trainer import launch, loop, runner  # noqa: F401


def resume(folder: Path, acknowledge: Acknowledge) -> None:
    from tests.faults.on_checkpoints import through_python
    from tests.fixtures.runs import go

    through_python()
    go(folder / "tiny.toml", until=30)
    acknowledge("step 30")


def outcome(run: RunDir) -> dict[str, str]:
    """What a run came to, whatever happened to it on its way: its rows, its payload, its weights."""
    seen = view(run)
    return {
        name: text
        for name, text in seen.items()
        if name.endswith((".safetensors", "loss.json", "pulls.json", "samples.json", "state.json"))
        and not name.startswith(("archive", "journal"))
    }


def resumed_holds(folder: Path, acks: list[Any]) -> None:
    """Sound, and launched again in a fork (torch), the run ends in the same rows, payload and weights."""
    run = RunDir(folder / "runs/tiny")
    sound_run(run)
    again = fork(Scenario("again", resumed, resume, resumed_holds), folder)
    assert again.ended and not again.error, f"launched again: {again.error}"
    expected = json.loads((folder / "expected.json").read_text())
    assert outcome(run) == expected, f"differs in {differences(outcome(run), expected)}"
    sound_run(run)


RUNS = [
    on_run("journal: a change", small_run, change_it, short=True),
    on_run("journal: an undo", changed_run, undo),
]
TRAINED = [
    Scenario(
        "run: resumed with weights",
        resumed,
        resume,
        resumed_holds,
        parts=("kill",),
        short=False,
        looks=False,
        stride=5,
        warm=with_torch,
    ),
]
