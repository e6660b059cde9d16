"""Bandit problems with known answers: the same rewards for every policy, and the pseudo-regret of what was picked.

Every draw is made before play, keyed on (problem, seed, round, arm), so that all policies see the same noise. Needs
numpy alone: it runs inside the peers' environments too.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

GREEDY_ENVIRONMENT = 5  # seed of the learning-progress curves, the same for every run


@dataclass(frozen=True)
class Problem:
    """name, arms, horizon in rounds; changes: rounds at which a mean jumps, told only to the policies in grey."""

    name: str
    arms: int
    horizon: int
    changes: int

    def world(self, seed: int):
        """A fresh world for one run."""
        noise = np.random.default_rng((crc32(self.name.encode()), seed))
        if self.name in SEGMENTS:
            return Switching(segment_means(self.name), noise)
        return Progress(curves(self.arms, self.horizon), noise)


# Means of each segment and the rounds where they begin.
SEGMENTS = {
    # Garivier and Moulines 2008: one arm is the best for a while.
    "GM": (10_000, [0, 3000, 5000], [[0.5, 0.3, 0.4], [0.5, 0.3, 0.9], [0.5, 0.3, 0.4]]),
    # Problems 1, 2 and 4 of SMPyBandits' configuration_nonstationary.py, at its default horizon.
    "SMPB1": (
        5_000,
        [0, 1000, 2000, 3000, 4000],
        [[0.3, 0.5, 0.9], [0.3, 0.2, 0.9], [0.3, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.5, 0.1]],
    ),
    "SMPB2": (
        5_000,
        [0, 1000, 2000, 3000, 4000],
        [[0.4, 0.5, 0.9], [0.5, 0.4, 0.7], [0.6, 0.3, 0.5], [0.7, 0.2, 0.3], [0.8, 0.1, 0.1]],
    ),
    "SMPB4": (
        5_000,
        [0, 2500, 3125, 3750, 4375],
        [[0.1, 0.5, 0.9], [0.3, 0.4, 0.1], [0.5, 0.3, 0.2], [0.7, 0.4, 0.3], [0.1, 0.5, 0.2]],
    ),
}

PROBLEMS = {
    **{
        name: Problem(name, len(means[0]), horizon, len(begins) - 1)
        for name, (horizon, begins, means) in SEGMENTS.items()
    },
    "LP16": Problem("LP16", 16, 10_000, 0),
    "LP256": Problem("LP256", 256, 10_000, 0),
}


def segment_means(name: str) -> np.ndarray:
    """Mean of every (round, arm) of a problem with segments."""
    horizon, begins, means = SEGMENTS[name]
    lengths = np.diff([*begins, horizon])
    return np.repeat(np.array(means), lengths, axis=0)


def curves(arms: int, horizon: int) -> np.ndarray:
    """Mean reward of every (arm, pulls of that arm so far): floor + amplitude exp(-pulls / scale), rested decay."""
    random = np.random.default_rng(GREEDY_ENVIRONMENT)
    amplitude = random.uniform(0.1, 0.8, arms)
    scale = np.exp(random.uniform(np.log(50), np.log(3000), arms))
    floor = random.uniform(0.0, 0.12, arms)
    return floor[:, None] + amplitude[:, None] * np.exp(-np.arange(horizon) / scale[:, None])


class Switching:
    """Bernoulli rewards whose means jump; regret is against the best arm of each round."""

    def __init__(self, means: np.ndarray, noise: np.random.Generator) -> None:
        self._rewards = (noise.random(means.shape) < means).astype(float).tolist()
        self._gaps = (means.max(axis=1, keepdims=True) - means).tolist()
        self.regret = 0.0

    def pull(self, round: int, arm: int) -> float:
        self.regret += self._gaps[round][arm]
        return self._rewards[round][arm]


class Progress:
    """Rewards that fall with an arm's own pulls, noise N(0, 0.05), clipped to [0, 1].

    The best that can be had from curves that fall is their largest values, in any order: what greedy play takes
    (Heidari, Kearns and Roth 2016).
    """

    def __init__(self, means: np.ndarray, noise: np.random.Generator) -> None:
        arms, horizon = means.shape
        self._means = means
        self._noise = noise.normal(0.0, 0.05, (horizon, arms))
        self._pulls = [0] * arms
        # So long as the run is not over, regret is what all of its best rounds would bring, less what was had.
        self.regret = float(np.partition(means, means.size - horizon, axis=None)[-horizon:].sum())

    def pull(self, round: int, arm: int) -> float:
        mean = self._means.item(arm, self._pulls[arm])
        self._pulls[arm] += 1
        self.regret -= mean
        return min(1.0, max(0.0, mean + self._noise.item(round, arm)))
