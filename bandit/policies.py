"""Policies: one small function each, from what is known of the eligible arms to their raw weights.

A raw weight is relative, 1.0 for an arm in focus. What follows is the same for all: the terms of repetition where
the policy wants them, the clamp into [floor, cap], water-filling, and the deal by credit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.arms import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Candidates:
    """The eligible arms at a refresh, each column (arms,), in the order of their ids.

    index: U of DESIGN 4.1, +inf for an arm never pulled. tie: a hash that orders equal ones. windows: of the source.
    focus_size: arms in focus, None for half of them. background: raw weight of the others.
    """

    index: FloatArray
    tie: NDArray[np.uint64]
    windows: IntArray
    focus_size: int | None
    background: float


def focus_ucb(arms: Candidates) -> FloatArray:
    """1.0 for the `focus_size` arms of highest index, by default max(1, round(K / 2)), `background` for the others."""
    size = arms.focus_size or max(1, round(len(arms.index) / 2))
    best_first = np.lexsort((arms.tie, -arms.index))
    weights = np.full(len(arms.index), arms.background)
    weights[best_first[:size]] = 1.0
    return weights


def even(arms: Candidates) -> FloatArray:
    """1.0 for every arm."""
    return np.ones(len(arms.index))


def proportional(arms: Candidates) -> FloatArray:
    """In proportion to the windows of the source, 1.0 for the largest."""
    return arms.windows / float(np.max(arms.windows))


@dataclass(frozen=True, slots=True)
class Policy:
    """weights: the function. repetition: whether its weights are multiplied by the terms of DESIGN 4.3."""

    weights: Callable[[Candidates], FloatArray]
    repetition: bool


POLICIES = {
    "focus-ucb": Policy(focus_ucb, repetition=True),
    "uniform": Policy(even, repetition=True),
    "proportional": Policy(proportional, repetition=True),
    "fixed": Policy(even, repetition=False),
}
