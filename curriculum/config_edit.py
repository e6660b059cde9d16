"""Edits of a config's text that leave every other byte as it is, and what differs between two configs, arm by arm."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from curriculum.config import ConfigFile, Source
from curriculum.config_toml import did_you_mean, read_text
from curriculum.eligibility import BOUNDS as BOUNDS
from curriculum.errors import Exit, FirehoseError

EXCLUDE = "exclude"  # the one key of an arm that stands in [curriculum]
OFF = "off"  # as a value: take the key out, so that its default holds
CADENCE = ("train.sample_every", "train.checkpoint_every", "train.heldout_every")
YES, NO = ("on", "yes", "true"), (OFF, "no", "false")
# Keys that no pick, loss or sample depends on and that are no bounds: where a run's files are and how many it keeps.
FREE = (
    "name",
    "data.dir",
    "data.tokenizer_sample_mb",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.keep_best",
    "train.parallel",
    "train.compile",
    "train.cuda_graph",
    "train.deterministic",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One assignment of a command line: where in the config, and the value as TOML; None takes the key out."""

    keys: tuple[str, ...]
    value: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs. arm: None for what belongs to no source. old, new: None where it stands nowhere."""

    arm: str | None
    field: str
    old: Any
    new: Any

    @property
    def key(self) -> str:
        """The setting's dotted key."""
        return self.field if self.arm is None else f"sources.{self.arm}.{self.field}"

    def as_dict(self) -> dict[str, Any]:
        """The change as plans and `--json` hold it."""
        return {"arm": self.arm, "field": self.field, "old": self.old, "new": self.new}


def settings(assignments: Sequence[str], sources: Sequence[str], path: Path) -> list[Setting]:
    """`ARM.cap=0.3`, `ARM.floor=off`, `ARM.exclude=on`, `curriculum.background=0.2` as settings.

    sources: the names that are configured. Raises FirehoseError(USAGE) for what names no source or key.
    """
    return [_setting(text, list(sources), path) for text in assignments]


def _setting(text: str, sources: list[str], path: Path) -> Setting:
    left, equals, value = (part.strip() for part in text.partition("="))
    if not (left and equals and value):
        raise _usage(f"{text!r} is not KEY=VALUE", path, "write ARM.cap=0.3, or ARM.cap=off for the default")
    section, dot, rest = left.partition(".")
    tables = {
        field.encode_name: field.type
        for field in msgspec.structs.fields(ConfigFile)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    }
    plain = [field for field in ConfigFile.__struct_fields__ if field not in tables and field != "sources"]
    if not dot and left in plain:
        return Setting((left,), _toml(value))
    if section in tables and (rest in tables[section].__struct_fields__ or section not in sources):
        known = list(tables[section].__struct_fields__)
        if rest not in known:
            hint = did_you_mean(rest, known)
            raise _usage(f"there is no key {section}.{rest}{hint}", path, "docs/config.md lists all keys")
        return Setting((section, rest), _toml(value))
    arm, dot, field = left.removeprefix("sources.").rpartition(".")
    if not dot or arm not in sources:
        if not dot:
            hint = did_you_mean(left, [*plain, *tables]) or f'; of which source? write ARM.{left}="..."'
            raise _usage(f"{left!r} names no key{hint}", path, "docs/config.md lists all keys")
        hint = did_you_mean(arm, sources) or did_you_mean(arm, list(tables))
        raise _usage(f"no source is called {arm!r}{hint}", path, f"the sources: {', '.join(sources)}", arm)
    if field == EXCLUDE:
        if value not in (*YES, *NO):
            raise _usage(f"{text!r}: exclude is on or off", path, f"{arm}.exclude=on", arm)
        return Setting((EXCLUDE, arm), "true" if value in YES else None)
    known = [*Source.__struct_fields__, EXCLUDE]
    if field not in known:
        raise _usage(
            f"a source has no key {field!r}{did_you_mean(field, known)}",
            path,
            f"the keys: {', '.join(known)}",
            arm,
        )
    return Setting(("sources", arm, field), _toml(value))


def _toml(value: str) -> str | None:
    """A value as TOML text: as it was typed where it is TOML, else a string."""
    if value == OFF:
        return None
    try:
        parsed = tomllib.loads(f"v = {value}\n")
    except tomllib.TOMLDecodeError:
        parsed = {}
    return value if list(parsed) == ["v"] else msgspec.json.encode(value).decode()


def _usage(message: str, path: Path, next: str, arm: str | None = None) -> FirehoseError:
    return FirehoseError(Exit.USAGE, message, path=path, arm=arm, next=next)


def edit(text: str, changes: Sequence[Setting], path: Path) -> str:
    """The text with settings made in it, comments and every line that no setting names as they were.

    path: for errors. Raises FirehoseError(USAGE) where the text is written in a way that cannot be edited so.
    """
    for change in changes:
        before = tomllib.loads(text)
        wanted = _plain_edit(before, change)
        if wanted == before:
            continue
        try:
            text = _edit(text, before, change)
            made = tomllib.loads(text)
        except Exception:  # tomlkit has errors of many kinds, and any of them means the same here
            made = None
        if made != wanted:
            raise _usage(
                f"{'.'.join(change.keys)} cannot be set in this file by command", path, "firehose polish edit"
            )
    return text


