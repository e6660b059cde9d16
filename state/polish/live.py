"""What a run may take over while it trains: other bounds for the sources it picks from, and nothing else."""

from typing import Any

import msgspec

from curriculum import config as configs
from curriculum.config import Config
from curriculum.eligibility import phases
from curriculum.errors import Exit, FirehoseError
from state.reconcile import BOUNDS

Changes = dict[str, dict[str, dict[str, Any]]]
"""Arm name to {"old": {key: value}, "new": {key: value}}, of the bounds that differ."""


def changes(old: Config, new: Config) -> Changes:
    """The bounds that differ.

    Raises FirehoseError(REFUSED), naming keys or arm, where anything else that changes training differs, a source would
    enter or leave the run, or there is nothing to change.
    """
    differing = configs.differences(configs.effective(old), configs.effective(new))
    allowed = {f"sources.{name}.{key}": (name, key) for name in old.sources for key in BOUNDS}
    if others := [key for key in differing if key not in allowed]:
        raise _refused(f"more than bounds would change: {', '.join(others)}", new)
    before, after = ({name for phase in phases(c) for name in phase.sources} for c in (old, new))
    if moved := sorted(before ^ after):
        raise _refused(f"{', '.join(moved)} would enter or leave the run", new, arm=moved[0])
    found: Changes = {}
    for name, key in (allowed[key] for key in differing):
        change = found.setdefault(name, {"old": {}, "new": {}})
        change["old"][key], change["new"][key] = (getattr(c.sources[name], key) for c in (old, new))
    if not found:
        raise _refused("they are those of the run already", new)
    return found


def words(found: Changes) -> str:
    """Changes in words.

    >>> words({"beta": {"old": {"cap": 1.3, "floor": 0.8}, "new": {"cap": 0.5, "floor": 0.5}}})
    'beta cap 1.3 -> 0.5, beta floor 0.8 -> 0.5'
    """
    return ", ".join(
        f"{name} {key} {old} -> {both['new'][key]}"
        for name, both in found.items()
        for key, old in both["old"].items()
    )


def with_bounds(config: Config, found: Changes, side: str) -> Config:
    """A config with the bounds of one side, "old" or "new", of `changes`. Sources it does not have are passed over."""
    sources = {
        name: msgspec.structs.replace(source, **found[name][side]) if name in found else source
        for name, source in config.sources.items()
    }
    return msgspec.structs.replace(config, sources=sources)


def _refused(why: str, config: Config, arm: str | None = None) -> FirehoseError:
    return FirehoseError(
        Exit.REFUSED,
        f"this cannot be taken over by a run that trains: {why}",
        path=config.path,
        arm=arm,
        next="apply it without --live: the run then pivots at a boundary",
    )
