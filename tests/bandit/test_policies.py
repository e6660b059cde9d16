"""The policies' raw weights, and one contract for all of them: bounds, sleep, invariance, exact restarts."""

import numpy as np
import pytest
from bandit_worlds import arms, config, drive, through_json

from bandit.arms import ArmSpec
from bandit.policies import (
    POLICIES,
    Candidates,
    exp3,
    exploration,
    exponential,
    focus_ucb,
    importance_weighted,
    odm,
    proportional,
    softmax_ucb,
)
from bandit.scheduler import Scheduler


def candidates(
    index: list[float], focus_size: int | None = None, score: list[float] | None = None
) -> Candidates:
    count = len(index)
    return Candidates(
        step=100,
        index=np.array(index),
        score=np.array(score or [0.0] * count),
        windows=np.arange(1, count + 1),
        focus_size=focus_size,
        background=0.1,
        temperature=0.1,
    )


def test_focus_is_the_arms_of_highest_index_and_the_first_of_equals() -> None:
    assert focus_ucb(candidates([0.1, 0.9, np.inf, 0.5])).tolist() == [0.1, 1.0, 1.0, 0.1]
    assert focus_ucb(candidates([np.inf] * 4)).tolist() == [1.0, 1.0, 0.1, 0.1]
    assert focus_ucb(candidates([0.1, 0.9, 0.8], focus_size=1)).tolist() == [0.1, 1.0, 0.1]
    assert focus_ucb(candidates([0.1, 0.9], focus_size=5)).tolist() == [1.0, 1.0]
    assert focus_ucb(candidates([0.3])).tolist() == [1.0]


def test_proportional_is_one_for_the_largest() -> None:
    assert proportional(candidates([0.0] * 4)).tolist() == [0.25, 0.5, 0.75, 1.0]


def test_softmax_is_in_proportion_to_the_exponential_and_an_arm_never_pulled_counts_as_the_best() -> None:
    assert softmax_ucb(candidates([0.5, 0.6, 0.4])) == pytest.approx([np.exp(-1), 1.0, np.exp(-2)])
    assert softmax_ucb(candidates([0.5, np.inf])).tolist() == [1.0, 1.0]
    assert softmax_ucb(candidates([np.inf] * 2)).tolist() == [1.0, 1.0]


def test_exp3_by_hand() -> None:
    """epsilon = sqrt(ln 3 / 300) at step 100; shares (1 - 3 epsilon) softmax(epsilon s) + epsilon."""
    epsilon = np.sqrt(np.log(3) / 300)
    assert exploration(100, 3) == pytest.approx(epsilon)
    powers = np.exp(epsilon * np.array([0.0, 10.0, 20.0]))
    share = (1 - 3 * epsilon) * powers / powers.sum() + epsilon
    assert exp3(candidates([0.0] * 3, score=[0.0, 10.0, 20.0])) == pytest.approx(share / share.max())
    assert exp3(candidates([0.0] * 2, score=[0.0, 1e9]))[0] == pytest.approx(
        exploration(100, 2) / (1 - exploration(100, 2))
    ), "a score beyond any exponent leaves the least share"


def test_odm_by_hand() -> None:
    epsilon = np.sqrt(np.log(2) / 200)
    share = (1 - 2 * epsilon) * np.array([0.25, 0.75]) + epsilon
    assert odm(candidates([0.0] * 2, score=[1.0, 3.0])) == pytest.approx(share / share.max())
    assert odm(candidates([0.0], score=[2.0])).tolist() == exp3(candidates([0.0])).tolist() == [1.0]


def test_scores_by_hand() -> None:
    assert importance_weighted(2.0, 0.5, 0.25, 0.01) == pytest.approx(0.9 * 2 + 0.1 * 0.5 / 0.25)
    assert importance_weighted(2.0, 0.5, 0.0, 0.01) == pytest.approx(0.9 * 2 + 0.1 * 0.5 / 0.01)
    assert exponential(2.0, 0.5, 0.25, 0.01) == pytest.approx(0.9 * 2 + 0.1 * np.exp(0.5))


@pytest.mark.parametrize("name", ["focus-ucb", "softmax-ucb", "ucb", "exp3", "odm"])
def test_a_learner_feeds_the_arm_that_pays(name: str) -> None:
    """Delayed rewards, one arm of four at 0.9 and the others at 0.1: it gets the largest share by far."""
    scheduler = Scheduler(config(policy=name, windows_per_pull=1), [*arms(3), ArmSpec("best", 77, 10**6)])
    drive(scheduler, 1, 700, lambda ticket: 0.9 if ticket.arm == 77 else 0.1)
    share = {view.name: view.share for view in scheduler.views(700)}
    least = {"focus-ucb": 0.3, "softmax-ucb": 0.6, "ucb": 0.8, "exp3": 0.28, "odm": 0.3}[name]
    assert share["best"] > least and share["best"] == max(share.values())


def served(name: str, windows_per_pull: int) -> np.ndarray:
    """Shares of 180 pulls of four sources of 200 to 311 windows."""
    scheduler = Scheduler(config(policy=name, windows_per_pull=windows_per_pull), arms(4))
    drive(scheduler, 1, 60)
    return np.array([view.share for view in scheduler.views(60)])


def test_the_shares_each_policy_serves() -> None:
    sizes = np.array([spec.windows for spec in sorted(arms(4), key=lambda spec: spec.id)])
    np.testing.assert_allclose(served("fixed", 40), 0.25, atol=1.5 / 180)
    np.testing.assert_allclose(served("uniform", 1), 0.25, atol=0.03)
    assert np.corrcoef(served("uniform", 40), sizes)[0, 1] > 0.9, "a source read over and over gets less"
    np.testing.assert_allclose(served("proportional", 40), sizes / sizes.sum(), atol=3 / 180)
    assert np.ptp(served("focus-ucb", 1)) > 0.2


@pytest.mark.parametrize("name", POLICIES)
def test_contract(name: str) -> None:
    specs = arms(6)
    scheduler = Scheduler(config(policy=name), specs)
    scheduler.set_eligible([spec.id for spec in specs[1:]])
    picked = [ticket.arm for ticket in drive(scheduler, 1, 30)]
    assert set(picked) == {spec.id for spec in specs[1:]}

    again = Scheduler(config(policy=name), list(reversed(specs)))
    again.set_eligible([spec.id for spec in specs[1:]])
    assert [ticket.arm for ticket in drive(again, 1, 30)] == picked, "seeded, and blind to the order of arms"

    loaded = Scheduler.restore(config(policy=name), specs, through_json(scheduler.snapshot()))
    assert drive(loaded, 31, 60) == drive(scheduler, 31, 60)
    for view in scheduler.views(60):
        assert view.share_low - 1e-12 <= view.target <= view.share_high + 1e-12
