"""The atomic store: after any interruption a state file holds its old content or its new one, and says which.

Written by `curriculum.files.write_atomic`; readers need no lock.
"""

import contextlib
import errno
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curriculum.errors import Exit, FirehoseError
from curriculum.files import TEMPORARY, failing_writes, write_atomic
from state import envelope as envelopes
from state.envelope import Envelope, Parent
from state.findings import Finding, FindingError, finding
from state.process import left_behind

KEPT = 10
VERSIONS = ".state.json.d"  # how the name of a folder of versions ends
UNDONE = (
    "undone-"  # how the name of a state begins that an operator took back: read by nobody, its serial used up
)


def utc_now() -> str:
    """The time in UTC, RFC 3339, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def temporaries(*folders: Path) -> list[Path]:
    """What writers that died left in these folders, and in folders of versions inside them; only names of our pattern."""
    inner = [path for folder in folders for path in folder.glob(f"*{VERSIONS}") if path.is_dir()]
    found = sorted(path for folder in (*folders, *inner) for path in folder.iterdir())
    return [
        path for path in found if (match := TEMPORARY.fullmatch(path.name)) and left_behind(int(match[1]))
    ]


def sweep_temporaries(*folders: Path) -> list[Finding]:
    """Remove the `temporaries` of these folders. Called at launch, under the run's lock, before anything is written."""
    found = []
    for path in temporaries(*folders):
        with failing_writes(path):
            path.unlink(missing_ok=True)
        found.append(finding("F0015", f"removed {path.name}, left by a writer that died"))
    return found


