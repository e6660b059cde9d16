"""Everything a run is made of, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bandit.reward import Reward
from bandit.scheduler import Scheduler
from curriculum.config import Config
from curriculum.gate.judge import Judge
from curriculum.gate.rule import Gate
from curriculum.tokens.corpus import Corpus
from trainer.feed import Feed
from trainer.model import Decoder
from trainer.parallel import Whole
from trainer.ratios import Ratios
from trainer.record import Position, Record
from trainer.ring import Ring
from trainer.sampling import Drawn
from trainer.signals import Flags
from trainer.step import TrainStep
from trainer.world import World

Generate = Callable[[str, int], Drawn]


@dataclass(slots=True)
class Parts:
    """Everything a run is made of; `launch` builds it from a config, fresh or from a checkpoint.

    shared: the model as the processes of the run share it. record: who writes the run's files, on rank 0 alone.
    ratios: how far steps move each group of parameters. changed: arms, bounds or lineage are not those of any checkpoint yet. alarms: of kept state files that
    were passed over (`state.passed`), which `status` looks up by itself.
    """

    config: Config
    corpus: Corpus
    arm_ids: dict[str, int]
    scheduler: Scheduler
    reward: Reward[Any]
    gate: Gate
    judge: Judge
    model: Decoder
    shared: Whole
    optimizer: torch.optim.AdamW
    train_step: TrainStep
    ring: Ring
    feed: Feed
    generate: Generate
    record: Record
    position: Position
    flags: Flags
    device: torch.device
    world: World
    changed: bool
    ratios: Ratios
    alarms: list[str]
