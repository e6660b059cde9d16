"""How plans, their status and the history of a run's pivots look to a person, in 80 columns."""

from typing import Any

from curriculum.console import wrapped
from state.status import duration, short, table

MOST_ARMS = 40  # shown whether or not they change
PAST = 1000  # steps that `share` is a mean over
RESUMES = "apply starts the run again; --no-resume leaves it stopped"


def plan(body: dict[str, Any], saved: str | None) -> list[str]:
    """The screen of `polish plan`, from the object of its `--json`."""
    alive = f"{body['state']} (pid {body['pid']})" if body["pid"] else body["state"]
    lines = [
        f"{body['run']}  step {body['step']:,}  {alive}  lineage {body['lineage'][:8]}  serial {body['serial']}"
    ]
    if body["halt"]:
        lines += _wrap(f"halted: {body['halt']['reason']}; the pivot clears it")
    if not body["changes"] and body["kind"] != "rollback":
        return [*lines, "Nothing to do: the config is the one the run goes by."]
    by_arm: dict[str, dict[str, tuple[Any, Any]]] = {}
    for change in body["changes"]:
        if change["arm"] is not None:
            by_arm.setdefault(change["arm"], {})[change["field"]] = (change["old"], change["new"])
    arms = body["arms"]
    left_out = 0
    if len(arms) > MOST_ARMS:
        left_out = sum(arm["name"] not in by_arm for arm in arms)
        arms = [arm for arm in arms if arm["name"] in by_arm]
    rows = []
    for arm in arms:
        changes = by_arm.get(arm["name"], {})
        rows.append(
            [
                f"{_sign(arm, changes, body['confirm'], body['adds'])} {short(arm['name'], 18)}",
                _moved(changes.get("cap"), arm["cap"]),
                _moved(changes.get("floor"), arm["floor"]),
                "-" if arm["share_now"] is None else f"{arm['share_now']:.1%}",
                _after(arm),
                "" if arm["share_low"] is None else f"{arm['share_low']:.1%}",
                "" if arm["share_high"] is None else f"{arm['share_high']:.1%}",
            ]
        )
    lines += table(["  source", "cap", "floor", "share", "after", "from", "to"], rows)
    if left_out:
        lines.append(f"  and {left_out} more, unchanged")
    steps = min(PAST, body["step"])
    lines.append(f"share: of the last {steps:,} steps; firehose status: since shares last began anew")
    if body["kind"] != "rollback":
        lines.append("after: if every pull were worth the same")
    for arm in arms:
        changes = by_arm.get(arm["name"], {})
        more = [
            f"{field} {_value(old)} -> {_value(new)}"
            for field, (old, new) in changes.items()
            if field not in ("cap", "floor", "source")
        ]
        told = "; ".join([*more, *arm["notes"]])
        if told:
            lines += _wrap(f"{arm['name']}: {told}", "  ")
    for change in body["changes"]:
        if change["arm"] is None:
            lines += _wrap(f"{change['field']}: {_turned(change['old'], change['new'])}")
    lines += _consequences(body)
    for text in body["alarms"]:
        lines += _wrap(f"warning: {text}")
    for item in body["drift"]:
        lines += _wrap(f"drift: {item['id']} {item['message']}" + (f"; {item['fix']}" if item["fix"] else ""))
    lines += _stops(body)
    count = (
        f"Plan: {body['to_change']} to change, {body['to_add']} to add, {body['to_disable']} to disable"
        + (
            f", {body['other_keys']} other {'key' if body['other_keys'] == 1 else 'keys'}"
            if body["other_keys"]
            else ""
        )
        + "."
    )
    lines.append(count)
    if saved:
        flags = "".join(f" --confirm {name}" for name in body["confirm"])
        lines += [
            f"{'Saved' if body['saved'] else 'Saved before'}: {saved}",
            f"Apply: firehose polish apply {saved}{flags}",
        ]
    return lines


def _after(arm: dict[str, Any]) -> str:
    if arm["share_after"] is None:
        return ""
    return "off" if arm["share_high"] == 0 and arm["share_after"] == 0 else f"{arm['share_after']:.1%}"


def _sign(arm: dict[str, Any], changes: dict[str, Any], disabled: list[str], added: list[str]) -> str:
    if arm["name"] in disabled:
        return "-"
    if "source" in changes and changes["source"][1] is None:
        return "-"
    if arm["name"] in added:
        return "+"
    return "~" if changes else " "


def _moved(change: tuple[Any, Any] | None, now: Any) -> str:
    if change is None:
        return "-" if now is None else f"{now:g}"
    return f"{_value(change[0])} -> {_value(change[1])}"


