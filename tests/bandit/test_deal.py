"""The deal keeps served shares within a few pulls of the targets, whatever the shares and whoever sleeps (T1, T5)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.deal import Dealer

SEEDS = st.integers(0, 2**32 - 1)


def harmonic(count: int) -> float:
    return sum(1 / k for k in range(1, count + 1))


def random_shares(rng: np.random.Generator, awake: np.ndarray) -> np.ndarray:
    weights = rng.random(len(awake)) ** rng.integers(1, 20) * awake
    return weights / weights.sum()


@given(SEEDS, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_credit_stays_in_its_bounds_for_any_shares(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    dealer, awake = Dealer(count), np.ones(count, dtype=np.bool_)
    wanted = np.zeros(count)
    for ticket in range(1, 150):
        share = random_shares(rng, awake)
        dealer.begin(ticket, awake, share)
        dealer.deal(1)[0]
        dealer.fold()
        dealer.forget(ticket)
        wanted += share
        ahead = dealer.served - wanted
        np.testing.assert_allclose(ahead, -dealer.credit, atol=1e-9)
        assert ahead.max() <= 1 - 1 / count + 1e-9
        assert ahead.min() >= -(harmonic(count) - 1) - 1e-9
        assert abs(dealer.credit.sum()) < 1e-9


@pytest.mark.parametrize("count", [2, 3, 16, 64])
def test_the_bounds_are_reached_by_an_adversary_and_not_passed(count: int) -> None:
    """Give equal shares to the arms not served yet: the last one is H_K - 1 behind, the first served 1 - 1/K ahead."""
    dealer, awake = Dealer(count), np.ones(count, dtype=np.bool_)
    waiting = set(range(count))
    for ticket in range(1, count):
        share = np.array([row in waiting for row in range(count)]) / len(waiting)
        dealer.begin(ticket, awake, share)
        served = dealer.deal(1)[0]
        dealer.fold()
        if ticket == 1:
            assert dealer.credit[served] == pytest.approx(-(1 - 1 / count), abs=1e-12)
        waiting.remove(served)
    assert dealer.credit[waiting.pop()] == pytest.approx(harmonic(count) - 1, abs=1e-9)


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_sleepers_keep_their_credit_and_are_not_served(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    dealer, awake = Dealer(count), np.ones(count, dtype=np.bool_)
    for ticket in range(1, 200):
        flipped = awake ^ (rng.random(count) < 0.1)
        awake = flipped if flipped.any() else awake
        dealer.begin(ticket, awake, random_shares(rng, awake))
        frozen, offered = dealer.credit[~awake], dealer.offered.copy()
        row = dealer.deal(1)[0]
        dealer.fold()
        dealer.forget(ticket)
        assert awake[row]
        assert (dealer.credit[~awake] == frozen).all()
        assert (dealer.offered - offered == awake).all()
        assert np.abs(dealer.credit).max() <= (count - 1) / 2 + 1 + 1e-9
        assert len(dealer.spans) == 1


def test_the_first_of_equal_credits_is_served() -> None:
    dealer = Dealer(4)
    dealer.begin(1, np.array([False, True, True, True]), np.array([0.0, 0.25, 0.25, 0.25]))
    assert [dealer.deal(1)[0] for _ in range(3)] == [1, 2, 3]
    dealer = Dealer(2)
    dealer.begin(1, np.ones(2, dtype=np.bool_), np.array([0.4, 0.6]))
    assert dealer.deal(1)[0] == 1


def test_pulls_are_taken_back_through_a_change_of_shares() -> None:
    rng = np.random.default_rng(3)
    dealer, rows = Dealer(5), []
    both = np.ones(5, dtype=np.bool_), np.array([True, True, False, True, True])
    before = None
    for ticket in range(1, 31):
        if ticket % 6 == 1:
            awake = both[ticket % 12 == 1]
            dealer.begin(ticket, awake, random_shares(rng, awake))
        if ticket == 11:
            dealer.fold()
            before = dealer.credit.copy(), dealer.served.copy(), dealer.offered.copy()
        rows.append(dealer.deal(1)[0])
    for ticket in range(30, 10, -1):
        dealer.undo(ticket, rows[ticket - 1])
    np.testing.assert_allclose(dealer.credit, before[0], atol=1e-12)
    assert (dealer.served == before[1]).all() and (dealer.offered == before[2]).all()


def test_a_pull_from_before_a_restart_is_in_no_count_to_take_back() -> None:
    dealer, awake = Dealer(2), np.ones(2, dtype=np.bool_)
    dealer.begin(1, awake, np.array([0.3, 0.7]))
    row = dealer.deal(1)[0]
    dealer.restart()
    dealer.undo(1, row)
    assert not dealer.credit.any() and not dealer.served.any() and not dealer.offered.any()
