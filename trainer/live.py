"""New bounds in mid-run: checked against the run, then put in force at a boundary as a restart there would do it.

Config, its effective form and the state change in one transaction, after a checkpoint of the same step: a crash
before the transaction's commit leaves the old bounds, one after it the new ones, and picks from the boundary on are
those of a run that was stopped there, edited and started again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bandit.errors import BanditError
from bandit.scheduler import Scheduler
from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from state import effective, envelope, journal, survey
from state.polish import live, polish
from state.reconcile import Reconciled
from state.requests import Request
from state.store import utc_now
from trainer.build import bandit
from trainer.parts import Parts
from trainer.record import Record


@dataclass(slots=True)
class Change:
    """A change of bounds that can be made: the new config with its text, and what a launch with it would come to.

    original: the file that the run's config is a copy of.
    """

    request: Request
    original: Path
    config: Config
    changes: live.Changes
    scheduler: Scheduler
    result: Reconciled
    notes: list[str]

    def words(self) -> str:
        """The change in words: `beta floor 0.3 -> 0.5`."""
        return live.words(self.changes)


def prepare(parts: Parts, request: Request) -> Change:
    """What a request for other bounds asks, worked out and checked, nothing being changed. Raises FirehoseError."""
    record = parts.record
    if request.config is None or request.base != record.config_sha256:
        raise FirehoseError(
            Exit.STALE_PLAN, "the config is not the one this change was made from; make the plan again"
        )
    own = record.run.config
    return work_out(parts, request, configs.original_of(own) or own)


def plain(change: Change) -> dict[str, Any]:
    """A change as it is told to the other ranks, which `repeat` it."""
    return {"request": msgspec.to_builtins(change.request), "original": str(change.original)}


def repeat(parts: Parts, told: dict[str, Any]) -> Change:
    """The change that rank 0 prepared, worked out again on another rank, whose bandit is the same."""
    return work_out(parts, msgspec.convert(told["request"], Request), Path(told["original"]))


def work_out(parts: Parts, request: Request, original: Path) -> Change:
    """What a change comes to. Raises FirehoseError."""
    record, step = parts.record, parts.position.step
    config = polish.check(str(request.config), record.run.config, original)
    found = live.changes(parts.config, config)
    payload = {
        **record.standing,
        "bandit": parts.scheduler.snapshot(),
        "reward": parts.reward.snapshot(),
    }
    result = survey.reconciled(config, parts.corpus, payload, step=step, read_data=False)
    if result.ids != parts.arm_ids or any(event["event"] != "bounds" for event in result.events):
        raise FirehoseError(Exit.REFUSED, "arms or data are no longer what the run was launched with")
    notes: list[str] = []
    try:
        scheduler, _ = bandit(
            config, parts.corpus, result.ids, result.payload, step, notes.append, fresh=False, renew=True
        )
    except BanditError as error:
        raise FirehoseError(Exit.REFUSED, str(error), path=record.run.config) from None
    return Change(request, original, config, found, scheduler, result, notes)


def apply(parts: Parts, change: Change) -> None:
    """Make the change, durably: `parts` and the run's files have the new bounds when this returns; rank 0 has the files.

    The checkpoint and the state of this very step must be committed. Raises FirehoseError(WRITE_FAILED); the next
    launch then has the bounds that the run's config says.
    """
    record, step, digest = parts.record, parts.position.step, configs.digest(change.config)
    if parts.world.first:
        _write(record, change, step, digest)
    parts.config, parts.scheduler, parts.changed = change.config, change.scheduler, True
    record.config_sha256 = digest
    record.standing |= {key: change.result.payload[key] for key in ("pruned", "data")}


def _write(record: Record, change: Change, step: int, digest: str) -> None:
    run, store = record.run, record.store
    committed, _ = store.read()
    assert committed is not None and committed.step == step
    payload = {key: value for key, value in committed.payload.items() if key != "events"}
    payload |= {key: change.result.payload[key] for key in ("pruned", "data")}
    payload["bandit"] = change.scheduler.saved()
    sealed = envelope.seal(store.prepare(payload, step=step, config_sha256=digest))

    tx = journal.Transaction(run, "live", f"new bounds at step {step}: {change.words()}", now=utc_now())
    tx.keep(run.state, store.folder / f"{committed.serial}.json")
    tx.put(run.config, str(change.request.config).encode())
    tx.put(run.effective, effective.changed(msgspec.json.decode(run.effective.read_bytes()), change.config))
    tx.put(run.state, sealed)
    tx.record({"event": "live", "step": step, "plan": change.request.plan, "changes": change.changes})
    for event in change.result.events:
        tx.record(event)
    tx.commit()

    store.read()
