"""The change of course itself: a fresh state on the weights there are, and the one transaction that puts it in place.

A pivot keeps weights, optimizer, learning rate and loss history, and begins bandit, reward and gate anew under another
config; only what was read of each source (cursor, pulls) is carried over. A rollback puts back what a pivot replaced.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bandit.arms import ArmSpec
from bandit.index import rebase_period
from bandit.reward import REWARDS
from bandit.scheduler import Scheduler
from curriculum import config as configs
from curriculum.arms import scheduler_config
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.files import sha256_file
from curriculum.gate.rule import Gate
from curriculum.sources import open_corpus, rest, specs
from curriculum.tokens.corpus import Corpus
from state import checkpoints, effective, envelope, journal
from state.envelope import Envelope, Parent, open_envelope
from state.findings import Finding
from state.journal import Transaction
from state.polish.polish import Plan, check
from state.reconcile import Reconciled
from state.recover import Look
from state.rows import EMPTY, HEAD, TAIL
from state.run_dir import RunDir, read_object
from state.settle import settle
from state.store import StateStore
from state.story import HALT_ROLLBACK
from state.survey import reconciled

IN_BETWEEN = ("live", HALT_ROLLBACK)  # changes of bounds that begin no lineage
KIND = "polish"  # of its transactions in the archive
LOOP = {
    "uncredited": {},
    "skipped_in_a_row": 0,
    "forgiven": 0,
    "loss_ema": None,
    "passing_checkpoint": None,
    "last_sample": None,
}


@dataclass(slots=True)
class Fresh:
    """A state that begins a lineage, not sealed yet.

    ids: name to id of its arms. scheduler: as it stands in the payload. relaxed: what of the bounds cannot hold.
    """

    payload: dict[str, Any]
    step: int
    ids: dict[str, int]
    specs: list[ArmSpec]
    scheduler: Scheduler
    result: Reconciled
    relaxed: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """What config and data changed of the arms."""
        return self.result.findings


def fresh(config: Config, corpus: Corpus, payload: dict[str, Any], step: int, weights: int | None) -> Fresh:
    """The state that a pivot to `config` begins with, from a payload of `step`. weights: step of its checkpoint.

    Raises FirehoseError where the data of a source is missing.
    """
    result = reconciled(config, corpus, payload, step=step, read_data=False)
    old, names = result.payload, {arm_id: name for name, arm_id in result.ids.items()}
    arms = specs(config, corpus, result.ids)
    scheduler = begin(config, arms, old["bandit"], step)
    reward = REWARDS[config.curriculum.reward](list(names), names)
    relaxed = rest(config, scheduler, result.ids, step)
    loop = {**LOOP, **copy.deepcopy(old.get("loop", {})), "skipped_in_a_row": 0, "forgiven": step}
    for trained in loop["uncredited"].values():  # their losses count in the average, and reward nobody
        trained |= {"signals": [None] * len(trained["losses"]), "goal": None}
    files = {**old.get("files", {}), "samples": EMPTY.as_dict()}
    body = {
        "bandit": scheduler.saved(),
        "reward": reward.snapshot(),
        "gate": Gate.of(config.gate).snapshot(),
        "halt": None,
        "loop": {**loop, "last_sample": None},
        "pruned": old["pruned"],
        "data": old["data"],
        "edits": [],
        "files": {name: files.get(name, EMPTY.as_dict()) for name in ("loss", "pulls", "samples", "heldout")},
        "checkpoint": weights,
        "protected": sorted({*old.get("protected", []), *([] if weights is None else [weights])}),
        **({"platform": old["platform"]} if "platform" in old else {}),
    }
    return Fresh(body, step, result.ids, arms, scheduler, result, relaxed)


def begin(config: Config, arms: list[ArmSpec], old: dict[str, Any], step: int) -> Scheduler:
    """A scheduler that has learned nothing and goes on after `step`, its sources read as far as an older one read them.

    old: that one's snapshot. Its tickets of later steps were never trained: their windows are to be read yet.
    """
    settings = scheduler_config(config)
    new = Scheduler(settings, arms)
    snapshot = new.snapshot()
    untrained = [ticket for ticket in old.get("tickets", []) if ticket["step"] > step]
    for name, record in snapshot["arms"].items():
        known = old.get("arms", {}).get(name)
        if known is not None:
            own = [ticket["window"] for ticket in untrained if ticket["arm"] == known["id"]]
            record["cursor"] = min([known["cursor"], *own])
            record["pulls"] = known["pulls"] - len(own)
    period = rebase_period(new.gamma)
    next_ticket = old.get("next_ticket", 1)
    snapshot |= {
        "step": step,
        "settled_step": step,
        "last_sample_step": step,
        "origin": step - step % period,
        "next_ticket": next_ticket,
        "counted_ticket": next_ticket - 1,
    }
    return Scheduler.restore(settings, arms, snapshot)


def refuse_finished(run: RunDir, config: Config, step: int) -> None:
    """Raise FirehoseError(REFUSED) where no step is left."""
    if step >= config.train.steps:
        raise FirehoseError(
            Exit.REFUSED,
            f"the run has done all its {config.train.steps:,} steps: nothing is left to polish",
            path=run.state,
            next=f"begin another run on its weights: firehose run CONFIG with train.init_from = {run.name!r}",
        )


def refuse_other_tokens(corpus: Corpus, found: checkpoints.Checkpoint | None) -> None:
    """Raise FirehoseError(REFUSED) where the data was made with another tokenizer than the run's."""
    if found is not None and found.meta["tokenizer_sha256"] != corpus.tokenizer_sha256:
        raise FirehoseError(
            Exit.REFUSED,
            "the token files were made with another tokenizer than this run's",
            path=corpus.tokenizer,
            next="firehose data build CONFIG --tokenizer RUN/tokenizer builds them with the one the run began with",
        )


