"""State against config against data: what can no longer be pulled is put aside, what is new is listed (DESIGN 7.3).

One pure function on plain data, the same at launch and in every check. It keeps these promises about the payload:
`bandit.arms` holds exactly arms that config and data allow; no ticket, dealt share or reward record names another one,
so that nothing of a pruned arm is left in any total; and what was put aside stands in `pruned`, whole:
`{name: {"record", "reward", "data", "reason", "step", "origin"}}`, until its source can be pulled again. An entry with
`"removed": true` was taken out by an operator and comes back by command alone; one that was put aside before another
of its name stands in that one's `earlier`.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bandit.arms import DEFAULT_CAP, new_id
from bandit.index import SMALLEST_SUM
from state.findings import Finding, finding
from state.pullable import BOUNDS as BOUNDS
from state.pullable import missing, why_not

EDITED = (
    "edited"  # in a payload: arms were edited by command, so the tickets are not what they were issued for
)


@dataclass(slots=True)
class Reconciled:
    """What came of it.

    payload: a new one; the one given is untouched. ids: live arm name to id, in the order of the config, new arms
    included (they have no record yet). changed: the arms, their bounds or their data are not what the tickets were
    issued for; the launcher then cancels untrained tickets and restarts shares. events: for `history.jsonl`.
    """

    payload: dict[str, Any]
    ids: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    changed: bool = False

    def _note(
        self, id: str, arm: str, message: str, *, fix: str | None = None, event: dict[str, Any]
    ) -> None:
        self.findings.append(finding(id, message, arm=arm, fix=fix))
        self.events.append({**event, "arm": arm})
        self.changed = True


def reconcile(
    sources: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]],
    payload: Mapping[str, Any],
    *,
    step: int,
) -> Reconciled:
    """Bring a state's payload in line with config and data.

    sources: name to {cap, floor, min_share, max_share, excluded}, as configured. data: name to {sha256, windows}, or
    to {missing: why}. step: of the payload; tickets of later steps are not trained yet. The commands in findings say
    CONFIG and RUN, which the caller names.
    """
    result = Reconciled(copy.deepcopy(dict(payload)))
    payload = result.payload
    bandit = payload.setdefault("bandit", {})
    arms, pruned = bandit.setdefault("arms", {}), payload.setdefault("pruned", {})
    hashes = payload.setdefault("data", {})
    known = bool(arms or pruned)  # a first launch has nothing that could be new
    for made in payload.pop(EDITED, []):
        result.events.append({"event": "edit", "step": step, "edit": made})
        result.changed = True

    for name in sorted(arms):
        if why := why_not(name, sources, data):
            prune(payload, name, why, step)
            fix = "nothing to do: its record is kept and comes back with the source"
            event = {"event": "prune", "step": step, "reason": why}
            result._note("F0003", name, f"{name!r} was put aside: {why}", fix=fix, event=event)
    taken = {arm["id"] for arm in arms.values()}
    taken |= {entry["record"]["id"] for top in pruned.values() for entry in put_aside(top)}
    for name in sorted(sources):
        if why := missing(name, sources, data):
            fix = (
                f"build its data: firehose data build CONFIG; or do without it: "
                f"firehose polish set {name}.cap=0 --run RUN; firehose state rm {name} --run RUN takes its arm out"
            )
            result.findings.append(finding("F0004", f"{name!r} is configured, but {why}", arm=name, fix=fix))
        if why_not(name, sources, data):
            continue
        if name in pruned and name not in arms and not pruned[name].get("removed"):
            entry = restore(payload, name)
            message = f"{name!r} is back with its record; it was put aside at step {entry['step']}: {entry['reason']}"
            result._note("F0006", name, message, event={"event": "restore", "step": step})
        if name not in arms:
            result.ids[name] = new_id(name, taken)
            taken.add(result.ids[name])
            hashes[name] = data[name]["sha256"]
            if known:
                now = {"sha256": data[name]["sha256"], "windows": data[name]["windows"]}
                event = {"event": "new", "step": step, **now}
                message = f"{name!r} is new and joins with no history"
                if name in pruned:
                    message += (
                        f"; the record that was {pruned[name]['reason']} at step {pruned[name]['step']} is kept, "
                        f"to have it back: firehose state restore {name} RUN"
                    )
                result._note("F0006", name, message, event=event)
            continue
        result.ids[name] = arms[name]["id"]
        _compare_data(result, name, data[name], step)
        _compare_bounds(result, name, sources[name], step)
    result.ids = {name: result.ids[name] for name in sources if name in result.ids}
    return result


def put_aside(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """An entry of `pruned` and the earlier ones of its name, newest first."""
    found: Mapping[str, Any] | None = entry
    while found is not None:
        yield found
        found = found.get("earlier")


def untrained(payload: Mapping[str, Any], identity: int, step: int) -> list[dict[str, Any]]:
    """The open tickets of an arm that are not trained by a step."""
    tickets = payload["bandit"].get("tickets", [])
    return [ticket for ticket in tickets if ticket["arm"] == identity and ticket["step"] > step]


def prune(
    payload: dict[str, Any], name: str, why: str, step: int, *, removed: bool = False
) -> dict[str, Any]:
    """Put a live arm aside with its record, in place; take its tickets back, and every other trace out of the bandit.

    Returns its entry in `pruned`. removed: whether it stays there until a command brings it back.
    """
    bandit = payload["bandit"]
    record = bandit["arms"].pop(name)
    identity = str(record["id"])
    if waiting := untrained(payload, record["id"], step):
        record["cursor"] = min(record["cursor"], *(ticket["window"] for ticket in waiting))
        record["pulls"] -= len(waiting)
    bandit["tickets"] = [ticket for ticket in bandit.get("tickets", []) if ticket["arm"] != record["id"]]
    for deal in bandit.get("deals", []):
        for shares in ("shares", "caps"):
            deal.get(shares, {}).pop(identity, None)
    if "ranking" in bandit:  # what an argmax worked out for the next few picks, this arm included
        bandit["ranking"] |= {"left": 0, "singly": []}
    lay_aside(
        payload,
        name,
        {
            "record": record,
            "reward": payload.get("reward", {}).pop(identity, None),
            "data": payload.setdefault("data", {}).pop(name, None),
            "reason": why,
            "step": step,
            "origin": bandit.get("origin", 0),
            **({"removed": True} if removed else {}),
        },
    )
    entry: dict[str, Any] = payload["pruned"][name]
    return entry


def lay_aside(payload: dict[str, Any], name: str, entry: dict[str, Any]) -> None:
    """Lay an entry on top of what `pruned` has of its name, in place."""
    pruned = payload.setdefault("pruned", {})
    earlier = {"earlier": pruned[name]} if name in pruned else {}
    pruned[name] = {**entry, **earlier}


def take_up(payload: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the newest entry of a name out of `pruned`, in place; the one before it is then the newest."""
    entry = dict(payload["pruned"].pop(name))
    if "earlier" in entry:
        payload["pruned"][name] = entry.pop("earlier")
    return entry


