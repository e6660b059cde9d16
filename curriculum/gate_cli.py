"""`firehose gate`: score samples from the command line, as a run scores them."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from curriculum.console import command, emit_json
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.coherence import Score, score

app = typer.Typer(no_args_is_help=True, help="Judge samples: the coherence score, and what follows from it.")


@app.callback()
def _group() -> None:
    """Keep `score` a command of its own while it is the only one."""


@app.command("score")
@command("gate-score/1")
def score_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="A text, a JSON array, or JSONL of {text}; - for stdin.")
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score a sample, or many, on the four axes (0 to 100; the gate's threshold is 30).

    Examples: firehose gate score sample.txt;  firehose gate score runs/demo/demo.samples.json --json
    """
    samples = _samples(_read(file), file)
    scores = [score(text) for text in samples] if isinstance(samples, list) else [score(samples)]
    if json:
        body = (
            {"samples": [_body(each) for each in scores]} if isinstance(samples, list) else _body(scores[0])
        )
        emit_json("gate-score/1", body)
        return
    print(f"{'score':>6} {'bigram':>7} {'trigram':>8} {'english':>8} {'chars':>6} {'tokens':>7}")
    for each in scores:
        print(
            f"{each.total:6.1f} {each.bigram:7.1f} {each.trigram:8.1f} {each.english:8.1f} {each.characters:6.1f} "
            f"{each.tokens:7d}{'  short' if each.short else ''}"
        )


def _body(each: Score) -> dict[str, Any]:
    return {"score": each.total, "axes": each.axes, "short": each.short}


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FirehoseError(Exit.USAGE, f"not UTF-8 at byte {error.start}", path=file) from None
    except OSError as error:
        raise FirehoseError(Exit.USAGE, f"cannot be read: {error.strerror}", path=file) from None


def _samples(text: str, file: str) -> str | list[str]:
    """One sample for plain text; a list for a JSON array (a run's sample log, torn or whole) or JSONL."""
    start = text.lstrip()[:1]
    if start == "[":
        for candidate in (
            text,
            text.rstrip().rstrip(",") + "]",
        ):  # a log being written lacks its closing bracket
            try:
                rows = json_module.loads(candidate)
            except ValueError:
                continue
            return [_text_of(row, f"{file}, element {at}") for at, row in enumerate(rows, 1)]
    if start == "{":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if _is_row(lines[0][1]):
            return [_text_of(_row(line, f"{file}:{number}"), f"{file}:{number}") for number, line in lines]
    return text


def _is_row(line: str) -> bool:
    try:
        return isinstance(json_module.loads(line), dict)
    except ValueError:
        return False


def _row(line: str, where: str) -> Any:
    try:
        return json_module.loads(line)
    except ValueError as error:
        raise FirehoseError(Exit.USAGE, f"not a line of JSON: {error}", path=where) from None


def _text_of(row: Any, where: str) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise FirehoseError(Exit.USAGE, 'expected a string or an object with a "text"', path=where)
    return text