def _plain_edit(raw: dict[str, Any], change: Setting) -> dict[str, Any]:
    """What the text should mean after the change."""
    result: dict[str, Any] = _deep(raw)
    if change.keys[0] == EXCLUDE:
        now = list(raw.get("curriculum", {}).get("exclude_sources", []))
        arm = change.keys[1]
        wanted = [*now, arm] if change.value and arm not in now else now
        wanted = wanted if change.value else [name for name in now if name != arm]
        if wanted != now:
            result.setdefault("curriculum", {})["exclude_sources"] = wanted
        return result
    *parents, last = change.keys
    table = result
    for key in parents:
        if change.value is None and key not in table:
            return result
        table = table.setdefault(key, {})
    if change.value is None:
        table.pop(last, None)
    else:
        table[last] = tomllib.loads(f"v = {change.value}\n")["v"]
    return result


def _deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deep(item) for key, item in value.items()}
    return [_deep(item) for item in value] if isinstance(value, list) else value


def _edit(text: str, raw: dict[str, Any], change: Setting) -> str:
    import tomlkit  # here: only edits need it

    if change.keys[0] == EXCLUDE:
        names = raw.get("curriculum", {}).get("exclude_sources")
        if names is None:
            return _insert(text, ("curriculum",), f'exclude_sources = ["{change.keys[1]}"]')
        document = tomlkit.parse(text)
        array: Any = document["curriculum"]["exclude_sources"]
        if change.value:
            array.append(change.keys[1])
        else:
            while change.keys[1] in array:
                array.remove(change.keys[1])
        return document.as_string()
    *parents, last = change.keys
    there: Any = raw
    for key in parents:
        there = there.get(key, {})
    if last not in there:
        return _insert(text, tuple(parents), f"{last} = {change.value}")
    document = tomlkit.parse(text)
    table: Any = document
    for key in parents:
        table = table[key]
    if change.value is None:
        del table[last]
    else:
        table[last] = tomlkit.value(change.value)
    return document.as_string()


def _insert(text: str, table: tuple[str, ...], line: str) -> str:
    """Put a new key after the last one of its table; a table that is not there goes to the end."""
    lines = text.splitlines(keepends=True)
    at: int | None = None
    current: tuple[str, ...] = ()
    indent, pending, start = "", "", 0
    for number, piece in enumerate(lines):
        pending += piece
        try:
            statement = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        head = pending.lstrip()
        if head.startswith("["):
            current = _deepest(statement)
        if current == table and statement:
            first = lines[start]
            at, indent = number, first[: len(first) - len(first.lstrip())]
        pending, start = "", number + 1
    if at is None:
        if not table:
            return f"{line}\n{text}"
        name = ".".join(msgspec.json.encode(key).decode() if "." in key else key for key in table)
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}\n[{name}]\n{line}\n"
    if not lines[at].endswith("\n"):
        lines[at] += "\n"
    end = "\r\n" if lines[at].endswith("\r\n") else "\n"
    lines.insert(at + 1, f"{indent}{line}{end}")
    return "".join(lines)


def _deepest(statement: dict[str, Any]) -> tuple[str, ...]:
    keys: tuple[str, ...] = ()
    node: Any = statement
    while isinstance(node, dict) and node:
        (key,) = node
        keys, node = (*keys, key), node[key]
    return keys


def set_in_file(path: Path, assignments: Sequence[str]) -> str:
    """A file's text after assignments (`settings`); the file itself stays as it is."""
    text = read_text(path)
    sources = list(tomllib.loads(text).get("sources", {}))
    return edit(text, settings(assignments, sources, path), path)


# What differs.


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """What differs between two effective configs: the arms first, in the new config's order, then other keys.

    A source that is added or removed is one change of the field "source"; an exclusion is one of the field "excluded".
    """
    found: list[Change] = []
    before, after = old["sources"], new["sources"]
    was, now = old["curriculum"]["exclude_sources"], new["curriculum"]["exclude_sources"]
    for name in [*after, *(name for name in before if name not in after)]:
        if name not in before or name not in after:
            found.append(Change(name, "source", before.get(name), after.get(name)))
        else:
            for key in [*BOUNDS, *(key for key in after[name] if key not in BOUNDS)]:
                if before[name].get(key) != after[name].get(key):
                    found.append(Change(name, key, before[name].get(key), after[name].get(key)))
        if (name in was) != (name in now):
            found.append(Change(name, "excluded", name in was, name in now))
    known = before.keys() | after.keys()
    for key, first, second in _others(old, new):
        if key == "curriculum.exclude_sources":
            first, second = (sorted(set(names) - known) for names in (first, second))
        if first != second:
            found.append(Change(None, key, first, second))
    return found


def _others(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for section in new:
        if section == "sources":
            continue
        if isinstance(new[section], dict):
            for key in new[section]:
                yield f"{section}.{key}", old.get(section, {}).get(key), new[section][key]
        else:
            yield section, old.get(section), new[section]


def refused(found: Sequence[Change]) -> list[str]:
    """The keys among changes that a run keeps for life."""
    return [change.key for change in found if change.arm is None and not _may_change(change.field)]


def _may_change(key: str) -> bool:
    return key.startswith(("clean.", "curriculum.", "gate.")) or key in CADENCE or key in FREE
