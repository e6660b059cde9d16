"""Scenarios of the parts that write: the state store, row files, the history, whole files, and a run's boundary."""

import json
from pathlib import Path
from typing import Any

from curriculum.files import write_atomic
from state.envelope import open_envelope
from state.rows import Mark, RowFile, encode_row, read_rows
from state.run_dir import RunDir
from state.store import StateStore, sweep_temporaries
from tests.faults.scenario import Acknowledge, Scenario

CONFIG_SHA = "c" * 64


def payload(step: int, **more: Any) -> dict[str, Any]:
    """A state's content; later ones are shorter, so that a file written over in place keeps an old end."""
    return {"step": step, "text": "what a state is full of " * (60 - step), **more}


def nothing(root: Path) -> None:
    """An empty folder."""


def no_temporaries(*folders: Path) -> None:
    left = [
        path.name
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix == ".tmp"
    ]
    assert not left, f"left behind: {left}"


# The state store: serial n holds the payload of step n - 1.


def the_store(root: Path) -> StateStore:
    return StateStore(root / "run.state.json", now=lambda: "2026-01-02T03:04:05Z")


def begin_state(root: Path) -> None:
    the_store(root).create(payload(0), config_sha256=CONFIG_SHA)


def create_and_commit(root: Path, acknowledge: Acknowledge) -> None:
    store = the_store(root)
    acknowledge(store.create(payload(0), config_sha256=CONFIG_SHA).serial)
    for step in (1, 2, 3):
        acknowledge(store.commit(payload(step), step=step, config_sha256=CONFIG_SHA).serial)


def commit_twice(root: Path, acknowledge: Acknowledge) -> None:
    store = the_store(root)
    current, _ = store.read()
    assert current is not None
    for step in (current.step + 1, current.step + 2):
        acknowledge(store.commit(payload(step), step=step, config_sha256=CONFIG_SHA).serial)


def continue_state(root: Path) -> None:
    store = the_store(root)
    current, _ = store.read()
    sweep_temporaries(root, *([store.folder] if store.folder.is_dir() else []))
    if current is None:
        store.create(payload(0), config_sha256=CONFIG_SHA)
    else:
        store.commit(payload(current.step + 1), step=current.step + 1, config_sha256=CONFIG_SHA)


def state_holds(root: Path, acks: list[Any], least: int = 0) -> None:
    """Readable, not older than acknowledged, whole; so is every version; and the next commit works."""
    acknowledged = max([least, *acks])
    store = the_store(root)
    current, findings = store.read()
    assert not findings, f"passed over: {findings}"
    serial = current.serial if current else 0
    assert serial >= acknowledged, f"serial {serial} after {acknowledged} was acknowledged"
    assert current is None or current.payload == payload(serial - 1), "neither the old content nor the new"
    for kept, path in store.versions():
        assert open_envelope(path.read_bytes(), path).payload == payload(kept - 1)
    missing = set(range(1, max(acknowledged, 1))) - {kept for kept, _ in store.versions()}
    assert not missing, f"versions {missing} are lost"
    continue_state(root)
    after, findings = the_store(root).read()
    assert after is not None and not findings and after.serial == serial + 1
    no_temporaries(root, store.folder)


def damage_state(root: Path) -> None:
    """A state file of which the last half is gone, as no crash of ours leaves it."""
    create_and_commit(root, lambda serial: None)
    path = the_store(root).path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def commit_once(root: Path, acknowledge: Acknowledge) -> None:
    store = the_store(root)
    current, _ = store.read()
    assert current is not None
    acknowledge(
        store.commit(payload(current.step + 1), step=current.step + 1, config_sha256=CONFIG_SHA).serial
    )


def damage_is_over(root: Path, acks: list[Any]) -> None:
    """The last version stands in for it until a commit has succeeded; the damaged bytes are kept."""
    store = the_store(root)
    current, findings = store.read()
    assert current is not None and (findings or current.serial >= 5) and current.serial >= max([3, *acks])
    assert current.payload == payload(current.step)
    continue_state(root)
    current, findings = the_store(root).read()
    assert current is not None and not findings and current.serial >= 5
    assert list(store.folder.glob("damaged-*.json")), "the damaged file is gone"
    no_temporaries(root, store.folder)


# A state file of the version before, which the first commit writes as the newest.

OLD = Path(__file__).parents[1] / "fixtures/states/v1/plain.state.json"


def old_state(root: Path) -> None:
    the_store(root).path.write_bytes(OLD.read_bytes())


