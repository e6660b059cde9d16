"""What a well-formed config must also satisfy before it may run, and what it is warned about."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from curriculum import config_toml, eligibility
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import LOW_COUNTS

if TYPE_CHECKING:
    from curriculum.config import Config, Source

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NEED_A_GOAL = ("align", "heldout")
LARGEST_WEIGHT = 1.3  # an arm in focus, with the whole bonus for text not yet seen


def check(config: "Config", lines: config_toml.Lines) -> None:
    """Raise FirehoseError for the first rule that is broken, with its line and, where there is one, the source."""
    rules = _Rules(config, lines)
    rules.names()
    rules.model()
    rules.cadence()
    rules.gate()
    rules.goal()
    for name, source in config.sources.items():
        rules.bounds(name, source)
    rules.phases()


@dataclass(frozen=True)
class _Rules:
    config: "Config"
    lines: config_toml.Lines

    def refuse(
        self,
        keys: config_toml.Keys,
        message: str,
        *,
        next: str,
        arm: str | None = None,
        code: Exit = Exit.REFUSED,
    ) -> NoReturn:
        if arm is None and len(keys) > 1 and keys[0] == "sources":
            arm = keys[1]
        path = config_toml.where(self.config.path, self.lines, keys)
        raise FirehoseError(code, message, path=path, arm=arm, next=next)

    def names(self) -> None:
        if not NAME.fullmatch(self.config.name):
            self.refuse(
                ("name",),
                f'"{self.config.name}" cannot be the name of a run: it names a folder, so letters, digits, . _ - only',
                next='set name = "..." in the config',
                code=Exit.USAGE,
            )
        if not self.config.sources:
            self.refuse(
                ("sources",), "no source is configured", next="add a [sources.NAME] table", code=Exit.USAGE
            )
        for name in self.config.sources:
            if not NAME.fullmatch(name) or name.endswith(".heldout"):
                self.refuse(
                    ("sources", name),
                    f'"{name}" cannot be the name of a source: it names files, so letters, digits, . _ - only, '
                    "and .heldout is taken",
                    next="rename the table",
                    code=Exit.USAGE,
                )
        for key in ("curriculum_warmup_sources", "goal_sources"):
            for name in getattr(self.config.curriculum, key):
                if name not in self.config.sources:
                    hint = config_toml.did_you_mean(name, list(self.config.sources))
                    self.refuse(
                        ("curriculum", key),
                        f'curriculum.{key} names "{name}", which is not a configured source{hint}',
                        arm=name,
                        next="correct the name, or add the source",
                        code=Exit.USAGE,
                    )

    def model(self) -> None:
        model, gate = self.config.model, self.config.gate
        if model.width % model.heads or model.width // model.heads % 2:
            self.refuse(
                ("model", "width" if ("model", "width") in self.lines else "heads"),
                f"a width of {model.width} does not divide into {model.heads} heads of an even number of channels",
                next="choose a width that is a multiple of twice the heads",
            )
        if gate.min_new_tokens > gate.max_new_tokens:
            self.refuse(
                ("gate", "min_new_tokens"),
                f"gate.min_new_tokens {gate.min_new_tokens} is over gate.max_new_tokens {gate.max_new_tokens}",
                next="lower one or raise the other",
            )

    def cadence(self) -> None:
        train = self.config.train
        for key in ("sample_every", "checkpoint_every", "heldout_every"):
            every: int = getattr(train, key)
            if every % train.boundary_every:
                self.refuse(
                    ("train", key),
                    f"train.{key} {every} is not a multiple of train.boundary_every {train.boundary_every}",
                    next=f"set it to {max(1, round(every / train.boundary_every)) * train.boundary_every}",
                )
        memory = self.config.curriculum.memory
        if memory is not None and memory < train.grad_accum:
            self.refuse(
                ("curriculum", "memory"),
                f"curriculum.memory {memory} is under the {train.grad_accum} pulls of one step (train.grad_accum)",
                next="raise memory, or leave it out",
            )
        budget, warm = self.config.budget, self.config.curriculum.curriculum_warmup_steps
        if budget.max_heldout_loss is not None and not 0 < warm < train.steps:
            self.refuse(
                ("budget", "max_heldout_loss"),
                "budget.max_heldout_loss would never be looked at: it is of the end of the curriculum's warm-up, and there "
                "is none before the run's end",
                next="set curriculum.curriculum_warmup_steps, or leave it out",
            )
        if budget.price_per_kwh is not None and budget.watts is None:
            self.refuse(
                ("budget", "price_per_kwh"),
                "budget.price_per_kwh needs the power: budget.watts is not set",
                next="set budget.watts",
            )
        if self.config.model.tied and train.lr_scale.head != 1.0:
            self.refuse(
                ("train", "lr_scale"),
                f"train.lr_scale.head {train.lr_scale.head} would not be read: the head is the embedding (model.tied)",
                next="set lr_scale.embedding, or model.tied = false",
            )
        if train.funnel_steps >= train.steps:
            self.refuse(
                ("train", "funnel_steps"),
                f"train.funnel_steps {train.funnel_steps} never ends: the run has {train.steps} steps, and none of them "
                "would train on the whole vocabulary",
                next="lower funnel_steps; a tenth of the steps is plenty",
            )
        if train.funnel_steps and train.funnel_start > self.config.data.vocab_size:
            self.refuse(
                ("train", "funnel_start"),
                f"train.funnel_start {train.funnel_start} is over data.vocab_size {self.config.data.vocab_size}: "
                "a funnel widens",
                next=f"set it to {self.config.data.vocab_size} at most, or funnel_steps to 0",
            )
        if train.min_lr > train.lr:
            self.refuse(
                ("train", "min_lr"),
                f"train.min_lr {train.min_lr} is over train.lr {train.lr}",
                next="lower min_lr or raise lr",
            )
        shortest, longest = self.config.curriculum.dwell
        if shortest > longest:
            self.refuse(
                ("curriculum", "dwell"),
                f"curriculum.dwell goes from {shortest} down to {longest}",
                next=f"set it to [{longest}, {shortest}]",
            )

    def gate(self) -> None:
        gate = self.config.gate
        if gate.threshold == 0 and not gate.audit_halt:
            self.refuse(
                ("gate", "threshold"),
                "gate.threshold 0 is a gate that could never fire: no score is under 0, and gate.audit_halt names no audit",
                next="set threshold = 30.0, where the scores of broken text begin, or leave it out",
            )
        if gate.window_low > gate.window:
            self.refuse(
                ("gate", "window_low"),
                f"gate.window_low {gate.window_low} is over gate.window {gate.window}: the rule could never fire",
                next="lower window_low or raise window",
            )

    def goal(self) -> None:
        curriculum = self.config.curriculum
        if curriculum.reward in NEED_A_GOAL and not curriculum.goal_sources:
            self.refuse(
                ("curriculum", "reward"),
                f'curriculum.reward "{curriculum.reward}" needs a goal: no goal_sources are named, and no source has a '
                "floor",
                next='name curriculum.goal_sources, or set reward = "progress"',
            )

    def bounds(self, name: str, source: "Source") -> None:
        keys = ("sources", name)
        for key in ("cap", "floor", "min_share", "max_share"):
            if getattr(source, key) < 0:
                self.refuse(
                    (*keys, key), f"{name}: {key} {getattr(source, key)} is negative", next="set 0 or more"
                )
        if eligibility.never_picked(self.config, name) is not None:
            return  # never picked, so its other bounds bind nothing
        if source.floor > source.cap:
            self.refuse(
                (*keys, "floor"),
                f"{name}: floor {source.floor} is over cap {source.cap}",
                next="lower the floor or raise the cap",
            )
        if source.max_share > 1:
            self.refuse(
                (*keys, "max_share"), f"{name}: max_share {source.max_share} is over 1", next="set 1 or less"
            )
        if source.min_share > source.max_share:
            self.refuse(
                (*keys, "min_share"),
                f"{name}: min_share {source.min_share} is over max_share {source.max_share}",
                next="lower min_share or raise max_share",
            )

    def phases(self) -> None:
        for phase in eligibility.phases(self.config):
            if not phase.sources:
                if phase.name == "warm-up":
                    keys: config_toml.Keys = ("curriculum", "curriculum_warmup_sources")
                    message = (
                        f"the warm-up lasts {self.config.curriculum.curriculum_warmup_steps} steps, "
                        "and no source of its set may be picked"
                    )
                else:
                    keys = ("sources",)
                    message = "no source may be picked: each is excluded or has cap 0"
                self.refuse(
                    keys, message, arm=", ".join(self.config.sources), next="name sources that may be picked"
                )
            for problem in _infeasible(self.config, phase.sources):
                self.refuse(
                    ("sources", phase.sources[0]),
                    f"in the {phase.name} phase: {problem}",
                    arm=", ".join(phase.sources),
                    next="change min_share and max_share, or the set",
                )


def _infeasible(config: "Config", sources: Sequence[str]) -> list[str]:
    """What keeps the shares of sources that are eligible together from summing to 1 within their hard bounds."""
    from bandit.arms import ArmSpec  # here: numpy takes 0.1 s, paid only where a config is checked
    from bandit.bounds import check_feasible

    specs = []
    for at, name in enumerate(sources):
        source = config.sources[name]
        # The bounds alone are judged here: any number of windows will do.
        specs.append(ArmSpec(name, at, 1, source.cap, source.floor, source.min_share, source.max_share))
    return check_feasible(specs)


def decay_line(config: "Config") -> str:
    """The weight decay that will be used and where it comes from, for the print at every start (I03)."""
    train = config.train
    start = "from scratch" if train.init_from is None else "fine-tuning"
    default = 0.01 if train.init_from is None else 0.0
    origin = (
        "the default"
        if train.weight_decay == default
        else "set by the config; the default is " + str(default)
    )
    return f"weight decay {train.weight_decay:g}, {start} ({origin})"


def misspelt(config: "Config") -> list[str]:
    """Excluded names that are no source but look like one; others may be excluded without being configured."""
    found = []
    for name in config.curriculum.exclude_sources:
        if name not in config.sources and (hint := config_toml.did_you_mean(name, list(config.sources))):
            found.append(f'curriculum.exclude_sources names "{name}", which is not a configured source{hint}')
    return found


def warnings(config: "Config") -> list[str]:
    """What may be run and is probably not meant, one line each, with the incident's id where it has one."""
    train, curriculum = config.train, config.curriculum
    found = misspelt(config)
    if train.init_from is None and train.warmup_steps == 0:
        found.append(
            "I02: train.warmup_steps is 0 on a from-scratch run; 2000 keeps the first steps in a good basin"
        )
    if train.warmup_steps >= train.steps:
        found.append(f"train.warmup_steps {train.warmup_steps} never ends: the run has {train.steps} steps")
    if train.init_from is None and train.weight_decay == 0:
        found.append("I03: train.weight_decay is 0 on a from-scratch run; unset, it is 0.01")
    if train.init_from is not None and train.funnel_steps:
        found.append(
            "I16: train.funnel_steps is set with init_from, whose weights know the whole vocabulary already"
        )
    found += _unarmed(config)
    if curriculum.curriculum_warmup_steps >= train.steps:
        found.append(
            f"curriculum_warmup_steps {curriculum.curriculum_warmup_steps} never ends: the run has {train.steps} steps"
        )
    if curriculum.goal_sources and curriculum.reward not in NEED_A_GOAL:
        found.append(f"curriculum.goal_sources are not used by the reward {curriculum.reward}")
    if curriculum.policy == "focus-ucb":
        for phase in eligibility.phases(config):
            found += _forgotten(config, phase)
    return found


