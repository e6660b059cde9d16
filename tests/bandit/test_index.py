"""The index: exact discounted sums, exact through rebases, a test of drops (T8, B.3)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.index import (
    LARGEST_EXPONENT,
    NO_PULLS,
    UNSEEN,
    Estimator,
    IndexParts,
    discount,
    rebase_period,
    ucb_v,
)

NONE_PENDING = np.zeros(3)


def index_parts(estimator: Estimator, step: int, pending: np.ndarray, zeta: float = 0.03) -> IndexParts:
    return estimator.parts(estimator.common(step, pending), pending, 0.25, zeta)


def feed(estimator: Estimator, steps: range, seed: int = 0) -> list[tuple[int, int, float]]:
    """One random pull a step, rebasing as the scheduler does; returns (row, step, reward)."""
    rng = np.random.default_rng(seed)
    pulls = []
    for step in steps:
        origin = step - step % estimator.period
        if origin > estimator.origin:
            estimator.rebase(origin)
        pulls.append((int(rng.integers(len(estimator.weight_sum))), step, float(rng.random())))
        estimator.add(*pulls[-1], 0.0)
    return pulls


def test_a_scripted_sequence_by_hand() -> None:
    gamma, keep = 0.5, 1 - 1 / 64
    estimator = Estimator(3, gamma)
    estimator.add(0, 1, 0.2, 0.0)
    estimator.add(1, 2, 1.0, 0.0)
    estimator.add(0, 3, 0.6, 0.1)
    # At step 3 the weights of arm 0 are 1/4, kept by one credit, and 1; the penalty lowers the mean and not the noise.
    first = 0.25 * keep
    mean = (first * 0.2 + 0.5) / (first + 1)
    assert estimator.mean() == pytest.approx([mean, 1.0, 0.5])
    pool = (0.4**2 / 2 + 0.02) / 2
    assert estimator.variance() == pytest.approx([(0.4**2 / 2 + 4 * pool) / 5, pool, pool])
    assert estimator.effective_pulls(4) == pytest.approx([0.5 * (first + 1), 0.25, 0.0])
    pulls = np.array([0.5 * (first + 1), 0.25 + 2, 0.0])
    log = np.log(1 + pulls.sum() / (3 * pulls[:2]))
    expected = [
        m + math.sqrt(2 * 0.25 * v * own / n) + 0.03 * own / n
        for m, v, n, own in zip([mean, 1.0], [(0.08 + 4 * pool) / 5, pool], pulls, log, strict=False)
    ]
    assert index_parts(estimator, 4, np.array([0, 2.0, 0])).index == pytest.approx([*expected, math.inf])
    pending = np.array([NO_PULLS, 2.0, NO_PULLS])
    quick = estimator.bound(estimator.common(4, pending), pending, 0.25, 0.03, np.empty(3))
    assert quick[:2] == pytest.approx(expected) and quick[2] > UNSEEN, "never pulled comes first"


def test_pulls_in_flight_narrow_the_width_and_leave_the_mean() -> None:
    estimator = Estimator(3, 0.99)
    feed(estimator, range(1, 40))
    idle = index_parts(estimator, 40, NONE_PENDING, 0.03).index
    busy = index_parts(estimator, 40, np.array([5.0, 0, 0]), 0.03).index
    assert busy[0] < idle[0] and busy[0] > estimator.mean()[0]
    fresh = Estimator(3, 0.99)
    assert (index_parts(fresh, 1, NONE_PENDING, 0.03).index == math.inf).all()
    assert index_parts(fresh, 1, np.array([1.0, 0, 0]), 0.0).index[0] == pytest.approx(
        0.5 + math.sqrt(2 * 0.25 * 0.02 * math.log(1 + 1 / 3))
    )


def test_the_log_counts_live_arms_only() -> None:
    estimator, alone = Estimator(3, 1.0), Estimator(3, 1.0, np.array([True, False, False]))
    for one in (estimator, alone):
        feed(one, range(1, 100))
    pulls = alone.effective_pulls(100)
    expected = ucb_v(alone.mean(), alone.variance(), pulls, np.log(1 + pulls[0] / pulls), 0.25, 0.03)
    assert index_parts(alone, 100, NONE_PENDING, 0.03).index == pytest.approx(expected.index)
    whole = ucb_v(alone.mean(), alone.variance(), pulls, np.log(1 + pulls.mean() / pulls), 0.25, 0.03)
    assert index_parts(estimator, 100, NONE_PENDING, 0.03).index == pytest.approx(whole.index)


def test_old_rewards_are_forgotten() -> None:
    estimator = Estimator(1, discount(memory=20, grad_accum=1))
    for step in range(1, 201):
        estimator.add(0, step, 1.0 if step <= 100 else 0.0, 0.0)
    assert estimator.mean()[0] < 0.01
    # The discounted mass now is (1 - q^200) / (1 - q), q = gamma (1 - 1/64), not a truncated count.
    rate = estimator.gamma * estimator.keep
    assert estimator.effective_pulls(200)[0] == pytest.approx((1 - rate**200) / (1 - rate))


def test_an_arm_forgets_by_its_own_pulls_and_hardly_by_the_clock() -> None:
    estimator = Estimator(2, discount(memory=10_000, grad_accum=1))
    for step in range(1, 301):
        estimator.add(0, step, 1.0 if step <= 100 else 0.0, 0.0)
    estimator.add(1, 1, 1.0, 0.0)
    estimator.add(1, 300, 0.0, 0.0)
    assert estimator.mean()[0] < 0.05 and estimator.mean()[1] == pytest.approx(0.5, abs=0.02)
    assert 60 < estimator.effective_pulls(300)[0] < 64


def test_a_drop_is_found_and_noise_is_not_taken_for_one() -> None:
    """After the drop of an arm it keeps 8.5 pulls at its recent mean, the other 30 % of its own, mean unchanged."""
    rng = np.random.default_rng(2)
    tested, plain = (Estimator(2, discount(400, 1), drop_test=test) for test in (True, False))
    for step in range(1, 401):
        for one in (tested, plain):
            one.add(step % 2, step, float(rng.random() < 0.8), 0.0)
    for one, seed in ((tested, 3), (plain, 3)):
        rng = np.random.default_rng(seed)
        for step in range(401, 431):
            one.add(0, step, float(rng.random() < 0.1), 0.0)
    assert tested.mean()[0] < 0.3 < plain.mean()[0]
    before = plain.effective_pulls(430)[1]
    assert tested.effective_pulls(430)[1] == pytest.approx(0.3 * before)
    quiet = Estimator(1, discount(400, 1), drop_test=True)
    fired = 0
    for step in range(1, 10_001):
        quiet.add(0, step, float(rng.random() < 0.5), 0.0)
        fired += step > 100 and quiet.effective_pulls(step)[0] < 20
    assert fired <= 60, "at most a few times in ten thousand pulls of nothing"


def test_noise_is_blind_to_a_slow_trend() -> None:
    estimator = Estimator(1, 1.0)
    for step in range(1, 501):
        estimator.add(0, step, step / 500, 0.0)
    assert estimator.variance()[0] < 0.02 / 20, "the rewards' own variance is 1/12"


@pytest.mark.parametrize(("memory", "grad_accum"), [(3, 3), (20, 4), (200, 64), (400, 1)])
def test_twelve_thousand_steps_equal_the_direct_sums(memory: int, grad_accum: int) -> None:
    estimator = Estimator(2, discount(memory, grad_accum))
    pulls = feed(estimator, range(1, 12_001))
    for column in (estimator.weight_sum, estimator.reward_sum):
        assert np.isfinite(column).all() and (column > 0).all()
    for row in range(2):
        own = [(step, reward) for arm, step, reward in pulls if arm == row]
        weights = [
            (estimator.gamma ** (12_000 - step) * estimator.keep ** (len(own) - 1 - at), reward)
            for at, (step, reward) in enumerate(own)
        ]
        total = math.fsum(weight for weight, _ in weights)
        assert estimator.mean()[row] == pytest.approx(math.fsum(w * r for w, r in weights) / total, rel=1e-9)
        assert estimator.effective_pulls(12_000)[row] == pytest.approx(total, rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_the_index_does_not_move_across_a_rebase(seed: int, memory: int) -> None:
    estimator = Estimator(3, discount(memory, 1))
    feed(estimator, range(1, 200), seed)
    moved = Estimator(3, discount(memory, 1))
    feed(moved, range(1, 200), seed)
    moved.rebase(200)
    for step in (200, 201):
        np.testing.assert_allclose(
            index_parts(moved, step, NONE_PENDING, 0.03).index,
            index_parts(estimator, step, NONE_PENDING, 0.03).index,
            rtol=1e-9,
        )
        for one in (moved, estimator):
            one.add(0, step, 0.25, 0.0)


def test_an_arm_asleep_for_a_million_steps_keeps_its_mean_and_comes_first() -> None:
    estimator = Estimator(2, discount(4, 4))
    estimator.add(0, 1, 0.25, 0.0)
    estimator.add(0, 2, 0.75, 0.0)
    mean = estimator.mean()[0]
    for origin in range(estimator.period, 1_000_000, estimator.period * 8):
        estimator.rebase(origin)
    assert estimator.mean()[0] == pytest.approx(mean, rel=1e-9)
    assert index_parts(estimator, 1_000_000, np.array([0, 5]), 0.03).index[0] > 1e6
    estimator.add(0, origin, 0.5, 0.0)
    assert estimator.mean()[0] == 0.5, "what is a million steps old counts nothing beside one new pull"


@given(st.integers(1, 64), st.floats(1.0, 1e6))
@settings(max_examples=100, deadline=None)
def test_squared_weights_stay_finite_for_any_memory(grad_accum: int, memory_steps: float) -> None:
    gamma = discount(memory_steps * grad_accum, grad_accum)
    period = rebase_period(gamma)
    assert 4096 % period == 0 and period >= 256
    assert -2 * period * math.log(gamma) <= LARGEST_EXPONENT
    assert period == 4096 or -4 * period * math.log(gamma) > LARGEST_EXPONENT
    assert discount(memory_steps * grad_accum, grad_accum) == pytest.approx(math.exp(-1 / memory_steps))
