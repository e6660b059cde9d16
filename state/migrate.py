"""State files of older versions, read as files of this one: one pure function a version, each making the next.

They work on the decoded body of a file that its own version's checks have passed; `state.envelope` seals it anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Migration:
    """What a version changes, in one line, and the function that makes it of the version before."""

    what: str
    make: Callable[[Mapping[str, Any]], Body]


def upgrade(body: Mapping[str, Any], version: int) -> Body:
    """The body as `version` would have it, hashes aside; `body` itself is not changed.

    Raises KeyError where no migration leads from the body's version on.
    """
    new = dict(body)
    while new["version"] < version:
        number = new["version"] + 1
        new = {**MIGRATIONS[number].make(new), "version": number}
    return new


def changes(old: int, new: int) -> list[str]:
    """What becomes of a file of version `old` on its way to `new`, a line a version.

    >>> changes(2, 2)
    []
    """
    return [f"version {number}: {MIGRATIONS[number].what}" for number in range(old + 1, new + 1)]


def _sealed_header(body: Mapping[str, Any]) -> Body:
    """Version 2. An arm's `last_step` was written and never read."""
    payload = dict(body["payload"])
    if isinstance(bandit := payload.get("bandit"), dict):
        payload["bandit"] = bandit = dict(bandit)
        if isinstance(bandit.get("arms"), dict):
            bandit["arms"] = {name: _without_last_step(arm) for name, arm in bandit["arms"].items()}
        if isinstance(packed := bandit.get("packed"), dict) and isinstance(packed.get("columns"), dict):
            columns = {key: column for key, column in packed["columns"].items() if key != "i:last_step"}
            bandit["packed"] = {**packed, "columns": columns}
    if isinstance(pruned := payload.get("pruned"), dict):
        payload["pruned"] = {
            name: {**entry, "record": _without_last_step(entry["record"])}
            if isinstance(entry, dict) and "record" in entry
            else entry
            for name, entry in pruned.items()
        }
    return {**body, "payload": payload}


def _without_last_step(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    return {key: value for key, value in record.items() if key != "last_step"}


# The version that each one makes.
MIGRATIONS: dict[int, Migration] = {
    2: Migration(
        "header_sha256 seals the fields beside the payload; arm records lose last_step", _sealed_header
    )
}
