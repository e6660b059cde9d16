"""When samples halt a run: five low in a row, or eight low of sixteen (I06), and what survives a restart."""

import json
from collections.abc import Iterable

import pytest

from curriculum.gate.rule import Gate, Verdict, shortfall

LOW, GOOD = 12.0, 80.0


def observe(gate: Gate, scores: Iterable[float]) -> list[Verdict]:
    return [gate.observe(100 * at, score) for at, score in enumerate(scores, 1)]


def test_five_in_a_row_halt_and_four_do_not() -> None:
    verdicts = observe(Gate(), [GOOD, LOW, LOW, LOW, LOW, LOW])
    assert [verdict.kind for verdict in verdicts] == ["pass", "low", "low", "low", "low", "halt"]
    assert [verdict.streak for verdict in verdicts] == [0, 1, 2, 3, 4, 5]
    assert verdicts[-1].reason == "5 samples in a row scored under 30, from step 200 to 600"


def test_the_threshold_itself_passes() -> None:
    assert [verdict.kind for verdict in observe(Gate(), [30.0, 29.999])] == ["pass", "low"]


def test_good_samples_in_between_do_not_save_the_run() -> None:
    """I06: every second sample good. The consecutive rule alone would never fire."""
    scores = [LOW, GOOD] * 20
    assert all(verdict.kind != "halt" for verdict in observe(Gate(window_low=17, window=17, tally=0), scores))
    verdicts = observe(Gate(), scores)
    first = next(verdict for verdict in verdicts if verdict.kind == "halt")
    assert verdicts.index(first) == 14
    assert (first.streak, first.low_in_window) == (1, 8)
    assert first.reason == "8 of the last 15 samples scored under 30, from step 100 to 1500"


def test_seven_of_sixteen_do_not_halt() -> None:
    verdicts = observe(Gate(tally=0), ([LOW] * 3 + [GOOD] * 5 + [LOW] * 4 + [GOOD] * 4) * 5)
    assert max(verdict.low_in_window for verdict in verdicts) == 7
    assert all(verdict.kind != "halt" for verdict in verdicts)


def test_low_samples_leave_the_window_after_sixteen() -> None:
    gate = Gate()
    verdicts = observe(gate, [LOW] * 4 + [GOOD] * 16)
    assert [verdict.low_in_window for verdict in verdicts[14:]] == [4, 4, 3, 2, 1, 0]


def test_a_passing_sample_never_halts() -> None:
    gate = Gate(consecutive=100)
    verdicts = observe(gate, [LOW] * 8 + [GOOD])
    assert [verdict.kind for verdict in verdicts[-2:]] == ["halt", "pass"]
    assert verdicts[-1].low_in_window == 8


def test_both_rules_are_configurable() -> None:
    assert observe(Gate(threshold=50.0, consecutive=2), [49.0, 49.0])[-1].kind == "halt"
    assert observe(Gate(consecutive=9, window=3, window_low=2), [LOW, GOOD, LOW])[-1].kind == "halt"
    assert observe(Gate(consecutive=9, window=3, window_low=2), [LOW, GOOD, GOOD, LOW])[-1].kind == "low"


def test_restart_forgets_both_counts() -> None:
    gate = Gate()
    observe(gate, [LOW] * 4)
    gate.restart()
    assert gate.snapshot() == Gate().snapshot()
    verdicts = observe(gate, [LOW] * 5)
    assert [verdict.kind for verdict in verdicts] == ["low"] * 4 + ["halt"]
    assert verdicts[-1].low_in_window == 5


@pytest.mark.parametrize("cut", range(1, 25))
def test_saved_and_restored_anywhere_the_verdicts_are_the_same(cut: int) -> None:
    scores = [LOW, GOOD, LOW, LOW, GOOD, GOOD, LOW, GOOD, GOOD, GOOD] + [LOW] * 6 + [GOOD] * 3 + [LOW] * 6
    gate, expected = Gate(), observe(Gate(), scores)
    got = observe(gate, scores[:cut])
    saved = json.loads(json.dumps(gate.snapshot()))
    gate = Gate()
    gate.restore(saved)
    got += [gate.observe(100 * at, score) for at, score in enumerate(scores[cut:], cut + 1)]
    assert got == expected


def test_a_snapshot_of_a_longer_window_keeps_its_latest_samples() -> None:
    gate = Gate()
    observe(gate, [LOW] * 3 + [GOOD] * 4)
    short = Gate(window=5)
    short.restore(gate.snapshot())
    assert short.observe(800, GOOD).low_in_window == 0


def test_a_snapshot_is_not_shared_with_the_gate() -> None:
    gate = Gate()
    saved = gate.snapshot()
    gate.observe(100, LOW)
    assert saved == Gate().snapshot()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_and_counts_nothing(score: float) -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="step 100"):
        gate.observe(100, score)
    assert gate.snapshot() == Gate().snapshot()


@pytest.mark.parametrize(
    ("score", "expected"), [(0.0, 1.0), (30.0, 0.5), (60.0, 0.0), (75.0, 0.0), (100.0, 0.0), (59.4, 0.01)]
)
def test_shortfall(score: float, expected: float) -> None:
    assert shortfall(score, 60.0) == pytest.approx(expected)
