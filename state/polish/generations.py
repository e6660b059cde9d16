"""The generations of a run: what each pivot began, which of them the run descends from, and the way back to one."""

from pathlib import Path
from typing import Any

from curriculum import config as configs
from curriculum import config_edit
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes
from state import checkpoints, journal
from state.polish import outlook, pivot, polish
from state.polish.polish import Plan
from state.run_dir import RunDir, read_object
from state.story import read_config


def _line(events: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Number and event of what the run descends from, oldest first. A rollback stands for the generation it went to."""
    line: list[tuple[int, dict[str, Any]]] = []
    for number, event in enumerate(events, start=1):
        if event["event"] == "rollback":
            while line and line[-1][1]["archive"] != event["undoes"]:
                line.pop()
            if line:
                line.pop()
        else:
            line.append((number, event))
    return line


def history(run: RunDir) -> list[dict[str, Any]]:
    """The generations as `polish history --json` lists them, and between them what was changed live."""
    line = _line([event for _, event in pivot.pivots(run)])
    current = line[-1][0] if line else 0
    begun = {event["archive"]: number for number, event in line}
    rows, number = [_row({}, 0, current=current == 0)], 0
    for _, event in pivot.turns(run):
        if event["event"] in pivot.IN_BETWEEN:
            rows.append(_row({**event, "changes": _listed(event["changes"])}, None))
            continue
        number += 1
        taken_back = event["event"] == "pivot" and event["archive"] not in begun
        rows.append(_row(event, number, current=number == current, taken_back=taken_back))
    return rows


def _row(
    event: dict[str, Any], number: int | None, *, current: bool = False, taken_back: bool = False
) -> dict[str, Any]:
    return {
        "generation": number,
        "kind": event.get("event", "begin"),
        "step": event.get("step", 0),
        "time": event.get("time"),
        "lineage": event.get("lineage"),
        "parent": event.get("parent"),
        "archive": event.get("archive", event.get("transaction")),
        "changes": event.get("changes", []),
        "given_up": event.get("given_up"),
        "current": current,
        "taken_back": taken_back,
    }


def _listed(changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Changes of bounds as the trainer notes them, as a list like any other."""
    return [
        {"arm": arm, "field": field, "old": old, "new": found["new"].get(field)}
        for arm, found in changes.items()
        for field, old in found["old"].items()
    ]


def target(run: RunDir, to: int | None) -> pivot.Before:
    """What the pivot replaced that must be taken back to come to a generation, the one before by default.

    Raises FirehoseError: NOT_FOUND where there is none, or the run does not descend from it; DAMAGED.
    """
    line = _line([event for _, event in pivot.pivots(run)])
    before = [0, *(number for number, _ in line)]
    known = before[:-1]
    if not line or (to is not None and to not in known):
        what = (
            "there is no pivot to go back from" if not line else f"generation {to} is not one to go back to"
        )
        choices = f" (there are {', '.join(map(str, known))})" if line else ""
        raise FirehoseError(
            Exit.NOT_FOUND, what + choices, path=run.archive, next=f"firehose polish history {run.root}"
        )
    at = len(line) - 1 if to is None else known.index(to)
    return pivot.before(run, str(line[at][1]["archive"]))


def rollback(
    run: RunDir, to: int | None, *, keep_weights: bool, now: float
) -> tuple[dict[str, Any], Plan | None]:
    """A plan to go back to what a pivot replaced, and what to show of it (`outlook.prepare`).

    keep_weights: only the config goes back, by a pivot forward. Raises FirehoseError.
    """
    back = target(run, to)
    record = read_object(back.where / run.effective.name) or {}
    config_file = Path(str(record.get("config_file", run.config.absolute())))
    if keep_weights:
        return outlook.prepare(run, back.config, run.config, config_file, live=False, now=now)
    new = polish.check(back.config, back.where / "config.toml", config_file)
    pivot.target_checkpoint(run, back)
    old = read_config(run)
    plain = configs.effective(old)
    changes = config_edit.changes(plain, configs.effective(new))
    at = outlook.stand(run, now)
    stop, eta = outlook.stop_at(run, old, at, now)
    condition = run.condition(now)
    disables = polish.disabled(old, new)
    plan = polish.make(
        run,
        at.state,
        back.config,
        config_file,
        kind="rollback",
        changes=changes,
        disables=[],
        now=now,
        target=back.entry.name,
    )
    present = outlook.shares_now(run, at.payload, at.step)
    arms: list[dict[str, Any]] = [
        {
            "name": name,
            "share_now": present.get(name),
            "share_after": None,
            "share_low": None,
            "share_high": None,
            "cap": source.cap,
            "floor": source.floor,
            "notes": [],
        }
        for name, source in new.sources.items()
    ]
    body = {
        "run": run.name,
        "kind": "rollback",
        "state": condition.state,
        "pid": condition.process.pid if condition.alive and condition.process else None,
        "step": at.step,
        "lineage": at.state.lineage,
        "serial": at.state.serial,
        "changes": [change.as_dict() for change in changes],
        "arms": arms,
        "to_step": back.step,
        "to_archive": back.entry.name,
        "given_up": stop - back.step,
        "moved": [path.name for path in checkpoints.after(run.checkpoints, back.step)],
        "stop_at": stop,
        "eta_s": eta,
        "archive": outlook.archived(run),
        "halt": at.payload.get("halt"),
        "confirm": [],
        "drift": [],
        "alarms": [],
        **outlook.counts(changes, disables, plain, new, back.config),
        "plan": None,
        "saved": True,
        "stale": False,
    }
    return body, plan


def status(run: RunDir, now: float) -> dict[str, Any]:
    """Draft, saved plans and whether they still fit, what is unfinished, what waits, and the last pivot."""
    from state import requests
    from state.polish import apply

    plans = []
    for path in polish.plans(run):
        try:
            plan = polish.load(path)
            done = apply.applied(run, plan)
            why = f"applied as {done.name}" if done else polish.why_stale(run, plan, now)
            plans.append({"plan": str(path), "kind": plan.kind, "stale": why is not None, "why": why})
        except FirehoseError as error:
            plans.append({"plan": str(path), "kind": None, "stale": True, "why": error.message})
    changes: list[dict[str, Any]] = []
    problem = None
    if polish.draft(run).exists():
        try:
            new = polish.check(polish.draft_text(run), polish.draft(run), polish.origin(run))
            found = config_edit.changes(polish.effective(run), configs.effective(new))
            changes = [change.as_dict() for change in found]
        except FirehoseError as error:
            problem = error.message
    begun = journal.unfinished(run)
    waiting = requests.pending(run)
    note = read_object(apply.asked(run)) or {}
    past = [row for row in history(run) if row["kind"] != "begin"]
    return {
        "run": run.name,
        "state": run.condition(now).state,
        "draft": str(polish.draft(run)) if polish.draft(run).exists() else None,
        "draft_changes": changes,
        "draft_problem": problem,
        "plans": plans,
        "unfinished": None if begun is None else {"name": begun.name, "what": begun.what},
        "waiting": bool(waiting and waiting.id == note.get("request")),
        "last": past[-1] if past else None,
    }


def discard(run: RunDir) -> bool:
    """Discard the draft; whether there was one."""
    with failing_writes(polish.draft(run)):
        return polish.discard_draft(run)