def _turned(old: Any, new: Any) -> str:
    """A change of one setting; of a list, what comes and goes."""
    if isinstance(old, list) and isinstance(new, list):
        moves = [f"+{item}" for item in new if item not in old] + [
            f"-{item}" for item in old if item not in new
        ]
        return " ".join(moves) or "in another order"
    return f"{_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _consequences(body: dict[str, Any]) -> list[str]:
    """What becomes of bandit, reward, goal and phases."""
    if body["kind"] == "rollback":
        moved = f"; moved to the archive: {', '.join(body['moved'])}" if body["moved"] else ""
        lost = "no training is given up"
        if body["given_up"] > 0:
            steps = f"{body['given_up']:,} {'step' if body['given_up'] == 1 else 'steps'} of training"
            lost = f"{'at least ' if body['pid'] else ''}{steps} are given up"
        return _wrap(
            f"goes back to step {body['to_step']:,}, to weights, bandit and config as they were before "
            f"{body['to_archive']}: {lost}{moved}"
        )
    lines = []
    old, new = body["goal"]["old"], body["goal"]["new"]
    if body["kind"] == "pivot":
        text = (
            f"bandit and reward ({body['reward']['new']}) begin anew; what was read of each source stays read"
        )
        lines += _wrap(text)
    if sorted(old) != sorted(new) and not any(
        change["field"] == "curriculum.goal_sources" for change in body["changes"]
    ):
        lines += _wrap(f"goal: {', '.join(old)} -> {', '.join(new)}")
    if body["phase"]["old"] != body["phase"]["new"]:
        lines += _wrap(f"phase: {body['phase']['old']} -> {body['phase']['new']}")
    return lines


def _stops(body: dict[str, Any]) -> list[str]:
    if body["kind"] == "live":
        return _wrap("the run does not stop: it takes the bounds at its next boundary")
    eta = f" (in about {duration(body['eta_s'])})" if body["eta_s"] is not None else ""
    lines = _wrap(
        f"stops at step {body['stop_at']:,}{eta}"
        if body["pid"]
        else f"has stopped at step {body['stop_at']:,}"
    )
    files = ", ".join(f"{item['name']} ({size(item['bytes'])})" for item in body["archive"])
    lines += _wrap(f"archived: {files}")
    if body["kind"] == "pivot":
        lines += _wrap("stays: weights, optimizer and learning rate of that step, and the loss history")
    return [*lines, RESUMES]


def size(count: int) -> str:
    """Bytes for a person.

    >>> size(812), size(41_300), size(38_200_000)
    ('812 B', '41 KB', '38.2 MB')
    """
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} KB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"


def _wrap(text: str, indent: str = "") -> list[str]:
    return wrapped(f"{indent}{text}").splitlines()


def status(body: dict[str, Any]) -> list[str]:
    """The screen of `polish status`."""
    lines = [f"{body['run']}  {body['state']}"]
    if body["draft"]:
        lines += _wrap(f"draft: {body['draft']}")
        lines += _wrap(body["draft_problem"] or f"changes {named(body['draft_changes'])}", "  ")
    else:
        lines.append("draft: none")
    *older, newest = body["plans"] or [None]
    if newest is not None:
        why = newest["why"] or "may be applied"
        if newest["why"] and not why.startswith("applied as "):
            why = f"stale: {why}"
        lines += _wrap(f"plan: {newest['plan']} ({newest['kind'] or '?'}) {why}")
    if older:
        stale = sum(plan["stale"] for plan in older)
        lines.append(f"older plans: {len(older)}, stale or applied: {stale}")
    if body["waiting"]:
        lines.append("a polish waits for the boundary: firehose polish cancel withdraws it")
    if body["unfinished"]:
        lines += _wrap(
            f"begun and not finished: {body['unfinished']['what']}; the next launch or apply finishes it"
        )
    last = body["last"]
    lines += _wrap(
        f"last: {last['kind']} at step {last['step']:,}, {last['archive']}" if last else "last: no pivot yet"
    )
    return lines


def history(rows: list[dict[str, Any]]) -> list[str]:
    """The screen of `polish history`."""
    lines = []
    for row in rows:
        mark = "*" if row["current"] else " "
        gone = "  (taken back)" if row["taken_back"] else ""
        lineage = f"  lineage {row['lineage'][:8]}" if row["lineage"] else ""
        archive = f"  {row['archive']}" if row["archive"] else ""
        number = "" if row["generation"] is None else row["generation"]
        lines.append(f"{mark} {number:>2}  step {row['step']:,}  {row['kind']}{lineage}{archive}{gone}")
        if row["changes"] and row["kind"] != "rollback":
            for change in row["changes"]:
                key = change["field"] if change["arm"] is None else f"{change['arm']}.{change['field']}"
                lines += _wrap(f"{key}: {_brief(change['old'], change['new'])}", "      ")
        if row["given_up"] is not None:
            lines.append(f"      {row['given_up']:,} steps given up")
    return lines


def _brief(old: Any, new: Any) -> str:
    if isinstance(old, dict) or isinstance(new, dict):
        return "added" if old is None else "taken out"
    return _turned(old, new)


def named(changes: list[dict[str, Any]]) -> str:
    """The keys of changes, a few of them by name."""
    keys = [c["field"] if c["arm"] is None else f"{c['arm']}.{c['field']}" for c in changes]
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    return (", ".join(keys[:6]) + more) if keys else "nothing"
