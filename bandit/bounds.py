"""Bounds: from weights to shares inside hard limits, and the share interval that a weight's clamps imply."""

from collections.abc import Sequence

import numpy as np

from bandit.arms import ArmSpec, ArmTable, FloatArray, arm_problems
from bandit.errors import InfeasibleBounds

ROUNDING = 1e-9


def shares(weights: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Scale weights to shares that sum to 1 inside [low, high]: clip(k w, low, high) with the one k that does it.

    All arrays (arms,), weights >= 0. Bounds are met exactly, the sum to rounding. Arms of weight 0 get more than
    `low` only where the others are full. Freezes the worse side of the violations each round, as CSS flexible
    boxes do (W3C, section 9.7), so at most one round an arm. InfeasibleBounds unless sum low <= 1 <= sum high.
    """
    if (
        float(np.sum(low)) > 1.0 + ROUNDING
        or float(np.sum(high)) < 1.0 - ROUNDING
        or bool(np.any(low > high))
    ):
        raise InfeasibleBounds(f"shares cannot sum to 1 between {low.tolist()} and {high.tolist()}")
    return fill(weights, low, high)


def fill(weights: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """`shares` for bounds that are known to be feasible, as after `relax`."""
    total = weights.sum()
    if total > 0.0:
        scaled: FloatArray = weights / total
        if (scaled >= low).all() and (scaled <= high).all():
            return scaled
    weights = weights / max(float(np.max(weights)), 1e-300)
    result = np.zeros(len(weights))
    free = np.ones(len(weights), dtype=np.bool_)
    while bool(free.any()):
        total = float(np.sum(weights[free]))
        if total == 0.0:
            weights = np.where(free, 1.0, weights)
            total = float(np.sum(weights[free]))
        left = max(0.0, 1.0 - float(np.sum(result[~free])))
        scaled = np.where(free, left * np.where(free, weights, 0.0) / total, result)
        clipped = np.clip(scaled, low, high)
        violation = float(np.sum(clipped - scaled))
        if violation > 0.0:
            settled = free & (clipped > scaled)
        elif violation < 0.0:
            settled = free & (clipped < scaled)
        else:
            settled = free
        result = np.where(settled, clipped, result)
        free = free & ~settled
    return result


def relax(
    low: FloatArray, high: FloatArray, names: Sequence[str]
) -> tuple[FloatArray, FloatArray, list[str]]:
    """Make share bounds feasible by scaling caps, then floors, in proportion; says so, naming the arms."""
    messages = []
    cap_sum, floor_sum = float(np.sum(high)), float(np.sum(low))
    if cap_sum < 1.0 - ROUNDING:
        high = high / cap_sum
        messages.append(
            f"max_share of {', '.join(names)} sums to {cap_sum:.4g}, under 1: relaxed in proportion to "
            + ", ".join(f"{name} {value:.4g}" for name, value in zip(names, high, strict=True))
        )
    if floor_sum > 1.0 + ROUNDING:
        low = low / floor_sum
        floored = [(name, value) for name, value in zip(names, low, strict=True) if value > 0.0]
        messages.append(
            f"min_share of {', '.join(name for name, _ in floored)} sums to {floor_sum:.4g}, over 1: relaxed in "
            "proportion to " + ", ".join(f"{name} {value:.4g}" for name, value in floored)
        )
    return low, high, messages


def intervals(
    floor: FloatArray, cap: FloatArray, low: FloatArray, high: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The least and greatest share each arm can get with weights in [floor, cap] and shares in [low, high].

    Without hard bounds f_i / (f_i + sum c_j) .. c_i / (c_i + sum f_j), j over the others. With them, the
    water-filled share: it rises with the arm's own weight and falls with every other, so the corners are exact.
    """
    if not bool(np.any(low > 0.0)) and not bool(np.any(high < 1.0)):
        others_cap, others_floor = float(np.sum(cap)) - cap, float(np.sum(floor)) - floor
        least = np.ones(len(cap))
        greatest = np.ones(len(cap))
        np.divide(floor, floor + others_cap, out=least, where=floor + others_cap > 0.0)
        np.divide(cap, cap + others_floor, out=greatest, where=cap + others_floor > 0.0)
        return least, np.minimum(greatest, 1.0)
    least, greatest = np.zeros(len(cap)), np.zeros(len(cap))
    for row in range(len(cap)):
        at_least, at_most = cap.copy(), floor.copy()
        at_least[row], at_most[row] = floor[row], cap[row]
        least[row] = shares(at_least, low, high)[row]
        greatest[row] = shares(at_most, low, high)[row]
    return least, greatest


def implied_intervals(specs: Sequence[ArmSpec]) -> dict[int, tuple[float, float]]:
    """Arm id to (least, greatest) share while exactly these arms are eligible; (0, 0) for what cannot be pulled."""
    table = ArmTable(specs)
    rows = np.flatnonzero(table.pullable)
    implied = dict.fromkeys(table.ids, (0.0, 0.0))
    if len(rows) == 0:
        return implied
    low, high, _ = relax(table.min_share[rows], table.max_share[rows], ["" for _ in rows])
    least, greatest = intervals(table.floor[rows], table.cap[rows], low, high)
    for row, least_share, greatest_share in zip(rows, least, greatest, strict=True):
        implied[table.ids[row]] = (float(least_share), float(greatest_share))
    return implied


def check_feasible(specs: Sequence[ArmSpec]) -> list[str]:
    """What makes the bounds of one eligible set impossible, each in a sentence that names the arms; empty if sound."""
    problems = [problem for spec in specs for problem in arm_problems(spec)]
    pullable = [spec for spec in specs if spec.pullable]
    if not pullable:
        problems.append(f"none of {', '.join(spec.name for spec in specs) or 'no sources'} can be pulled")
    elif not problems:
        floor_sum = sum(spec.min_share for spec in pullable)
        cap_sum = sum(spec.max_share for spec in pullable)
        if floor_sum > 1.0 + ROUNDING:
            floored = [f"{spec.name} {spec.min_share:g}" for spec in pullable if spec.min_share > 0.0]
            problems.append(f"min_share sums to {floor_sum:.4g}, over 1: {', '.join(floored)}")
        if cap_sum < 1.0 - ROUNDING:
            capped = [f"{spec.name} {spec.max_share:g}" for spec in pullable]
            problems.append(f"max_share sums to {cap_sum:.4g}, under 1: {', '.join(capped)}")
    return problems
