"""How commands talk: data to stdout, messages to stderr, `--json` as the stable contract."""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

import msgspec
import typer

from curriculum.errors import Exit, FirehoseError

P = ParamSpec("P")


def emit_json(schema: str, body: dict[str, Any]) -> None:
    """Print one JSON object with its `schema` (name/version) first."""
    sys.stdout.write(msgspec.json.encode({"schema": schema, **body}).decode() + "\n")


def say(message: str) -> None:
    """Print a message for the person at the terminal (stderr)."""
    print(message, file=sys.stderr, flush=True)


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
                if kwargs.get("json"):
                    emit_json(schema, {"error": error.as_dict()})
                else:
                    say(f"error: {error}")
                raise typer.Exit(int(error.exit_code)) from None
            except BrokenPipeError:
                raise typer.Exit(int(Exit.OK)) from None
            if code:
                raise typer.Exit(code)

        return run

    return wrap
