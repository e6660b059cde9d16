"""Changes of several files of a run at once: done whole or not at all, kept in the archive, and undone byte for byte.

A transaction is staged in a folder of its own: what it replaces (`before/`, hard links), what it puts there (`after/`),
and the list of its operations (`transaction.json`). Renaming that folder to `journal/` is the commit: before it
nothing has happened, after it `redo` finishes the work, however often that is interrupted, and renames the folder to
`archive/NNNN-KIND/`. Everything here is called under the run's lock.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, second_name, sha256_file, sync_folder, write_atomic
from state.process import left_behind
from state.run_dir import RunDir
from state.store import UNDONE

FORMAT, VERSION = "firehose-transaction", 1
BEFORE, AFTER, ENTRY = "before", "after", "transaction.json"
NUMBERED = re.compile(r"(\d{4,})-([a-z-]+)")
STAGED = re.compile(r"\.journal-(\d+)-[0-9a-f]{8}")


class Put(msgspec.Struct, tag="put", tag_field="do", frozen=True):
    """Replace or make a file. sha256: of the new content; old: of the one it replaces, None where there was none."""

    target: str
    sha256: str
    old: str | None


class Aside(msgspec.Struct, tag="aside", tag_field="do", frozen=True):
    """Move a file or folder out of the run into `before/`."""

    target: str


class Bring(msgspec.Struct, tag="bring", tag_field="do", frozen=True):
    """Move a file or folder from the archive to its place."""

    source: str
    target: str


class Keep(msgspec.Struct, tag="keep", tag_field="do", frozen=True):
    """Give a file a second name by hard link, before any other operation touches it."""

    source: str
    target: str


class Record(msgspec.Struct, tag="record", tag_field="do", frozen=True):
    """Append an event to the history, once."""

    event: dict[str, Any]


Operation = Put | Aside | Bring | Keep | Record


class Entry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a transaction does: a sentence, and the operations in order; paths are relative to the run's folder."""

    number: int
    kind: str
    what: str
    time: str
    operations: list[Operation]
    undoes: int | None = None
    format: str = FORMAT
    version: int = VERSION

    @property
    def name(self) -> str:
        """Name of its folder in the archive."""
        return f"{self.number:04}-{self.kind}"


