"""Two states compared: arms by their id, so that a renamed one is one arm; counters that always move told as one line."""

from collections.abc import Iterator
from typing import Any, Final

from state.envelope import Envelope
from state.status import short, table

WIDTH = 80


class _Absent:
    def __repr__(self) -> str:
        return "-"


ABSENT: Final = _Absent()

# What a run changes as it trains; anything else changes by config, data or hand.
MOVING = {
    *(
        "credit",
        "cursor",
        "pulls",
        "served",
        "offered",
        "weight",
        "weight_sum",
        "reward_sum",
        "mean",
        "score",
    ),
    *("difference_sum", "difference_weight", "last_reward", "last_step", "penalty_trace", "recent_mean"),
    *("share_floor", "share_cap", "owed", "allowed", "reward"),
}
MOVING_PARTS = {
    "bandit",
    "reward",
    "loop",
    "files",
    "gate",
    "checkpoint",
    "last_sample_step",
    "events",
    "edited",
}
HEADER = ("lineage", "serial", "step", "written_at", "config_sha256", "parent")


def walk(old: Any, new: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Where two pieces of plain data differ: (path, old, new), ABSENT for a side that has nothing. Lists are compared whole.

    >>> list(walk({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}}))
    [(('a', 'b'), 1, 3), (('c',), 2, -)]
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from walk(old.get(key, ABSENT), new.get(key, ABSENT), (*path, key))
    elif old != new or type(old) is not type(new):
        yield path, old, new


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """What turns one payload into the other, as the `set` edit of `state.edits` takes it."""
    return [
        {"path": list(path), **({} if after is ABSENT else {"value": after})}
        for path, _, after in walk(old, new)
    ]


def arms(payload: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Every arm of a state by id, put aside or not, with all that the state holds of it."""
    rewards, hashes = payload.get("reward", {}), payload.get("data", {})
    found: dict[int, dict[str, Any]] = {}
    for name, record in payload.get("bandit", {}).get("arms", {}).items():
        reward = rewards.get(str(record["id"]))
        found[record["id"]] = {
            **record,
            "name": name,
            "status": "live",
            "data": hashes.get(name),
            "reward": reward,
        }
    for name, top in payload.get("pruned", {}).items():
        entry = top
        while entry is not None:
            record, why = entry["record"], entry["reason"]
            status = f"{'removed' if entry.get('removed') else 'put aside'} at step {entry['step']}: {why}"
            own = {"name": name, "status": status, "data": entry["data"], "reward": entry["reward"]}
            found.setdefault(record["id"], {**record, **own})
            entry = entry.get("earlier")
    return found


def compare(old: Envelope, new: Envelope) -> dict[str, Any]:
    """The body of `state diff --json` but for the labels: every difference, `moving` where it is one of training.

    `changes`: [{arm, field, old, new, moving}]; arm is null for what is of no arm; a side that has nothing is null.
    """
    found: list[dict[str, Any]] = []

    def add(arm: str | None, field: str, before: Any, after: Any, moving: bool) -> None:
        sides = {"old": None if before is ABSENT else before, "new": None if after is ABSENT else after}
        found.append({"arm": arm, "field": field, **sides, "moving": moving})

    for key in HEADER:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            if key == "parent":
                before, after = _parent(before), _parent(after)
            add(None, key, before, after, moving=key in ("serial", "step", "written_at"))
    first, second = arms(old.payload), arms(new.payload)
    for identity in sorted({*first, *second}, key=lambda one: (second.get(one) or first[one])["name"]):
        before, after = first.get(identity), second.get(identity)
        name = (after or before or {})["name"]
        if before is None or after is None:
            add(name, "arm", before and before["status"], after and after["status"], moving=False)
            continue
        for path, a, b in walk(before, after):
            add(name, ".".join(map(str, path)), a, b, moving=path[0] in MOVING)
    own = ("arms", "pruned", "data", "reward", "edits")
    rest = [{key: part for key, part in one.payload.items() if key not in own} for one in (old, new)]
    for one in rest:
        one["bandit"] = {key: part for key, part in one.get("bandit", {}).items() if key not in own}
    for path, a, b in walk(rest[0], rest[1]):
        add(None, ".".join(map(str, path)), a, b, moving=path[0] in MOVING_PARTS)
    shared = [one.payload.get("reward", {}).get("shared", ABSENT) for one in (old, new)]
    for path, a, b in walk(shared[0], shared[1], ("reward", "shared")):
        add(None, ".".join(path), a, b, moving=True)
    known = old.payload.get("edits", [])
    for made in new.payload.get("edits", []):
        if made not in known:
            add(None, "edit", ABSENT, made["what"], moving=False)
    for made in known:
        if made not in new.payload.get("edits", []):
            add(None, "edit", made["what"], ABSENT, moving=False)
    return {"changes": found}


def _parent(parent: Any) -> str | None:
    return None if parent is None else f"{parent.lineage} serial {parent.serial} step {parent.step}"


def screen(body: dict[str, Any], *, whole: bool) -> list[str]:
    """`state diff` as lines of at most 80 columns. whole: every counter too."""
    shown = [change for change in body["changes"] if whole or not change["moving"]]
    lines = []
    if shown:
        rows = [
            [
                short(change["arm"] or "", 18),
                short(change["field"], 20),
                plain(change["old"]),
                plain(change["new"]),
            ]
            for change in shown
        ]
        lines += _columns(["arm", "field", "old", "new"], rows)
    moving = [change for change in body["changes"] if change["moving"]]
    if moving and not whole:
        lines += [*([""] if lines else []), *moved(moving)]
    return lines


def moved(moving: list[dict[str, Any]]) -> list[str]:
    """What training moved, in a few lines: step and serial, pulls and windows of each arm, and how many other values."""
    header = {change["field"]: change for change in moving if change["arm"] is None}
    lines = [
        f"{key} {header[key]['old']:,} -> {header[key]['new']:,}"
        for key in ("serial", "step")
        if key in header
    ]
    told = ("pulls", "cursor", "mean")
    rows = []
    for arm in dict.fromkeys(change["arm"] for change in moving if change["arm"]):
        own = {change["field"]: change for change in moving if change["arm"] == arm}
        if any(key in own for key in told):
            rows.append([short(arm, 24), *(_step(own.get(key)) for key in told)])
    lines += table(["moved on", "pulls", "windows", "mean reward"], rows) if rows else []
    rest = len(moving) - sum(change["field"] in (*told, "serial", "step", "written_at") for change in moving)
    return [*lines, f"and {rest:,} more values that always move; --all shows them"] if rest else lines


def _step(change: dict[str, Any] | None) -> str:
    return "" if change is None else f"{plain(change['old'])} -> {plain(change['new'])}"


def plain(value: Any) -> str:
    """A value in a few characters."""
    if value is None or value is ABSENT:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 1 << 40 else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"{len(value)} items"
    return f"{len(value)} fields" if isinstance(value, dict) else str(value).lower()


def _columns(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table, left-aligned, whose last two columns share what is left of 80 columns; a longer value is cut, and shown so."""
    fixed = [max(len(row[at]) for row in [header, *rows]) for at in (0, 1)]
    room = WIDTH - sum(fixed) - 6
    longest = [max(len(row[at]) for row in [header, *rows]) for at in (2, 3)]
    left = min(longest[0], max(room - longest[1], room // 2))
    widths = [*fixed, left, min(longest[1], room - left)]
    return [
        "  ".join(short(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
