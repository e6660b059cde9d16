"""What a launch settles from a config and whatever is on disk, before anything is built: rank 0's work alone.

What comes of it is a `Start`: plain data, told to the other ranks, from which every rank builds the same run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import Gate
from curriculum.sources import open_corpus
from curriculum.tokens.corpus import Corpus
from state import checkpoints, passed
from state.checkpoints import Checkpoint
from state.findings import Finding
from state.reconcile import Reconciled
from state.recover import Look, look
from state.run_dir import RunDir
from state.settle import Settled
from state.store import StateStore, sweep_temporaries
from state.survey import reconciled
from trainer import identity, machine, parallel, weights
from trainer.goal import goal_sources
from trainer.record import Position
from trainer.world import World

Say = Callable[[str], None]


@dataclass(slots=True)
class Start:
    """A run at the step to go on from, as plain data.

    payload, ids, changed: of the reconciled state. cleared: the halt that the operator cleared. moved: a checkpoint is
    due at the first boundary. goal: sources. weights: checkpoint to go on from; origin: one whose weights alone are
    taken; neither: weights drawn from the seed. recalls: whether that checkpoint's goal is this run's.
    """

    fresh: bool
    step: int
    payload: dict[str, Any]
    ids: dict[str, int]
    changed: bool
    cleared: dict[str, Any] | None
    moved: bool
    goal: list[str]
    platform: dict[str, Any]
    weights: str | None
    origin: str | None
    recalls: bool

    @property
    def position(self) -> Position:
        """Where the run is."""
        at = Position() if self.fresh else Position.from_payload(self.step, self.payload)
        at.halt = None  # or there would be no start
        return at

    def gate(self, config: Config) -> Gate:
        """The gate with its memory, which a cleared halt empties."""
        gate = Gate.of(config.gate)
        if not self.fresh:
            gate.restore(self.payload["gate"])
        if self.cleared is not None:
            gate.restart()
        return gate


@dataclass(slots=True)
class Found:
    """What rank 0 knows beside the start, to open the run's files. lost: what of the platform was not kept, in words."""

    look: Look
    result: Reconciled
    origin: Checkpoint | None
    lost: list[str]


def told(item: Finding) -> str:
    """A finding as a run says it, with what to do about it."""
    return f"{item}\n  next:     {item.fix}" if item.fix else str(item)


def find(run: RunDir, store: StateStore, say: Say) -> Look:
    """Look at state and checkpoints; what is damaged is put aside, and all of it is said."""
    for name in checkpoints.sweep(run.checkpoints):
        say(f"removed {name}, left by a process that died")
    for finding in sweep_temporaries(run.root, run.archive):
        say(str(finding))
    found = look(run, store)
    for finding in passed.at_launch(run, found.findings):
        say(told(finding))
    for payload in (found.state.payload if found.state else {}, found.settled.payload or {}):
        run.record_once(payload.get("events", []))
    for bad, why in found.damaged:
        aside = run.archive / f"{bad.name}.damaged-{int(time.time())}"
        bad.rename(aside)
        used = f"; the checkpoint of step {found.checkpoint.step} is used" if found.checkpoint else ""
        say(f"{why.message}; moved to {aside}{used}")
    for message in found.settled.messages:
        say(message)
    return found


