"""`firehose data clean`: text in, the documents that no rule drops out, as JSONL with the table of what was dropped beside it.

Everything is read once, as a stream. New files are written under temporary names and renamed when all are complete, the
table last, so that on any error the output is as it was.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from curriculum.config import Clean
from curriculum.errors import Exit, FirehoseError
from curriculum.files import TEMPORARY, failing_writes, sync_folder, write_atomic
from curriculum.text.clean import ALL_RULES, KEPT, Cleaner, Tally, judges
from curriculum.text.read import Document, documents, find_files, size_of
from curriculum.text.tables import is_named

FORMAT, VERSION = "firehose-clean", 1
TABLE = "clean.json"  # in a folder; beside a single file NAME.jsonl it is NAME.clean.json
WRITE = 1 << 20  # bytes written at a time

Dropped = Callable[[str, str, Document], None]  # name in the table, rule, document
Done = Callable[[int, int], None]  # documents read; bytes of text read


@dataclass(frozen=True, slots=True)
class CleaningPlan:
    """What to clean: each file of `files`, under a name of its own in the table, to the file of `targets` beside it.

    Files that share a target are written to it one after the other. Duplicates are looked for over all files.
    """

    out: Path
    files: dict[str, Path]
    targets: dict[str, Path]
    table: Path
    limits: Clean = field(default_factory=Clean)
    processes: int | None = None


def plan(source: str, out: Path, limits: Clean, processes: int | None = None) -> CleaningPlan:
    """The cleaning of a file, folder, glob or dataset to OUT: a file where its name ends in .jsonl, else a folder.

    Raises FirehoseError: NOT_FOUND for missing text; REFUSED where OUT would replace what no cleaning has written, or
    be part of what is read.
    """
    found = find_files(source, [source], named="IN")
    base = Path(source) if Path(source).is_dir() else None
    named = {_name(file, base): file for file in found}
    if len(named) < len(found):  # a.txt and a.jsonl
        named = {_name(file, base, suffix=True): file for file in found}
    single = out.suffix == ".jsonl"
    targets = {name: out if single else out / f"{name}.jsonl" for name in named}
    table = out.with_suffix(".clean.json") if single else out / TABLE
    _refuse_overwriting(found, base, out, set(targets.values()), table)
    _refuse_stale(out, targets, table)
    return CleaningPlan(out, named, targets, table, limits, processes)


def clean_text(
    plan: CleaningPlan,
    *,
    write: bool = True,
    dropped: Dropped = lambda name, rule, document: None,
    done: Done = lambda documents, size: None,
) -> dict[str, Tally]:
    """Clean all files of a plan; what each rule dropped, by name. write: False reads and judges only.

    Raises FirehoseError: DAMAGED for text that cannot be read, with file and line; REFUSED where a library is missing;
    WRITE_FAILED.
    """
    tallies = {name: Tally() for name in plan.files}
    stream = _Stream(plan.files)
    size = sum(map(size_of, plan.files.values()))
    with judges(size, plan.processes) as cleaning, _Writer(plan) if write else _Nothing() as writer:
        read = 0
        for batch, verdicts in Cleaner(plan.limits, cleaning).clean(stream):
            for name, first, last in stream.parts(len(batch)):
                tallies[name].count(verdicts[first:last])
                for document, verdict in zip(batch[first:last], verdicts[first:last], strict=True):
                    if verdict == KEPT:
                        writer.add(name, document)
                    else:
                        dropped(name, ALL_RULES[verdict - 1], document)
            read += sum(document.size for document in batch)
            done(sum(tally.documents_in for tally in tallies.values()), read)
        writer.finish(tallies)
    return tallies


def as_json(tallies: dict[str, Tally]) -> dict[str, dict[str, Any]]:
    """The `sources` of the JSON contract (DESIGN 9.1); `tokens` is null: no tokenizer has seen the text."""
    return {
        name: {
            "in": tally.documents_in,
            "out": tally.documents_out,
            "dropped": tally.dropped,
            "dropped_share": tally.dropped_share,
            "documents": tally.documents_out,
            "tokens": None,
        }
        for name, tally in tallies.items()
    }


class _Stream:
    """The documents of all files in order, and which of them are whose."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._ends: list[tuple[str, int]] = []  # of the files read to their end: documents up to there
        self._read = self._taken = self._at = 0

    def __iter__(self) -> Iterator[Document]:
        for name, file in self._files.items():
            for document in documents(name, [file]):
                self._read += 1
                yield document
            self._ends.append((name, self._read))

    def parts(self, count: int) -> Iterator[tuple[str, int, int]]:
        """The next so many documents by file: (name, first, last + 1), counted from the first of them."""
        names = list(self._files)
        start, end = self._taken, self._taken + count
        while self._taken < end:
            while self._at < len(self._ends) and self._ends[self._at][1] <= self._taken:
                self._at += 1
            last = min(end, self._ends[self._at][1]) if self._at < len(self._ends) else end
            yield names[self._at], self._taken - start, last - start
            self._taken = last


