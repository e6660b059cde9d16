"""What a plan shows: shares as they are and as they will be, where the run stops, what is archived, what matters."""

import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bandit.bounds import implied_intervals
from curriculum import config as configs
from curriculum import config_edit, config_rules
from curriculum.config import Config
from curriculum.eligibility import never_picked, phases
from curriculum.sources import check_present, known_arms, open_corpus, open_phase, specs
from curriculum.tokens.corpus import Corpus
from state.envelope import Envelope
from state.findings import Finding
from state.polish import pivot, polish
from state.polish.polish import Plan
from state.polish.view import PAST
from state.recover import Look, look
from state.repair.check import ahead
from state.rows import read_rows
from state.run_dir import RunDir
from state.store import StateStore
from state.story import read_config
from state.survey import reconciled

AHEAD = 2000  # steps that shares ahead are means over
MOST_PICKS = 40_000  # of the outlook: it is to take seconds
MIDDLING = 0.5  # the reward of every pull in it


@dataclass(slots=True)
class Stand:
    """A run at the step that a plan begins from. weights: step of its checkpoint; None where the run is alive."""

    state: Envelope
    payload: dict[str, Any]
    step: int
    weights: int | None
    look: Look | None


def stand(run: RunDir, now: float) -> Stand:
    """Where a run is: of a living one the last commit, of another what would be resumed. Raises FirehoseError."""
    state = polish.current_state(run)
    if polish.running(run, now):
        return Stand(state, state.payload, state.step, state.payload.get("checkpoint"), None)
    found = look(run, StateStore(run.state), deep=False)
    settled = found.settled
    weights = found.weights.step if found.weights else None
    return Stand(state, settled.payload or {}, settled.step, weights, found)


def shares_now(run: RunDir, payload: dict[str, Any], step: int) -> dict[str, float]:
    """Name to mean share of the pulls of the last 1,000 steps up to `step`; nothing where there are none."""
    names = {record["id"]: name for name, record in payload.get("bandit", {}).get("arms", {}).items()}
    names |= {entry["record"]["id"]: name for name, entry in payload.get("pruned", {}).items()}
    if not run.pulls.exists():
        return {}
    counts: Counter[str] = Counter()
    for row in read_rows(run.pulls)[-2 * PAST :]:
        if step - PAST < row["step"] <= step:
            counts.update(names[arm] for arm, *_ in row["pulls"] if arm in names)
    total = counts.total()
    return {name: counts[name] / total for name in names.values()} if total else {}


