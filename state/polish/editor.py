"""A text in the operator's own editor, again and again until it is accepted or left as it is."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from curriculum.errors import Exit, FirehoseError

MARK = "#! "  # how a line begins that tells what is wrong


def edit(text: str, accept: Callable[[str], None], environment: Mapping[str, str]) -> str:
    """The text as the operator left it, once `accept` raises no FirehoseError for it; the old one where unchanged.

    What is wrong is shown as a comment above its line, and the editor is opened again. Raises FirehoseError: what
    `accept` raised, where the text was saved again as it was refused; USAGE where the editor fails.
    """
    command = shlex.split(environment.get("VISUAL") or environment.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        shown = text
        while True:
            path.write_bytes(shown.encode())
            _run(command, path)
            saved = path.read_bytes().decode()
            found = "".join(line for line in saved.splitlines(keepends=True) if not line.startswith(MARK))
            if found == text:
                return text
            try:
                accept(found)
            except FirehoseError as error:
                again = told(found, error)
                if saved == shown:
                    raise
                shown = again
                continue
            return found


def _run(command: list[str], path: Path) -> None:
    try:
        code = subprocess.call([*command, str(path)])
    except OSError as error:
        raise FirehoseError(
            Exit.USAGE,
            f"the editor cannot be started: {command[0]}: {error.strerror}",
            next="set EDITOR, or use firehose polish set ARM.cap=0.3",
        ) from None
    if code != 0:
        raise FirehoseError(
            Exit.USAGE, f"the editor ended with {code}", next="the same command again", path=None
        )


def told(text: str, error: FirehoseError) -> str:
    """The text with an error as a comment above the line it is about."""
    _, _, number = (error.path or "").rpartition(":")
    at = int(number) - 1 if number.isdecimal() else 0
    lines = text.splitlines(keepends=True)
    message = [
        f"{MARK}{line}\n" for line in [*error.message.splitlines(), *([error.next] if error.next else [])]
    ]
    return "".join([*lines[:at], *message, *lines[at:]])
