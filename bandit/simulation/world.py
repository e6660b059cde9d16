"""A world of made-up sources that learn: power-law curves, transfer, noise, tiny sources that repeat, and junk.

It is made to look like the ANDREA runs' troubles, not to predict a loss: what it is good for is how caps, floors and
a policy share the pulls out when sources differ in worth, wear out or teach nothing.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bandit.arms import ArmSpec, FloatArray, IntArray
from bandit.hashing import mix64

TRANSFER = 0.5  # of a window of a source at the same place
REACH = 0.35  # distance, in a unit square of topics, at which transfer has fallen by exp(-1/2)
JUNK_LOSS = (4.0, 8.0)


@dataclass(frozen=True, slots=True)
class World:
    """Sources as columns (sources,), in the order they were given.

    Source i's held-out loss is `floor + amplitude (1 + E_i / scale)^-exponent` nats a token, where
    `E_i = sum_j transfer[i, j] * distinct windows of j` (transfer: (sources, sources), 1 on the diagonal). A window
    served again teaches nothing; its training loss falls as `exp(1 - epochs)` past the first epoch: memorised. Junk
    has amplitude 0 and no transfer to or from others. noise: deviation of a pull's loss. goal: weights, sum 1, of the
    held-out losses that count.
    """

    windows: IntArray
    floor: FloatArray
    amplitude: FloatArray
    exponent: FloatArray
    scale: FloatArray
    noise: FloatArray
    transfer: FloatArray
    goal: FloatArray

    def _reach(self, served: FloatArray) -> FloatArray:
        """1 + E / scale (sources,) after `served` windows of each."""
        reached: FloatArray = self.transfer @ np.minimum(served, self.windows)
        return 1.0 + reached / self.scale

    def heldout(self, served: FloatArray) -> FloatArray:
        """Held-out loss of each source (sources,), nats a token, after `served` windows of each (sources,)."""
        loss: FloatArray = self.floor + self.amplitude * self._reach(served) ** -self.exponent
        return loss

    def training(self, served: FloatArray) -> FloatArray:
        """Mean loss of a pull of each source (sources,), nats a token, before its noise."""
        extra = np.maximum(0.0, served / np.maximum(1, self.windows) - 1.0) * (self.amplitude > 0.0)
        loss: FloatArray = self.heldout(served) * np.exp(-extra)
        return loss

    def goal_loss(self, served: FloatArray) -> float:
        """The goal's held-out loss, nats a token."""
        return float(self.goal @ self.heldout(served))

    def worth(self, served: FloatArray) -> FloatArray:
        """Nats by which the goal's loss falls for one more window of each source (sources,): minus its gradient."""
        slope = self.amplitude * self.exponent * self._reach(served) ** (-self.exponent - 1.0) / self.scale
        fresh = served < self.windows
        fall: FloatArray = ((self.goal * slope) @ self.transfer) * fresh
        return fall


def draw_world(arms: Sequence[ArmSpec], *, seed: int, junk: Collection[int], goal: Collection[int]) -> World:
    """A world for these arms. What is drawn for an arm, or a pair of arms, depends on seed and arm ids only.

    So another config of the same sources finds the same world. junk, goal: ids of arms; no goal means all that learn.
    """
    count = len(arms)
    draws = np.array([[_unit(seed, arm.id, number) for number in range(7)] for arm in arms]).T
    learns = np.array([arm.id not in junk for arm in arms])
    apart = (draws[5][:, None] - draws[5]) ** 2 + (draws[6][:, None] - draws[6]) ** 2
    transfer = TRANSFER * np.exp(-apart / (2.0 * REACH**2)) * np.outer(learns, learns)
    np.fill_diagonal(transfer, 1.0)
    counts = np.array([arm.id in goal for arm in arms]) if goal else learns
    weights = counts if counts.any() else np.ones(count)
    low, high = JUNK_LOSS
    return World(
        windows=np.array([arm.windows for arm in arms], dtype=np.int64),
        floor=np.where(learns, 1.8 + 0.8 * draws[0], low + (high - low) * draws[0]),
        amplitude=np.where(learns, 3.0 + 2.0 * draws[1], 0.0),
        exponent=0.25 + 0.25 * draws[2],
        scale=300.0 * 10.0 ** draws[3],
        noise=0.05 * 6.0 ** draws[4],
        transfer=transfer,
        goal=weights / weights.sum(),
    )


def _unit(*parts: int) -> float:
    """A number in [0, 1)."""
    return mix64(*parts) / math.ldexp(1.0, 64)