def transaction(run: RunDir, plan: Plan, found: Look, store: StateStore, *, now: str) -> Transaction:
    """What a plan does to a run that has stopped, ready to commit; nothing is touched. Raises FirehoseError.

    found: of the run, under its lock, by `recover.look` on `store`.
    """
    if plan.kind == "rollback":
        return _rollback(run, plan, found, store, now)
    config = check(plan.config, run.config, Path(plan.config_file))
    settled = found.settled
    refuse_finished(run, config, settled.step)
    corpus = open_corpus(config)
    refuse_other_tokens(corpus, found.weights)
    weights = found.weights.step if found.weights else None
    new = fresh(config, corpus, settled.payload or {}, settled.step, weights)
    # What it descends from is the checkpoint's state: two pivots in a row begin on the same weights.
    ancestor = found.copy if found.weights and found.copy else found.state
    assert ancestor is not None  # a plan is made of a run that has a state
    parent = Parent(ancestor.lineage, ancestor.serial, settled.step)
    old = settled.lineage or ancestor.lineage
    tx = Transaction(run, KIND, f"polish at step {settled.step}: {summary(plan)}", now=now)
    tx.put(run.config, plan.config.encode())
    origin = (read_object(run.effective) or {}).get("origin")
    tx.put(run.effective, effective.first(config, Path(plan.config_file), run.root, origin))
    tx.put(run.samples, HEAD + TAIL)
    put_state(
        tx, found, store, new.payload, lineage=plan.lineage, parent=parent, step=parent.step, config=config
    )
    for event in new.result.events:
        if event["event"] != "bounds":  # the changes below say it
            tx.record(event)
    tx.record(
        {
            "event": "pivot",
            "step": settled.step,
            "lineage": plan.lineage,
            "parent": {"lineage": old, "serial": settled.serial, "step": settled.step},
            "changes": plan.changes,
            "plan": plan.sha256,
            "archive": tx.name,
        }
    )
    return tx


def summary(plan: Plan) -> str:
    """A plan's changes in a few words, for the archive."""
    arms = sorted({change["arm"] for change in plan.changes if change["arm"]})
    others = [change["field"] for change in plan.changes if not change["arm"]]
    named = [*arms, *others]
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def put_state(
    tx: Transaction,
    found: Look,
    store: StateStore,
    payload: dict[str, Any],
    *,
    lineage: str,
    parent: Parent | None,
    step: int,
    config: Config,
) -> None:
    """Put another state in place, of a new lineage or of an earlier step; the one there stays among the versions."""
    run = tx.run
    store.reserve(found.settled.serial)
    if run.state.exists():
        whole = found.state is not None and not found.findings
        name = str(found.state.serial) if found.state and whole else f"damaged-{sha256_file(run.state)[:12]}"
        tx.keep(run.state, run.versions / f"{name}.json")
    new = envelope.make(
        payload,
        lineage=lineage,
        serial=store.next_serial(),
        step=step,
        written_at=tx.now,
        config_sha256=configs.digest(config),
        parent=parent,
        path=run.state,
    )
    sealed = envelope.seal(new)
    tx.put(run.state, sealed)
    # Were the file damaged before its first commit, the newest version would be one of the lineage that was left.
    tx.put(run.versions / f"{new.serial}.json", sealed)


# Back.


@dataclass(frozen=True, slots=True)
class Before:
    """What a pivot replaced: the files that it kept, the state and checkpoint they belong to, and the pivot's event."""

    entry: journal.Entry
    where: Path
    event: dict[str, Any]
    state: Envelope
    step: int

    @property
    def config(self) -> str:
        """The text of the config before it."""
        return (self.where / "config.toml").read_bytes().decode()