def settle(
    config: Config,
    run: RunDir,
    store: StateStore,
    *,
    clear_halt: bool,
    say: Say,
    runs_dir: Path,
    world: World,
) -> tuple[Start, Found, Corpus]:
    """What to go on from. The run's lock must be held, and no journal be left; nothing of a run is begun here.

    Raises FirehoseError; the rows, checkpoints and state of a run that cannot be resumed are left as they were, but
    for a damaged checkpoint, which is moved to the archive.
    """
    refuse_uneven(config, world)
    found = Look(None, [], None, None, Settled("fresh", None, 0, None, 0))
    if run.exists():
        identity.refuse_other_config(run, config)
        run.create()  # an empty folder is lost in many a copy
        found = find(run, store, say)
    corpus = open_corpus(config)
    identity.refuse_other_tokenizer(run, corpus, found.weights, say)
    if corpus.vocab_size != config.data.vocab_size + 1:
        say(
            f"warning: the token files have a vocabulary of {corpus.vocab_size - 1} and the config asks for "
            f"{config.data.vocab_size}: they were built with another setting, or from too little text for it"
        )
    result = reconciled(config, corpus, found.settled.payload or {}, step=found.settled.step, run=run)
    for item in result.findings:
        say(told(item))
    goal, notes = goal_sources(config, corpus)
    for note in notes:
        say(note)
    fresh = found.settled.payload is None
    halt = None if fresh else result.payload["halt"]
    if halt is not None:
        if not clear_halt:
            raise halted(run, halt)
        result.payload["rollbacks"] = []  # a person has looked
    platform, lost = choose_platform(config, corpus, result.payload.get("platform"), world)
    for message in lost:
        say(message)
    origin = weights.origin(config, run, runs_dir) if found.weights is None else None
    start = Start(
        fresh=fresh,
        step=found.settled.step,
        payload=result.payload,
        ids=result.ids,
        changed=result.changed,
        cleared=halt,
        moved=not fresh and (result.changed or found.pivoted),
        goal=goal,
        platform=platform,
        weights=None if found.weights is None else str(found.weights.path),
        origin=None if origin is None else str(origin.path),
        recalls=found.weights is not None and not found.other_config(configs.digest(config)),
    )
    return start, Found(found, result, origin, lost), corpus


def choose_platform(
    config: Config, corpus: Corpus, stored: dict[str, Any] | None, world: World
) -> tuple[dict[str, Any], list[str]]:
    """What the run's bits depend on beside its config, as it was where that can be; and in words what could not."""
    train, before = config.train, stored.get("ranks", 1) if stored else world.size
    threads = train.threads
    if world.size > 1 and threads == 0:
        threads = max(1, machine.cores() // world.local_size)

    def trial() -> dict[str, float]:
        shape = weights.build(config, corpus.vocab_size).shape
        return machine.trial_of(shape, train.micro_batch // world.size)

    def wanted() -> dict[str, Any]:
        return machine.choose(train.device, train.dtype, threads, trial)

    if stored and before != world.size:  # they were chosen for as many ranks as there were
        stored = {**stored, "threads": threads or machine.auto_threads()}
    platform, lost = machine.settle(stored, wanted, deterministic=train.deterministic)
    platform["ranks"] = world.size
    if world.size > 1:
        parameters = parallel.parameters(config, corpus.vocab_size)
        platform["parallel"] = parallel.choose(train.parallel, parameters, platform["device"])
    changed = [f"ranks {before} -> {world.size}"] if before != world.size else []
    if stored and (kind := stored.get("parallel")) and kind != platform.get("parallel", kind):
        changed.append(f"parallel {kind} -> {platform['parallel']}")
    return platform, [*lost, *([f"resume is not bit-exact: {', '.join(changed)}"] if changed else [])]


def refuse_uneven(config: Config, world: World) -> None:
    """A pull's windows are dealt to the ranks evenly, so that a run's batches are the same on any number of them."""
    rows = config.train.micro_batch
    if rows % world.size:
        even = [str(size) for size in range(1, rows + 1) if rows % size == 0]
        raise FirehoseError(
            Exit.REFUSED,
            f"train.micro_batch = {rows} windows cannot be dealt evenly to {world.size} ranks",
            path=config.path,
            next=f"torchrun --nproc-per-node with one of {', '.join(even)}; micro_batch is that of all ranks together",
        )


def halted(run: RunDir, halt: dict[str, Any]) -> FirehoseError:
    """The refusal of a halted run."""
    return FirehoseError(
        Exit.REFUSED,
        f"{halt.get('by', 'the coherence gate')} halted this run at step {halt['step']}: {halt['reason']}",
        path=run.state,
        next=f"firehose samples {run.root}; to go on regardless: firehose run {run.config} --clear-halt",
    )
