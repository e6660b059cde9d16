"""From a config and whatever is on disk to a run that is ready to go on: fresh, or settled from what a crash left."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
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
from curriculum.gate.judge import Judge, open_audits
from curriculum.gate.rule import Gate
from curriculum.sources import open_corpus, rest, specs
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens.corpus import Corpus
from state import checkpoints, passed
from state.checkpoints import MODEL, OPTIMIZER, Checkpoint, Keep
from state.rows import Mark, RowFile
from state.run_dir import RunDir
from state.store import StateStore
from trainer import checkpoint, cuda, funnel, identity, machine, optim, parallel, sampling, weights
from trainer.align import Alignment
from trainer.doctor import first
from trainer.feed import Feed
from trainer.forensics import Examiner
from trainer.funnel import Funnel
from trainer.goal import GoalLoss, GoalText
from trainer.model import Decoder
from trainer.parallel import Kind, Whole
from trainer.parts import Parts
from trainer.ratios import Ratios
from trainer.record import ROW_FILES, Position, Record, alarm_of
from trainer.ring import Ring
from trainer.sampling import Drawn
from trainer.signals import Flags
from trainer.start import Found, Start, settle
from trainer.step import Loss, TrainStep
from trainer.witness import Witness
from trainer.world import World

Say = Callable[[str], None]

# Windows of a probe, in those of a step: with one in 40 steps, a forward pass and the head's share of a backward one.
PROBE_STEPS = 2


@dataclass(slots=True)
class Built:
    """What every rank builds from the same start."""

    scheduler: Scheduler
    reward: Reward[Any]
    gate: Gate
    judge: Judge
    position: Position
    shared: Whole
    optimizer: torch.optim.AdamW
    forward: Loss
    align: Alignment | None
    goal_loss: GoalLoss | None
    funnel: Funnel | None
    device: torch.device
    autocast: AbstractContextManager[None]


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


def build(
    config: Config, corpus: Corpus, start: Start, stored: Checkpoint | None, say: Say, world: World
) -> Built:
    """Model, optimizer and bandit as they were at the step to go on from. stored: the checkpoint that `start` names."""
    device = world.device(start.platform["device"])
    device, autocast = machine.apply(
        {**start.platform, "device": str(device)}, deterministic=config.train.deterministic
    )
    world.carry(device)
    resumes = start.weights is not None
    kind = start.platform.get("parallel", "ddp")
    shared, optimizer = network(config, corpus, stored, device, resumes=resumes, world=world, kind=kind)
    rows, _ = world.rows(config.train.micro_batch)
    mine = rows.stop - rows.start
    forward = cuda.forward(
        shared.model, optimizer, config.train, device, autocast, mine, say, whole=not shared.together
    )
    scheduler, reward = bandit(
        config, corpus, start.ids, start.payload, start.step, say, fresh=start.fresh, renew=start.changed
    )
    align, goal_loss = signals(config, corpus, start.goal, shared, device, autocast)
    if align is not None and start.recalls and stored is not None:
        align.load(checkpoint.tensors(stored, OPTIMIZER))
    narrowed = funnel.of_run(config, corpus, device)
    if narrowed is not None:
        say(funnel.words(narrowed, start.step))
    gate = start.gate(config)
    audits, notes = open_audits(corpus, config.gate.audit_halt)
    for note in notes:
        say(note)
    judge = Judge(gate, audits, {arm_id: name for name, arm_id in start.ids.items()})
    if not start.fresh:
        judge.watch.restore(start.payload.get("watch", {}), judge.names)
    return Built(
        scheduler,
        reward,
        gate,
        judge,
        start.position,
        shared,
        optimizer,
        forward,
        align,
        goal_loss,
        narrowed,
        device,
        autocast,
    )


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


def network(
    config: Config,
    corpus: Corpus,
    stored: Checkpoint | None,
    device: torch.device,
    *,
    resumes: bool,
    world: World,
    kind: Kind,
) -> tuple[Whole, torch.optim.AdamW]:
    """Model and optimizer: drawn from the seed, or a checkpoint's; another run's gives its weights alone."""
    train = config.train
    model = weights.build(config, corpus.vocab_size)
    if stored is None:
        model.initialise(config.seed)
    else:
        weights.refuse_other_tokens(stored, corpus.tokenizer_sha256)
        weights.load(model, checkpoint.tensors(stored, MODEL), stored.path)
    shared = parallel.share(model, world, kind, device)
    optimizer = optim.build(
        model,
        weight_decay=train.weight_decay,
        betas=(train.beta1, train.beta2),
        device=device,
        scales=train.lr_scale,
    )
    if stored is not None and resumes:
        optim.load_state(optimizer, shared.named, checkpoint.tensors(stored, OPTIMIZER), shared.spread)
    return shared, optimizer


def signals(
    config: Config,
    corpus: Corpus,
    goal: list[str],
    shared: Whole,
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
        return None, GoalLoss(shared.model, text, every=every, autocast=autocast, world=shared.world)
    return Alignment(shared.model, text, every=every, autocast=autocast, shared=shared), None


def bandit(
    config: Config,
    corpus: Corpus,
    ids: dict[str, int],
    payload: dict[str, Any],
    step: int,
    say: Say,
    *,
    fresh: bool,
    renew: bool,
) -> tuple[Scheduler, Reward[Any]]:
    """Scheduler and reward, restored where there is something to restore; renew: sharing begins anew, see `rest`."""
    arms, names = specs(config, corpus, ids), {i: name for name, i in ids.items()}
    reward = REWARDS[config.curriculum.reward]
    if fresh:
        return Scheduler(scheduler_config(config), arms), reward(list(names), names)
    scheduler = Scheduler.restore(scheduler_config(config), arms, payload["bandit"])
    if renew:
        for message in rest(config, scheduler, ids, step):
            say(message)
    return scheduler, reward.restore(list(names), payload["reward"], names)


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
