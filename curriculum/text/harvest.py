"""Harvest: text for a demo from what any machine with Python has, one JSONL file per source.

Nothing is downloaded. The same machine gives the same bytes: folders are walked in sorted order, topics and licences
too. Memory stays flat: one file of input is held at a time, and of what was written only a hash per document.
"""

import ast
import hashlib
import importlib
import importlib.resources
import io
import json
import os
import re
import sys
import sysconfig
import tokenize
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum.console import say
from curriculum.errors import Exit, FirehoseError

LIMIT_BYTES = 1_500_000  # per source: a demo harvests all five in a few seconds
SMALLEST_BYTES = 16_000  # a source below this has too few windows to be worth an arm
SHORTEST = 80  # characters: shorter docstrings and comments are labels, not text
SECTION_CHARACTERS = 2_000
LICENCE_CHARACTERS = 1_000

_COMMON_LICENCES = "/usr/share/common-licenses"
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")
_LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Two or more comment lines, or one long one: the only places that are worth tokenizing a file for.
_COMMENT_LINES = re.compile(rb"^[ \t]*#[^\n]*(?:\n[ \t]*#[^\n]*)*", re.MULTILINE)
_DIRECTIVE = re.compile(
    r"^!|-\*-|^(en)?coding[:=]|^(vim?|ex|local variables|end|type|mypy|pylint|noqa|fmt)\s*:", re.I
)
_LEGAL = re.compile(
    r"copyright|\(c\) ?(19|20)\d\d|licen[cs]ed? (under|to|by)|all rights reserved|spdx-|warrant", re.I
)
_HEADING = re.compile(r"^(?=[^\n]+\n(?:\*{3,}|={3,}|-{3,}|~{3,}|\^{3,})$)", re.MULTILINE)
_LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice", re.I)


@dataclass(frozen=True, slots=True)
class HarvestedSource:
    """One written source: its JSONL file, how many documents it holds and its size in bytes."""

    path: Path
    documents: int
    bytes: int


class _Absent(Exception):
    """This machine does not have the source; the message says why."""


@dataclass(slots=True)
class _Unread:
    """Files that could not be read or parsed: how many, and the first one with its error."""

    count: int = 0
    first: str = ""

    def add(self, path: Path, error: Exception) -> None:
        self.count += 1
        self.first = self.first or f"{path}: {error}"


def normalise(text: str) -> str:
    """`text` in NFC with LF line ends, without control characters, trailing blanks or runs of empty lines."""
    text = _CONTROL.sub("", _LINE_END.sub("\n", text)).expandtabs(4)
    lines = (line.rstrip() for line in unicodedata.normalize("NFC", text).split("\n"))
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def pack(paragraphs: Iterable[str], characters: int) -> Iterator[str]:
    """Join neighbouring paragraphs into texts of at most `characters`; a longer paragraph stays whole."""
    held: list[str] = []
    size = 0
    for paragraph in paragraphs:
        if held and size + len(paragraph) > characters:
            yield "\n\n".join(held)
            held, size = [], 0
        held.append(paragraph)
        size += len(paragraph) + 2
    if held:
        yield "\n\n".join(held)


