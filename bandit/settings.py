"""Settings of the scheduler: what decides the picks beside the arms and the rewards."""

import math
from dataclasses import dataclass

from bandit.errors import InvalidConfig
from bandit.policies import POLICIES


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What decides the picks beside the arms and the rewards.

    grad_accum: pulls a step. windows_per_pull: windows a pull serves. delay: steps from a ticket's step to the step
    whose picks count its credit. policy: one of `bandit.policies.POLICIES`. focus_size: arms in focus, None for half
    of the eligible ones. background: raw weight of the others. temperature: of `softmax-ucb`. dwell: least and most
    steps between two refreshes of the weights. memory: pulls remembered beside each arm's own last 64, None for
    max(400, 96 arms), at least one step's. drop_test: whether a dropped mean is tested for, as suits rewards whose
    noise is new at every pull (`bandit.index`). xi, zeta: width of the index. floors_override_repetition: False
    multiplies floors by the repetition penalty.
    """

    seed: int
    grad_accum: int
    windows_per_pull: int
    delay: int
    policy: str = "focus-ucb"
    focus_size: int | None = None
    background: float = 0.1
    temperature: float = 0.1
    dwell: tuple[int, int] = (7, 42)
    memory: int | None = None
    drop_test: bool = False
    xi: float = 0.25
    zeta: float = 0.03
    floors_override_repetition: bool = True

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidConfig(f"policy {self.policy!r} is not one of {', '.join(POLICIES)}")
        for key in ("grad_accum", "windows_per_pull", "delay"):
            if getattr(self, key) < 1:
                raise InvalidConfig(f"{key} {getattr(self, key)} is under 1")
        if self.focus_size is not None and self.focus_size < 1:
            raise InvalidConfig(f"focus_size {self.focus_size} is under 1")
        if not 1 <= self.dwell[0] <= self.dwell[1]:
            raise InvalidConfig(f"dwell {list(self.dwell)} is not a range of at least one step")
        if self.memory is not None and self.memory < self.grad_accum:
            raise InvalidConfig(f"memory {self.memory} is under one step's {self.grad_accum} pulls")
        for key in ("background", "xi", "zeta"):
            if not 0.0 <= getattr(self, key) < math.inf:
                raise InvalidConfig(f"{key} {getattr(self, key)} is not a finite number of at least 0")
        if not 0.0 < self.temperature < math.inf:
            raise InvalidConfig(f"temperature {self.temperature} is not a finite number above 0")
