"""The constrained optimum: as good as the best of a fine search, and never outside the bounds."""

import itertools

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bandit.arms import FloatArray
from bandit.bounds import intervals, shares
from bandit.simulation.optimum import best_shares

FREE = (np.zeros(3), np.ones(3))
numbers = st.integers(0, 20).map(lambda number: number / 20)


def triples(of: st.SearchStrategy[float]) -> st.SearchStrategy[FloatArray]:
    return st.lists(of, min_size=3, max_size=3).map(np.array)


def searched(
    worth: FloatArray, floor: FloatArray, cap: FloatArray, low: FloatArray, high: FloatArray
) -> float:
    """The best value over a grid of weights within [floor, cap], each scaled into [low, high]."""
    # Geometric towards 0 too: hard bounds make much of small weights.
    grid = np.array([1e-4, 1e-2, 0.1, 0.3, 0.6, 1.0])
    axes = [np.concatenate((f + (c - f) * grid, [max(f, 1e-9)])) for f, c in zip(floor, cap, strict=True)]
    return max(float(worth @ shares(np.array(weights), low, high)) for weights in itertools.product(*axes))


@pytest.mark.parametrize(
    ("worth", "floor", "cap", "expected"),
    [
        # Best at its cap, others at their floors: 1.3 of 1.3 + 0.5 + 0.4.
        ([3.0, 1.0, 0.0], [0.6, 0.5, 0.4], [1.3, 1.3, 1.3], [1.3 / 2.2, 0.5 / 2.2, 0.4 / 2.2]),
        # Two near equals at their caps keep the worthless floor's share down.
        ([1.0, 0.99, 0.0], [0.0, 0.0, 0.5], [1.0, 1.0, 1.0], [0.4, 0.4, 0.2]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.3, 1.3, 0.3], [0.0, 0.0, 1.0]),
    ],
)
def test_clamps_alone(
    worth: list[float], floor: list[float], cap: list[float], expected: list[float]
) -> None:
    found = best_shares(np.array(worth), np.array(floor), np.array(cap), *FREE)
    assert found.tolist() == pytest.approx(expected)


def test_max_share_is_filled_in_descending_worth() -> None:
    high = np.array([0.5, 0.3, 1.0])
    found = best_shares(np.array([1.0, 2.0, 3.0]), np.zeros(3), np.full(3, 1.3), np.zeros(3), high[::-1])
    assert found.tolist() == pytest.approx([0.2, 0.3, 0.5])


@settings(max_examples=40, deadline=None)
@given(worth=triples(numbers), a=triples(numbers), b=triples(numbers))
def test_no_search_finds_better_clamped_weights(worth: FloatArray, a: FloatArray, b: FloatArray) -> None:
    floor, cap = np.minimum(a, b), np.maximum(a, b) + 0.05
    found = best_shares(worth, floor, cap, *FREE)
    corners = [np.array(w) for w in itertools.product(*zip(floor, cap, strict=True)) if sum(w) > 0]
    assert worth @ found == pytest.approx(max(worth @ w / w.sum() for w in corners), abs=1e-12)
    assert found.sum() == pytest.approx(1.0)


# To shrink a failure would take minutes: every example is a search.
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(worth=triples(numbers), a=triples(numbers), b=triples(numbers), c=triples(numbers), d=triples(numbers))
def test_no_search_finds_better_shares_under_hard_bounds(
    worth: FloatArray, a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray
) -> None:
    floor, cap = np.minimum(a, b), np.maximum(a, b) + 0.05
    low, high = 0.3 * np.minimum(c, d), 0.35 + 0.65 * np.maximum(c, d)
    found = best_shares(worth, floor, cap, low, high)
    assert worth @ found >= searched(worth, floor, cap, low, high) - 1e-9
    least, greatest = intervals(floor, cap, low, high)
    assert ((least - 1e-9 <= found) & (found <= greatest + 1e-9)).all()
    assert found.sum() == pytest.approx(1.0)
