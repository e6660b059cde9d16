"""False halts of the gate's rules: simulated healthy runs, and the exact chance from the rules' own state."""

import numpy as np
from numpy.typing import NDArray

from curriculum.gate.rule import LOW_COUNTS, Gate, Rules

HEALTHY_SHARE = 0.05  # of low samples
SAMPLES = 2_000


def halts(low: NDArray[np.bool_], rules: Rules) -> NDArray[np.int64]:
    """The sample at which each run [runs, samples] halts, counted from 1; samples + 1 for never."""
    runs, samples = low.shape
    first = np.full(runs, samples + 1)
    streak, tally = np.zeros(runs, np.int64), np.zeros(runs, np.int64)
    sums = np.concatenate([np.zeros((runs, 1), np.int64), low.cumsum(axis=1)], axis=1)
    for at in range(samples):
        now = low[:, at]
        streak = np.where(now, streak + 1, 0)
        tally = np.where(now, tally + LOW_COUNTS, np.maximum(0, tally - 1))
        recent = sums[:, at + 1] - sums[:, max(0, at + 1 - rules.window)]
        fires = np.zeros(runs, np.bool_)
        if rules.consecutive:
            fires |= streak >= rules.consecutive
        if rules.window_low:
            fires |= recent >= rules.window_low
        if rules.tally:
            fires |= tally >= rules.tally
        first = np.where((first > samples) & now & fires, at + 1, first)
    return first


def simulate(rules: Rules, runs: int, seed: int) -> int:
    """How many of so many healthy runs are halted; the first ones are replayed through the gate itself."""
    random_bits = np.random.default_rng(seed)
    halted = 0
    for at in range(0, runs, 2_000):
        low = random_bits.random((min(2_000, runs - at), SAMPLES)) < HEALTHY_SHARE
        found = halts(low, rules)
        halted += int((found <= SAMPLES).sum())
        if at == 0:
            for row in (*range(10), *np.flatnonzero(found <= SAMPLES)[:5].tolist()):
                assert through_gate(low[row], rules) == found[row], f"run {row}"
    return halted


def through_gate(low: NDArray[np.bool_], rules: Rules) -> int:
    """`halts` of one run, by the gate."""
    gate = Gate(30.0, rules.consecutive, rules.window, rules.window_low, rules.tally)
    for at, bad in enumerate(low.tolist(), 1):
        if gate.observe(at, 10.0 if bad else 80.0).kind == "halt":
            return at
    return len(low) + 1


def exact(rules: Rules, samples: int = SAMPLES, share: float = HEALTHY_SHARE, settle: int = 100) -> float:
    """The chance that a healthy run is halted within so many samples.

    The state is the latest samples that the rules look at, and the tally. After `settle` samples the chance a sample is constant to
    within what is printed, and is taken from the 50 that follow.
    """
    bits, top = max(rules.window - 1, rules.consecutive - 1, 1), max(1, rules.tally)
    size = 1 << bits
    state = np.arange(size)
    ones = np.array([int(number).bit_count() for number in state])
    named = np.zeros(size, np.bool_)
    if rules.window_low:
        named |= ones + 1 >= rules.window_low
    if rules.consecutive:
        tail = (1 << (rules.consecutive - 1)) - 1
        named |= (state & tail) == tail
    chance = np.zeros((size, top))
    chance[0, 0] = 1.0
    out, marks = 0.0, []
    for _ in range(settle + 50):
        low = chance * share
        out += float(low[named].sum())
        low[named] = 0.0
        passing = chance * (1 - share)
        if rules.tally:
            out += float(low[:, top - LOW_COUNTS :].sum())
            up, down = np.zeros_like(low), np.zeros_like(low)
            up[:, LOW_COUNTS:] = low[:, : top - LOW_COUNTS]
            down[:, :-1] = passing[:, 1:]
            down[:, 0] += passing[:, 0]
            low, passing = up, down
        chance = np.empty_like(low)
        chance[0::2] = passing[: size // 2] + passing[size // 2 :]
        chance[1::2] = low[: size // 2] + low[size // 2 :]
        marks.append(out)
    rate = (marks[-1] - marks[settle - 1]) / 50
    return marks[-1] + rate * (samples - settle - 50)
