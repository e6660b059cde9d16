"""Repair of a run's files: a plan that says everything it will do, then one transaction that does it and can be undone.

What is repaired is what a launch resumes from, and the same functions bring it about: `state.settle` chooses between state
and checkpoint, `state.survey` reconciles with config and data. Nothing is deleted: what is replaced or moved stays in the
transaction's `before/`.
"""

import copy
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state import envelope, journal
from state.checkpoints import META
from state.findings import TITLES, Finding
from state.journal import Entry, Transaction
from state.repair import base as bases
from state.repair.base import Base
from state.repair.check import ahead, examine, ordered
from state.repair.examined import Examined
from state.repair.row_check import save_rows
from state.run_dir import RunDir
from state.store import utc_now

A_VERSION = "the version kept as"  # how findings of a version begin
STATE_IDS = {id for id in TITLES if id not in ("F0013", "F0015")}


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a repair does. path: relative to the run's folder."""

    what: str
    path: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"what": self.what, "path": self.path}


@dataclass(slots=True)
class Plan:
    """A repair before it is made. findings: all of the check. left: those that it does not clear.

    finish: an unfinished change to be finished first, and alone. transaction: what `apply` commits.
    """

    run: RunDir
    findings: list[Finding]
    actions: list[Action] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    finish: Entry | None = None
    transaction: Transaction | None = None

    def as_dict(self) -> dict[str, Any]:
        """The body of `state repair --json`."""
        return {
            "run": self.run.name,
            "findings": [found.as_dict() for found in self.findings],
            "actions": [action.as_dict() for action in self.actions],
            "left": [found.as_dict() for found in self.left],
        }


def plan(
    run: RunDir,
    *,
    only: Collection[str] = (),
    accept_edit: bool = False,
    discard_newer: bool = False,
    now: Callable[[], str] = utc_now,
) -> Plan:
    """What a repair of these findings (all by default) would do; nothing is changed.

    What hangs together is done together: the state is repaired, settled with its checkpoint and reconciled as a whole.
    Raises FirehoseError: NEWER_SCHEMA unless told to discard what is newer, REFUSED for an edit that cannot be accepted.
    """
    seen = examine(run)
    made = Plan(run, ordered(seen.findings))
    if run.journal.exists():
        made.finish = journal.unfinished(run)
        if made.finish is not None:
            made.actions.append(
                Action(f"finish the change that was cut short: {made.finish.what}", "journal")
            )
        return made
    if seen.newer_schema and not discard_newer:
        newer = next(found for found in seen.findings if found.id == "F0012")
        raise FirehoseError(Exit.NEWER_SCHEMA, str(newer), path=run.state, next=newer.fix)
    return _Planner(seen, made, set(only), accept_edit, discard_newer, now()).plan()


def apply(made: Plan) -> Entry | None:
    """Do what a plan says, as one transaction; None where there is nothing to do. The run's lock must be held.

    Raises FirehoseError(WRITE_FAILED).
    """
    if made.finish is not None:
        return journal.redo(made.run)
    return made.transaction.commit() if made.transaction is not None else None


