"""Policies: one small function each, from what is known of the eligible arms to their raw weights.

A raw weight is relative, 1.0 for an arm in focus. What follows is the same for all: the terms of repetition where
the policy wants them, the clamp into [floor, cap], water-filling, and the deal by credit. A policy without weights is
an argmax: the largest index is served, under the share bounds that floors and caps imply (`bandit.deadlines`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bandit.arms import FloatArray, IntArray
from bandit.index import UNSEEN

SMOOTHING = 0.9
"""Part of an arm's old score that stays when a reward is counted, `exp3` and `odm` (as in ODM's code)."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The eligible arms at a refresh, each column (arms,), in the order of preference among equals.

    step: of the refresh. index: U of DESIGN 4.1, above `bandit.index.UNSEEN` for an arm never pulled. score: what the
    policy's `learn` made of the rewards. windows: of the source. focus_size: arms in focus, None for half of them.
    background: raw weight of the others. temperature: of the softmax.
    """

    step: int
    index: FloatArray
    score: FloatArray
    windows: IntArray
    focus_size: int | None
    background: float
    temperature: float


def focus_ucb(arms: Candidates) -> FloatArray:
    """1.0 for the `focus_size` arms of highest index, by default max(1, round(K / 2)), `background` for the others."""
    count = len(arms.index)
    size = min(count, arms.focus_size or max(1, round(count / 2)))
    least = np.partition(arms.index, count - size)[count - size]
    focus = arms.index > least
    focus[np.flatnonzero(arms.index == least)[: size - np.count_nonzero(focus)]] = True
    return np.where(focus, 1.0, arms.background)


def softmax_ucb(arms: Candidates) -> FloatArray:
    """exp((U - max U) / temperature); an arm never pulled counts as the best."""
    seen = arms.index < UNSEEN
    best = float(np.max(arms.index[seen])) if bool(seen.any()) else 0.0
    weights: FloatArray = np.exp((np.where(seen, arms.index, best) - best) / arms.temperature)
    return weights


def exploration(step: int, count: int) -> float:
    """epsilon_t = min(1 / K, sqrt(ln K / (K t))), the least share of online data mixing (arXiv:2312.02406).

    >>> exploration(1, 4), exploration(10**6, 4) < 1e-3
    (0.25, True)
    """
    return min(1.0 / count, math.sqrt(math.log(count) / (count * max(1, step))))


def exp3(arms: Candidates) -> FloatArray:
    """(1 - K epsilon) softmax(epsilon s) + epsilon, as the paper of online data mixing has it; 1.0 for the largest."""
    count = len(arms.score)
    epsilon = exploration(arms.step, count)
    powers = np.exp(epsilon * (arms.score - float(np.max(arms.score))))
    shares = (1.0 - count * epsilon) * powers / float(np.sum(powers)) + epsilon
    return shares / float(np.max(shares))


def odm(arms: Candidates) -> FloatArray:
    """(1 - K epsilon) s / sum s + epsilon, as the code of online data mixing has it; 1.0 for the largest."""
    count = len(arms.score)
    epsilon = exploration(arms.step, count)
    shares = (1.0 - count * epsilon) * arms.score / float(np.sum(arms.score)) + epsilon
    return shares / float(np.max(shares))


def even(arms: Candidates) -> FloatArray:
    """1.0 for every arm."""
    return np.ones(len(arms.index))


def proportional(arms: Candidates) -> FloatArray:
    """In proportion to the windows of the source, 1.0 for the largest."""
    return arms.windows / float(np.max(arms.windows))


def importance_weighted(score: float, reward: float, share: float, least: float) -> float:
    """s <- 0.9 s + 0.1 r / share: unbiased for arms that are seldom dealt. least: what `share` is taken for below it."""
    return SMOOTHING * score + (1.0 - SMOOTHING) * reward / max(share, least)


def exponential(score: float, reward: float, share: float, least: float) -> float:
    """s <- 0.9 s + 0.1 exp(r), whatever the share."""
    return SMOOTHING * score + (1.0 - SMOOTHING) * math.exp(reward)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a policy is made of.

    weights: from candidates to raw weights; None for an argmax of the index. repetition: whether the terms of DESIGN
    4.3 multiply its weights (an argmax takes the penalty alone, on the mean). learn: how a counted reward changes an
    arm's score, where the policy keeps one. score: of an arm before its first reward.
    """

    weights: Callable[[Candidates], FloatArray] | None
    repetition: bool = True
    learn: Callable[[float, float, float, float], float] | None = None
    score: float = 0.0


POLICIES = {
    "focus-ucb": Policy(focus_ucb),
    "softmax-ucb": Policy(softmax_ucb),
    "ucb": Policy(None),
    "exp3": Policy(exp3, learn=importance_weighted),
    "odm": Policy(odm, learn=exponential, score=1.0),
    "uniform": Policy(even),
    "proportional": Policy(proportional),
    "fixed": Policy(even, repetition=False),
}
