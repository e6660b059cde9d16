"""The history of a state: the versions kept of it and the changes in the archive, what each did, and how to undo it."""

from pathlib import Path
from typing import Any

from curriculum.errors import FirehoseError
from curriculum.files import sha256_file
from state import journal
from state.envelope import Envelope
from state.operate.target import file_version, missing, read_file
from state.run_dir import RunDir
from state.status import count, number, short, table
from state.store import StateStore

WIDTH = 80


def history(run: RunDir) -> dict[str, Any]:
    """The body of `state history --json`. Raises FirehoseError(NOT_FOUND) where there never was a state.

    `versions`: [{serial, current, step, lineage, written_at, version, bytes, what, damaged, path}], oldest first; damaged:
    what is wrong, or null. `changes`: [{number, kind, time, what, undoes, undone, files}].
    """
    store = StateStore(run.state)
    paths = [path for _, path in store.versions()]
    if store.folder.is_dir():
        paths += sorted(path for path in store.folder.glob("*.json") if path not in paths)
    if not paths and not run.state.exists():
        raise missing(run)
    if run.state.exists():
        paths.append(run.state)
    versions: list[dict[str, Any]] = []
    before: Envelope | None = None
    seen: set[int] = set()
    for path in paths:
        row, envelope = _version(run, path, before)
        if envelope is not None:
            if (
                envelope.serial in seen and path == run.state
            ):  # kept by a commit that was cut before its rename
                versions = [one for one in versions if one["serial"] != envelope.serial]
            seen.add(envelope.serial)
            before = envelope
        if row["what"] == "" and versions and versions[-1]["version"] not in (None, row["version"]):
            row["what"] = f"migrate: version {versions[-1]['version']} -> {row['version']}"
        versions.append(row)
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
    return {"run": run.name, "versions": versions, "changes": changes}


def _version(run: RunDir, path: Path, before: Envelope | None) -> tuple[dict[str, Any], Envelope | None]:
    current = path == run.state
    row: dict[str, Any] = {
        "serial": int(path.stem) if path.stem.isdigit() else None,
        "current": current,
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
    rows, whats = [], []
    for row in body["versions"]:
        serial = number(row["serial"], "d") if row["serial"] is not None else Path(row["path"]).stem[:15]
        mark = "current" if row["current"] else ""
        written = (row["written_at"] or "-").removesuffix("Z").replace("T", " ")
        rows.append([serial, number(row["step"], ","), written, f"{count(row['bytes'])}B", mark])
        whats.append(f"DAMAGED: {row['damaged']}" if row["damaged"] else row["what"])
    told = table(["serial", "step", "written (UTC)", "size", ""], rows)
    width = max(map(len, told))
    lines = [
        f"{line:{width}}  {short(why, WIDTH - width - 2)}".rstrip()
        for line, why in zip(told, ["what was done", *whats], strict=True)
    ]
    undo = []
    *older, now = body["versions"]
    older = [row["serial"] for row in older if row["step"] is not None and row["step"] == now["step"]]
    if older:
        undo.append(
            f"firehose state restore --serial {older[-1]} {body['run']}   makes that version current again"
        )
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
        left = [change for change in body["changes"] if not change["undone"]]
        if left:
            undo.append(
                f"firehose state restore {body['run']} --undo {left[-1]['number']}   puts its files back"
            )
    return [*lines, *([""] if undo else []), *undo]
