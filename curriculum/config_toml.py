"""From TOML text to typed structs, with errors that name the file, the line, the key, and what was probably meant."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect

from curriculum.errors import Exit, FirehoseError

Keys = tuple[str, ...]
Lines = dict[Keys, int]
T = TypeVar("T")


def read_text(path: Path) -> str:
    """The file's text; a FirehoseError where it is missing, unreadable or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise FirehoseError(
            Exit.USAGE, "there is no such config file", path=path, next="ls configs/"
        ) from None
    except UnicodeDecodeError as error:
        raise FirehoseError(Exit.USAGE, f"the config is not UTF-8: {error.reason}", path=path) from None
    except OSError as error:
        raise FirehoseError(Exit.USAGE, f"the config cannot be read: {error.strerror}", path=path) from None


def parse(text: str, path: Path) -> tuple[dict[str, Any], Lines]:
    """The TOML data, and the line on which each key stands."""
    try:
        return tomllib.loads(text), _lines(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1  # tomllib: "(at end of document)"
        raise FirehoseError(
            Exit.USAGE, f"the config is not valid TOML: {error}", path=f"{path}:{line}", next="mend the line"
        ) from None


def _lines(text: str) -> Lines:
    """Key path -> line number (from 1), of a text that is valid TOML.

    tomllib keeps no positions, so the text is cut into statements: the fewest lines that are TOML by themselves.
    """
    found: Lines = {}
    table: Keys = ()
    start, pending = 1, ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        pending += line
        try:
            statement = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue  # inside an array or a string that spans lines
        if pending.lstrip().startswith("["):
            table = _deepest(statement)
            found.setdefault(table, start)
        else:
            for keys in _paths(statement):
                found.setdefault(table + keys, start)
        start, pending = number + 1, ""
    return found


def _deepest(statement: dict[str, Any]) -> Keys:
    keys: Keys = ()
    node: Any = statement
    while isinstance(node, dict) and node:
        (key,) = node
        keys, node = (*keys, key), node[key]
    return keys


def _paths(node: dict[str, Any]) -> Iterator[Keys]:
    for key, value in node.items():
        yield (key,)
        if isinstance(value, dict):
            for keys in _paths(value):
                yield (key, *keys)


def where(path: Path, lines: Lines, keys: Keys) -> str:
    """`file:line` of a key, or of the nearest table around it; the file alone for what is written nowhere."""
    for length in range(len(keys), 0, -1):
        if keys[:length] in lines:
            return f"{path}:{lines[keys[:length]]}"
    return str(path)


def did_you_mean(name: str, known: list[str]) -> str:
    """`; did you mean "x"?` for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def check_keys(raw: dict[str, Any], struct: type[msgspec.Struct], path: Path, lines: Lines) -> None:
    """Raise USAGE naming every key the struct does not have (I18), with the line and a suggestion for each."""
    unknown = list(_unknown(raw, struct, ()))
    if not unknown:
        return
    homes = _homes(struct)
    told = []
    for keys, known in unknown:
        hint = did_you_mean(keys[-1], known)
        if not hint and keys[-1] in homes:
            hint = f"; it belongs {homes[keys[-1]]}"
        line = lines.get(keys)
        told.append(f"unknown key {'.'.join(keys)}" + (f" on line {line}" if line else "") + hint)
    raise FirehoseError(
        Exit.USAGE,
        "\n".join(told),
        path=where(path, lines, unknown[0][0]),
        arm=_arm(unknown[0][0]),
        next="correct or remove the key; docs/config.md and `firehose config schema` list them all",
    )


def _unknown(raw: dict[str, Any], struct: type[msgspec.Struct], at: Keys) -> Iterator[tuple[Keys, list[str]]]:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in raw.items():
        if key not in fields:
            yield (*at, key), list(fields)
            continue
        kind, inner = fields[key], [((*at, key), value)]
        if get_origin(kind) is dict and isinstance(value, dict):  # tables under names of the user's choice
            kind, inner = kind.__args__[1], [((*at, key, name), table) for name, table in value.items()]
        if table_of := _table_type(kind):
            for keys, table in inner:
                if isinstance(table, dict):
                    yield from _unknown(table, table_of, keys)


def _table_type(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds, also one that may be left out and has a description."""
    if get_origin(kind) is Annotated:
        kind = kind.__origin__
    kinds = (kind, *get_args(kind))
    return next((each for each in kinds if isinstance(each, type) and issubclass(each, msgspec.Struct)), None)


def _homes(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Key -> where it belongs, in words."""
    homes = {}
    for field in msgspec.structs.fields(struct):
        homes[field.name] = "at the top of the file, before any [table]"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            homes |= dict.fromkeys(field.type.__struct_fields__, f"in [{field.name}]")
    return homes


def check_finite(raw: dict[str, Any], path: Path, lines: Lines) -> None:
    """Raise REFUSED for the first number that is nan or inf, which TOML allows and nothing here can use."""
    for keys, value in _numbers(raw, ()):
        if not math.isfinite(value):
            raise FirehoseError(
                Exit.REFUSED,
                f"{'.'.join(keys)} is {value}, not a finite number",
                path=where(path, lines, keys),
                arm=_arm(keys),
                next="set a finite number",
            )


def _numbers(node: Any, at: Keys) -> Iterator[tuple[Keys, float]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _numbers(value, (*at, key))
    elif isinstance(node, list):
        for value in node:
            yield from _numbers(value, at)
    elif isinstance(node, float):
        yield at, node


def _arm(keys: Keys) -> str | None:
    return keys[1] if len(keys) > 1 and keys[0] == "sources" else None


def convert(raw: dict[str, Any], struct: type[T], path: Path, lines: Lines) -> T:
    """Raw data as the struct; a wrong type or value raises USAGE with its line and dotted key."""
    try:
        return msgspec.convert(raw, struct)
    except msgspec.ValidationError as error:
        message, _, place = str(error).replace("`", "").partition(" - at ")
    keys, kind, value = _culprit(raw, place, struct)
    if isinstance(kind, inspect.LiteralType):
        choices = [str(choice) for choice in kind.values]
        message = f'"{value}" is not one of {", ".join(choices)}{did_you_mean(str(value), choices)}'
    raise FirehoseError(
        Exit.USAGE,
        f"{'.'.join(keys) or 'the config'}: {message[0].lower()}{message[1:]}",
        path=where(path, lines, keys),
        arm=_arm(keys),
        next="docs/config.md has each key's type and range",
    )


def _culprit(raw: dict[str, Any], place: str, struct: type) -> tuple[Keys, inspect.Type, Any]:
    """Key path, declared type and value of msgspec's `$.section.key[0]`; it writes `[...]` for a name of the user's."""
    kind: inspect.Type = inspect.type_info(struct)
    keys: Keys = ()
    value: Any = raw
    for part in re.findall(r"\[\.{3}\]|[^.\[\]$]+", re.sub(r"\[\d+\]", "", place)):
        if isinstance(kind, inspect.DictType):
            kind = kind.value_type
            part = next(name for name, entry in value.items() if not _valid(entry, kind))
        elif isinstance(kind, inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == part)
        keys, value = (*keys, part), value[part]
        while isinstance(kind, inspect.Metadata):
            kind = kind.type
    return keys, kind, value


def _valid(entry: Any, kind: inspect.Type) -> bool:
    assert isinstance(kind, inspect.StructType)
    try:
        msgspec.convert(entry, kind.cls)
    except msgspec.ValidationError:
        return False
    return True
