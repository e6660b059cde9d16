"""The best shares that the bounds allow, when the worth of every source is known: what regret is measured against."""

from collections.abc import Iterator

import numpy as np

from bandit.arms import FloatArray, IntArray
from bandit.bounds import ROUNDING, shares


def best_shares(
    worth: FloatArray, floor: FloatArray, cap: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """The shares s (arms,) of greatest `worth @ s` among clip(k w, low, high), w in [floor, cap], summing to 1.

    Without hard bounds `worth @ w / sum w` is a ratio of linear functions, greatest at a corner of the box: caps in
    descending worth down to some arm, floors below it. With them, for a fixed k, shares lie in [clip(k floor),
    clip(k cap)] and are filled in descending worth; the value is piecewise linear in k, so it is greatest at a corner
    or where some clip sets in. All arrays (arms,), some cap > 0, sum low <= 1 <= sum high.
    """
    order = np.argsort(-worth, kind="stable")
    if not low.any() and bool((high >= 1.0).all()):
        return _corner(worth, floor, cap, order)
    best, found = -np.inf, np.zeros(len(worth))
    for candidate in _candidates(floor, cap, low, high, order):
        value = float(worth @ candidate)
        if value > best:
            best, found = value, candidate
    return found


def _corner(worth: FloatArray, floor: FloatArray, cap: FloatArray, order: IntArray) -> FloatArray:
    gain = np.concatenate(([worth @ floor], (worth * (cap - floor))[order])).cumsum()
    total = np.concatenate(([floor.sum()], (cap - floor)[order])).cumsum()
    value = np.divide(gain, total, out=np.full(len(total), -np.inf), where=total > 0.0)
    weights = floor.copy()
    full = order[: int(value.argmax())]
    weights[full] = cap[full]
    return weights / float(weights.sum())


def _candidates(
    floor: FloatArray, cap: FloatArray, low: FloatArray, high: FloatArray, order: IntArray
) -> Iterator[FloatArray]:
    """Shares among which the best ones are: every corner of the weights, and every k at which a clip sets in."""
    weights = floor.copy()
    yield shares(weights, low, high)
    for row in order:
        weights[row] = cap[row]
        yield shares(weights, low, high)
    edges = np.concatenate(
        [edge[bound > 0.0] / bound[bound > 0.0] for bound in (floor, cap) for edge in (low, high)]
    )
    for k in np.unique(edges):
        least, most = np.clip(k * floor, low, high), np.clip(k * cap, low, high)
        left = 1.0 - float(least.sum())
        if left < -ROUNDING or float(most.sum()) < 1.0 - ROUNDING:
            continue
        room = (most - least)[order]
        given = np.clip(left - (room.cumsum() - room), 0.0, room)
        filled = least
        filled[order] += given
        yield filled
