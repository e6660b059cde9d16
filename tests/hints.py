"""The commands that texts name: found in output, in source and in documents, and read by the parser of the product."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

from typer.main import get_command

from trainer import cli

# What ends a command in a sentence: punctuation, two spaces, or a word that goes on in prose.
END = re.compile(
    r"[;,)`]|:(?= |$)|\s{2}|\n|…|\s(?:and|or|to|then|with|again|"
    r"brings|makes|takes|goes|shows|tells|says|lists|gives|puts|plans|does|keeps|can|prints|exits|has|is|of|where|for|replays|builds|withdraws|finishes|only|will|writes)\b"
)
cli.mount(None)
ROOT: Any = get_command(cli.app)


def named(text: str) -> list[str]:
    """The commands in a text, without what follows them; one that goes over a wrapped line is put together."""
    flat = re.sub(r"\n {2,8}(?=\S)", " ", text)
    found = []
    for match in re.finditer(r"\bfirehose (?!in\b|into\b)(?=[a-z])", flat):
        rest = flat[match.end() :]
        end = END.search(rest)
        found.append(rest[: end.start() if end else len(rest)].strip())
    return found


def refused(words: str) -> str | None:
    """Why the parser would not take a command line (without `firehose`), or None. Nothing of it is run."""
    plain = re.sub(r"(?<=[ =])\[?(N|NUMBER|STEP|SEED)\b", "1000", re.sub(r"\\?\|[^\s\]]*", "", words))
    plain = re.sub(r"[\[\]]|\.\.\.", "", re.sub(r"(?<= )S\b", "1", plain))
    command, arguments = ROOT, shlex.split(plain)
    while hasattr(command, "commands"):
        if not arguments:
            return None  # a group, named as such
        if arguments[0] not in command.commands:
            return f"firehose {words}: there is no command {arguments[0]}"
        command = command.commands[arguments.pop(0)]
    if not arguments:
        return None  # a command named alone is a name, not a line to type
    try:
        command.make_context(command.name, arguments)
    except Exception as error:
        return f"firehose {words}: {error.format_message() if hasattr(error, 'format_message') else error!r}"
    return None


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else None
    return "--yes" if isinstance(value, ast.Name) and value.id == "flags" else "1"


def texts(path: Path) -> list[str]:
    """The texts of a module, what is worked into them as `1`, flags as `--yes`; docstrings too."""
    tree = ast.parse(path.read_text())
    inner = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(map(_part, node.values)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.append(node.value)
    return found
