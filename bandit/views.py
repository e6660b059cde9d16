"""Views: one arm as status and reports show it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bandit.arms import ArmSpec
from bandit.reward import repetition


@dataclass(frozen=True, slots=True)
class ArmView:
    """One arm as it stands. share: of the pulls since the last restart. target: its share in the current dwell.

    share_low, share_high: the interval its bounds imply over the eligible set. pulls: lifetime. mean_reward: 0.5
    before any is counted. index: None for an arm with no pull to judge by, which comes first.
    """

    name: str
    id: int
    eligible: bool
    weight: float
    cap: float
    floor: float
    share: float
    target: float
    share_low: float
    share_high: float
    pulls: int
    epochs: float
    coverage: float
    mean_reward: float
    index: float | None


def arm_view(spec: ArmSpec, cursor: int, state: Mapping[str, Any]) -> ArmView:
    """The view of an arm from its spec, its cursor and the scheduler's numbers; an infinite index becomes None."""
    read = repetition(cursor, spec.windows)
    return ArmView(
        name=spec.name,
        id=spec.id,
        cap=spec.cap,
        floor=spec.floor,
        epochs=read.epochs,
        coverage=read.coverage,
        **{**state, "index": state["index"] if math.isfinite(state["index"]) else None},
    )
