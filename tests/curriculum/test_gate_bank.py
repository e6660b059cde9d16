"""The gate's rules on a small bank of collapsing runs, and the exact chance that a healthy run is halted (decision 0008)."""

import importlib
import math
import random
from collections import defaultdict
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import pytest

from curriculum.gate.backtest import backtest
from curriculum.gate.coherence import score
from curriculum.gate.rule import Rules

FOUR = ("local_coherence", "longest_copy", "top_token_share", "script_share")
FINDS = {
    "word salad": ("local_coherence",),
    "foreign script": ("script_share",),
    "one token": ("top_token_share",),
}
TEXT = (
    "the rain fell all day so we stayed in and read old books by the fire until it was late and a train went past "
    "while my sister made some soup with beans from her garden which had grown well in that warm summer of last year "
)
WORDS = 8 * TEXT.split()
EACH = 4  # 4 runs of each of 11 worlds and 5 kinds


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The modules of bench/ that the table of docs/benchmarks.md is made with."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    return {name: importlib.import_module(name) for name in ("gate_bank", "gate_halts")}


def test_delays_on_the_bank(bench: dict[str, ModuleType]) -> None:
    """Bad samples are made and scored as in the bench; what audits find in a kind is given (tests of its own)."""
    bank, draw = bench["gate_bank"], random.Random(0)
    good = [(80.0, ())]
    bad = {
        kind: [(score(make(draw, WORDS)).total, FINDS.get(kind, ())) for _ in range(20)]
        for kind, make in bank.KINDS.items()
    }
    assert set(bad) == {"repetition", "punctuation", *FINDS}
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for run in bank.trajectories(good, bad, EACH):
        five, ours = (
            math.inf if halt is None else halt - run.onset
            for halt in (
                backtest(run.samples, rules, audit_halt=FOUR).halt_step
                for rules in (Rules.read("5"), Rules())
            )
        )
        assert 0 < ours <= five, (run.world, run.kind)
        found["ramp" if run.world.startswith("ramp") else run.world].append((five, ours))
    assert sum(map(len, found.values())) == 220
    third = [pair for world, pairs in found.items() if world not in ("ramp", "steady 0.5") for pair in pairs]
    for pairs, limit in ((third, 0.25), (found["steady 0.5"], 0.40), (found["ramp"], 0.75)):
        five, ours = (median(column) for column in zip(*pairs, strict=True))
        assert ours <= limit * five


def test_without_audits_what_scores_well_goes_unnoticed(bench: dict[str, ModuleType]) -> None:
    """What the default, an empty audit_halt, does not halt: docs/benchmarks.md says so beside the table."""
    bank, draw = bench["gate_bank"], random.Random(1)
    low = {
        kind: sum(score(make(draw, WORDS)).total < 30 for _ in range(40)) / 40
        for kind, make in bank.KINDS.items()
    }
    assert low["repetition"] == low["punctuation"] == 1.0
    assert low["word salad"] == low["one token"] == low["foreign script"] == 0.0


def test_a_healthy_run_is_halted_by_less_than_one_chance_in_a_thousand(bench: dict[str, ModuleType]) -> None:
    halts = bench["gate_halts"]
    chance = halts.exact(Rules(), settle=50)
    assert chance == pytest.approx(8.84e-4, rel=2e-3)
    assert chance < 1e-3
    # The same sums, against a simulation of as many samples as are counted through, of rules that halt often.
    often, runs, samples = Rules(3, 8, 4, 20), 20_000, 150
    low = np.random.default_rng(1).random((runs, samples)) < halts.HEALTHY_SHARE
    halted = (halts.halts(low, often) <= samples).mean()
    assert all(
        halts.through_gate(row, often) == at
        for row, at in zip(low[:50], halts.halts(low[:50], often), strict=True)
    )
    chance = halts.exact(often, samples)
    assert 0.01 < chance < 0.1
    assert abs(halted - chance) < 4 * math.sqrt(chance / runs)
