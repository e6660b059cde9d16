"""What a check saw of a run: the one picture that its findings are told from and that a repair works on."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curriculum.config import Config
from curriculum.errors import FirehoseError
from state import checkpoints, journal
from state.checkpoints import Checkpoint
from state.envelope import Envelope, open_envelope
from state.findings import Finding
from state.reconcile import BOUNDS
from state.repair.row_check import RowFault
from state.repair.salvage import Loose
from state.run_dir import RunDir
from state.settle import Settled


@dataclass(slots=True)
class Examined:
    """What a check saw, for the person and for a repair.

    state: the file's, sealed and possible, else None. unsealed: the file read whatever its hashes say; differs: which
    did not fit. loose: what is left of one that is damaged. newest: the state a launch would read. archived: states in
    the archive, of changes that stand. sound, damaged: checkpoints, oldest first; hollow: those among the sound whose
    copy of the state has to be written again. split: a checkpoint's copy and the state have one serial and are not the
    same. gone: the checkpoint that the state names is missing; stated: the findings of the two. rootless: what the
    config's paths are relative to is not known, so its data is not looked at. settled: what a launch would resume from,
    None where it would refuse. reconciled: what it would make of that under config and data. beyond: findings that no
    repair of the run's files clears.
    """

    run: RunDir
    findings: list[Finding] = field(default_factory=list)
    beyond: list[Finding] = field(default_factory=list)
    state: Envelope | None = None
    unsealed: Envelope | None = None
    differs: tuple[str, ...] = ()
    loose: Loose | None = None
    newest: Envelope | None = None
    newer_schema: bool = False
    versions: list[tuple[Path, Envelope]] = field(default_factory=list)
    archived: list[tuple[Path, Envelope]] = field(default_factory=list)
    bad_versions: list[Path] = field(default_factory=list)
    newer_versions: list[Path] = field(default_factory=list)
    sound: list[tuple[Checkpoint, Envelope]] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    hollow: list[Path] = field(default_factory=list)
    split: bool = False
    gone: bool = False
    stated: list[Finding] = field(default_factory=list)
    config: Config | None = None
    rootless: bool = False
    corpus: Any = None
    settled: Settled | None = None
    reconciled: Any = None
    rows: list[RowFault] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    bad_history: list[int] = field(default_factory=list)
    alive: bool = False

    def note(
        self, found: Finding, *, severity: str | None = None, fix: str | None = None, beyond: bool = False
    ) -> None:
        """Add a finding; one without a fix is a repair's. beyond: no repair clears it."""
        made = replace(
            found,
            severity=severity or found.severity,
            fix=fix or found.fix or f"firehose state repair {self.run.root}",
        )
        self.findings.append(made)
        if beyond:
            self.beyond.append(made)


def sealed_before(seen: Examined) -> Envelope | None:
    """The sealed state that an edit by hand was made in: of the same serial, else the newest of the same step."""
    edited = seen.unsealed
    if edited is None:
        return None
    same = [one for one in known(seen) if (one.lineage, one.step) == (edited.lineage, edited.step)]
    same.sort(key=lambda one: (one.serial == edited.serial, one.serial))
    return same[-1] if same else None


def edited_bounds(seen: Examined) -> dict[str, Any]:
    """The bounds that an edit by hand set, by `ARM.KEY`: they are the config's, and no edit of the state's."""
    from state.operate import diff

    before = sealed_before(seen) if seen.differs == ("payload",) else None
    if before is None or seen.unsealed is None:
        return {}
    return {
        f"{where[2]}.{where[3]}": new
        for where, _, new in diff.walk(before.payload, seen.unsealed.payload)
        if is_bound(where)
    }


def is_bound(where: Sequence[Any]) -> bool:
    """Whether a path of a payload is that of an arm's bound."""
    return len(where) == 4 and tuple(where[:2]) == ("bandit", "arms") and where[3] in BOUNDS


def known(seen: Examined) -> list[Envelope]:
    """Every sealed state of the run but the file itself, newest first."""
    found = [one for _, one in (*seen.versions, *seen.archived, *seen.sound)]
    return sorted(found, key=lambda one: (one.step, one.serial), reverse=True)


def with_state(seen: Examined, path: Path) -> tuple[Checkpoint, Envelope] | None:
    """A checkpoint whose weights are whole and whose own copy of the state is not, with the sealed state of its commit."""
    try:
        found = checkpoints.read(path)
        if found is None:
            return None
        for name in (checkpoints.MODEL, checkpoints.OPTIMIZER):
            checkpoints.verify(path, name, found.meta)
        serial = found.meta["state"]["serial"]
    except (FirehoseError, KeyError, TypeError):
        return None
    kept = [*([seen.state] if seen.state else []), *(one for _, one in seen.versions)]
    for one in kept:
        if (one.serial, one.step, one.payload.get("checkpoint")) == (serial, found.step, found.step):
            return found, one
    return None


def archived(seen: Examined) -> None:
    """States that changes of several files wrote: that of a pivot is nowhere else until its first checkpoint."""
    run = seen.run
    done = journal.entries(run)
    undone = {entry.undoes for entry in done}
    for entry in done:
        path = journal.folder(run, entry) / journal.AFTER / run.state.name
        if entry.number in undone or entry.undoes is not None or not path.exists():
            continue
        with contextlib.suppress(OSError, FirehoseError):  # what is not sound is of no use, and of no harm
            seen.archived.append((path, open_envelope(path.read_bytes(), path)))