def shares_after(config: Config, begun: pivot.Fresh) -> dict[str, float]:
    """Name to mean share of the first 2,000 steps of a fresh bandit in which every pull is worth the same."""
    scheduler = begun.scheduler
    steps = max(1, min(AHEAD, MOST_PICKS // config.train.grad_accum))
    counts: Counter[int] = Counter()
    for step in range(begun.step + 1, begun.step + 1 + steps):
        for phase in phases(config):
            if phase.first_step == step and step > begun.step + 1:
                open_phase(config, scheduler, phase, begun.ids)
        for _ in range(config.train.grad_accum):
            ticket = scheduler.pick(step)
            scheduler.credit(ticket.id, MIDDLING)
            counts[ticket.arm] += 1
    return {name: counts[arm_id] / counts.total() for name, arm_id in begun.ids.items()}


def intervals(
    config: Config, corpus: Corpus, ids: dict[str, int], step: int
) -> dict[str, tuple[float, float]]:
    """Name to the share interval that the bounds imply, among the sources of the phase after `step`."""
    now = [phase for phase in phases(config) if phase.first_step <= step + 1][-1]
    live = {name: ids[name] for name in now.sources if name in ids and name in corpus.sources}
    implied = implied_intervals(specs(config, corpus, live)) if live else {}
    return {name: implied[arm_id] for name, arm_id in live.items()}


def drift(config: Config, corpus: Corpus, at: Stand, disables: list[str], by: str) -> list[Finding]:
    """What a launch would find whatever is planned, less what the plan makes go away. by: who will act on it."""
    found = reconciled(config, corpus, at.payload, step=at.step, read_data=False).findings
    told = []
    for item in found:
        if item.id != "F0007" and item.arm not in disables:
            fix = item.fix and item.fix.replace("nothing to do: its", f"{by} does it; its")
            told.append(replace(item, message=ahead(item.message), fix=fix))
    return told


def stop_at(run: RunDir, config: Config, at: Stand, now: float) -> tuple[int, float | None]:
    """The step that a living run stops at, and the seconds until then; of another the step it is at."""
    if polish.running(run, now) is None:
        return at.step, None
    live, every = run.read_live() or {}, config.train.boundary_every
    step = max(at.step, int(live.get("step") or 0))
    stop = min((step // every + 1) * every, config.train.steps)
    speed = live.get("steps_per_s")
    return stop, (stop - step) / speed if speed else None


def archived(run: RunDir) -> list[dict[str, Any]]:
    """The files that a pivot replaces, with their sizes."""
    found = (run.state, run.samples, run.config, run.effective)
    return [{"name": path.name, "bytes": path.stat().st_size} for path in found if path.exists()]


def notes(
    name: str,
    old: Config,
    new: Config,
    corpus: Corpus,
    at: Stand,
    now: float | None,
    was: tuple[float, float] | None,
) -> list[str]:
    """What is worth knowing of one arm."""
    found = []
    if name not in old.sources:
        found.append("new")
    elif never_picked(old, name) and name in new.sources and not never_picked(new, name):
        found.append("may be picked again")
    if name not in new.sources:
        found.append("taken out")
    elif why := never_picked(new, name):
        found.append(f"off: {why}")
    if now is not None and was is not None and was[0] < was[1]:
        if now >= was[1] - 0.02 * (was[1] - was[0]):
            found.append("was at its cap")
        elif now <= was[0] + 0.02 * (was[1] - was[0]):
            found.append("was at its floor")
    put_aside = at.payload.get("pruned", {}).get(name)
    if put_aside and not put_aside.get("removed") and name in new.sources and not never_picked(new, name):
        found.append(f"comes back: put aside at step {put_aside['step']:,}")
    record = at.payload.get("bandit", {}).get("arms", {}).get(name) or (put_aside or {}).get("record")
    info = corpus.sources.get(name)
    if info is None and name in new.sources and not never_picked(new, name):
        found.append(f"no data: {corpus.missing.get(name, 'not built')}")
    elif info is None:
        return found
    elif record:
        left = max(0, info.windows - record["cursor"]) * new.model.block_size
        found.append(f"{record['cursor'] / max(1, info.windows):.2f} epochs read, {left:,} tokens unread")
    else:
        found.append(f"{info.tokens:,} tokens")
    return found


def prepare(
    run: RunDir, text: str, shown: Path, config_file: Path, *, live: bool, now: float
) -> tuple[dict[str, Any], Plan | None]:
    """A plan to make a text the config of a run, and what to show of it; no plan where nothing differs.

    shown: the file to name in errors. Raises FirehoseError: USAGE and REFUSED for what cannot be, NOT_FOUND.
    """
    new = polish.check(text, shown, config_file)
    at, old = stand(run, now), read_config(run)
    plain = configs.effective(old)
    changes = config_edit.changes(plain, configs.effective(new))
    polish.refuse_forbidden(run, changes)
    disables = polish.disabled(old, new)
    if live:
        polish.refuse_more_than_bounds(run, changes, disables)
    stop, eta = stop_at(run, old, at, now)
    if changes:
        pivot.refuse_finished(run, new, stop)
    corpus = open_corpus(new)
    pivot.refuse_other_tokens(corpus, at.look.weights if at.look else None)
    check_present(new, corpus, known=known_arms(at.payload))
    begun = pivot.fresh(new, corpus, at.payload, at.step, at.weights)
    was = intervals(old, corpus, _ids(at.payload), at.step)
    will = intervals(new, corpus, begun.ids, at.step)
    present = shares_now(run, at.payload, at.step)
    after = shares_after(new, begun)
    arms = []
    for name in [*new.sources, *(name for name in old.sources if name not in new.sources)]:
        low, high = will.get(name, (0.0, 0.0))
        arms.append(
            {
                "name": name,
                "share_now": present.get(name),
                "share_after": after.get(name, 0.0),
                "share_low": low,
                "share_high": high,
                "cap": new.sources[name].cap if name in new.sources else None,
                "floor": new.sources[name].floor if name in new.sources else None,
                "notes": notes(name, old, new, corpus, at, present.get(name), was.get(name)),
            }
        )
    condition, known = run.condition(now), config_rules.warnings(old)
    plan = (
        polish.make(
            run,
            at.state,
            text,
            config_file,
            kind="live" if live else "pivot",
            changes=changes,
            disables=disables,
            now=now,
        )
        if changes
        else None
    )
    body = {
        "run": run.name,
        "kind": "live" if live else "pivot",
        "state": "halted" if at.payload.get("halt") and not condition.alive else condition.state,
        "pid": condition.process.pid if condition.alive and condition.process else None,
        "step": at.step,
        "lineage": at.state.lineage,
        "serial": at.state.serial,
        "changes": [change.as_dict() for change in changes],
        "arms": arms,
        "goal": {"old": list(old.curriculum.goal_sources), "new": list(new.curriculum.goal_sources)},
        "reward": {"old": old.curriculum.reward, "new": new.curriculum.reward},
        "phase": {"old": _phase(old, at.step), "new": _phase(new, at.step)},
        "drift": [
            item.as_dict()
            for item in drift(old, corpus, at, disables, "the next launch" if live else "apply")
        ],
        "alarms": [
            *_moved(run, old, new),
            *begun.relaxed,
            *(found for found in config_rules.warnings(new) if found not in known),
        ],
        "stop_at": stop,
        "eta_s": eta,
        "archive": [] if live else archived(run),
        "halt": at.payload.get("halt"),
        "confirm": disables,
        **counts(changes, disables, plain, new, text),
        "plan": None,
        "saved": True,
        "stale": False,
    }
    return body, plan


def _moved(run: RunDir, old: Config, new: Config) -> list[str]:
    """Where the new config finds its data in another folder, though its words may be the same."""
    was = msgspec.structs.replace(old, base=polish.origin(run).parent).resolve(old.data.dir)
    now = new.resolve(new.data.dir)
    return (
        [] if was.resolve() == now.resolve() else [f"the data would be that of {now}, and was that of {was}"]
    )


def _ids(payload: dict[str, Any]) -> dict[str, int]:
    return {name: record["id"] for name, record in payload.get("bandit", {}).get("arms", {}).items()}


def _phase(config: Config, step: int) -> str:
    return [phase for phase in phases(config) if phase.first_step <= step + 1][-1].name


def counts(
    changes: list[config_edit.Change], disables: list[str], old: dict[str, Any], new: Config, text: str
) -> dict[str, Any]:
    """How many arms a plan changes, adds and disables, and how many other keys of the text `new` was read from."""
    arms = {change.arm for change in changes if change.arm is not None}
    excluded = old["curriculum"]["exclude_sources"]
    could = {
        name
        for name, source in old["sources"].items()
        if source["cap"] > 0 and source["max_share"] > 0 and name not in excluded
    }
    added = {name for name in arms if name in new.sources and never_picked(new, name) is None} - could
    set_by_hand = tomllib.loads(text).get("curriculum", {})
    follow = {f"curriculum.{key}" for key in ("goal_sources", "reward") if key not in set_by_hand}
    return {
        "to_change": len(arms - added - set(disables)),
        "to_add": len(added),
        "adds": sorted(added),
        "to_disable": len(disables),
        "other_keys": sum(change.arm is None and change.field not in follow for change in changes),
    }