class _Nothing:
    """Stands for the writer where nothing is to be written."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add(self, name: str, document: Document) -> None:
        pass

    def finish(self, tallies: dict[str, Tally]) -> None:
        pass


class _Writer(_Nothing):
    """The new files, under temporary names until all are complete."""

    def __init__(self, plan: CleaningPlan) -> None:
        self._plan = plan
        self._temporary: dict[Path, Path] = {}  # by what they will be
        self._file: BinaryIO | None = None
        self._open: Path | None = None

    def __enter__(self) -> "_Writer":
        for folder in {target.parent for target in self._plan.targets.values()}:
            sweep(folder)
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        for temporary in self._temporary.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def add(self, name: str, document: Document) -> None:
        target = self._plan.targets[name]
        with failing_writes(target):
            if target != self._open:
                self._close()
                self._file, self._open = self._new(target), target
            assert self._file is not None
            self._file.write(document.as_line() + b"\n")

    def finish(self, tallies: dict[str, Tally]) -> None:
        """Give every file its name, those without a document too, then write the table."""
        with _uninterrupted():
            self._publish()
            self._write_table(tallies)

    def _publish(self) -> None:
        moved: list[str] = []
        for target in dict.fromkeys(self._plan.targets.values()):
            try:
                with failing_writes(target):
                    if target not in self._temporary:
                        self._close()
                        self._file = self._new(target)
                    self._close()
                    self._temporary[target].replace(target)
                    moved.append(str(target))
                    sync_folder(target.parent)
            except FirehoseError as error:
                error.changed = f"written: {', '.join(moved)}" if moved else "nothing"
                raise

    def _write_table(self, tallies: dict[str, Tally]) -> None:
        body = {
            "format": FORMAT,
            "version": VERSION,
            "limits": msgspec.to_builtins(self._plan.limits),
            "sources": {
                name: {
                    **entry,
                    "file": str(os.path.relpath(self._plan.targets[name], self._plan.table.parent)),
                }
                for name, entry in as_json(tallies).items()
            },
        }
        write_atomic(self._plan.table, msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n")

    def _new(self, target: Path) -> BinaryIO:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        self._temporary[target] = temporary
        return temporary.open("xb", buffering=WRITE)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file, self._open = self._file, None, None
            with file:
                file.flush()
                os.fsync(file.fileno())


def _name(file: Path, base: Path | None, *, suffix: bool = False) -> str:
    """A file's name in the table, and that of its output without .jsonl: from the folder on, without its suffix."""
    if is_named(file):
        return str(file).removeprefix("hf:").strip("/").replace(":", "-").replace("/", "-")
    own = file.relative_to(base) if base is not None and file != base else Path(file.name)
    return str(own if suffix or not own.suffix else own.with_suffix(""))


def _refuse_overwriting(
    found: Sequence[Path], base: Path | None, out: Path, targets: set[Path], table: Path
) -> None:
    read = {file.resolve() for file in found if not is_named(file)}
    if any(target.resolve() in read for target in targets) or (
        base is not None and out.resolve().is_relative_to(base.resolve())
    ):
        raise _refused(out, "OUT would be part of what is read", "name another OUT")
    if out.exists() and out.is_dir() == (out.suffix == ".jsonl"):
        what = "a folder" if out.is_dir() else "a file"
        raise _refused(
            out, f"{out.name} is {what}", "name a file that ends in .jsonl, or a folder that does not"
        )
    there = sorted(str(target) for target in targets if target.exists())
    if there and not table.exists():
        raise _refused(
            Path(there[0]), "OUT exists, and no cleaning has written it", "remove it or name another OUT"
        )


def _refuse_stale(out: Path, targets: dict[str, Path], table: Path) -> None:
    """Refuse to leave what an earlier cleaning wrote beside files that this one writes: a build would read both."""
    try:
        before = msgspec.json.decode(table.read_bytes())["sources"]
        files = {table.parent / entry["file"] for entry in before.values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # no table, or none of ours: what OUT holds is looked at elsewhere
    now = {target.resolve() for target in targets.values()}
    stale = sorted(str(path) for path in files if path.exists() and path.resolve() not in now)
    if stale:
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise _refused(
            Path(stale[0]),
            f"an earlier cleaning wrote {Path(stale[0]).name}{more} into OUT, and nothing in IN makes it any more",
            f"remove {'it' if len(stale) == 1 else 'them'} if nobody needs {'it' if len(stale) == 1 else 'them'}, or name another OUT",
        )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until all files have their names."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of cleanings that were killed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = TEMPORARY.fullmatch(path.name)
        if match is not None and not _lives(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def _refused(path: Path, what: str, next: str) -> FirehoseError:
    return FirehoseError(Exit.REFUSED, what, path=path, next=f"{next}, then run the same command again")
