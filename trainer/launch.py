"""From a config and whatever is on disk to a run that is ready to go on: fresh, or settled from what a crash left."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import torch

from bandit.reward import REWARDS, Reward
from bandit.scheduler import Scheduler
from curriculum import config as configs
from curriculum.arms import scheduler_config
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import Gate
from curriculum.sources import open_corpus, rest, specs
from curriculum.tokens.corpus import Corpus
from state import checkpoints, passed
from state.checkpoints import MODEL, OPTIMIZER, Checkpoint
from state.findings import Finding
from state.reconcile import Reconciled
from state.recover import Look, look
from state.rows import Mark, RowFile
from state.run_dir import RunDir
from state.settle import Settled
from state.store import StateStore, sweep_temporaries
from state.survey import reconciled
from trainer import checkpoint, identity, machine, optim, sampling, weights
from trainer.align import Alignment
from trainer.feed import Feed
from trainer.goal import GoalLoss, GoalText, goal_sources
from trainer.model import Decoder
from trainer.parts import Parts
from trainer.record import ROW_FILES, Position, Record
from trainer.ring import Ring
from trainer.signals import Flags
from trainer.step import TrainStep

Say = Callable[[str], None]

# Windows of a probe, in those of a step: with one in 40 steps, a forward pass and the head's share of a backward one.
PROBE_STEPS = 2


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


def launch(config: Config, run: RunDir, *, flags: Flags, clear_halt: bool, say: Say, runs_dir: Path) -> Parts:
    """Everything `Loop` needs, at the step to go on from. The run's lock must be held, and no journal be left.

    Raises FirehoseError; the rows, checkpoints and state of a run that cannot be resumed are left as they were, but
    for a damaged checkpoint, which is moved to the archive.
    """
    store = StateStore(run.state)
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
    at = Position() if fresh else Position.from_payload(found.settled.step, result.payload)
    gate = Gate(config.gate.threshold, config.gate.consecutive, config.gate.window, config.gate.window_low)
    if not fresh:
        gate.restore(result.payload["gate"])
    cleared = settle_halt(run, at, gate, clear_halt=clear_halt)

    train = config.train
    platform, lost = machine.settle(
        result.payload.get("platform"), machine.choose(train.device, train.dtype, train.threads)
    )
    device, autocast = machine.apply(platform)
    for message in lost:
        say(message)
    origin = weights.origin(config, run, runs_dir) if found.weights is None else None
    model, optimizer = network(config, corpus, found.weights or origin, device, resumes=origin is None)
    if origin is not None:
        say(f"weights are those of {origin.path} (step {origin.step})")
    scheduler, reward = bandit(config, corpus, result, at.step, say, fresh=fresh, renew=result.changed)

    run.create()
    record = open_record(config, corpus, run, store, found, result, platform, model, say)
    tokenizer = identity.store(config, corpus, run, origin)
    first = {
        "bandit": scheduler.saved(),
        "reward": reward.snapshot(),
        "gate": gate.snapshot(),
        **at.payload(),
        **record.standing,
        "files": record.commit_rows(),
        "checkpoint": record.checkpoint_step,
    }
    digest, settled = record.config_sha256, found.settled
    messages = [*settled.messages, *lost]
    kind = "launch" if fresh else "resume"
    aside = []
    if passed.broken(run, found.findings):
        said = [str(item) for item in found.findings]
        aside = [{"event": "passed-over", "step": at.step, "file": passed.kept_as(run).name, "found": said}]
    events = [
        {
            "event": kind,
            "step": at.step,
            "source": settled.source,
            "platform": platform,
            "messages": messages,
        },
        *result.events,
        *aside,
        *([{"event": "clear-halt", "step": at.step, "halt": cleared}] if cleared else []),
    ]
    exists = found.state is not None
    store.reserve(settled.serial)
    if exists and not cleared and not result.changed and not aside:
        if settled.source != "state":  # the file speaks of another step than the one gone on from
            store.commit(first, step=at.step, config_sha256=digest)
        record.event(**events[0])
    else:  # what was decided here holds, and is told, however soon this process dies
        first["events"] = marked = record.marked(events)
        if exists:
            store.commit(first, step=at.step, config_sha256=digest)
        else:
            store.create(first, config_sha256=digest, step=at.step, lineage=settled.lineage)
        run.record_once(marked)

    align, goal_loss = signals(config, corpus, goal, model, device, autocast)
    if align is not None and found.weights is not None and not found.other_config(digest):
        align.load(checkpoint.tensors(found.weights, OPTIMIZER))
    ring = Ring(max(16, 4 * train.feedback_delay), train.grad_accum, device)
    names = {arm_id: name for name, arm_id in result.ids.items()}
    return Parts(
        config=config,
        corpus=corpus,
        arm_ids=result.ids,
        scheduler=scheduler,
        reward=reward,
        gate=gate,
        model=model,
        optimizer=optimizer,
        train_step=TrainStep(
            model,
            optimizer,
            ring,
            grad_clip=train.grad_clip,
            autocast=autocast,
            align=align,
            goal_loss=goal_loss,
        ),
        ring=ring,
        feed=Feed(corpus, names, train, device, rank=0, size=1),
        generate=lambda prompt, step: sampling.generate(
            model,
            tokenizer,
            prompt,
            temperature=config.gate.temperature,
            max_new_tokens=config.gate.max_new_tokens,
            min_new_tokens=config.gate.min_new_tokens,
            key=(config.seed, step),
        ),
        record=record,
        position=at,
        flags=flags,
        device=device,
        changed=not fresh and (result.changed or found.pivoted),
        alarms=passed.alarms(run),
    )


def network(
    config: Config, corpus: Corpus, stored: Checkpoint | None, device: torch.device, *, resumes: bool
) -> tuple[Decoder, torch.optim.AdamW]:
    """Model and optimizer: drawn from the seed, or a checkpoint's; another run's gives its weights alone."""
    train = config.train
    model = weights.build(config, corpus.vocab_size)
    if stored is None:
        model.initialise(config.seed)
    else:
        weights.refuse_other_tokens(stored, corpus.tokenizer_sha256)
        weights.load(model, checkpoint.tensors(stored, MODEL), stored.path)
    model.to(device)
    optimizer = optim.build(
        model, weight_decay=train.weight_decay, betas=(train.beta1, train.beta2), device=device
    )
    if stored is not None and resumes:
        optim.load_state(optimizer, model, checkpoint.tensors(stored, OPTIMIZER))
    return model, optimizer


def signals(
    config: Config,
    corpus: Corpus,
    goal: list[str],
    model: Decoder,
    device: torch.device,
    autocast: AbstractContextManager[None],
) -> tuple[Alignment | None, GoalLoss | None]:
    """What measures the signal that the reward needs, if it needs one."""
    train, every = config.train, config.curriculum.probe_every
    needs = REWARDS[config.curriculum.reward].needs
    if needs is None:
        return None, None
    windows = PROBE_STEPS * train.grad_accum * train.micro_batch
    if needs == "goal":
        windows = -(-windows // len(goal)) * len(goal)
    text = GoalText(corpus, goal, windows=windows, chunk=train.micro_batch, device=device)
    if needs == "goal":
        return None, GoalLoss(model, text, every=every, autocast=autocast)
    return Alignment(model, text, every=every, autocast=autocast), None


def bandit(
    config: Config, corpus: Corpus, result: Reconciled, step: int, say: Say, *, fresh: bool, renew: bool
) -> tuple[Scheduler, Reward[Any]]:
    """Scheduler and reward, restored where there is something to restore; renew: sharing begins anew, see `rest`."""
    arms, names = specs(config, corpus, result.ids), {i: name for name, i in result.ids.items()}
    reward = REWARDS[config.curriculum.reward]
    if fresh:
        return Scheduler(scheduler_config(config), arms), reward(list(names), names)
    scheduler = Scheduler.restore(scheduler_config(config), arms, result.payload["bandit"])
    if renew:
        for message in rest(config, scheduler, result.ids, step):
            say(message)
    return scheduler, reward.restore(list(names), result.payload["reward"], names)


def open_record(
    config: Config,
    corpus: Corpus,
    run: RunDir,
    store: StateStore,
    found: Look,
    result: Reconciled,
    platform: dict[str, Any],
    model: Decoder,
    say: Say,
) -> Record:
    """The run's files, row files cut back to where the story goes on; what is cut goes to the archive."""
    marks = {name: Mark(**mark) for name, mark in result.payload.get("files", {}).items()}
    label = f"step-{found.settled.step}-serial-{found.settled.serial}"
    rows = {name: RowFile(run.root / f"{run.name}.{name}.json") for name in ROW_FILES}
    for name, file in rows.items():
        for message in file.open(marks.get(name), run.archive, label):
            say(message)
    return Record(
        run,
        store,
        rows,
        config_sha256=configs.digest(config),
        standing={
            "pruned": result.payload["pruned"],
            "data": result.payload["data"],
            "edits": result.payload.get("edits", []),
            "protected": result.payload.get("protected", []),
            "platform": platform,
        },
        meta={
            "shape": msgspec.to_builtins(model.shape),
            "parameters": model.parameter_count(),
            "tokenizer_sha256": corpus.tokenizer_sha256,
        },
        keep=(config.train.keep_checkpoints, config.train.keep_every),
        checkpoint_step=found.weights.step if found.weights else None,
    )


def settle_halt(run: RunDir, at: Position, gate: Gate, *, clear_halt: bool) -> dict[str, Any] | None:
    """A halt is sticky: refuse to go on, unless the operator clears it, which starts the gate's memory anew."""
    if at.halt is None:
        return None
    if not clear_halt:
        raise halted(run, at.halt)
    cleared, at.halt = at.halt, None
    gate.restart()
    return cleared


def halted(run: RunDir, halt: dict[str, Any]) -> FirehoseError:
    """The refusal of a halted run."""
    return FirehoseError(
        Exit.REFUSED,
        f"the coherence gate halted this run at step {halt['step']}: {halt['reason']}",
        path=run.state,
        next=f"firehose samples {run.root}; to go on regardless: firehose run {run.config} --clear-halt",
    )
