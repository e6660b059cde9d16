"""From a config and whatever is on disk to a run that is ready to go on: fresh, or settled from what a crash left."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch

from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.sources import open_corpus
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens.corpus import Corpus
from state import checkpoints, passed
from state.checkpoints import Checkpoint, Keep
from state.rows import Mark, RowFile
from state.run_dir import RunDir
from state.store import StateStore
from trainer import cuda, identity, sampling
from trainer.build import Built, build
from trainer.doctor import first
from trainer.feed import Feed
from trainer.forensics import Examiner
from trainer.model import Decoder
from trainer.parts import Parts
from trainer.ratios import Ratios
from trainer.record import ROW_FILES, Record, alarm_of
from trainer.ring import Ring
from trainer.sampling import Drawn
from trainer.signals import Flags
from trainer.start import Found, Start, settle
from trainer.step import TrainStep
from trainer.witness import Witness
from trainer.world import World

Say = Callable[[str], None]


def launch(
    config: Config,
    run: RunDir,
    *,
    flags: Flags,
    clear_halt: bool,
    say: Say,
    runs_dir: Path,
    world: World | None = None,
    ask_model: bool = True,
) -> Parts:
    """Everything `Loop` needs, at the step to go on from. The run's lock must be held, and no journal be left.

    The other ranks are told what they need, `follow` being their part of it. ask_model: whether a model without any
    training is asked first whether it is sound, and refused where it is not. Raises FirehoseError; the rows,
    checkpoints and state of a run that cannot be resumed are left as they were, but for a damaged checkpoint, which is
    moved to the archive.
    """
    world, store = world or World(), StateStore(run.state)
    start, found, corpus = settle(
        config, run, store, clear_halt=clear_halt, say=say, runs_dir=runs_dir, world=world
    )
    if world.size > 1:
        world.announce(asdict(start))
    built = build(config, corpus, start, found.look.weights or found.origin, say, world)
    drawn = start.step == 0 and found.look.weights is None and found.origin is None
    if ask_model and drawn and not built.shared.together:
        first.look(config, corpus, start.ids, built.shared.model)
    if found.origin is not None:
        say(f"weights are those of {found.origin.path} (step {found.origin.step})")

    run.create()
    record = open_record(config, corpus, run, store, start, found, built.shared.model, built.device, say)
    tokenizer = identity.store(config, corpus, run, found.origin)
    begin(run, store, start, found, built, record)
    return assemble(config, corpus, start, built, record, tokenizer, flags, say)


def follow(config: Config, run: RunDir, *, flags: Flags, world: World) -> Parts:
    """What `launch` gives, on another rank than the first: built from what that one settled, no file being touched."""
    start = msgspec.convert(world.announce(), Start)
    corpus, stored = open_corpus(config), checkpoint_at(start.weights or start.origin, world)
    built = build(config, corpus, start, stored, silent, world)
    witness = Witness(run, start, config_sha256=configs.digest(config))
    return assemble(config, corpus, start, built, witness, None, flags, silent)


def silent(message: str) -> None:
    """What rank 0 says is said once."""


def checkpoint_at(path: str | None, world: World) -> Checkpoint | None:
    """The checkpoint that rank 0 found at a path. Raises FirehoseError(NOT_FOUND) where this rank does not see it."""
    if path is None:
        return None
    found = checkpoints.read(Path(path))
    if found is None:
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"rank {world.rank} does not see the checkpoint that rank 0 goes on from",
            path=path,
            next="put the folder of the runs (--runs-dir) where all machines of the run see it",
        )
    return found


def begin(run: RunDir, store: StateStore, start: Start, found: Found, built: Built, record: Record) -> None:
    """Make what was decided at the launch hold, before a step is trained: a first commit where it says anything new."""
    first = {
        "bandit": built.scheduler.saved(),
        "reward": built.reward.snapshot(),
        "gate": built.gate.snapshot(),
        "watch": built.judge.snapshot(),
        **built.position.payload(),
        **record.standing,
        "files": record.marks(),
        "checkpoint": record.checkpoint_step,
    }
    digest, settled, step = record.config_sha256, found.look.settled, built.position.step
    aside = []
    if passed.broken(run, found.look.findings):
        said = [str(item) for item in found.look.findings]
        aside = [{"event": "passed-over", "step": step, "file": passed.kept_as(run).name, "found": said}]
    events = [
        {
            "event": "launch" if start.fresh else "resume",
            "step": step,
            "source": settled.source,
            "platform": start.platform,
            "messages": [*settled.messages, *found.lost],
        },
        *found.result.events,
        *aside,
        *([{"event": "clear-halt", "step": step, "halt": start.cleared}] if start.cleared else []),
    ]
    exists = found.look.state is not None
    store.reserve(settled.serial)
    if exists and not start.cleared and not start.changed and not aside:
        if settled.source != "state":  # the file speaks of another step than the one gone on from
            store.commit(first, step=step, config_sha256=digest)
        record.event(**events[0])
    else:  # what was decided here holds, and is told, however soon this process dies
        first["events"] = marked = record.marked(events)
        if exists:
            store.commit(first, step=step, config_sha256=digest)
        else:
            store.create(first, config_sha256=digest, step=step, lineage=settled.lineage)
        run.record_once(marked)


def assemble(
    config: Config,
    corpus: Corpus,
    start: Start,
    built: Built,
    record: Record,
    tokenizer: Tokenizer | None,
    flags: Flags,
    say: Say,
) -> Parts:
    """The parts, by name. tokenizer: of the rank that samples."""
    train, device, shared, world = config.train, built.device, built.shared, built.shared.world
    ring = Ring(max(16, 4 * train.feedback_delay), train.grad_accum, device)
    if world.size > 1:
        ring.alive = world.check
    names = {arm_id: name for name, arm_id in start.ids.items()}

    own = None if shared.together or not world.first else sampling.Sampler.on_device(shared.model)

    def generate(prompt: str, step: int) -> Drawn:
        model, drawn = shared.alone(), None
        if model is not None and tokenizer is not None:
            drawn = sampling.generate(
                own or sampling.Sampler.on_device(model),
                tokenizer,
                prompt,
                temperature=config.gate.temperature,
                max_new_tokens=config.gate.max_new_tokens,
                min_new_tokens=config.gate.min_new_tokens,
                key=(config.seed, step),
            )
        return Drawn(**world.tell(drawn and asdict(drawn)))

    train_step = TrainStep(
        shared.model,
        built.optimizer,
        ring,
        grad_clip=train.grad_clip,
        autocast=built.autocast,
        align=built.align,
        goal_loss=built.goal_loss,
        shared=shared,
        forward=built.forward,
        funnel=built.funnel,
    )
    cuda.record(train_step, train, device, alone=world.size == 1, say=say)
    return Parts(
        config=config,
        corpus=corpus,
        arm_ids=start.ids,
        scheduler=built.scheduler,
        reward=built.reward,
        gate=built.gate,
        judge=built.judge,
        model=shared.model,
        shared=shared,
        optimizer=built.optimizer,
        train_step=train_step,
        ring=ring,
        feed=Feed(corpus, names, train, device, rank=world.rank, size=world.size),
        generate=generate,
        record=record,
        position=built.position,
        flags=flags,
        device=device,
        world=world,
        changed=start.moved,
        ratios=Ratios(shared, built.optimizer, peak=train.lr),
        alarms=world.announce(passed.alarms(record.run) if world.first else None),
    )


def open_record(
    config: Config,
    corpus: Corpus,
    run: RunDir,
    store: StateStore,
    start: Start,
    found: Found,
    model: Decoder,
    device: torch.device,
    say: Say,
) -> Record:
    """The run's files, row files cut back to where the story goes on; what is cut goes to the archive."""
    marks = {name: Mark(**mark) for name, mark in start.payload.get("files", {}).items()}
    label = f"step-{found.look.settled.step}-serial-{found.look.settled.serial}"
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
            "pruned": start.payload["pruned"],
            "data": start.payload["data"],
            "edits": start.payload.get("edits", []),
            "protected": start.payload.get("protected", []),
            "rollbacks": start.payload.get("rollbacks", []),
            "platform": start.platform,
        },
        meta={
            "shape": msgspec.to_builtins(model.shape),
            "parameters": model.parameter_count(),
            "tokenizer_sha256": corpus.tokenizer_sha256,
            "seed": config.seed,
            "betas": [config.train.beta1, config.train.beta2],
        },
        keep=Keep(config.train.keep_checkpoints, config.train.keep_every, config.train.keep_best),
        goal=config.curriculum.goal_sources,
        checkpoint_step=found.look.weights.step if found.look.weights else None,
        device=device,
        examiner=Examiner(model.shape, config.seed, quick=True),
        alarm=alarm_of(last.step, last.meta.get("forensics")) if (last := found.look.weights) else None,
    )
