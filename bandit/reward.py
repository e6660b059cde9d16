"""Reward: what a pull was worth, in [0, 1], and how much of a source has been read (DESIGN 4.2, 4.3)."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bandit.arms import FloatArray, IntArray
from bandit.errors import NonFiniteLoss, SnapshotMismatch, UnknownArm
from bandit.snapshot import Record

FAST, SLOW = 0.1, 0.01
NEUTRAL = 0.5
LEAST_PULLS = 8
# Deviations of the noise at which the reward reaches 0 or 1.
FULL_SCALE = 3.0
# Noise under this share of the loss is rounding, not noise.
ROUNDING = 1e-9
LARGEST_LOSS = 1e100


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
class Curve:
    """One arm's losses: its pulls and the uncorrected averages of the loss and of its squared differences, halved."""

    pulls: int = 0
    fast: float = 0.0
    slow: float = 0.0
    squared_difference: float = 0.0
    last: float = 0.0


class ProgressReward:
    """Rewards an arm for the fall of its own loss, measured in deviations of its own noise.

    Per arm a fast (0.1) and a slow (0.01) average of its loss per own pull, both bias-corrected, and a noise from
    successive differences; z = (slow - fast) / (noise sqrt(sum of squared weight differences)), reward
    (1 + clip(z / 3, -1, 1)) / 2, and 0.5 under 8 pulls. An arm that learns nothing averages 0.5 whatever its noise.

    arm_ids: the arms; `names` (id to name) only serves errors.

    >>> reward = ProgressReward([7])
    >>> [reward.update(7, 3.0 - 0.01 * pull) for pull in range(8)][0]
    0.5
    >>> reward.update(7, 2.0) > 0.5
    True
    """

    def __init__(self, arm_ids: Collection[int], names: Mapping[int, str] | None = None) -> None:
        self._names = dict(names or {})
        self._curves = {arm_id: Curve() for arm_id in sorted(arm_ids)}

    def _curve(self, arm_id: int) -> Curve:
        if arm_id not in self._curves:
            raise UnknownArm(f"no arm has the id {arm_id}")
        return self._curves[arm_id]

    def update(self, arm_id: int, loss: float) -> float:
        """Count the loss (nats a token) of a pull of the arm; its reward in [0, 1].

        NonFiniteLoss, naming the arm, with nothing changed, for a loss that is not a usable number.
        """
        curve = self._curve(arm_id)
        loss = float(loss)
        if not abs(loss) < LARGEST_LOSS:
            name = self._names.get(arm_id, f"arm {arm_id}")
            raise NonFiniteLoss(f"{name}: loss {loss} is not a usable number", arm=name)
        if curve.pulls > 0:
            curve.squared_difference += SLOW * ((loss - curve.last) ** 2 / 2.0 - curve.squared_difference)
        curve.fast += FAST * (loss - curve.fast)
        curve.slow += SLOW * (loss - curve.slow)
        curve.last = loss
        curve.pulls += 1
        if curve.pulls < LEAST_PULLS:
            return NEUTRAL
        fast = curve.fast / (1.0 - (1.0 - FAST) ** curve.pulls)
        slow = curve.slow / (1.0 - (1.0 - SLOW) ** curve.pulls)
        noise = math.sqrt(curve.squared_difference / (1.0 - (1.0 - SLOW) ** (curve.pulls - 1)))
        if noise <= ROUNDING * abs(slow):
            return NEUTRAL
        z = (slow - fast) / (noise * weight_difference_norm(curve.pulls))
        return (1.0 + min(1.0, max(-1.0, z / FULL_SCALE))) / 2.0

    def loss_ema(self, arm_id: int) -> float | None:
        """The fast average of the arm's loss, bias-corrected; None before its first pull."""
        curve = self._curve(arm_id)
        if curve.pulls == 0:
            return None
        return curve.fast / (1.0 - (1.0 - FAST) ** curve.pulls)

    def snapshot(self) -> dict[str, Any]:
        """Plain data: arm id (as text, for JSON) to the fields of its curve."""
        return {str(arm_id): asdict(curve) for arm_id, curve in self._curves.items()}

    @classmethod
    def restore(
        cls, arm_ids: Collection[int], snapshot: Mapping[str, Any], names: Mapping[int, str] | None = None
    ) -> "ProgressReward":
        """Bit-exact inverse of `snapshot`. Arms that the snapshot lacks start anew; those not in `arm_ids` are left out."""
        reward = cls(arm_ids, names)
        table = Record(dict(snapshot), "reward")
        for key in table:
            curve = reward._curves.get(table.key_as_id(key))
            if curve is None:
                continue
            record = table.table(key)
            curve.pulls = record.whole("pulls")
            for field in ("fast", "slow", "squared_difference", "last"):
                setattr(curve, field, record.number(field))
            if curve.squared_difference < 0.0:
                raise SnapshotMismatch(
                    f"{record.place}.squared_difference: {curve.squared_difference} is under 0"
                )
        return reward


@dataclass(frozen=True, slots=True)
class Repetition:
    """How often a source has been read and what that does to its weight.

    epochs: windows served / windows. penalty: 1 / max(1, epochs). coverage: min(1, epochs).
    bonus: 1 + 0.3 (1 - coverage / 0.5) below half coverage, else 1.
    """

    epochs: float
    penalty: float
    coverage: float
    bonus: float


def repetition(cursor: int, windows: int) -> Repetition:
    """The terms of one source from its cursor (windows served, lifetime) and its windows; no epochs without data.

    >>> repetition(cursor=300, windows=100)
    Repetition(epochs=3.0, penalty=0.3333333333333333, coverage=1.0, bonus=1.0)
    >>> repetition(cursor=0, windows=100).bonus
    1.3
    """
    epochs = cursor / windows if windows > 0 else 0.0
    penalty, coverage, bonus = _terms(np.array([epochs]))
    return Repetition(epochs, float(penalty[0]), float(coverage[0]), float(bonus[0]))


def repetition_terms(cursors: IntArray, windows: IntArray) -> tuple[FloatArray, FloatArray]:
    """(penalty, bonus) of many sources, each (arms,); windows > 0."""
    penalty, _, bonus = _terms(cursors / windows)
    return penalty, bonus


def _terms(epochs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    coverage = np.minimum(1.0, epochs)
    return 1.0 / np.maximum(1.0, epochs), coverage, 1.0 + 0.3 * np.maximum(0.0, 1.0 - coverage / 0.5)