def _unarmed(config: "Config") -> list[str]:
    """What keeps the gate from halting this run whatever its samples say."""
    gate, samples = config.gate, config.train.steps // config.train.sample_every
    found = []
    if gate.threshold == 0:
        found.append(
            "gate.threshold 0: no score is under it, so that only the audits of gate.audit_halt can halt"
        )
    least = min(gate.consecutive, gate.window_low, -(-gate.tally // LOW_COUNTS) or gate.consecutive)
    if samples < least:
        found.append(
            f"the gate cannot halt this run: it needs {least} samples, and train.sample_every "
            f"{config.train.sample_every} draws {samples} in {config.train.steps} steps"
        )
    return found


def _forgotten(config: "Config", phase: eligibility.Phase) -> list[str]:
    """Arms without a floor that may go a whole memory unpulled, so that their record fades away (DESIGN 4.1)."""
    curriculum = config.curriculum
    memory = curriculum.memory or max(400, 96 * len(phase.sources))
    caps = {name: min(config.sources[name].cap, LARGEST_WEIGHT) for name in phase.sources}
    found = []
    for name in phase.sources:
        source = config.sources[name]
        least = min(source.cap, curriculum.background)
        share_low = max(source.min_share, least / (least + sum(caps.values()) - caps[name]))
        if source.floor == 0 and memory * share_low < 1:
            found.append(
                f"{name} has no floor and may get {share_low:.2g} of the pulls in the {phase.name} phase: under one in "
                f"the bandit's memory of {memory}; give it a floor, or raise curriculum.background or memory"
            )
    return found
