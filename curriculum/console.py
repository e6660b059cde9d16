"""How commands talk: data to stdout, messages to stderr, `--json` as the stable contract."""

import functools
import re
import sys
import textwrap
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec

import msgspec
import typer

from curriculum.errors import Exit, FirehoseError
from curriculum.files import unusable

P = ParamSpec("P")
COMMAND = re.compile(r"firehose [^;,()`]*[^;,()`\s]")
GLUE = "\N{NO-BREAK SPACE}"
REPORT = "run the same command again; if it fails again, report the traceback above"


def emit_json(schema: str, body: dict[str, Any]) -> None:
    """Print one JSON object with its `schema` (name/version) first."""
    sys.stdout.write(msgspec.json.encode({"schema": schema, **body}).decode() + "\n")


def say(message: str) -> None:
    """Print a message for the person at the terminal (stderr)."""
    print(message, file=sys.stderr, flush=True)


def wrapped(text: str, *, indent: str = "  ", width: int = 80) -> str:
    """Text at most `width` columns wide, where its words allow it: no word, path or name is broken, nor a command that fits.

    Every line is wrapped by itself; what goes over to the next one hangs by `indent` more than the line begins with.

    >>> print(wrapped("  it is not there: firehose data build a.toml makes it", width=40))
      it is not there:
        firehose data build a.toml makes it
    """
    lines = []
    for line in text.splitlines():
        own = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            _glued(line, width - len(own) - len(indent)),
            width,
            subsequent_indent=own + indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines).replace(GLUE, " ")


def _glued(line: str, room: int) -> str:
    """The line with the words of each command that fits held together."""
    return COMMAND.sub(lambda found: found[0].replace(" ", GLUE) if len(found[0]) <= room else found[0], line)


def _told(error: FirehoseError, schema: str, json: bool) -> typer.Exit:
    if json:
        emit_json(schema, {"error": error.as_dict()})
    else:
        say(f"error: {error}")
    return typer.Exit(int(error.exit_code))


def command(schema: str) -> Callable[[Callable[P, int | None]], Callable[P, None]]:
    """Wrap a command: its return value is the exit code; a FirehoseError is shown, as JSON where `--json` was given.

    The wrapped function must have a keyword parameter `json` (a bool).
    """

    def wrap(function: Callable[P, int | None]) -> Callable[P, None]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                code = function(*args, **kwargs)
            except FirehoseError as error:
                raise _told(error, schema, bool(kwargs.get("json"))) from None
            except BrokenPipeError:  # the reader of stdout has seen enough
                raise typer.Exit(int(Exit.OK)) from None
            except typer.Exit:
                raise
            except KeyboardInterrupt:
                say("interrupted")
                raise typer.Exit(130) from None
            except Exception as error:
                if isinstance(error, OSError) and (named := unusable(error)):
                    raise _told(named, schema, bool(kwargs.get("json"))) from None
                traceback.print_exc()
                if kwargs.get("json"):
                    message = f"unexpected: {type(error).__name__}: {error}"
                    unknown = FirehoseError(Exit.UNEXPECTED, message, changed="unknown", next=REPORT)
                    emit_json(schema, {"error": unknown.as_dict()})
                else:
                    say(f"error: unexpected, this is a defect of firehose\n  next:     {REPORT}")
                raise typer.Exit(int(Exit.UNEXPECTED)) from None
            if code:
                raise typer.Exit(code)

        return run

    return wrap
