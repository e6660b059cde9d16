"""What every rank of a run builds from the same start: model, optimizer, bandit, gate, and what measures its signal."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from bandit.reward import REWARDS, Reward
from bandit.scheduler import Scheduler
from curriculum.arms import scheduler_config
from curriculum.config import Config
from curriculum.gate.judge import Judge, open_audits
from curriculum.gate.rule import Gate
from curriculum.sources import rest, specs
from curriculum.tokens.corpus import Corpus
from state.checkpoints import MODEL, OPTIMIZER, Checkpoint
from trainer import checkpoint, cuda, funnel, machine, optim, parallel, weights
from trainer.align import Alignment
from trainer.funnel import Funnel
from trainer.goal import GoalLoss, GoalText
from trainer.parallel import Kind, Whole
from trainer.record import Position
from trainer.start import Start
from trainer.step import Loss
from trainer.world import World

Say = Callable[[str], None]

# Windows of a probe, in those of a step: with one in 40 steps, a forward pass and the head's share of a backward one.
PROBE_STEPS = 2


@dataclass(slots=True)
class Built:
    """What `build` gives, by name."""

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
    names = {arm_id: name for name, arm_id in start.ids.items()}
    judge = Judge(gate, audits, names, warmup=config.train.warmup_steps)
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
