"""What a run's files tell of its bandit: config, arms, losses, samples, launches that changed something, checkpoints.

Read by `state.replay`, which makes the picks again from it. Nothing here is written, and no token file is opened.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from curriculum.config import Config, ConfigFile
from curriculum.errors import Exit, FirehoseError
from state import journal
from state.envelope import Envelope, open_envelope, open_plain
from state.findings import FindingError, finding
from state.polish import live
from state.reconcile import put_aside
from state.rows import EMPTY, Mark
from state.run_dir import RunDir, no_state
from state.store import StateStore

BEGINNINGS = ("polish", "fork")  # kinds of changes that begin a lineage
HALT_ROLLBACK = (
    "halt-rollback"  # kind and event of the change by which a halted run went back (`state.rollback`)
)
RECONCILED = ("prune", "restore", "new", "data", "bounds", "edit")


@dataclass(slots=True)
class Launch:
    """A launch that found arms, data or bounds other than the state knew: after `step` the bandit went on with these.

    So does a change of bounds in mid-run. bounds: what the config's bounds were before and are from here on, as
    `state.polish.live.changes` has them; empty where the config stayed the same.
    """

    step: int
    events: list[dict[str, Any]] = field(default_factory=list)
    bounds: live.Changes = field(default_factory=dict)


@dataclass(slots=True)
class Story:
    """One consistent history of a run, from its files.

    last: the last step whose losses are committed. began: the last step before this story, above 0 after a pivot.
    origin: the first state of a story that began at a pivot, None where it is not kept. payload: of the newest state. launches: those that changed something and still stand, in order. notes: for the
    person at the terminal.
    """

    run: RunDir
    config: Config
    lineage: str
    last: int
    began: int
    payload: dict[str, Any]
    launches: list[Launch]
    samples: dict[int, dict[str, Any]]
    checkpoints: dict[int, Path]
    notes: list[str]
    origin: Envelope | None = None

    def config_after(self, step: int) -> Config:
        """The config in force at the end of a step, before anything that was changed there."""
        config = self.config
        for launch in reversed(self.launches):
            if launch.step >= step and launch.bounds:
                config = live.with_bounds(config, launch.bounds, "old")
        return config

    def first_arms(self) -> dict[str, dict[str, Any]]:
        """Name to {id, windows, sha256} of the arms of the first launch: today's, with what changed undone."""
        data, pruned = self.payload["data"], self.payload["pruned"]
        arms = {
            name: {"id": record["id"], "windows": record["windows"], "sha256": data.get(name)}
            for name, record in self.payload["bandit"]["arms"].items()
        }
        for name, entry in pruned.items():
            if name not in arms:
                arms[name] = _arm(entry)
        back: dict[str, dict[str, Any]] = {}
        for launch in reversed(self.launches):
            for event in reversed(launch.events):
                if event["event"] == "new":
                    _unjoin(event, arms, pruned, back)
                elif event["event"] == "data" and event["arm"] in arms:
                    arms[event["arm"]] |= {"sha256": event["old"], "windows": event["windows"][0]}
                elif event["event"] == "edit":
                    _undo(event, arms, pruned, back)
        return {name: arm for name, arm in arms.items() if name in self.config.sources}

    def checkpoint(self, step: int) -> Envelope | None:
        """The state that the checkpoint of a step carries, or None where it cannot be read."""
        path = self.checkpoints[step] / "checkpoint.json"
        try:
            found = open_plain(msgspec.json.decode(path.read_bytes()).get("state"), path)
        except (OSError, ValueError, LookupError, AttributeError, FirehoseError):
            return None
        return found if (found.step, found.lineage) == (step, self.lineage) else None

    def rows(self, first: int) -> Iterator[dict[str, Any]]:
        """The rows of the pulls file from step `first` on, in order; see `committed` for errors."""
        path = self.run.pulls
        for number, line in enumerate(committed(path, self.payload, "pulls"), start=1):
            if number < first:
                continue  # not decoded: a row a step, from step 1
            row = decode(line, path, number)
            if row.get("step") != number:
                raise torn(path, f"line {number + 1} should hold step {number}")
            yield row


def _unjoin(
    event: dict[str, Any], arms: dict[str, Any], pruned: dict[str, Any], back: dict[str, dict[str, Any]]
) -> None:
    """Undo a new source in the arms of a launch: one of its name that was put aside by then was there before."""
    name = event["arm"]
    arms.pop(name, None)
    entries = put_aside(pruned[name]) if name in pruned else ()
    older = next((_arm(entry) for entry in entries if entry["step"] <= event["step"]), None)
    if older is None:
        older = back.pop(name, None)
    if older is not None:
        arms[name] = older


def _undo(
    event: dict[str, Any], arms: dict[str, Any], pruned: dict[str, Any], back: dict[str, dict[str, Any]]
) -> None:
    """Undo an edit in the arms of a launch. back: those restored later, which an `rm` before it had taken out."""
    name, op = event["edit"]["args"].get("arm"), event["edit"]["op"]
    entries = put_aside(pruned[name]) if name in pruned else ()
    then = next((_arm(entry) for entry in entries if entry["step"] == event["step"]), None)
    if op == "restore" and name in arms:
        back[name] = arms.pop(name)
    if op == "rm" and then is None:
        then = back.pop(name, None)
    if op in ("rm", "restore") and then is not None:
        arms[name] = then


def _arm(entry: Mapping[str, Any]) -> dict[str, Any]:
    record = entry["record"]
    return {"id": record["id"], "windows": record["windows"], "sha256": entry["data"]}