class _Planner:
    def __init__(
        self, seen: Examined, made: Plan, only: set[str], accept: bool, discard: bool, now: str
    ) -> None:
        self.seen, self.made, self.only, self.now = seen, made, only, now
        self.accept, self.discard = accept, discard
        self.run = seen.run
        ids = sorted({found.id for found in made.findings if self.wanted(found.id)})
        self.tx = Transaction(self.run, "repair", f"repair of {', '.join(ids)}", now=now)
        self.events: list[dict[str, Any]] = []
        self.wrote = False

    def wanted(self, *ids: str) -> bool:
        """Whether any of these findings is to be repaired."""
        return not self.only or any(id in self.only for id in ids)

    def act(self, what: str, path: Any = None) -> None:
        self.made.actions.append(Action(what, None if path is None else str(path.relative_to(self.run.root))))

    def plan(self) -> Plan:
        seen = self.seen
        repaired: list[Finding] = []
        if self.wanted("F0015"):
            for path in seen.leftovers:
                self._aside(path)
        if self.wanted("F0001", "F0002", "F0008", "F0009", "F0011"):
            for path in seen.bad_versions:
                if self.discard or path not in seen.newer_versions:
                    self._aside(path)
            repaired += [one for one in seen.findings if one.message.startswith(A_VERSION)]
        if self.wanted("F0001") and seen.rootless and self.run.effective.exists():
            self._aside(self.run.effective)
        if self.wanted("F0013"):
            for path in seen.damaged:
                self._aside(path)
            self._hollow()
        step, source = self._state()
        if self.wanted("F0001") and seen.bad_history:
            self._history()
        if self.wrote:
            repaired += [one for one in seen.findings if one.id in STATE_IDS and self._of_state(one)]
            repaired += seen.stated
        above = [found for found in self.made.findings if found.severity != "info"]
        beyond = [one for one in seen.beyond if not (self.discard and one.id == "F0012")]
        wanted = [one for one in above if self.wanted(one.id)]
        with_it = [one for one in above if one in repaired and one not in wanted and one not in beyond]
        if with_it:
            self._tell(sorted({one.id for one in with_it} - {"F0004"}))
        self.made.left = [one for one in above if one in beyond or one not in [*wanted, *with_it]]
        cleared = self.made.actions
        if cleared:
            about = {"event": "repair", "step": step, **({"source": source} if source else {})}
            self.tx.record({**about, "done": [action.what for action in cleared]})
            for event in self.events:
                self.tx.record(event)
            self.made.transaction = self.tx
        return self.made

    def _tell(self, ids: list[str]) -> None:
        """Say which findings that nobody asked for are repaired all the same."""
        if ids:
            named = " and ".join(filter(None, [", ".join(ids[:-1]), ids[-1]]))
            verb = "is" if len(ids) == 1 else "are"
            self.act(f"{named} {verb} repaired with it: state, arms and marks of rows hang together")

    def _aside(self, path: Any) -> None:
        self.tx.aside(path)
        self.act(f"move {path.relative_to(self.run.root)} into the archive", path)

    def _history(self) -> None:
        lines = self.run.history.read_bytes().split(b"\n")
        bad = set(self.seen.bad_history)
        kept = [line for number, line in enumerate(lines, start=1) if number not in bad]
        self.tx.put(self.run.history, b"\n".join(kept))
        numbers = ", ".join(map(str, sorted(bad)))
        self.act(f"take the damaged lines out of {self.run.history.name}: {numbers}", self.run.history)

    def _hollow(self) -> None:
        """Write the state into checkpoints whose weights are whole and whose copy of it is not."""
        for found, state in self.seen.sound:
            if found.path in self.seen.hollow:
                meta = {**found.meta, "state": msgspec.to_builtins(state)}
                data = msgspec.json.format(msgspec.json.encode(meta, order="sorted"), indent=1)
                self.tx.put(found.path / META, data)
                name = found.path.relative_to(self.run.root)
                self.act(
                    f"write serial {state.serial} into {name} again, whose weights are whole", found.path
                )

    # The state, and what is in step with it.

    def _state(self) -> tuple[int, str | None]:
        """Plan the state's repair; the step it is of, and where it was taken from, None where it stays as it is."""
        seen = self.seen
        step = seen.settled.step if seen.settled else 0
        above = [one for one in seen.findings if one.severity != "info" or one.id == "F0006"]
        above = [one for one in above if one not in seen.beyond]
        needed = [one for one in above if one.id in STATE_IDS and self._of_state(one)]
        if self.discard and seen.newer_schema:
            needed += [one for one in seen.findings if one.id == "F0012"]
        newest = seen.sound[-1][0].step if seen.sound else -1
        moved = seen.gone or seen.split or any(step_of(path) > newest for path in seen.damaged)
        wanted = any(self.wanted(one.id) for one in needed) or (moved and self.wanted("F0013"))
        if not wanted or not self._possible():
            return step, None
        chosen = bases.choose(seen, accept_edit=self.accept)
        at = len(self.made.actions)
        settled = chosen.settled.messages if chosen.state is not None else []  # else they are in `done`
        for what in [*chosen.done, *chosen.given_up, *settled]:
            self.act(what, self.run.state)
        told = len(self.made.actions)
        payload, changed = self._reconciled(chosen)
        if payload is None:
            return self._begin_again(chosen)
        payload = self._rows(payload, chosen.settled.step)
        as_it_is = seen.state is not None and not chosen.given_up and not changed and not seen.split
        if as_it_is and seen.state is not None and payload == seen.state.payload:
            del self.made.actions[at:told]  # what is so anyway
            return step, None
        self._write(chosen, payload)
        return chosen.settled.step, chosen.settled.source

    def _of_state(self, found: Finding) -> bool:
        """Whether a finding is about the state, and not about a version kept of it or the history."""
        others = (A_VERSION, self.run.history.name, self.run.effective.name)
        return not found.message.startswith(others)

    def _possible(self) -> bool:
        """Whether a launch could go on at all, were the state repaired."""
        checkpoint_lost = any(one.id == "F0013" for one in self.seen.beyond)
        conflict_lost = any(one.id == "F0014" for one in self.seen.beyond)
        return not checkpoint_lost and not conflict_lost

    def _reconciled(self, chosen: Base) -> tuple[dict[str, Any] | None, bool]:
        """The payload that a launch would go on from, under config and data; whether these changed it."""
        from curriculum.sources import rest, specs
        from state.survey import reconciled

        seen, settled = self.seen, chosen.settled
        if settled.payload is None:
            return None, False
        payload = copy.deepcopy(settled.payload)
        if seen.config is None or seen.corpus is None or any(one.id == "F0010" for one in seen.beyond):
            return payload, False
        try:
            result = reconciled(seen.config, seen.corpus, payload, step=settled.step, read_data=False)
        except FirehoseError:
            return payload, False  # told as a finding that no repair clears
        if not result.changed and not chosen.mended:
            return payload, False
        for found in result.findings:
            if found.id != "F0004":
                self.act(f"{found.id} {ahead(found.message)}", self.run.state)
        self.events += result.events

        from bandit.reward import REWARDS
        from bandit.scheduler import Scheduler
        from curriculum.arms import scheduler_config

        names = {identity: name for name, identity in result.ids.items()}
        arms = specs(seen.config, seen.corpus, result.ids)
        scheduler = Scheduler.restore(scheduler_config(seen.config), arms, result.payload["bandit"])
        before = len(scheduler.open_tickets())
        notes = rest(seen.config, scheduler, result.ids, settled.step)
        reward = REWARDS[seen.config.curriculum.reward].restore(list(names), result.payload["reward"], names)
        cancelled = before - len(scheduler.open_tickets())
        self.act(
            f"shares begin anew, and {cancelled} pulls issued and not trained are taken back", self.run.state
        )
        for note in notes:
            self.act(note, self.run.state)
        return {**result.payload, "bandit": scheduler.saved(), "reward": reward.snapshot()}, True

    def _rows(self, payload: dict[str, Any], step: int) -> dict[str, Any]:
        """Make torn row files whole, and the marks fit them."""
        from state.repair.row_check import look_at_rows

        marks = dict(payload.get("files", {}))
        for fault in look_at_rows(self.run, marks, step, live=True):
            saved = save_rows(self.run, fault.name, marks, step)
            path = self.run.root / f"{self.run.name}.{fault.name}.json"
            self.tx.put(path, saved.data)
            for what in saved.done:
                self.act(what, path)
            marks[fault.name] = saved.mark.as_dict()
        return payload if marks == payload.get("files", {}) else {**payload, "files": marks}

    def _begin_again(self, chosen: Base) -> tuple[int, str | None]:
        """No checkpoint yet: the next launch begins at step 0. A state that can be read keeps its lineage."""
        if chosen.state is None:
            if self.run.state.exists():
                self._aside(self.run.state)
                self.wrote = True
            return 0, "fresh"
        if self.seen.state is not None and chosen.state == self.seen.state:
            return chosen.state.step, None
        self._write(chosen, chosen.state.payload, step=chosen.state.step)
        return chosen.state.step, "state"

    def _write(self, chosen: Base, payload: dict[str, Any], step: int | None = None) -> None:
        self.wrote = True
        seen, run, settled = self.seen, self.run, chosen.settled
        copied = seen.sound[-1][1] if seen.sound else None
        like = chosen.state or copied
        from_copy = settled.source == "checkpoint" and copied is not None
        parent = copied.parent if from_copy and copied else (like.parent if like else None)
        digest = next(
            (one.config_sha256 for one in (like, copied) if one and one.config_sha256 != envelope.NO_DIGEST),
            None,
        )
        if digest is None and seen.config is not None:
            digest = configs.digest(seen.config)
        serial = max(bases.top_serial(seen), settled.serial) + 1
        fresh = envelope.make(
            payload,
            lineage=settled.lineage or (like.lineage if like else envelope.new_lineage()),
            serial=serial,
            step=settled.step if step is None else step,
            written_at=self.now,
            config_sha256=digest or envelope.NO_DIGEST,
            parent=parent,
            path=run.state,
        )
        if run.state.exists():
            kind = "newer" if seen.newer_schema else "damaged"
            name = f"{seen.state.serial}.json" if seen.state else f"{kind}-{_short_hash(run)}.json"
            self.tx.keep(run.state, run.versions / name)
        self.tx.put(run.state, envelope.seal(fresh))
        kept = f"; the file now there is kept as {run.versions.name}/{name}" if run.state.exists() else ""
        self.act(f"write {run.state.name} as serial {serial} of step {fresh.step}{kept}", run.state)


def _short_hash(run: RunDir) -> str:
    return hashlib.sha256(run.state.read_bytes()).hexdigest()[:12]


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step_"))


def select(text: str) -> set[str]:
    """The ids of `--only F0003,F0015`. Raises FirehoseError(USAGE) for one that there is not."""
    ids = {part.strip().upper() for part in text.split(",") if part.strip()}
    if unknown := sorted(ids - TITLES.keys()):
        raise FirehoseError(
            Exit.USAGE,
            f"there is no finding {', '.join(unknown)}",
            next=f"--only takes {', '.join(TITLES)}, with commas between",
        )
    return ids
