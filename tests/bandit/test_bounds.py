"""Shares stay inside their bounds, and the interval a weight clamp implies is exact (T4)."""

import numpy as np
import pytest
from bandit_worlds import arms
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.arms import ArmSpec
from bandit.bounds import check_feasible, implied_intervals, intervals, relax, shares
from bandit.errors import InfeasibleBounds, InvalidArms

SEEDS = st.integers(0, 2**32 - 1)


def random_bounds(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    low = rng.random(count) * (rng.random(count) < 0.5) / count
    high = np.minimum(1.0, low + rng.random(count) * 3 / count)
    if high.sum() < 1:
        high[rng.integers(count)] = 1.0
    return low, high


@given(SEEDS, st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_shares_are_the_weights_scaled_by_one_factor_into_the_bounds(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(count) + 0.01
    low, high = random_bounds(rng, count)
    result = shares(weights, low, high)
    assert abs(result.sum() - 1) < 1e-12
    assert (result >= low).all() and (result <= high).all()
    # The factor by bisection, an independent way to the same shares.
    least, most = 0.0, 1e6
    for _ in range(200):
        middle = (least + most) / 2
        least, most = (middle, most) if np.clip(middle * weights, low, high).sum() < 1 else (least, middle)
    np.testing.assert_allclose(result, np.clip(most * weights, low, high), atol=1e-9)


def test_weightless_arms_get_only_what_the_others_cannot_take() -> None:
    open_low, open_high = np.zeros(3), np.ones(3)
    assert shares(np.array([1.0, 0.0, 0.0]), open_low, open_high).tolist() == [1.0, 0.0, 0.0]
    capped = shares(np.array([1.0, 0.0, 0.0]), open_low, np.array([0.4, 1.0, 1.0]))
    np.testing.assert_allclose(capped, [0.4, 0.3, 0.3])
    np.testing.assert_allclose(shares(np.zeros(4), np.zeros(4), np.ones(4)), 0.25)


def test_shares_refuse_bounds_that_cannot_sum_to_one() -> None:
    with pytest.raises(InfeasibleBounds):
        shares(np.ones(2), np.array([0.6, 0.6]), np.ones(2))
    with pytest.raises(InfeasibleBounds):
        shares(np.ones(2), np.zeros(2), np.array([0.4, 0.4]))


@given(SEEDS, st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_share_lies_in_its_implied_interval_and_both_ends_are_reached(
    seed: int, count: int, hard: bool
) -> None:
    rng = np.random.default_rng(seed)
    floor = rng.random(count) * (rng.random(count) < 0.7)
    cap = floor + rng.random(count)
    low, high = random_bounds(rng, count) if hard else (np.zeros(count), np.ones(count))
    least, greatest = intervals(floor, cap, low, high)
    reached_low, reached_high = np.ones(count), np.zeros(count)
    corners = [
        np.where(np.arange(count) == row, own, other)
        for row in range(count)
        for own, other in ((floor, cap), (cap, floor))
    ]
    inside = [floor + rng.random(count) * (cap - floor) for _ in range(10)]
    for weights in corners + inside:
        if weights.sum() == 0:
            continue
        share = shares(weights, low, high)
        assert (share >= least - 1e-12).all() and (share <= greatest + 1e-12).all()
        reached_low, reached_high = np.minimum(reached_low, share), np.maximum(reached_high, share)
    positive = floor.sum() - floor > 0  # else the corner of that arm is 0 / 0
    np.testing.assert_allclose(reached_low, least, atol=1e-12)
    np.testing.assert_allclose(reached_high[positive], greatest[positive], atol=1e-12)


def test_interval_by_hand() -> None:
    # Ten arms in [0.02, 0.35]: 0.02 / (0.02 + 9 * 0.35) to 0.35 / (0.35 + 9 * 0.02).
    implied = implied_intervals(arms(10, floor=0.02, cap=0.35))
    for low, high in implied.values():
        assert low == pytest.approx(0.02 / 3.17) and high == pytest.approx(0.35 / 0.53)


def test_a_hard_cap_moves_the_intervals_of_the_others() -> None:
    pinned = {"cap": 1.0, "floor": 1.0}
    specs = [
        ArmSpec("a", 1, 10, max_share=0.1, **pinned),
        ArmSpec("b", 2, 10, **pinned),
        ArmSpec("c", 3, 10, **pinned),
    ]
    assert implied_intervals(specs)[1] == pytest.approx((0.1, 0.1))
    assert implied_intervals(specs)[2] == pytest.approx((0.45, 0.45))


def test_arms_that_cannot_be_pulled_have_no_interval_and_crowd_nobody() -> None:
    specs = [ArmSpec("a", 1, 10), ArmSpec("capped", 2, 10, cap=0.0), ArmSpec("dataless", 3, 0)]
    assert implied_intervals(specs) == {1: (1.0, 1.0), 2: (0.0, 0.0), 3: (0.0, 0.0)}


def test_relax_scales_caps_then_floors_and_names_the_arms() -> None:
    low, high, messages = relax(np.array([0.0, 0.0]), np.array([0.3, 0.5]), ["a", "b"])
    np.testing.assert_allclose(high, [0.375, 0.625])
    assert len(messages) == 1 and "max_share" in messages[0] and "a 0.375, b 0.625" in messages[0]
    low, high, messages = relax(np.array([0.9, 0.6, 0.0]), np.ones(3), ["a", "b", "c"])
    np.testing.assert_allclose(low, [0.6, 0.4, 0.0])
    assert (
        len(messages) == 1 and "min_share" in messages[0] and "c" not in messages[0].split("sums")[0].split()
    )
    assert relax(np.array([0.5, 0.5]), np.array([0.5, 0.5]), ["a", "b"])[2] == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ArmSpec("books", 1, 10, cap=0.5, floor=0.8), "books: floor 0.8 is above cap 0.5"),
        (
            ArmSpec("books", 1, 10, min_share=0.5, max_share=0.2),
            "books: min_share 0.5 is above max_share 0.2",
        ),
        (ArmSpec("books", 1, 10, cap=float("nan")), "books: cap nan"),
        (ArmSpec("books", 1, 10, floor=-1.0), "books: floor -1.0"),
        (ArmSpec("books", 1, 10, max_share=1.5), "books: max_share 1.5 is above 1"),
        (ArmSpec("books", 1, -1), "books: windows -1"),
        (ArmSpec("books", 1 << 48, 10), "books: id"),
        (ArmSpec("books", 1, 10, cap=0.0), "none of books can be pulled"),
    ],
)
def test_feasibility_names_the_arm(spec: ArmSpec, words: str) -> None:
    problems = check_feasible([spec])
    assert any(problem.startswith(words) for problem in problems), problems


def test_feasibility_of_a_set() -> None:
    assert check_feasible(arms(4)) == []
    assert check_feasible(arms(4, floor=0.9)) == [], "weight floors may sum to more than 1"
    (problem,) = check_feasible(arms(3, min_share=0.4))
    assert problem.startswith("min_share sums to 1.2") and "source-2 0.4" in problem
    (problem,) = check_feasible(arms(3, max_share=0.25))
    assert problem.startswith("max_share sums to 0.75") and "source-0 0.25" in problem
    assert check_feasible([]) == ["none of no sources can be pulled"]


def test_an_arm_that_contradicts_itself_raises_where_intervals_are_wanted() -> None:
    with pytest.raises(InvalidArms, match="books: floor") as caught:
        implied_intervals([ArmSpec("books", 1, 10, cap=0.5, floor=0.8)])
    assert caught.value.arm == "books"
