"""Progress: the fall of an arm's own loss, measured in deviations of its own noise (DESIGN 4.2)."""

import math
from dataclasses import dataclass

from bandit.errors import SnapshotMismatch
from bandit.reward.base import FAST, NEUTRAL, Average, Reward
from bandit.snapshot import Record

SLOW = 0.01
LEAST_PULLS = 8
# Deviations of the noise at which the reward reaches 0 or 1.
FULL_SCALE = 3.0
# Noise under this share of the loss is rounding, not noise.
ROUNDING = 1e-9


def weight_difference_norm(pulls: int) -> float:
    """sqrt(sum_k (f_k - s_k)^2) over the weights that the bias-corrected fast and slow averages give to `pulls` losses.

    With rate a, p = 1 - a, the weights are a p^j / (1 - p^n), so the sum of their squares is (a^2 / (1 - p^2))
    (1 - p^2n) / (1 - p^n)^2 and a product of two rates likewise. The difference of the averages of independent
    noise of deviation d has deviation d times this.
    """

    def product(a: float, b: float) -> float:
        p, q = 1.0 - a, 1.0 - b
        joint = a * b * (1.0 - (p * q) ** pulls) / (1.0 - p * q)
        return joint / ((1.0 - p**pulls) * (1.0 - q**pulls))

    return math.sqrt(max(0.0, product(FAST, FAST) + product(SLOW, SLOW) - 2.0 * product(FAST, SLOW)))


@dataclass(slots=True)
class Curve(Average):
    """Beside the fast average: the slow one and that of the squared differences, halved, both uncorrected."""

    slow: float = 0.0
    squared_difference: float = 0.0
    last: float = 0.0


class ProgressReward(Reward[Curve]):
    """Rewards an arm for the fall of its own loss, measured in deviations of its own noise.

    Per arm a fast (0.1) and a slow (0.01) average of its loss per own pull, both bias-corrected, and a noise from
    successive differences; z = (slow - fast) / (noise sqrt(sum of squared weight differences)), reward
    (1 + clip(z / 3, -1, 1)) / 2, and 0.5 under 8 pulls. An arm that learns nothing averages 0.5 whatever its noise.

    >>> reward = ProgressReward([7])
    >>> [reward.update(7, 3.0 - 0.01 * pull) for pull in range(8)][0]
    0.5
    >>> reward.update(7, 2.0) > 0.5
    True
    """

    record = Curve

    def _worth(self, arm: Curve, loss: float, signal: float | None) -> float:
        if arm.pulls > 0:
            arm.squared_difference += SLOW * ((loss - arm.last) ** 2 / 2.0 - arm.squared_difference)
        arm.add(loss)
        arm.slow += SLOW * (loss - arm.slow)
        arm.last = loss
        if arm.pulls < LEAST_PULLS:
            return NEUTRAL
        slow = arm.slow / (1.0 - (1.0 - SLOW) ** arm.pulls)
        noise = math.sqrt(arm.squared_difference / (1.0 - (1.0 - SLOW) ** (arm.pulls - 1)))
        if noise <= ROUNDING * abs(slow):
            return NEUTRAL
        z = (slow - arm.mean()) / (noise * weight_difference_norm(arm.pulls))
        return (1.0 + min(1.0, max(-1.0, z / FULL_SCALE))) / 2.0

    def _load(self, arm: Curve, record: Record) -> None:
        super()._load(arm, record)
        if arm.squared_difference < 0.0:
            raise SnapshotMismatch(f"{record.place}.squared_difference: {arm.squared_difference} is under 0")