def pivots(run: RunDir) -> list[tuple[journal.Entry, dict[str, Any]]]:
    """The finished pivots and rollbacks that were not undone, oldest first, each with its event."""
    return [(entry, event) for entry, event in turns(run) if event["event"] not in IN_BETWEEN]


def turns(run: RunDir) -> list[tuple[journal.Entry, dict[str, Any]]]:
    """As `pivots`, with the changes of bounds that the run took as it ran or went back with."""
    entries = journal.entries(run)
    undone = {entry.undoes for entry in entries}
    return [
        (entry, operation.event)
        for entry in entries
        for operation in entry.operations
        if isinstance(operation, journal.Record)
        and operation.event.get("event") in ("pivot", "rollback", *IN_BETWEEN)
        and entry.number not in undone
    ]


def before(run: RunDir, name: str) -> Before:
    """What the pivot of that name in the archive replaced. Raises FirehoseError: NOT_FOUND, DAMAGED."""
    for entry, event in pivots(run):
        if entry.name == name and event["event"] == "pivot":
            where = journal.folder(run, entry) / journal.BEFORE
            path = where / run.state.name
            try:
                state = open_envelope(path.read_bytes(), path)
            except FileNotFoundError:
                raise FirehoseError(
                    Exit.DAMAGED,
                    f"the archive {name} lacks the state that the pivot replaced",
                    path=path,
                    next="firehose polish rollback --keep-weights takes the old config over without it",
                ) from None
            return Before(entry, where, event, state, int(event["step"]))
    raise FirehoseError(
        Exit.NOT_FOUND,
        f"there is no pivot {name}",
        path=run.archive,
        next=f"firehose polish history {run.root}",
    )


def _rollback(run: RunDir, plan: Plan, found: Look, store: StateStore, now: str) -> Transaction:
    assert plan.target is not None
    back = before(run, plan.target)
    stored, copied = target_checkpoint(run, back)
    old = settle(back.state, copied, run=run.name)
    if old.payload is None:
        raise FirehoseError(
            Exit.REFUSED,
            "the pivot was made before the first checkpoint: there is nothing to go back to",
            path=back.where,
            next="firehose polish rollback --keep-weights takes the old config over",
        )
    ancestor = copied or back.state
    payload = {
        **copy.deepcopy(old.payload),
        "edits": [],
        "checkpoint": stored.step if stored else None,
        "protected": sorted(
            {
                *(found.settled.payload or {}).get("protected", []),
                *old.payload.get("protected", []),
                *([stored.step] if stored else []),
            }
        ),
    }
    payload.pop("events", None)
    config = check(plan.config, run.config, Path(plan.config_file))
    given_up = found.settled.step - old.step
    tx = Transaction(run, KIND, f"rollback of {plan.target} to step {old.step}", now=now)
    tx.put(run.config, plan.config.encode())
    tx.put(run.effective, (back.where / run.effective.name).read_bytes())
    samples = back.where / run.samples.name
    tx.put(run.samples, samples.read_bytes() if samples.exists() else HEAD + TAIL)
    for path in checkpoints.after(run.checkpoints, old.step):
        tx.aside(path)
    parent = Parent(ancestor.lineage, ancestor.serial, old.step)
    put_state(tx, found, store, payload, lineage=plan.lineage, parent=parent, step=parent.step, config=config)
    tx.record(
        {
            "event": "rollback",
            "step": old.step,
            "lineage": plan.lineage,
            "parent": {"lineage": parent.lineage, "serial": parent.serial, "step": old.step},
            "from": {"lineage": found.settled.lineage, "step": found.settled.step},
            "given_up": given_up,
            "undoes": plan.target,
            "changes": plan.changes,
            "plan": plan.sha256,
            "archive": tx.name,
        }
    )
    return tx


def target_checkpoint(run: RunDir, back: Before) -> tuple[checkpoints.Checkpoint | None, Envelope | None]:
    """The checkpoint that a pivot began from, sound, and the state in it; None for one before the first.

    Raises FirehoseError: NOT_FOUND where it is no longer in its place, DAMAGED.
    """
    if back.step == 0 or (back.event["parent"]["step"] == 0):
        return None, None
    path = run.checkpoints / f"step_{back.step}"
    if not path.exists():
        moved = sorted(run.archive.glob(f"*/before/checkpoints/step_{back.step}"))
        where = f"; one of that step is in {moved[-1]}" if moved else ""
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"the checkpoint of step {back.step}, which the pivot began from, is not there{where}",
            path=path,
            next="firehose polish rollback --keep-weights takes the old config over without it",
        )
    stored, copied = checkpoints.sound(path)
    return stored, copied
