"""The history of a state: the versions kept of it and the changes in the archive, what each did, and how to undo it."""

from pathlib import Path
from typing import Any

import msgspec

from curriculum.console import wrapped
from curriculum.errors import FirehoseError
from curriculum.files import sha256_file
from state import journal, recover
from state.envelope import Envelope
from state.operate import outcome
from state.operate.target import file_version, read_file
from state.run_dir import RunDir, no_state
from state.status import count, number, short, table
from state.store import UNDONE, StateStore

WIDTH = 80


def history(run: RunDir) -> dict[str, Any]:
    """The body of `state history --json`. Raises FirehoseError(NOT_FOUND) where there never was a state.

    `versions`: [{serial, current, undone, step, lineage, written_at, version, bytes, what, damaged, path}], oldest first;
    damaged: what is wrong, or null; undone: a state that an undo took back, which is none to go back to. `changes`:
    [{number, kind, time, what, undoes, undone, files}]. `back`: [{command, does}], the ways back that would be taken.
    """
    store = StateStore(run.state)
    paths = [path for _, path in store.versions()]
    if store.folder.is_dir():
        paths += sorted(path for path in store.folder.glob("*.json") if path not in paths)
    if not paths and not run.state.exists():
        raise no_state(run)
    if run.state.exists():
        paths.append(run.state)
    versions: list[dict[str, Any]] = []
    before: Envelope | None = None
    seen: set[int] = set()
    for path in paths:
        row, envelope = _version(run, path, before)
        if envelope is not None and not row["undone"]:
            if (
                envelope.serial in seen and path == run.state
            ):  # kept by a commit that was cut before its rename
                versions = [one for one in versions if one["serial"] != envelope.serial]
            seen.add(envelope.serial)
            before = envelope
        if row["what"] == "" and versions and versions[-1]["version"] not in (None, row["version"]):
            row["what"] = f"migrate: version {versions[-1]['version']} -> {row['version']}"
        versions.append(row)
    versions.sort(key=lambda row: (row["current"], row["serial"] is None, row["serial"] or 0))
    done = journal.entries(run)
    written = {
        operation.sha256: entry
        for entry in done
        for operation in entry.operations
        if isinstance(operation, journal.Put) and operation.target == run.state.name
    }
    for row in versions:
        if (entry := written.get(sha256_file(Path(row["path"])))) is not None:
            row["what"] = f"{entry.name}: {entry.what}"
    undone = {entry.undoes for entry in done}
    changes = [
        {
            "number": entry.number,
            "kind": entry.kind,
            "time": entry.time,
            "what": entry.what,
            "undoes": entry.undoes,
            "undone": entry.number in undone,
            "files": [operation.target for operation in entry.operations if hasattr(operation, "target")],
        }
        for entry in done
    ]
    return {"run": run.name, "versions": versions, "changes": changes, "back": ways_back(run)}


def ways_back(run: RunDir) -> list[dict[str, str]]:
    """The commands that take something of a run back, each with what it does; only those that would not be refused."""
    ways = []
    called = run.called()
    try:
        current, findings = StateStore(run.state).read()
        found = recover.newest_sound(run, current, deep=False)[1]
    except FirehoseError:
        current, found, findings = None, None, []
    if current is None or findings:
        ways.append((f"firehose state check {called}", "says what is damaged, and what repairs it"))
    if current is not None:
        if (last := _restorable(run, current, found, sound=not findings)) is not None:
            ways.append(
                (f"firehose state restore {called} --serial {last}", "makes that version current again")
            )
        elif current.parent is not None:
            ways.append((f"firehose polish rollback {called}", "plans to go back to before the last pivot"))
    done = journal.entries(run)
    undone = {entry.undoes for entry in done}
    if last_change := next((entry for entry in reversed(done) if entry.number not in undone), None):
        try:
            journal.undoing(run, last_change.number, now="")
        except FirehoseError:
            pass
        else:
            number = last_change.number
            ways.append((f"firehose state restore {called} --undo {number}", "puts its files back"))
    return [{"command": command, "does": does} for command, does in ways]


def _restorable(run: RunDir, current: Envelope, found: Envelope | None, *, sound: bool) -> int | None:
    """The newest version that `state restore --serial` would make current, by its own checks, or None."""
    for serial, path in reversed(StateStore(run.state).versions()):
        if serial == current.serial and sound:
            continue
        try:
            version = read_file(path)
            if version.lineage != current.lineage:
                continue
            made = {"serial": current.serial + 1, "what": "", "op": "restore", "args": {"serial": serial}}
            payload = {**version.payload, "edits": [*version.payload.get("edits", []), made]}
            outcome.would(run, msgspec.structs.replace(version, payload=payload), found)
        except FirehoseError:
            continue
        return serial
    return None


