"""Samples as people hand them over: a plain text, a JSON array (a run's sample log, torn or whole), or JSONL."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from curriculum.errors import Exit, FirehoseError
from curriculum.gate.backtest import Sample
from curriculum.gate.coherence import score


def read(file: str) -> str:
    """The file's text, `-` for standard input. Raises FirehoseError(USAGE)."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FirehoseError(Exit.USAGE, f"not UTF-8 at byte {error.start}", path=file) from None
    except OSError as error:
        raise FirehoseError(Exit.USAGE, f"cannot be read: {error.strerror}", path=file) from None


def rows(text: str, file: str) -> list[tuple[Any, str]] | None:
    """Each row with where it stands; None for a text that is no JSON array and no JSONL."""
    start = text.lstrip()[:1]
    if start == "[":
        for candidate in (
            text,
            text.rstrip().rstrip(",") + "]",
        ):  # one being written lacks its closing bracket
            try:
                found = json.loads(candidate)
            except ValueError:
                continue
            return [(row, f"{file}, element {at}") for at, row in enumerate(found, 1)]
    if start == "{":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if _is_row(lines[0][1]):
            return [(_row(line, f"{file}:{number}"), f"{file}:{number}") for number, line in lines]
    return None


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
            next="firehose gate backtest runs/NAME/NAME.samples.json",
        )
    samples: list[Sample] = []
    passed: set[str] = set()
    for row, where in found:
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or step < 0:
            raise FirehoseError(Exit.USAGE, 'expected an object with a "step", a whole number', path=where)
        if samples and step <= samples[-1].step:
            raise FirehoseError(
                Exit.USAGE, f"step {step} does not come after step {samples[-1].step}", path=where
            )
        value = row.get("score")
        if value is None:
            value = score(_text_of(row, where)).total
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise FirehoseError(Exit.USAGE, f"its score is {value!r:.40}", path=where)
        samples.append(Sample(step, float(value), _found(row.get("audits"), passed)))
    return samples


def _found(audits: Any, passed: set[str]) -> tuple[str, ...]:
    """The audits that found something; as in a run, one that gives its number counts once a sample has passed it."""
    if not isinstance(audits, dict) or not isinstance(audits.get("found", []), list):
        return ()
    names = [str(name) for name in audits.get("found", [])]
    passed |= {name for name, value in audits.items() if value is not None and name not in names}
    return tuple(name for name in names if name in passed or name not in audits)


def _is_row(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _row(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise FirehoseError(Exit.USAGE, f"not a line of JSON: {error}", path=where) from None


def _text_of(row: Any, where: str) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise FirehoseError(Exit.USAGE, 'expected a string or an object with a "text"', path=where)
    return text
