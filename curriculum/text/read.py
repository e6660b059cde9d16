"""Documents out of text, as a stream: JSONL (`text` or `messages`), plain text, and tables, with errors that say where."""

import codecs
import glob
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.text import tables
from curriculum.text.template import Message, UnknownRole, render

JSONL = frozenset({".jsonl", ".ndjson"})
PLAIN = frozenset({".txt", ".text", ".md", ".rst", ""})
IN_FOLDERS = frozenset({".jsonl", ".ndjson", ".txt", ".parquet"})
LONGEST_LINE = 16 << 20  # bytes of a JSONL line: what one document may take in memory
PACK = 2_000  # characters at which a plain-text document ends at the next blank line
LONGEST_PARAGRAPH = 1 << 16  # characters after which it ends at the last line, without one
_BLOCK = 1 << 16
_BUFFER = 1 << 18  # bytes read at a time of a file of lines
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
_BOM = codecs.BOM_UTF8
_WHITE = b" \t\n\r\f\v\x1c\x1d\x1e\x1f"  # of ASCII, what `str.strip` takes for white space


class Document(NamedTuple):
    """One document. `size`: bytes of its file read since the document before, for progress.

    turn: of `messages` the first user's content, empty where no user speaks; None where only the text tells.
    line: the JSONL line it was read from, or one made of it; None for plain text.
    """

    text: str
    size: int
    turn: str | None = None
    line: bytes | None = None

    def as_line(self) -> bytes:
        """The document as a line of JSONL: as it stood in its file, with all its keys, where it came from one."""
        return msgspec.json.encode({"text": self.text}) if self.line is None else self.line


class _Line(msgspec.Struct, gc=False):
    text: str | None = None
    messages: list[Message] | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


def find_files(source: str, paths: Iterable[str | Path], named: str | None = None) -> list[Path]:
    """The text files that a source's paths name, each once. named: what the paths are called, if not a config's key.

    A path is a file, a folder (every .jsonl, .ndjson, .txt and .parquet in and below it, by name), a glob, a dataset that
    `datasets` saved, or `hf:NAME` for one that it loads. Raises FirehoseError: NOT_FOUND for a path that names no
    file, REFUSED for a file that is empty or of a kind that is not read.
    """
    named = named or f"sources.{source}.path in the config"
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if tables.is_dataset(path):
            found.setdefault(path, path)
            continue
        files = _expand(path)
        if not files:
            what = "holds no .jsonl, .ndjson, .txt or .parquet file" if path.is_dir() else "does not exist"
            raise FirehoseError(
                Exit.NOT_FOUND,
                f"the text of source {source} is missing: {path} {what}",
                path=path,
                arm=source,
                next=f"put the text there, or correct {named}",
            )
        for file in files:
            if file.suffix.lower() not in JSONL | PLAIN | tables.PARQUET:
                raise _refused(
                    file, source, f"{file.name} is neither JSONL, Parquet nor plain text by its name", named
                )
            if file.stat().st_size == 0:
                raise _refused(file, source, f"{file.name} is empty", named)
            found.setdefault(file.resolve(), file)
    return list(found.values())


def passed_over(paths: Iterable[str | Path]) -> list[Path]:
    """The files in folders among a source's paths that are not read for their names, hidden ones aside."""
    found: dict[Path, None] = {}
    for folder in map(Path, paths):
        if folder.is_dir() and not tables.is_dataset(folder):
            for path in sorted(folder.rglob("*")):
                hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
                kind = path.suffix.lower() in IN_FOLDERS and path.is_file()
                if not (hidden or kind or path.is_dir()):
                    found[path] = None
    return list(found)


def say_passed_over(paths: Iterable[str | Path]) -> list[str]:
    """The same in words, for a person; nothing where all is read."""
    found = passed_over(paths)
    if not found:
        return []
    shown = ", ".join(path.name for path in found[:3]) + (
        f" and {len(found) - 3} more" if len(found) > 3 else ""
    )
    kinds = ", ".join(sorted(suffix for suffix in IN_FOLDERS))
    return [f"not read, for of a folder {kinds} are: {shown} (name a file, or a glob, to have it read)"]


def documents(source: str, files: Iterable[Path]) -> Iterator[Document]:
    """The documents of a source's files, in order, holding one in memory at a time.

    A JSONL line is one document: its `messages` rendered as chat where it has them, else its `text`. Plain text is
    cut at the first blank line after 2,000 characters. Raises FirehoseError(DAMAGED) naming file and line for invalid
    UTF-8 (with its byte offset), a line that is not such an object or is longer than 16 MiB.
    """
    for file in files:
        if tables.is_table(file):
            yield from _from_table(source, file)
        elif file.suffix.lower() in JSONL:
            yield from _from_jsonl(source, file)
        else:
            yield from _from_plain(source, file)