def point_back(run: RunDir, error: FirehoseError) -> None:
    """Say in the refusal of an undo what the last change of the state was, and what does take it back."""
    body = history(run)
    sound = [row for row in body["versions"] if row["step"] is not None and not row["undone"]]
    if sound and (last := sound[-1])["what"]:
        error.message += f"; the state was last changed by serial {last['serial']}: {last['what']}"
    if body["back"]:
        error.next = f"{body['back'][0]['command']} {body['back'][0]['does']}"


def _version(run: RunDir, path: Path, before: Envelope | None) -> tuple[dict[str, Any], Envelope | None]:
    current = path == run.state
    row: dict[str, Any] = {
        "serial": int(path.stem) if path.stem.isdigit() else None,
        "current": current,
        "undone": path.stem.startswith(UNDONE),
        "step": None,
        "lineage": None,
        "written_at": None,
        "version": None,
        "bytes": path.stat().st_size,
        "what": None,
        "damaged": None,
        "path": str(path),
    }
    try:
        envelope = read_file(path)
    except FirehoseError as error:
        return {**row, "damaged": error.message}, None
    row |= {key: getattr(envelope, key) for key in ("serial", "step", "lineage", "written_at")}
    row |= {"version": file_version(path), "what": what(before, envelope)}
    return row, envelope


def what(before: Envelope | None, after: Envelope) -> str:
    """What a version did to the one before it, in a few words; empty where it did nothing that can be seen."""
    made = [edit["what"] for edit in after.payload.get("edits", []) if edit["serial"] == after.serial]
    if made:
        return "; ".join(made)
    if before is None:
        return ""
    if after.lineage != before.lineage:
        if after.parent is not None and after.parent.lineage == before.lineage:
            return "pivot"
        return "another lineage"
    if after.step > before.step:
        return f"{after.step - before.step:,} steps trained"
    if after.step < before.step:
        return f"back to step {after.step:,}"
    pruned = [
        name for name in after.payload.get("pruned", {}) if name not in before.payload.get("pruned", {})
    ]
    back = [name for name in before.payload.get("pruned", {}) if name not in after.payload.get("pruned", {})]
    arms = [f"{name} put aside" for name in pruned] + [f"{name} back" for name in back]
    if arms or after.payload != before.payload:
        return ", ".join(arms) or "a launch, or a repair"
    return ""


def screen(body: dict[str, Any]) -> list[str]:
    """`state history` as lines of at most 80 columns, with the commands that undo."""
    rows, whats, damaged = [], [], []
    for row in body["versions"]:
        name = "current" if row["current"] else Path(row["path"]).stem
        serial = number(row["serial"], "d") if row["serial"] is not None else short(name, 20)
        mark = "current" if row["current"] else "undone" if row["undone"] else ""
        written = (row["written_at"] or "-").removesuffix("Z").replace("T", " ")
        rows.append([serial, number(row["step"], ","), written, f"{count(row['bytes'])}B", mark])
        whats.append("DAMAGED, see below" if row["damaged"] else row["what"])
        if row["damaged"]:
            damaged.append(wrapped(f"{row['path']}: {row['damaged']}"))
    told = table(["serial", "step", "written (UTC)", "size", ""], rows)
    width = max(map(len, told))
    lines = [
        f"{line:{width}}  {short(why, WIDTH - width - 2)}".rstrip()
        for line, why in zip(told, ["what was done", *whats], strict=True)
    ]
    lines += [line for text in damaged for line in text.splitlines()]
    back = [f"{way['command']}   {way['does']}" for way in body["back"]]
    if body["changes"]:
        cells = [
            [f"{change['number']:04}", change["kind"], change["time"].removesuffix("Z").replace("T", " ")]
            for change in body["changes"]
        ]
        told = table(["change", "kind", "time (UTC)"], cells)
        width = max(map(len, told))
        marks = [
            "what was done",
            *(("undone: " if change["undone"] else "") + change["what"] for change in body["changes"]),
        ]
        lines += [
            "",
            *(
                f"{line:{width}}  {short(mark, WIDTH - width - 2)}"
                for line, mark in zip(told, marks, strict=True)
            ),
        ]
    return [*lines, *([""] if back else []), *back]
