"""I06: good samples between the bad ones set the consecutive counter back, and the alarm rang 52,000 steps late (004)."""

import math
import random
from statistics import median

import pytest

from curriculum.gate.backtest import Sample, backtest
from curriculum.gate.rule import Count, Rules
from tests.incidents.switch import caught, incident

# Of 4,000 seeds, all in which the first five low samples in a row end at step 132,000, as they did then.
SEEDS = (1636, 1795, 1896, 1936, 1982, 2493, 2989)
FIRST_BAD, THEN, EVERY, LAST = 80_000, 132_000, 200, 165_000
BAD = 0.35
OTHERS = 200  # seeds from 0 on, as they come


def consecutive_alone(patch: pytest.MonkeyPatch) -> None:
    whole = Count.fired

    def fired(self: Count) -> str | None:
        return whole(self) if self.streak >= self.rules.consecutive else None

    patch.setattr(Count, "fired", fired)


def trajectory(seed: int) -> list[Sample]:
    """Every 200 steps a sample, the first twenty good; from 80,000 on 35 in 100 say "region region region" (22.5)."""
    draw = random.Random(seed)
    steps = range(FIRST_BAD - 20 * EVERY, LAST + 1, EVERY)
    return [Sample(at, 22.5 if at >= FIRST_BAD and draw.random() < BAD else 80.0) for at in steps]


def delay(samples: list[Sample], rules: Rules) -> float:
    """Samples from the first bad one to the halt, both counted; infinite where none comes."""
    first = next(one.step for one in samples if one.score < 30)
    halt = backtest(samples, rules).halt_step
    return math.inf if halt is None else (halt - first) // EVERY + 1


@incident(off=consecutive_alone)
def test_a_third_of_bad_samples_halts_long_before_that_step() -> str:
    delays = []
    for seed in SEEDS:
        samples = trajectory(seed)
        assert sum(one.score < 30 for one in samples) > 100
        assert backtest(samples, Rules.read("5")).halt_step == THEN
        delays.append(delay(samples, Rules()))
    assert len(delays) == 7
    caught(max(delays) <= 80, f"halted after {delays} samples")
    return f"of the seven such logs of 4,000 half by sample {median(delays):.0f} and all by sample {max(delays)} after the first bad one"


@incident(off=consecutive_alone)
def test_so_does_any_such_log_and_never_later_than_five_in_a_row() -> str:
    logs = [trajectory(seed) for seed in range(OTHERS)]
    ours, alone = ([delay(log, rules) for log in logs] for rules in (Rules(), Rules.read("5")))
    never = alone.count(math.inf)
    assert median(alone) > 150 and never > OTHERS / 5, "five in a row come late, or not at all"
    caught(max(ours) < 150, f"the last one halted after {max(ours)} samples")
    assert all(mine <= its for mine, its in zip(ours, alone, strict=True))
    return (
        f"of {OTHERS} other logs half by sample {median(ours):.0f} and all by sample {max(ours)}; "
        f"by five in a row half by sample {median(alone):.0f}, {never} never"
    )
