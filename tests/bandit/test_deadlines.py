"""Floors by deadline and caps by gate: a pull of shortfall or excess at most, whatever the index wants (T2, T3)."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.arms import ArmSpec
from bandit.deadlines import Deadlines
from bandit.scheduler import Scheduler, SchedulerConfig

SEEDS = st.integers(0, 2**32 - 1)


def bounds(rng: np.random.Generator, count: int, load: float) -> tuple[np.ndarray, np.ndarray]:
    """Floors that sum to `load`, some of them 0, and caps above them that sum to at least 1."""
    floor = rng.random(count) ** 3 * (rng.random(count) < 0.7)
    floor *= load / max(floor.sum(), 1e-9)
    cap = np.minimum(1.0, floor + rng.random(count) * 3 / count)
    return floor, np.minimum(1.0, cap / min(1.0, cap.sum()) * (1 + 1e-12))


@given(SEEDS, st.integers(1, 16), st.sampled_from([0.0, 0.5, 0.9, 0.9999]))
@settings(max_examples=60, deadline=None)
def test_shortfall_and_excess_are_at_most_a_pull(seed: int, count: int, load: float) -> None:
    rng = np.random.default_rng(seed)
    floor, cap = bounds(rng, count, load)
    deadlines = Deadlines(count)
    deadlines.set_bounds(1, np.ones(count, dtype=np.bool_), floor, cap)
    greedy = rng.integers(count)
    for total in range(1, 400):
        index = np.zeros(count) if total % 7 else rng.random(count)
        index[greedy] += 5.0  # an adversary that wants one arm, then another
        if total % 50 == 0:
            greedy = rng.integers(count)
        deadlines.serve(lambda index=index: index)
        assert (floor * total - deadlines.served).max() <= 1 + 1e-9
        assert (deadlines.served - cap * total).max() <= 1 + 1e-9
    assert deadlines.served.sum() == 399


@given(SEEDS, st.integers(2, 10))
@settings(max_examples=30, deadline=None)
def test_a_sleeper_is_not_served_and_caps_hold_through_it(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    floor, cap = bounds(rng, count, 0.5)
    cap[:] = np.maximum(cap, 0.6)
    deadlines, awake = Deadlines(count), np.ones(count, dtype=np.bool_)
    for total in range(1, 300):
        if total % 10 == 1:
            awake = rng.random(count) < 0.7
            awake[rng.choice(count, 2, replace=False)] = True
            deadlines.set_bounds(total, awake, np.where(awake, floor, 0.0), np.where(awake, cap, 1.0))
        row = deadlines.serve(lambda: rng.random(count))
        assert awake[row]
        assert (deadlines.served - cap * total).max() <= 1 + 1e-9
        deadlines.fold()
        deadlines.forget(total)
    assert (deadlines.offered <= 299).all() and deadlines.offered.max() > deadlines.offered.min() - 1


def test_the_largest_index_wins_where_nothing_binds_and_the_first_of_equals() -> None:
    deadlines = Deadlines(4)
    deadlines.set_bounds(1, np.array([True, True, True, False]), np.zeros(4), np.ones(4))
    assert deadlines.serve(lambda: np.array([0.1, 0.7, 0.7, 0.9])) == 1
    assert deadlines.serve(lambda: np.array([0.8, 0.7, 0.7, 0.9])) == 0


def test_an_urgent_floor_does_not_ask_for_the_index() -> None:
    deadlines = Deadlines(2)
    deadlines.set_bounds(1, np.ones(2, dtype=np.bool_), np.array([0.0, 1.0]), np.ones(2))
    assert [deadlines.serve(lambda: pytest.fail("not needed")) for _ in range(5)] == [1] * 5


def test_at_caps_that_sum_to_one_every_arm_has_its_share() -> None:
    """Rounding may close all three: the one that opens first is served then."""
    deadlines = Deadlines(3)
    deadlines.set_bounds(1, np.ones(3, dtype=np.bool_), np.zeros(3), np.full(3, 1 / 3))
    served = [deadlines.serve(lambda: np.array([3.0, 2.0, 1.0])) for _ in range(300)]
    assert np.abs(np.bincount(served) - 100).max() <= 1


def test_nothing_grows_with_the_pulls() -> None:
    """An arm served a thousand times beyond its floor leaves one entry behind, not a thousand."""
    deadlines = Deadlines(3)
    deadlines.set_bounds(1, np.ones(3, dtype=np.bool_), np.array([0.01, 0.2, 0.0]), np.array([1.0, 1.0, 0.5]))
    for _ in range(5000):
        deadlines.serve(lambda: np.array([1.0, 0.0, 2.0]))
    assert len(deadlines._waiting) + len(deadlines._urgent) == 2 and len(deadlines._shut) <= 1


def test_pulls_are_taken_back() -> None:
    rng = np.random.default_rng(5)
    floor, cap = np.array([0.3, 0.0, 0.2, 0.0]), np.array([1.0, 0.4, 0.5, 1.0])
    deadlines, rows = Deadlines(4), []
    deadlines.set_bounds(1, np.ones(4, dtype=np.bool_), floor, cap)
    table = rng.random((60, 4))
    for ticket in range(1, 61):
        if ticket == 31:
            deadlines.fold()
            before = deadlines.served.copy(), deadlines.offered.copy()
        rows.append(deadlines.serve(lambda ticket=ticket: table[ticket - 1]))
    for ticket in range(60, 30, -1):
        deadlines.undo(ticket, rows[ticket - 1])
    assert (deadlines.served == before[0]).all() and (deadlines.offered == before[1]).all()
    again = [deadlines.serve(lambda ticket=ticket: table[ticket - 1]) for ticket in range(31, 61)]
    assert again == rows[30:], "heaps built anew serve as the old ones did"


def sleepy(
    specs: list[ArmSpec], awake: list[int], picks: int
) -> tuple[Scheduler, Callable[[int], list[int]]]:
    """An argmax with only `awake` awake for `picks` picks; arm 1 pays 0.1 where it has a floor, else 0.9."""
    scheduler = Scheduler(
        SchedulerConfig(seed=3, grad_accum=1, windows_per_pull=1, delay=1, policy="ucb"), specs
    )
    step = iter(range(1, 10**6))

    def go(count: int) -> list[int]:
        served = []
        for _ in range(count):
            ticket = scheduler.pick(next(step))
            best = 0.9 if specs[0].floor == 0 else 0.1
            scheduler.credit(ticket.id, best if ticket.arm == 1 else 0.5)
            served.append(ticket.arm)
        return served

    scheduler.set_eligible(awake)
    go(picks)
    return scheduler, go


def test_a_floor_that_rises_as_others_fall_asleep_makes_no_burst() -> None:
    """Floor 0.3 of ten arms is a share of 0.025, of two arms 0.1875: it holds from then on, not for the past."""
    specs = [ArmSpec("a", 1, 10**9, floor=0.3), *(ArmSpec(f"o{at}", at, 10**9) for at in range(2, 11))]
    scheduler, go = sleepy(specs, list(range(1, 11)), 4000)
    scheduler.set_eligible([1, 2])
    served = go(1000)
    assert abs(served.count(1) - 0.1875 * 1000) < 40
    assert abs(served[:100].count(1) - 0.1875 * 100) < 10


def test_a_cap_that_was_relaxed_while_others_slept_locks_nobody_out() -> None:
    """Two awake share evenly for all their caps of 0.3; with five awake again the best is served at 0.3 at once."""
    specs = [ArmSpec(f"o{at}", at, 10**9, max_share=0.3) for at in range(1, 6)]
    scheduler, go = sleepy(specs, [1, 2], 4000)
    scheduler.set_eligible([1, 2, 3, 4, 5])
    assert 25 <= go(100).count(1) <= 31


def test_a_cap_of_rounding_noise_is_no_cap_to_spend_an_old_allowance_under() -> None:
    deadlines, awake = Deadlines(2), np.ones(2, dtype=np.bool_)
    deadlines.set_bounds(1, awake, np.zeros(2), np.ones(2))
    assert {deadlines.serve(lambda: np.array([0.0, 1.0])) for _ in range(10)} == {1}
    deadlines.set_bounds(11, awake, np.array([1e-18, 0.0]), np.array([1e-16, 1.0]))
    assert {deadlines.serve(lambda: np.array([1.0, 0.0])) for _ in range(10)} == {1}
