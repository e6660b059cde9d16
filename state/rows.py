"""Loss, pulls and sample files: JSON arrays that only grow, one row a line, appended in place at a commit.

The bytes are `[`, then `\\n` and a row, then `,\\n` and a row for every further one, then the tail `\\n]\\n`. A commit is
one write over the tail. What is committed is named by a `Mark`, which the state and the checkpoint record; whatever a
crash left behind it is moved to the archive at the next launch, so that a file is the same, byte for byte, however
often its run was cut.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sync_folder, write_atomic, write_verified
from state.findings import FindingError, finding

HEAD, TAIL = b"[", b"\n]\n"
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """What of a row file is committed: its first `bytes` bytes (up to the tail), their rows and their SHA-256."""

    bytes: int
    rows: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the state's payload; `Mark(**data)` reads it back."""
        return asdict(self)


EMPTY = Mark(len(HEAD), 0, hashlib.sha256(HEAD).hexdigest())


def encode_row(row: list[Any] | dict[str, Any]) -> bytes:
    """One row as compact JSON in the key order given, floats exact. Raises ValueError on a non-finite number.

    >>> encode_row([7, 0.1]), encode_row({"step": 7, "text": "é\\n"}).decode()
    (b'[7,0.1]', '{"step":7,"text":"é\\\\n"}')
    """
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes the JSON escape of itself


class RowFile:
    """The writer of one row file; call `open` first. One writer at a time, under the run's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark = EMPTY
        self._hash = hashlib.sha256(HEAD)

    def open(self, mark: Mark | None, archive: Path, label: str) -> list[str]:
        """Bring the file to `mark` (None: no rows) and give back what was done, a sentence each.

        Bytes beyond the mark go to `archive/NAME.after-LABEL.json`, itself a row file, before they leave this one; an
        archived file is never overwritten. label: where the mark stands, such as "step-1200-serial-13".
        Raises FindingError(DAMAGED, F0016), changing nothing, where the file is shorter than the mark or differs from
        what was committed; FirehoseError(WRITE_FAILED).
        """
        mark = mark or EMPTY
        if mark == EMPTY and (not self.path.exists() or self.path.stat().st_size == 0):
            write_atomic(self.path, HEAD + TAIL)
        try:
            with self.path.open("rb") as file:
                self._hash = _hash_prefix(file, mark, self.path)
                rest = file.read()
        except FileNotFoundError:
            raise _torn(self.path, "is missing", mark) from None
        self.mark = mark
        if rest == TAIL:
            return []
        if TAIL.startswith(rest):
            self._close()
            return [f"{self.path.name}: closed again"]
        kept = _archive(HEAD + rest.removeprefix(b","), archive, f"{self.path.stem}.after-{label}")
        self._close()
        return [f"{self.path.name}: {len(rest)} bytes beyond row {mark.rows} moved to archive/{kept.name}"]

    def append(self, rows: list[bytes]) -> Mark:
        """Append rows of `encode_row`, durable when this returns, and give back the new mark.

        Raises FirehoseError: WRITE_FAILED, the rows before being intact; DAMAGED where another process changed the
        file. ValueError on a row that is not one line of a JSON array or object.
        """
        if not rows:
            return self.mark
        body, mark, digest = self._grown(rows)
        before = self.mark.bytes
        with failing_writes(self.path, f"nothing up to row {self.mark.rows}, the last one committed"):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size != before + len(TAIL):
                    raise _torn(self.path, "was changed by another process", self.mark)
                try:
                    write_verified(descriptor, body + TAIL, before)
                except OSError:
                    _shut(descriptor, before)
                    raise
            finally:
                os.close(descriptor)
        self.mark, self._hash = mark, digest
        return self.mark

    def after(self, rows: list[bytes]) -> Mark:
        """The mark that `append` of these rows will give; nothing is written. Raises ValueError as it does."""
        return self._grown(rows)[1] if rows else self.mark

    def _grown(self, rows: list[bytes]) -> tuple[bytes, Mark, "hashlib._Hash"]:
        for row in rows:
            if row[:1] not in (b"[", b"{") or b"\n" in row:
                raise ValueError(f"not a row: {row[:40]!r}")
        body = (b",\n" if self.mark.rows else b"\n") + b",\n".join(rows)
        digest = self._hash.copy()
        digest.update(body)
        mark = Mark(self.mark.bytes + len(body), self.mark.rows + len(rows), digest.hexdigest())
        return body, mark, digest

    def _close(self) -> None:
        with failing_writes(self.path, "the rows are as they were"):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                _shut(descriptor, self.mark.bytes)
            finally:
                os.close(descriptor)


def _shut(descriptor: int, end: int) -> None:
    """End a row file at `end` with its tail. Synced in between: a tail without the cut would stand amid old bytes."""
    os.ftruncate(descriptor, end)
    os.fsync(descriptor)
    write_verified(descriptor, TAIL, end)


def read_rows(path: Path) -> list[Any]:
    """All complete rows of a row file; a missing `]` and a torn last row are passed over.

    Raises FirehoseError: NOT_FOUND, and DAMAGED (F0016) for a bad row that has rows after it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FirehoseError(
            Exit.NOT_FOUND, f"{path.name} does not exist", path=path, next="firehose list"
        ) from None
    try:
        whole = msgspec.json.decode(data)
        if isinstance(whole, list):
            return whole
    except ValueError:
        pass  # torn, or being written at this moment: line by line
    # No row holds a zero byte and nothing stands behind the closing bracket, unless a power cut left pieces of a commit.
    data = re.split(rb"\0|(?<=\n\]\n)", data, maxsplit=1)[0]
    lines = [line for line in data.removeprefix(HEAD).split(b"\n") if line not in (b"", b"]")]
    rows = []
    for index, line in enumerate(lines):
        try:
            # A row ends where its bracket closes, whatever a cut commit left behind it on the last line.
            text = line.decode()
            row, end = json.JSONDecoder().raw_decode(text)
            if text[end:] not in ("", ",") and index < len(lines) - 1:
                raise ValueError("bytes after the row")
        except ValueError:
            if index == len(lines) - 1:
                break
            fix = f"keep the rows around line {index + 2} and restore the file from a copy"
            raise FindingError(
                Exit.DAMAGED,
                finding("F0016", f"line {index + 2} of {path.name} is not a row", fix=fix),
                path=f"{path}:{index + 2}",
            ) from None
        rows.append(row)
    return rows


def _hash_prefix(file: BinaryIO, mark: Mark, path: Path) -> "hashlib._Hash":
    digest, left = hashlib.sha256(), mark.bytes
    while left and (chunk := file.read(min(CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    if left:
        raise _torn(path, f"is {left} bytes shorter than what was committed", mark)
    if digest.hexdigest() != mark.sha256:
        raise _torn(path, f"differs from what was committed, in its first {mark.bytes} bytes", mark)
    return digest


def _archive(data: bytes, folder: Path, stem: str) -> Path:
    """Write `data` under a name in the archive that nothing else has."""
    with failing_writes(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        if not path.exists():
            write_atomic(path, data)
            return path
        if path.read_bytes() == data:
            with failing_writes(path):
                sync_folder(folder)
            return path  # archived before, by a launch that was cut short after this point
        number += 1


def _torn(path: Path, what: str, mark: Mark) -> FindingError:
    fix = (
        f"firehose state repair {path.parent} makes again what it can and says what is lost; or restore {path.name} with "
        f"its {mark.rows} rows from a copy"
    )
    return FindingError(Exit.DAMAGED, finding("F0016", f"{path.name} {what}", fix=fix), path=path)