def restore(payload: dict[str, Any], name: str) -> dict[str, Any]:
    """Bring an arm back with its record, in place; returns the entry that it had in `pruned`. No live one may have its name.

    Its reward sums are weights relative to the bandit's origin. Where that has moved on meanwhile, they are scaled to
    count nothing beside any new pull: mean, noise and age stay, and the arm is soon tried again.
    """
    bandit = payload["bandit"]
    entry = take_up(payload, name)
    record = entry["record"]
    if entry["origin"] != bandit.get("origin", 0) and record["weight_sum"] > 0.0:
        scale = min(1.0, SMALLEST_SUM / record["weight_sum"])
        record["weight_sum"] *= scale
        record["reward_sum"] *= scale
    record["penalty_trace"] = 0.0  # samples since then were not its doing
    bandit["arms"][name] = record
    if entry["reward"] is not None:
        payload.setdefault("reward", {})[str(record["id"])] = entry["reward"]
    payload.setdefault("data", {})[name] = entry["data"]
    return entry


def _compare_data(result: Reconciled, name: str, data: Mapping[str, Any], step: int) -> None:
    """Changed data restarts what is counted in windows; what was learned about the source stays."""
    hashes, sha256 = result.payload["data"], data["sha256"]
    if hashes.get(name) == sha256:
        return
    old, hashes[name] = hashes.get(name), sha256
    record = result.payload["bandit"]["arms"][name]
    served, record["cursor"] = record["cursor"], 0
    message = (
        f"the data of {name!r} is not what the state knows; its {served} windows served count from 0 again"
    )
    windows = [record.get("windows"), data.get("windows")]
    event = {"event": "data", "step": step, "old": old, "new": sha256, "windows": windows, "cursor": served}
    result._note("F0005", name, message, event=event)


def _compare_bounds(result: Reconciled, name: str, source: Mapping[str, Any], step: int) -> None:
    """The config's bounds are the ones in force; say so where the state's would have dealt otherwise."""
    record = result.payload["bandit"]["arms"][name]
    old = {key: record.get(key) for key in BOUNDS}
    new = {key: source[key] for key in BOUNDS}
    record.update(new)
    if _in_force(old) == _in_force(new):
        return
    changes = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in BOUNDS if old[key] != new[key])
    event = {"event": "bounds", "step": step, "old": old, "new": new}
    result._note("F0007", name, f"{name!r} takes the config's bounds: {changes}", event=event)


def _in_force(bounds: dict[str, Any]) -> dict[str, Any]:
    """Bounds as they act: no weight is above DEFAULT_CAP, so no higher cap or floor differs from it."""
    cap, floor = bounds["cap"], bounds["floor"]
    return {
        **bounds,
        "cap": None if cap is None else min(cap, DEFAULT_CAP),
        "floor": None if floor is None else min(floor, DEFAULT_CAP),
    }
