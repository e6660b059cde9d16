"""I06: good samples between the bad ones set the consecutive counter back, and the alarm rang 52,000 steps late (004)."""

import random

import pytest

from curriculum.gate.backtest import Sample, backtest
from curriculum.gate.rule import Count, Rules
from tests.incidents.switch import caught, incident

# Of 4,000 seeds, three of those in which the first five low samples in a row end at step 132,000, as they did then.
SEEDS = (1795, 1896, 1936)
FIRST_BAD, THEN, EVERY, LAST = 80_000, 132_000, 200, 165_000
BAD = 0.35


def consecutive_alone(patch: pytest.MonkeyPatch) -> None:
    whole = Count.fired

    def fired(self: Count) -> str | None:
        return whole(self) if self.streak >= self.rules.consecutive else None

    patch.setattr(Count, "fired", fired)


def trajectory(seed: int) -> list[Sample]:
    """Every 200 steps a sample; from 80,000 on 35 in 100 say "region region region" (22.5), the others are good."""
    draw = random.Random(seed)
    steps = range(EVERY, LAST + 1, EVERY)
    return [Sample(at, 22.5 if at >= FIRST_BAD and draw.random() < BAD else 80.0) for at in steps]


@incident(off=consecutive_alone)
def test_a_third_of_bad_samples_halts_within_forty() -> str:
    delays = []
    for seed in SEEDS:
        samples = trajectory(seed)
        assert sum(one.score < 30 for one in samples) > 100
        found = backtest(samples, Rules())
        assert found.halt_step is not None and found.halt_step <= THEN, (
            "five in a row were there for any rule"
        )
        first = next(one.step for one in samples if one.score < 30)
        delays.append((found.halt_step - first) // EVERY + 1)
    caught(max(delays) <= 40, f"halted after {delays} samples")
    assert backtest(trajectory(SEEDS[1]), Rules.read("5")).halt_step == THEN
    return f"{delays[0]}, {delays[1]} and {delays[2]} samples after the first bad one"