class Transaction:
    """A change being put together; nothing is touched before `commit`.

    kind: lower-case letters and dashes, "repair" for one. what: a sentence for the history of the run. now: RFC 3339.
    """

    def __init__(self, run: RunDir, kind: str, what: str, *, now: str, undoes: int | None = None) -> None:
        self.run, self.kind, self.what, self.now, self.undoes = run, kind, what, now, undoes
        self.number = 1 + max((entry.number for entry in entries(run)), default=0)
        self.keeps: list[Keep] = []
        self.operations: list[Operation] = []
        self._data: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        """Name its folder in the archive will have."""
        return f"{self.number:04}-{self.kind}"

    def put(self, path: Path, data: bytes) -> None:
        """Replace `path`, or make it, with `data`."""
        target = self._inside(path)
        old = sha256_file(path) if path.exists() else None
        self._data[target] = data
        self.operations.append(Put(target, hashlib.sha256(data).hexdigest(), old))

    def aside(self, path: Path) -> None:
        """Take a file or folder out of the run; it stands in the transaction's `before/` afterwards."""
        self.operations.append(Aside(self._inside(path)))

    def bring(self, source: Path, target: Path) -> None:
        """Move a file or folder from the archive to `target`."""
        self.operations.append(Bring(self._inside(source), self._inside(target)))

    def keep(self, source: Path, target: Path) -> None:
        """Keep the file now at `source` under a second name; done before anything is replaced.

        Where that name is taken by other content, the name gets a part of the content's hash.
        """
        if target.exists() and not target.samefile(source):
            own = sha256_file(source)
            if sha256_file(target) != own:
                target = target.with_name(f"{target.stem}-{own[:8]}{target.suffix}")
        self.keeps.append(Keep(self._inside(source), self._inside(target)))

    def record(self, event: dict[str, Any]) -> None:
        """Append an event to `history.jsonl`; an id that names this transaction keeps it from being written twice."""
        number = sum(isinstance(operation, Record) for operation in self.operations)
        marked = {**event, "time": self.now, "transaction": self.name}
        self.operations.append(Record({**marked, "id": f"{self.name}-{self.now}-{number}"}))

    def commit(self, progress: Callable[[str], None] | None = None) -> Entry:
        """Stage, commit and do it; durable when this returns.

        progress is called with each operation in words. Raises FirehoseError: WRITE_FAILED, nothing being changed where
        the journal was not written yet, else saying that the next command finishes it; REFUSED where another
        transaction waits to be finished.
        """
        journal = self.run.journal
        if journal.exists():
            raise FirehoseError(
                Exit.REFUSED,
                "a change of this run was begun and not finished",
                path=journal,
                next=f"firehose state repair {self.run.root}",
            )
        entry = Entry(
            number=self.number,
            kind=self.kind,
            what=self.what,
            time=self.now,
            operations=[*self.keeps, *self.operations],
            undoes=self.undoes,
        )
        stage = self.run.root / f".journal-{os.getpid()}-{os.urandom(4).hex()}"
        with failing_writes(stage):
            try:
                self._stage(stage, entry)
                stage.rename(journal)
            except BaseException:
                shutil.rmtree(stage, ignore_errors=True)
                raise
        with failing_writes(journal, "the change is begun: the next command on this run finishes it"):
            sync_folder(self.run.root)
        return _do(self.run, entry, progress)

    def _stage(self, stage: Path, entry: Entry) -> None:
        for operation in entry.operations:
            if isinstance(operation, Put):
                staged = stage / AFTER / operation.target
                staged.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(staged, self._data[operation.target])
                if operation.old is not None:
                    kept = stage / BEFORE / operation.target
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    second_name((self.run.root / operation.target).resolve(), kept)
        stage.mkdir(exist_ok=True)
        write_atomic(stage / ENTRY, msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")
        for folder in [path for path in stage.rglob("*") if path.is_dir()]:
            sync_folder(folder)
        sync_folder(stage)

    def _inside(self, path: Path) -> str:
        return str(path.relative_to(self.run.root))


def redo(run: RunDir) -> Entry | None:
    """Finish a transaction that was begun; what it was, or None where there was none. Raises FirehoseError.

    Staging folders of processes that are gone are removed.
    """
    for path in leftovers(run):
        shutil.rmtree(path, ignore_errors=True)
    entry = unfinished(run)
    return None if entry is None else _do(run, entry, None)


def unfinished(run: RunDir) -> Entry | None:
    """The transaction that was begun and not finished, or None. Raises FirehoseError(DAMAGED)."""
    return _read(run.journal, run) if run.journal.is_dir() else None


def leftovers(run: RunDir) -> list[Path]:
    """Staging folders whose writer is gone: of transactions that never began."""
    found = []
    for path in sorted(run.root.glob(".journal-*")):
        match = STAGED.fullmatch(path.name)
        if match and left_behind(int(match[1])):
            found.append(path)
    return found


def entries(run: RunDir) -> list[Entry]:
    """The finished transactions, oldest first. A folder that cannot be read is passed over."""
    found = []
    for path in run.archive.iterdir() if run.archive.is_dir() else ():
        if NUMBERED.fullmatch(path.name) and path.is_dir():
            try:
                found.append(_read(path, run))
            except FirehoseError:
                continue
    return sorted(found, key=lambda entry: entry.number)


def folder(run: RunDir, entry: Entry) -> Path:
    """Where a finished transaction is kept."""
    return run.archive / entry.name


def undo(run: RunDir, number: int | None, *, now: str) -> Entry:
    """Put everything back, byte for byte, as it was before a transaction (the last that is not undone by default).

    The undoing is itself a transaction, and can be undone. Raises FirehoseError: NOT_FOUND; REFUSED, naming the file,
    where something changed since.
    """
    return undoing(run, number, now=now).commit()


def undoing(run: RunDir, number: int | None, *, now: str) -> Transaction:
    """The transaction that would undo one; for a plan. Raises as `undo` does."""
    done = entries(run)
    undone = {entry.undoes for entry in done}
    entry = next(
        (e for e in reversed(done) if (e.number not in undone if number is None else e.number == number)),
        None,
    )
    if entry is None or entry.number in undone:
        raise FirehoseError(
            Exit.NOT_FOUND,
            "there is nothing to undo" if number is None else f"there is no change number {number} to undo",
            path=run.archive,
            next=f"firehose state history {run.root}",
        )
    where = folder(run, entry)
    tx = Transaction(run, "undo", f"undo {entry.name}: {entry.what}", now=now, undoes=entry.number)
    for operation in reversed(entry.operations):
        if isinstance(operation, Put):
            target = run.root / operation.target
            if target == run.history:
                continue  # it is told on, never back; what was replaced stays in `before/`
            if not target.exists() or sha256_file(target) != operation.sha256:
                raise _changed_since(target, entry)
            if operation.old is None:
                tx.aside(target)
            else:
                tx.put(target, _whole(where / BEFORE / operation.target, operation.old))
                if target == run.state:  # its serial is used up, and it is no version to fall back to
                    tx.keep(target, run.versions / f"{UNDONE}{_serial(target)}.json")
        elif isinstance(operation, Aside):
            target = run.root / operation.target
            if target.exists():
                raise _changed_since(target, entry)
            tx.bring(where / BEFORE / operation.target, target)
        elif isinstance(operation, Bring):
            tx.aside(run.root / operation.target)
    tx.record({"event": "undo", "undoes": entry.name, "what": entry.what})
    return tx


def _do(run: RunDir, entry: Entry, progress: Callable[[str], None] | None) -> Entry:
    journal, changed = run.journal, "part of the change: the next command on this run finishes it"
    for operation in entry.operations:
        if progress is not None:
            progress(describe(operation))
        with failing_writes(journal, changed):
            _operate(run, journal, operation)
    with failing_writes(journal, changed):
        run.archive.mkdir(exist_ok=True)
        journal.rename(run.archive / entry.name)
        sync_folder(run.archive)
        sync_folder(run.root)
    return entry


def describe(operation: Operation) -> str:
    """An operation in words, as plans and progress print it."""
    if isinstance(operation, Put):
        return f"{'write' if operation.old is None else 'replace'} {operation.target}"
    if isinstance(operation, Aside):
        return f"move {operation.target} to the archive"
    if isinstance(operation, Bring):
        return f"bring {operation.target} back from the archive"
    if isinstance(operation, Keep):
        return f"keep {operation.source} as {operation.target}"
    return f"note it in the history: {operation.event.get('event')}"


def _operate(run: RunDir, journal: Path, operation: Operation) -> None:
    """Do one operation, or see that it is done."""
    if isinstance(operation, Put):
        target = run.root / operation.target
        if target.exists() and sha256_file(target) == operation.sha256:
            sync_folder(target.parent)
            return
        _make_folder(target.parent, run.root)
        write_atomic(target, _whole(journal / AFTER / operation.target, operation.sha256))
    elif isinstance(operation, Aside):
        _move(run.root / operation.target, journal / BEFORE / operation.target, run.root)
    elif isinstance(operation, Bring):
        _move(run.root / operation.source, run.root / operation.target, run.root)
    elif isinstance(operation, Keep):
        source, target = run.root / operation.source, run.root / operation.target
        _make_folder(target.parent, run.root)
        if not target.exists():
            second_name(source, target)
        sync_folder(target.parent)
    else:
        run.record_once([operation.event])


def _make_folder(folder: Path, root: Path) -> None:
    """Make a folder of the run where it is missing, durably: what is moved into one that a power cut takes is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    for above in folder.relative_to(root).parents:
        sync_folder(root / above)


def _move(source: Path, target: Path, root: Path) -> None:
    _make_folder(target.parent, root)
    if source.exists():
        source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def _whole(path: Path, sha256: str) -> bytes:
    """A staged or kept file, whose content must be what the transaction says."""
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FirehoseError(
            Exit.DAMAGED, f"{path.name} in the archive is missing or not what was kept", path=path
        )
    return data


def _serial(state: Path) -> int:
    return int(msgspec.json.decode(state.read_bytes())["serial"])


def _changed_since(target: Path, entry: Entry) -> FirehoseError:
    return FirehoseError(
        Exit.REFUSED,
        f"{target.name} has changed since {entry.name}, so undoing it would lose what came after",
        path=target,
        next="undo what came after first; firehose state history shows the order",
    )


def _read(where: Path, run: RunDir) -> Entry:
    path = where / ENTRY
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=Entry)
        if entry.format != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
    except (OSError, ValueError) as error:
        raise FirehoseError(
            Exit.DAMAGED,
            f"the journal cannot be read: {error}",
            path=path,
            next=f"what it replaced is in {where / BEFORE}, what it wrote in {where / AFTER}; bring the right files to "
            f"{run.root} and move {where.name} away",
        ) from None
    return entry
