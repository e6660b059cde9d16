"""Progress pays for learning and not for noise; repetition follows the cursor."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.errors import NonFiniteLoss, SnapshotMismatch, UnknownArm
from bandit.reward import ProgressReward, repetition, repetition_terms
from bandit.reward.base import FAST
from bandit.reward.progress import (
    SLOW,
    weight_difference_norm,
)


def rewards(losses: np.ndarray) -> np.ndarray:
    reward = ProgressReward([1])
    return np.array([reward.update(1, loss) for loss in losses])


@given(st.integers(2, 400))
@settings(max_examples=60, deadline=None)
def test_the_closed_form_is_the_sum_over_the_weights(pulls: int) -> None:
    def weights(rate: float) -> np.ndarray:
        raw = rate * (1 - rate) ** np.arange(pulls)[::-1]
        return raw / raw.sum()

    brute = math.sqrt(((weights(FAST) - weights(SLOW)) ** 2).sum())
    assert weight_difference_norm(pulls) == pytest.approx(brute, rel=1e-9)


def test_a_reward_by_hand() -> None:
    losses = np.array([3.0, 2.0, 4.0, 3.5, 3.0, 2.5, 2.0, 2.5, 1.0])

    def average(rate: float, values: np.ndarray) -> float:
        weights = (1 - rate) ** np.arange(len(values))[::-1]
        return float((weights * values).sum() / weights.sum())

    noise = math.sqrt(average(SLOW, np.diff(losses) ** 2 / 2))
    z = (average(SLOW, losses) - average(FAST, losses)) / (noise * weight_difference_norm(9))
    assert rewards(losses)[-1] == pytest.approx((1 + z / 3) / 2, rel=1e-9)
    assert 0.5 < rewards(losses)[-1] < 1


SYMMETRIC = {
    "normal": lambda rng, n: 3 + 0.2 * rng.standard_normal(n),
    "uniform": lambda rng, n: 3 + rng.random(n),
    "Student t, 3 degrees": lambda rng, n: 3 + 0.2 * rng.standard_t(3, n),
}
SKEWED = {
    "exponential": lambda rng, n: 3 + rng.exponential(size=n),
    "left exponential": lambda rng, n: 3 - rng.exponential(size=n),
    "log-normal": lambda rng, n: np.exp(rng.standard_normal(n)),
    "one spike in a hundred": lambda rng, n: 3 + 0.1 * rng.standard_normal(n) + 5 * (rng.random(n) < 0.01),
}


@pytest.mark.parametrize("noise", SYMMETRIC)
def test_a_stationary_arm_averages_a_half_for_symmetric_noise(noise: str) -> None:
    rng = np.random.default_rng(11)
    means = np.array([rewards(SYMMETRIC[noise](rng, 600))[8:].mean() for _ in range(40)])
    assert abs(means.mean() - 0.5) < 3 * means.std(ddof=1) / math.sqrt(40)
    assert means.std() > 0.01, "the noise does reach the reward"


@pytest.mark.parametrize("noise", SKEWED)
def test_a_stationary_arm_averages_a_half_to_two_hundredths_for_skewed_noise(noise: str) -> None:
    rng = np.random.default_rng(12)
    assert abs(rewards(SKEWED[noise](rng, 30_000))[8:].mean() - 0.5) < 0.02


def test_pay_does_not_grow_with_noise_and_does_with_learning() -> None:
    rng = np.random.default_rng(13)
    time = np.arange(1500)
    still = 3 + 0.2 * rng.standard_normal(1500)
    falling = still - 0.5 * time / 1500
    assert rewards(falling).mean() > rewards(still).mean() + 0.03
    assert rewards(3 + 3 * (still - 3)) == pytest.approx(rewards(still), abs=1e-9), "noise has no price"
    rising = still + 0.5 * time / 1500
    assert rewards(rising).mean() < rewards(still).mean() - 0.03


def test_neutral_until_eight_pulls_and_on_constant_loss() -> None:
    falling = rewards(np.linspace(3, 2, 20))
    assert (falling[:7] == 0.5).all() and (falling[7:] == 1.0).all()
    assert (rewards(np.full(50, 1 / 3)) == 0.5).all()
    assert rewards(np.array([3.1] + [3.0] * 9000))[-1] == 0.5, "rounding is no progress"
    assert rewards(np.linspace(2, 3, 20))[-1] == 0.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1e200])
def test_an_unusable_loss_names_the_arm_and_changes_nothing(loss: float) -> None:
    reward = ProgressReward([1, 2], {1: "books", 2: "code"})
    reward.update(2, 3.0)
    before = copy.deepcopy(reward.snapshot())
    with pytest.raises(NonFiniteLoss, match="code") as caught:
        reward.update(2, loss)
    assert caught.value.arm == "code" and reward.snapshot() == before
    with pytest.raises(UnknownArm, match="3"):
        reward.update(3, 1.0)


def test_loss_average_and_exact_restart() -> None:
    rng = np.random.default_rng(14)
    reward = ProgressReward([5, 2**47])
    assert reward.loss_ema(5) is None
    reward.update(5, 3.25)
    assert reward.loss_ema(5) == pytest.approx(3.25)
    for loss in rng.random(20):
        reward.update(2**47, loss)
    loaded = ProgressReward.restore([5, 6, 2**47], json.loads(json.dumps(reward.snapshot(), allow_nan=False)))
    assert loaded.loss_ema(6) is None
    for loss in rng.random(20):
        for arm in (5, 2**47):
            assert loaded.update(arm, loss) == reward.update(arm, loss)
    assert "5" not in ProgressReward.restore([6], reward.snapshot()).snapshot()


@pytest.mark.parametrize(
    ("field", "value"), [("pulls", -1), ("fast", None), ("last", math.nan), ("squared_difference", -1.0)]
)
def test_a_broken_record_is_named(field: str, value: object) -> None:
    snapshot = ProgressReward([5]).snapshot()
    snapshot["5"][field] = value
    with pytest.raises(SnapshotMismatch, match=rf"reward\.5\.{field}"):
        ProgressReward.restore([5], snapshot)


@pytest.mark.parametrize(
    ("cursor", "epochs", "penalty", "coverage", "bonus"),
    [
        (0, 0.0, 1.0, 0.0, 1.3),
        (25, 0.25, 1.0, 0.25, 1.15),
        (50, 0.5, 1.0, 0.5, 1.0),
        (100, 1.0, 1.0, 1.0, 1.0),
        (400, 4.0, 0.25, 1.0, 1.0),
    ],
)
def test_repetition(cursor: int, epochs: float, penalty: float, coverage: float, bonus: float) -> None:
    terms = repetition(cursor, 100)
    assert (terms.epochs, terms.penalty, terms.coverage) == (epochs, penalty, coverage)
    assert terms.bonus == pytest.approx(bonus)
    many = repetition_terms(np.array([cursor, 0]), np.array([100, 7]))
    assert (many[0][0], many[1][0]) == (terms.penalty, terms.bonus)


def test_a_source_without_data_has_no_epochs() -> None:
    assert repetition(0, 0).epochs == 0.0