def commit_over_old(root: Path, acknowledge: Acknowledge) -> None:
    store = the_store(root)
    current, _ = store.read()
    assert current is not None
    acknowledge(store.commit({**current.payload, "new": True}, step=9, config_sha256=CONFIG_SHA).serial)


def old_or_new(root: Path, acks: list[Any]) -> None:
    """The old file untouched, or the new one with the old one kept as it was, byte for byte."""
    old = open_envelope(OLD.read_bytes(), OLD)
    store = the_store(root)
    current, findings = store.read()
    assert current is not None and not findings and current.serial >= max([old.serial, *acks])
    if current.serial == old.serial:
        assert store.path.read_bytes() == OLD.read_bytes()
        commit_over_old(root, lambda serial: None)
        current, _ = the_store(root).read()
    assert current is not None and current.payload == {**old.payload, "new": True}
    assert (store.folder / f"{old.serial}.json").read_bytes() == OLD.read_bytes()
    sweep_temporaries(root, store.folder)


# Row files: row n is [n, n / 8].


def rows_of(first: int, last: int) -> list[bytes]:
    return [encode_row([number, number / 8]) for number in range(first, last + 1)]


def begin_rows(root: Path) -> None:
    rows = RowFile(root / "run.loss.json")
    rows.open(None, root / "archive", "begin")
    (root / "mark").write_text(json.dumps(rows.append(rows_of(1, 3)).as_dict()))


def cut_rows(root: Path) -> None:
    """Two rows and half a row that no mark speaks of."""
    begin_rows(root)
    path = root / "run.loss.json"
    path.write_bytes(path.read_bytes().removesuffix(b"\n]\n") + b",\n[4,0.5],\n[5,0.625],\n[6,0")


def marked(root: Path, acks: list[Any]) -> Mark:
    return Mark(**(acks[-1] if acks else json.loads((root / "mark").read_text())))


def append_rows(root: Path, acknowledge: Acknowledge) -> None:
    rows = RowFile(root / "run.loss.json")
    rows.open(marked(root, []), root / "archive", "begin")
    for first, last in ((4, 6), (7, 7)):
        acknowledge(rows.append(rows_of(first, last)).as_dict())


def open_rows(root: Path, acknowledge: Acknowledge) -> None:
    RowFile(root / "run.loss.json").open(marked(root, []), root / "archive", "begin")


def rows_hold(root: Path, acks: list[Any]) -> None:
    """What is committed is there; the file opens, goes on, and ends as one that nothing happened to."""
    mark, path = marked(root, acks), root / "run.loss.json"
    read_rows(path)
    sweep_temporaries(*(folder for folder in (root, root / "archive") if folder.is_dir()))
    rows = RowFile(path)
    rows.open(mark, root / "archive", "begin")
    assert read_rows(path) == [[n, n / 8] for n in range(1, mark.rows + 1)]
    rows.append(rows_of(mark.rows + 1, 8))
    assert path.read_bytes() == b"[\n" + b",\n".join(rows_of(1, 8)) + b"\n]\n"


def cut_rows_hold(root: Path, acks: list[Any]) -> None:
    """The same, and what stood behind the mark is in the archive."""
    rows_hold(root, acks)
    kept = [read_rows(path) for path in (root / "archive").iterdir()]
    assert [[4, 0.5], [5, 0.625]] in kept, f"the archive has {kept}"


# The history.


def event(number: int) -> dict[str, Any]:
    return {"event": "note", "number": number, "text": "a line of the history " * 10}


def record_events(root: Path, acknowledge: Acknowledge) -> None:
    for number in (1, 2, 3):
        RunDir(root).record(event(number))
        acknowledge(number)


def history_holds(root: Path, acks: list[Any]) -> None:
    events = RunDir(root).events()
    assert events == [event(number) for number in range(1, len(events) + 1)], "not the events recorded"
    assert len(events) >= len(acks), f"{len(acks)} events were acknowledged, {len(events)} are there"
    RunDir(root).record(event(len(events) + 1))
    assert RunDir(root).events() == [*events, event(len(events) + 1)]


# A whole file, its old contents kept.


def content(number: int) -> bytes:
    return f"content {number} ".encode() * 50


def begin_file(root: Path) -> None:
    (root / "file").write_bytes(content(0))


def replace_file(root: Path, acknowledge: Acknowledge) -> None:
    for number in (1, 2):
        write_atomic(root / "file", content(number), keep=root / "kept" / str(number - 1))
        acknowledge(number)