class StateStore:
    """The state file of one run, with its last 10 versions beside it in `NAME.state.json.d/SERIAL.json`.

    One writer at a time, under the run's lock; any number of readers.
    """

    def __init__(self, path: Path, *, now: Callable[[], str] = utc_now) -> None:
        self.path = path
        self.folder = path.with_name(f"{path.name}.d")
        self._now = now
        self._seen: tuple[int, int, int] | None = None
        self._current: Envelope | None = None
        self._lineage: str | None = None
        self._damaged = False
        self._reserved = 0

    def reserve(self, serial: int) -> None:
        """Use no serial up to this one: a checkpoint holds it, though the state file may never have had it."""
        self._reserved = max(self._reserved, serial)

    @property
    def lineage(self) -> str | None:
        """The lineage of the state that was read or written last; while another thread writes, that of the one before."""
        return self._lineage

    def next_serial(self) -> int:
        """The serial that the next commit will have."""
        return self._top() + 1

    def versions(self) -> list[tuple[int, Path]]:
        """(serial, path) of the kept versions, oldest first."""
        paths = self.folder.glob("*.json") if self.folder.is_dir() else ()
        return sorted((int(path.stem), path) for path in paths if path.stem.isdecimal())

    def read(self) -> tuple[Envelope | None, list[Finding]]:
        """The newest valid state, and what had to be passed over to find it; (None, []) where there never was one.

        Order: the file, then its versions, newest first. Raises FindingError: DAMAGED where no copy is valid,
        NEWER_SCHEMA where the newest readable one is of a later release. Nothing is changed.
        """
        self._seen = self._stat()
        self._damaged = False
        passed: list[FindingError] = []
        candidates = [self.path, *(path for _, path in reversed(self.versions()))]
        for path in candidates:
            try:
                self._current = self._load(path)
            except FindingError as error:
                if error.exit_code is Exit.NEWER_SCHEMA:
                    raise
                passed.append(error)
                continue
            if self._current is not None:
                break
            passed.append(FindingError(Exit.DAMAGED, finding("F0001", f"{path.name} is missing"), path=path))
        else:
            self._current = None
            if len(candidates) == 1 and self._seen is None:
                return None, []
            fix = f"move {self.path.name} and {self.folder.name} away: a launch then takes the checkpoint's copy"
            raise FindingError(Exit.DAMAGED, replace(passed[0].finding, fix=fix), path=passed[0].path)
        self._lineage = self._current.lineage
        self._damaged = bool(passed) and self._seen is not None
        serial = self._current.serial
        fix = f"serial {serial} is used instead; the next commit keeps what is damaged in {self.folder.name}/"
        return self._current, [
            replace(e.finding, message=f"{e.path}: {e.finding.message}", fix=fix) for e in passed
        ]

    def create(
        self,
        payload: dict[str, Any],
        *,
        config_sha256: str,
        step: int = 0,
        lineage: str | None = None,
        parent: Parent | None = None,
        serial: int = 1,
    ) -> Envelope:
        """Commit the first state of a lineage (a new one unless given), with at least the given serial.

        Over an existing state only its child may be created; the old one is kept as a version. Raises FirehoseError.
        """
        current, _ = self.read()
        if current is not None and (parent is None or parent.lineage != current.lineage):
            raise FindingError(
                Exit.REFUSED,
                finding(
                    "F0014", f"there is a state of lineage {current.lineage} already", fix="firehose list"
                ),
                path=self.path,
            )
        fresh = self._envelope(
            payload,
            lineage=lineage or envelopes.new_lineage(),
            serial=max(serial, self._top() + 1),
            step=step,
            config_sha256=config_sha256,
            parent=parent,
        )
        self.write(fresh)
        return fresh

    def prepare(self, payload: dict[str, Any], *, step: int, config_sha256: str) -> Envelope:
        """The next commit, not yet written: a checkpoint stores the same envelope before `write` makes it current."""
        current = self._current or self.read()[0]
        if current is None:
            raise FirehoseError(
                Exit.NOT_FOUND, "there is no state here yet", path=self.path, next="firehose list"
            )
        return self._envelope(
            payload,
            lineage=current.lineage,
            serial=self._top() + 1,
            step=step,
            config_sha256=config_sha256,
            parent=current.parent,
        )

    def write(self, envelope: Envelope) -> None:
        """Make an envelope of `prepare` the current state; durable when this returns.

        Raises FirehoseError: WRITE_FAILED, and REFUSED where somebody else wrote the file since it was read.
        """
        if self._current is None:
            self.read()
        if self._stat() != self._seen or envelope.serial <= self._top():
            raise FirehoseError(
                Exit.REFUSED,
                "the state was written by another process since this one read it",
                path=self.path,
                next="end the other process; then run the same command again",
            )
        keep = self._kept_name()
        self._current = None  # until the write is known to have succeeded
        write_atomic(self.path, envelopes.seal(envelope), keep=keep)
        self._seen, self._current, self._damaged = self._stat(), envelope, False
        self._lineage = envelope.lineage
        for _, path in self.versions()[:-KEPT]:
            with contextlib.suppress(OSError):  # the commit is durable; what stays is removed by the next one
                path.unlink()

    def commit(self, payload: dict[str, Any], *, step: int, config_sha256: str) -> Envelope:
        """`prepare` and `write`. Raises as they do; the state before is then the current one."""
        envelope = self.prepare(payload, step=step, config_sha256=config_sha256)
        self.write(envelope)
        return envelope

    def _envelope(self, payload: dict[str, Any], **fields: Any) -> Envelope:
        return envelopes.make(payload, written_at=self._now(), path=self.path, **fields)

    def _load(self, path: Path) -> Envelope | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # the disk lost it: as damaged as any other damage
                message = f"the disk cannot read it: {error.strerror}"
                raise FindingError(Exit.DAMAGED, finding("F0001", message), path=path) from error
            raise FirehoseError(
                Exit.DAMAGED, f"cannot read {path.name}: {error.strerror}", path=path, next=f"ls -l {path}"
            ) from error
        return envelopes.open_envelope(data, path)

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _top(self) -> int:
        """The highest serial that may be in use; a damaged current file is taken for one more than its last version."""
        versions = self.versions()
        newest = versions[-1][0] if versions else 0
        current = self._current.serial if self._current else 0
        names = (path.stem.removeprefix(UNDONE) for path in self.folder.glob(f"{UNDONE}*.json"))
        undone = max((int(name) for name in names if name.isdecimal()), default=0)
        return max(newest, current, undone, self._reserved) + self._damaged

    def _kept_name(self) -> Path | None:
        if self._seen is None or self._current is None:
            return None
        if not self._damaged:
            return self.folder / f"{self._current.serial}.json"
        return self.folder / damaged_name(self.path)


def damaged_name(path: Path) -> str:
    """The name that a damaged state file is kept under when the next one is written."""
    try:
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:  # it can be linked all the same
        name = f"inode-{path.stat().st_ino:x}"
    return f"damaged-{name}.json"