def size_of(file: Path) -> int:
    """Bytes of text that a file or dataset holds, as far as can be told without reading it; 0 where it cannot."""
    return tables.size_of(file) if tables.is_table(file) else file.stat().st_size


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        below = (p for p in path.rglob("*") if p.suffix.lower() in IN_FOLDERS and p.is_file())
        return sorted(p for p in below if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if path.exists():
        return [path]
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  (Path.glob raises on `**.txt`)
    return sorted(file for file in map(Path, matches) if file.is_file())


def _from_jsonl(source: str, path: Path) -> Iterator[Document]:
    offset = 0
    with path.open("rb", _BUFFER) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            size = len(line)
            if size > LONGEST_LINE:
                raise _bad_line(path, number, source, f"the line is longer than {LONGEST_LINE >> 20} MiB")
            body = line.removeprefix(_BOM) if number == 1 else line
            if body.isascii():
                blank = not body.strip(_WHITE)
            else:  # whether it is UTF-8 is not for the decoder of JSON to say: it does not look at what it skips
                try:
                    blank = not body.decode().strip()
                except UnicodeDecodeError as error:
                    start = offset + size - len(body) + error.start
                    raise _bad_utf8(path, number, source, start) from None
            if not blank:
                yield _document(source, path, number, body, size, body.strip())
            offset += size


def _from_table(source: str, path: Path) -> Iterator[Document]:
    for row in tables.rows(source, path):
        yield _document(source, path, row.number, row.line, row.size, row.line)


def _document(source: str, path: Path, number: int, line: bytes, size: int, raw: bytes) -> Document:
    try:
        record = _decode_line(line)
        if record.messages or (record.text is None and record.messages is not None):
            turn = next((each.said for each in record.messages if each.role == "user"), "")
            return Document(render(record.messages), size, turn, raw)
    except UnknownRole as error:
        raise _bad_line(path, number, source, str(error)) from None
    except RecursionError:
        raise _bad_line(path, number, source, "the line is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise _bad_line(path, number, source, f"the line does not hold a document: {error}") from None
    except msgspec.DecodeError as error:
        raise _bad_line(path, number, source, f"the line is not JSON: {error}") from None
    if record.text is None:
        raise _bad_line(path, number, source, "the line has neither `text` nor `messages`")
    return Document(record.text, size, None, raw)


def _from_plain(source: str, path: Path) -> Iterator[Document]:
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    buffer, offset, size = "", 0, 0
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            try:
                buffer += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # the decoder's bytes are this block's, after those of a character cut by the block before
                at = offset - (len(error.object) - len(block)) + error.start
                raise _bad_utf8(path, _line_at(path, at), source, at) from None
            offset += len(block)
            size += len(block)
            start = _after_blank_lines(buffer, 0)
            while (end := _document_end(buffer, start)) is not None:
                yield Document(buffer[start:end].rstrip(), size)
                start, size = _after_blank_lines(buffer, end), 0
            buffer = buffer[start:]
            if not block:
                break
    if buffer.strip():
        yield Document(buffer.rstrip(), size)


def _after_blank_lines(buffer: str, start: int) -> int:
    found = _BLANK_LINES.match(buffer, start)
    return found.end() if found else start


def _document_end(buffer: str, start: int) -> int | None:
    """Where the document that starts at `start` ends; None while that cannot be told."""
    first, last = start + PACK, start + LONGEST_PARAGRAPH
    if blank := _BLANK_LINE.search(buffer, first, last):
        return blank.start()
    if len(buffer) < last:
        return None
    for separator in ("\n", " "):
        if (at := buffer.rfind(separator, first, last)) >= 0:
            return at + 1
    return last


def _line_at(path: Path, offset: int) -> int:
    """The number of the line that holds a byte."""
    lines = 1
    with path.open("rb") as file:
        while offset > 0 and (block := file.read(min(offset, 1 << 20))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines


def _bad_utf8(path: Path, number: int, source: str, offset: int) -> FirehoseError:
    return _bad_line(path, number, source, f"the text is not valid UTF-8 at byte {offset:,} of {path.name}")


def _bad_line(path: Path, number: int, source: str, what: str) -> FirehoseError:
    return FirehoseError(
        Exit.DAMAGED,
        f"source {source} cannot be read: {what}",
        path=f"{path}:{number}",
        arm=source,
        next="repair or remove that line, then run the same command again",
    )


def _refused(path: Path, source: str, what: str, named: str) -> FirehoseError:
    return FirehoseError(
        Exit.REFUSED,
        f"source {source} cannot be read: {what}",
        path=path,
        arm=source,
        next=f"correct the file or {named}; JSONL (.jsonl), Parquet (.parquet) and plain text (.txt, .md) are read",
    )
