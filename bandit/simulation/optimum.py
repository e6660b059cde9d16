"""The best shares that the bounds allow, when the worth of every source is known: what regret is measured against."""

import numpy as np

from bandit.arms import FloatArray


def best_shares(worth: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """The shares s (arms,) of greatest `worth @ s` with low <= s <= high, summing to 1.

    Every arm gets its least, and what is left fills them up to their most in descending worth (a fractional knapsack).
    All arrays (arms,), sum low <= 1 <= sum high.

    >>> best_shares(np.array([1.0, 3.0, 2.0]), np.array([0.2, 0.0, 0.0]), np.array([1.0, 0.5, 1.0])).round(3).tolist()
    [0.2, 0.5, 0.3]
    """
    order = np.argsort(-worth, kind="stable")
    room = (high - low)[order]
    left = 1.0 - float(low.sum())
    filled = low.copy()
    filled[order] += np.clip(left - (room.cumsum() - room), 0.0, room)
    return filled