def _library_files(unread: _Unread) -> Iterator[tuple[Path, bytes]]:
    """The standard library's own .py files, tests and installed packages left out, in sorted order."""
    root = sysconfig.get_paths()["stdlib"]
    found = False
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _NOT_LIBRARY)
        for name in sorted(names):
            if name.endswith(".py"):
                found = True
                path = Path(folder, name)
                try:
                    yield path, path.read_bytes()
                except OSError as error:
                    unread.add(path, error)
    if not found:
        raise _Absent(f"the standard library has no .py files in {root}")


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """`tree` and the statements inside it in file order; expressions are not entered, which halves the time."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        inner = [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case))
        ]
        waiting.extend(reversed(inner))


def _docstrings(unread: _Unread) -> Iterator[str]:
    for path, source in _library_files(unread):
        try:
            with warnings.catch_warnings():  # old files hold invalid escapes: nothing the reader could act on
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            unread.add(path, error)
            continue
        for node in _statements(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node) or ""


def comment_blocks(source: bytes) -> Iterator[str]:
    """Blocks of consecutive full-line comments of a Python file, marks stripped, one paragraph per blank comment.

    Directives (`coding:`, shebangs, linter marks) are dropped by the line, legal notices by the paragraph.
    Raises SyntaxError or tokenize.TokenError where the file cannot be tokenized.
    """
    layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    block: list[str] = []
    block_end = code_end = 0
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        row = token.start[0]
        if token.type != tokenize.COMMENT:
            if token.type not in layout:
                code_end = token.end[0]
        elif row > code_end:  # no code before it on its line
            if row != block_end + 1:
                yield _without_notices(block)
                block = []
            block.append(token.string.lstrip("#").removeprefix(" ").rstrip())
            block_end = row
    yield _without_notices(block)


def _without_notices(lines: list[str]) -> str:
    kept = (line if re.search(r"\w", line) else "" for line in lines if not _DIRECTIVE.search(line.strip()))
    paragraphs = re.split("\n{2,}", "\n".join(kept).strip("\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if not _LEGAL.search(paragraph))


def _comments(unread: _Unread) -> Iterator[str]:
    for path, source in _library_files(unread):
        if not any(len(match[0]) >= SHORTEST for match in _COMMENT_LINES.finditer(source)):
            continue
        try:
            yield from comment_blocks(source)
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            unread.add(path, error)


def _topics(unread: _Unread) -> Iterator[str]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError) as error:
        raise _Absent(f"this Python comes without the topics of pydoc ({error})") from None
    for _, topic in sorted(topics.items()):
        for section in _HEADING.split(topic):
            yield from pack(section.split("\n\n"), SECTION_CHARACTERS)


def _licence_files() -> Iterator[Path]:
    """Python's own licence, the system's common licences, then those of the installed distributions, sorted."""
    paths = sysconfig.get_paths()
    for own in sorted({Path(paths["stdlib"], "LICENSE.txt"), Path(sys.base_prefix, "LICENSE.txt")}):
        if own.exists():
            yield own
    yield from (Path(at, name) for at, _, names in os.walk(_COMMON_LICENCES) for name in sorted(names))
    for site in sorted({paths["purelib"], paths["platlib"]}):
        for metadata in sorted(Path(site).glob("*-info")):  # NAME.dist-info, NAME.egg-info
            for at, folders, names in os.walk(metadata):
                folders.sort()
                yield from (Path(at, name) for name in sorted(names) if _LICENCE_FILE.search(name))


def _paragraphs(path: Path) -> Iterator[str]:
    """Paragraphs of a text file, one held at a time; one that is not UTF-8 is dropped."""
    held: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                held.append(line.rstrip())
            elif held:
                yield "\n".join(held)
                held = []
    if held:
        yield "\n".join(held)


def _licences(unread: _Unread) -> Iterator[str]:
    seen: set[bytes] = set()

    def new(paragraph: str) -> bool:
        """Whether it says something new: most distributions carry one of few texts under another name."""
        words = hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=12).digest()
        fresh = words not in seen and "\ufffd" not in paragraph
        seen.add(words)
        return fresh

    for path in _licence_files():
        try:
            yield from pack(filter(new, _paragraphs(path)), LICENCE_CHARACTERS)
        except OSError as error:
            unread.add(path, error)


def _chat(unread: _Unread) -> Iterator[str]:
    shipped = importlib.resources.files("curriculum.text").joinpath("chat_turns.jsonl")
    if not shipped.is_file():
        raise _Absent("chat_turns.jsonl is missing from the installed package")
    with shipped.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


# name: (its documents, the length in characters below which one is dropped)
_SOURCES: dict[str, tuple[Callable[[_Unread], Iterator[str]], int]] = {
    "stdlib-docstrings": (_docstrings, SHORTEST),
    "pydoc-topics": (_topics, SHORTEST),
    "comments": (_comments, SHORTEST),
    "licences": (_licences, SHORTEST),
    "chat": (_chat, 1),
}


def _write(documents: Iterable[str], path: Path, shortest: int, limit_bytes: int) -> HarvestedSource:
    """Write normalised documents, each once, up to the first that would go beyond `limit_bytes`."""
    seen: set[bytes] = set()
    written = 0
    with path.open("wb") as file:
        for document in documents:
            text = normalise(document)
            line = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
            digest = hashlib.blake2b(line, digest_size=12).digest()
            if len(text) < shortest or digest in seen:
                continue
            if written + len(line) > limit_bytes:
                break
            seen.add(digest)
            written += file.write(line)
    return HarvestedSource(path, len(seen), written)


def harvest(
    out_dir: str | os.PathLike[str], limit_bytes: int = LIMIT_BYTES, report: Callable[[str], None] = say
) -> dict[str, HarvestedSource]:
    """Write OUT_DIR/NAME.jsonl (`{"text": ...}` a line) for each source this machine has; return them by name.

    limit_bytes: the largest size of one file. report: gets a line for each source that was left out, with the
    reason, and for each in which files could not be read. Files appear only when all are complete; a file of a
    source that is left out now is removed, so that the folder holds one harvest.
    Raises FirehoseError: NOT_FOUND where fewer than two sources are left, WRITE_FAILED on a full disk and the like.
    """
    out = Path(out_dir)
    found: dict[str, HarvestedSource] = {}
    changed = "nothing"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (documents, shortest) in _SOURCES.items():
            unread = _Unread()
            try:
                made = _write(documents(unread), _partial(out, name), shortest, limit_bytes)
                if made.bytes < min(SMALLEST_BYTES, limit_bytes // 2):
                    raise _Absent(f"only {made.bytes:,} bytes of text were found")
                found[name] = made
            except _Absent as why:
                report(f"source {name} is left out: {why}")
            if unread.count:
                report(f"source {name}: {unread.count} file(s) could not be read, the first: {unread.first}")
        if len(found) < 2:
            raise FirehoseError(
                Exit.NOT_FOUND,
                f"too little text on this machine: {len(found)} of {len(_SOURCES)} sources could be harvested",
                path=out,
                next="name text of your own in a config, then: firehose data build CONFIG",
            )
        changed = "some files of an earlier harvest may have been replaced"
        for name in _SOURCES:
            final = out / f"{name}.jsonl"
            if name in found:
                found[name] = replace(found[name], path=_partial(out, name).replace(final))
            else:
                final.unlink(missing_ok=True)
    except OSError as error:
        raise FirehoseError(
            Exit.WRITE_FAILED,
            f"the harvest could not be written: {error.strerror or error}",
            path=error.filename or out,
            changed=changed,
            next="make room or choose another folder, and start again",
        ) from error
    finally:
        for name in _SOURCES:
            _partial(out, name).unlink(missing_ok=True)
    return found


def _partial(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl.partial"