def read(run: RunDir) -> Story:
    """Read what a replay needs. Raises FirehoseError: NOT_FOUND where nothing is committed yet, DAMAGED."""
    config = read_config(run)
    notes: list[str] = []
    envelope, findings = StateStore(run.state).read()
    notes += [str(found) for found in findings]
    checkpoints = {
        int(match[1]): path
        for path in (run.checkpoints.iterdir() if run.checkpoints.is_dir() else ())
        if (match := re.fullmatch(r"step_(\d+)", path.name))
    }
    if envelope is None:
        raise no_state(run)
    origin, pivot = first_state(run, envelope)
    samples = [
        decode(line, run.samples, number)
        for number, line in enumerate(committed(run.samples, envelope.payload, "samples"), start=1)
    ]
    return Story(
        run,
        config,
        envelope.lineage,
        last=envelope.step,
        began=envelope.parent.step if envelope.parent else 0,
        payload=envelope.payload,
        launches=launches(run.events(), pivot),
        samples={sample["step"]: sample for sample in samples},
        checkpoints=checkpoints,
        notes=notes,
        origin=origin,
    )


def first_state(run: RunDir, newest: Envelope) -> tuple[Envelope | None, str | None]:
    """The state that a lineage with a parent began with, and the name of the change that put it there; None unless kept."""
    if newest.parent is None:
        return None, None
    for entry in reversed(journal.entries(run)):
        path = journal.folder(run, entry) / journal.AFTER / run.state.name
        try:
            found = open_envelope(path.read_bytes(), path)
        except (OSError, FirehoseError):
            continue
        if found.lineage == newest.lineage and found.step == newest.parent.step and entry.kind in BEGINNINGS:
            return found, entry.name
    return None, None


def read_config(run: RunDir) -> Config:
    """The effective config that the run keeps. Raises FirehoseError(DAMAGED)."""
    try:
        plain = msgspec.json.decode(run.effective.read_bytes())["config"]
        file = msgspec.convert(plain, ConfigFile)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FirehoseError(
            Exit.DAMAGED,
            f"the run's effective config cannot be read: {error}",
            path=run.effective,
            next=f"move it away; firehose run {run.config} writes it again",
        ) from None
    fields = {name: getattr(file, name) for name in ConfigFile.__struct_fields__}
    return Config(**fields, path=run.config, base=run.root)


def launches(events: list[dict[str, Any]], pivot: str | None = None) -> list[Launch]:
    """The launches, and changes in mid-run, that changed something and still stand, in order.

    History is not cut back where a crash sent the run back to an earlier step: what happened after that step did not
    happen, and neither did what was decided at it where the checkpoint's own copy of the state was used. A config that
    was changed stays changed all the same: it is then in force from that earlier step on. pivot: the change that the
    story begins with; what was before it is another story.
    """
    standing: list[Launch] = []
    undone = _undone(events)
    for event in events:
        kind, step = event.get("event"), event.get("step", 0)
        if event.get("transaction") in undone and kind in ("live", "repair", HALT_ROLLBACK, *RECONCILED):
            continue
        if kind == "launch" or (pivot is not None and event.get("transaction") == pivot):
            standing = []
        elif kind in ("resume", "live", HALT_ROLLBACK) or (kind == "repair" and "source" in event):
            again = event.get("source") == "checkpoint"
            gone = [found for found in standing if found.step >= step + (not again)]
            standing = standing[: len(standing) - len(gone)]
            changed = [*(found.bounds for found in gone), event.get("changes", {})]
            standing.append(Launch(step, bounds=_joined(changed)))
        elif kind in RECONCILED and standing:
            standing[-1].events.append(event)
    return [found for found in standing if found.events or found.bounds]


def _joined(changes: list[live.Changes]) -> live.Changes:
    """Changes of bounds one after the other, as one."""
    whole: live.Changes = {}
    for change in changes:
        for name, found in change.items():
            own = whole.setdefault(name, {"old": {}, "new": {}})
            own["old"] = {**found["old"], **own["old"]}
            own["new"] = {**own["new"], **found["new"]}
    return whole


def _undone(events: list[dict[str, Any]]) -> set[str]:
    """Names of the changes that were undone, an undone undoing aside."""
    undone: set[str] = set()
    for event in reversed(events):
        if event.get("event") == "undo" and event.get("transaction") not in undone:
            undone.add(event["undoes"])
    return undone


def committed(path: Path, payload: dict[str, Any], name: str) -> list[bytes]:
    """The committed rows of a row file, a line each, as bytes. Raises FindingError(DAMAGED) where they are not those."""
    try:
        mark = Mark(**payload["files"][name]) if name in payload.get("files", {}) else EMPTY
        with path.open("rb") as file:
            data = file.read(mark.bytes)
    except (OSError, TypeError) as error:
        raise torn(path, f"cannot be read: {error}") from None
    if hashlib.sha256(data).hexdigest() != mark.sha256:
        raise torn(path, f"differs from what was committed, in its first {mark.bytes} bytes")
    return [line.removesuffix(b",") for line in data.split(b"\n")[1:]]


def decode(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """One row as an object. Raises FindingError(DAMAGED)."""
    try:
        row = msgspec.json.decode(line)
    except ValueError as error:
        raise torn(path, f"line {number + 1} is not a row: {error}") from None
    if not isinstance(row, dict):
        raise torn(path, f"line {number + 1} is not an object")
    return row


def torn(path: Path, what: str) -> FindingError:
    """The error for a row file that does not hold what was committed."""
    fix = f"firehose state repair {path.parent} makes again what it can, or restore {path.name} from a copy"
    return FindingError(Exit.DAMAGED, finding("F0016", f"{path.name} {what}", fix=fix), path=path)