def file_holds(root: Path, acks: list[Any]) -> None:
    data = (root / "file").read_bytes()
    least = max([0, *acks])
    assert data in [content(number) for number in range(least, 3)], (
        f"not a content from {least} on: {data[:20]!r}"
    )
    for number in range(3):
        kept = root / "kept" / str(number)
        if number < least or kept.exists():
            assert kept.read_bytes() == content(number), f"what was kept as {number} is not it"
    sweep_temporaries(*(folder for folder in (root, root / "kept") if folder.is_dir()))
    no_temporaries(root, root / "kept")


# A boundary of a run without its checkpoint: rows, then the state that has their marks, then the history.

ROW_FILES = ("loss", "pulls", "samples")
LAST = 30


def the_run(root: Path) -> RunDir:
    return RunDir(root / "run")


def commit_boundary(run: RunDir, store: StateStore, rows: dict[str, RowFile], step: int) -> int:
    at = rows["loss"].mark.rows
    for file in rows.values():
        file.append(rows_of(at + 1, step))
    marks = {name: file.mark.as_dict() for name, file in rows.items()}
    return store.commit(payload(step, rows=marks), step=step, config_sha256=CONFIG_SHA).step


def relaunch(root: Path) -> tuple[RunDir, StateStore, dict[str, RowFile], int]:
    """What a launch does to the files before it trains; gives back the step it goes on from."""
    run = the_run(root)
    run.create()
    sweep_temporaries(run.root, run.archive, *(path for path in run.root.glob("*.d")))
    run.begin(0.0)
    store = StateStore(run.state, now=lambda: "2026-01-02T03:04:05Z")
    current, _ = store.read()
    marks = current.payload["rows"] if current else {}
    rows = {name: RowFile(getattr(run, name)) for name in ROW_FILES}
    for name, file in rows.items():
        mark = Mark(**marks[name]) if name in marks else None
        file.open(mark, run.archive, f"step-{current.step if current else 0}")
    if current is None:
        fresh = {name: file.mark.as_dict() for name, file in rows.items()}
        current = store.create(payload(0, rows=fresh), config_sha256=CONFIG_SHA)
    return run, store, rows, current.step


def train_boundaries(root: Path, acknowledge: Acknowledge) -> None:
    run, store, rows, step = relaunch(root)
    run.record({"event": "launch", "step": step})
    for boundary in range(step + 10, LAST + 1, 10):
        acknowledge(commit_boundary(run, store, rows, boundary))
        run.write_live({"step": boundary})
    run.record({"event": "end"})
    run.end("finished", exit_code=0, step=LAST, now=1.0)


def boundary_holds(root: Path, acks: list[Any]) -> None:
    """A launch goes on from no earlier than acknowledged, and the files end as if nothing had happened."""
    run = the_run(root)
    if run.root.is_dir():
        run.events()
        run.condition(2.0)
    run, store, _, step = relaunch(root)
    assert step >= max([0, *acks]), f"goes on from step {step} after {acks} were acknowledged"
    for name in ROW_FILES:
        assert read_rows(getattr(run, name)) == [[n, n / 8] for n in range(1, step + 1)]
    done: list[Any] = []
    train_boundaries(root, done.append)
    for name in ROW_FILES:
        assert getattr(run, name).read_bytes() == b"[\n" + b",\n".join(rows_of(1, LAST)) + b"\n]\n"
    for path in run.archive.iterdir():
        read_rows(path)
    no_temporaries(run.root, run.archive, store.folder)


def state_began(root: Path, acks: list[Any]) -> None:
    state_holds(root, acks, least=1)


FILES = [
    Scenario("state: create, 3 commits", nothing, create_and_commit, state_holds, continue_state),
    Scenario("state: 2 commits", begin_state, commit_twice, state_began, continue_state, short=False),
    Scenario("state: over a damaged file", damage_state, commit_once, damage_is_over, continue_state),
    Scenario("state: of version 1", old_state, commit_over_old, old_or_new),
    Scenario("rows: append twice", begin_rows, append_rows, rows_hold),
    Scenario("rows: open after a crash", cut_rows, open_rows, cut_rows_hold),
    Scenario("history: 3 events", nothing, record_events, history_holds),
    Scenario("whole file, old ones kept", begin_file, replace_file, file_holds, short=False),
    Scenario(
        "run: begin, 3 boundaries",
        nothing,
        train_boundaries,
        boundary_holds,
        lambda root: [relaunch(root), None][1],
    ),
]
