"""The constrained optimum: as good as the best of a search, and never outside the bounds."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.arms import FloatArray
from bandit.simulation.optimum import best_shares

GRID = 20  # bounds and shares are whole twentieths, so that the search meets the best there is
wholes = st.lists(st.integers(0, GRID), min_size=3, max_size=3)


def searched(worth: FloatArray, low: list[int], high: list[int]) -> float:
    """The greatest value of all shares in whole twentieths within the bounds; -inf where there are none."""
    pairs = itertools.product(
        *(range(least, most + 1) for least, most in zip(low[:2], high[:2], strict=True))
    )
    triples = [(a, b, GRID - a - b) for a, b in pairs if low[2] <= GRID - a - b <= high[2]]
    return max((float(worth @ np.array(triple)) / GRID for triple in triples), default=-np.inf)


@given(worth=wholes, a=wholes, b=wholes)
def test_it_is_the_best_of_all_three_shares_on_a_grid(worth: list[int], a: list[int], b: list[int]) -> None:
    low, high = [min(pair) for pair in zip(a, b, strict=True)], [max(pair) for pair in zip(a, b, strict=True)]
    best = searched(np.array(worth, dtype=np.float64), low, high)
    if best == -np.inf:
        return
    found = best_shares(np.array(worth, dtype=np.float64), np.array(low) / GRID, np.array(high) / GRID)
    assert np.array(worth) @ found == pytest.approx(best)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= np.array(low) / GRID).all()
    assert (found <= np.array(high) / GRID + 1e-12).all()
