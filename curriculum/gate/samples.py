"""Samples as people hand them over: a plain text, a JSON array (a run's sample log, torn or whole), or JSONL."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from curriculum.console import say
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.backtest import Sample
from curriculum.gate.coherence import score

JSON_LOG = re.compile(r'\s*(?:\[\s*\{|\{\s*")')  # no prose begins so
STRINGS = re.compile(r'\s*\[\s*"')  # prose may: ["Go," he said]
BETWEEN = re.compile(r"[\s,]*")
FIX = "firehose gate backtest runs/NAME/NAME.samples.json, or correct the row: its text, score and step"
LARGEST = 2**53  # a step or score beyond it is a slip


def read(file: str) -> str:
    """The file's text without a byte order mark, `-` for standard input. Raises FirehoseError(USAGE)."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            say(f"{file}: torn inside its last character, at byte {error.start}; read up to there")
            return data[: error.start].decode("utf-8-sig")
        raise FirehoseError(
            Exit.USAGE,
            f"not UTF-8 at byte {error.start}",
            path=file,
            next=f"iconv -t UTF-8 {file} > OTHER, with -f and its encoding",
        ) from None
    except OSError as error:
        raise FirehoseError(
            Exit.USAGE, f"cannot be read: {error.strerror}", path=file, next="ls runs/*/*.samples.json"
        ) from None


def rows(text: str, file: str) -> list[tuple[Any, str]] | None:
    """Each row with where it stands, `file:line`; None for a text that does not begin like JSON of rows.

    A last row that is torn is passed over and said, as in a run's other row files. Raises FirehoseError(USAGE) where a
    row before it is none.
    """
    if not JSON_LOG.match(text):
        return _strings(text, file)
    found: list[tuple[Any, str]] = []
    array, decoder, closed = text.lstrip().startswith("["), json.JSONDecoder(), False
    at = text.index("[") + 1 if array else 0
    line, counted = 1, 0
    while (at := _blank(text, at)) < len(text):
        line, counted = line + text.count("\n", counted, at), at
        where = f"{file}:{line}"
        if array and text[at] == "]" and not closed:
            closed, at = True, at + 1
            continue
        try:
            if closed:
                raise ValueError("there is more after the closing bracket")
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            torn = text[at] == "{" and "\n" not in text[at:].strip() and isinstance(error, ValueError)
            if found and not closed and torn:
                say(f"{where}: torn; the {len(found):,} rows before it were read")
                break
            raise _refused(_why(error), where) from None
        found.append((row, where))
    return found


def _strings(text: str, file: str) -> list[tuple[Any, str]] | None:
    """The elements of an array that begins with a string; None for prose."""
    if not STRINGS.match(text) and text.strip() != "[]":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        start = text.index("[") + 1
        if _is_string_of_array(text, start):
            raise _refused(_why(error), file) from None
        return None
    return [(row, f"{file}, element {at}") for at, row in enumerate(found, 1)]


def _is_string_of_array(text: str, start: int) -> bool:
    """Whether a string and a comma and a quote follow, which prose hardly has."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, _blank(text, start))
    except (ValueError, RecursionError):
        return False
    return re.match(r'\s*,\s*["{]', text[end:]) is not None


def _blank(text: str, at: int) -> int:
    found = BETWEEN.match(text, at)
    return found.end() if found else at


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else f"not a row of JSON: {error}"


def _refused(message: str, where: str) -> FirehoseError:
    return FirehoseError(Exit.USAGE, message, path=where, next=FIX)


def texts(text: str, file: str) -> str | list[str]:
    """One sample for plain text, a list for an array or JSONL. Raises FirehoseError(USAGE) naming the row."""
    found = rows(text, file)
    return text if found is None else [_text_of(row, where) for row, where in found]


def log(text: str, file: str) -> list[Sample]:
    """A sample log: rows with `step`, `score` or `text`, and the audits' findings where it has them.

    Raises FirehoseError(USAGE) naming the row that has none of them, or whose step is not after the one before.
    """
    found = rows(text, file)
    if not found:
        raise FirehoseError(
            Exit.USAGE,
            "expected a run's sample log, or JSONL of objects with a step and a score or text",
            path=file,
            next=FIX,
        )
    samples: list[Sample] = []
    passed: set[str] = set()
    for row, where in found:
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or not 0 <= step <= LARGEST:
            raise _refused('expected an object with a "step", a whole number', where)
        if samples and step <= samples[-1].step:
            raise _refused(f"step {step} does not come after step {samples[-1].step}", where)
        value = row.get("score")
        if value is None:
            value = score(_text_of(row, where)).total
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise _refused(f"its score is {value!r:.40}", where)
        samples.append(Sample(step, float(value), _found(row.get("audits"), passed)))
    return samples


def _found(audits: Any, passed: set[str]) -> tuple[str, ...]:
    """The audits that found something; as in a run, one that gives its number counts once a sample has passed it."""
    if not isinstance(audits, dict) or not isinstance(audits.get("found", []), list):
        return ()
    names = [str(name) for name in audits.get("found", [])]
    passed |= {name for name, value in audits.items() if value is not None and name not in names}
    return tuple(name for name in names if name in passed or name not in audits)


def _text_of(row: Any, where: str) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise _refused('expected a string or an object with a "text"', where)
    return text
