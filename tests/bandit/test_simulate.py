"""The simulation: the scheduler's bounds hold in it, it is a function of its plan, and regret means what it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.arms import ArmSpec, new_id
from bandit.policies import POLICIES
from bandit.reward import REWARDS
from bandit.settings import SchedulerConfig
from bandit.simulation.simulate import Plan, optimum, simulate
from bandit.simulation.world import draw_world

BOUNDS: dict[str, dict[str, float]] = {
    "chat": {"floor": 0.6},
    "books": {"cap": 0.7, "floor": 0.4},
    "dictionary": {"cap": 0.25},
    "commits": {"cap": 0.2},
    "tiny": {"floor": 0.3},
    "forum": {},
    "zombie": {"cap": 0.0},
}
SETTINGS = SchedulerConfig(seed=5, grad_accum=4, windows_per_pull=8, delay=8)


def plan(junk: tuple[str, ...] = (), **changes: Any) -> Plan:
    arms = [
        ArmSpec(name, new_id(name, ()), windows=200 if name == "tiny" else 50_000, **bounds)
        for name, bounds in BOUNDS.items()
    ]
    world = draw_world(
        arms, seed=0, junk=[new_id(name, ()) for name in junk], goal=[new_id("chat", ()), new_id("books", ())]
    )
    made = Plan(
        SETTINGS,
        arms,
        [(1, [arm.id for arm in arms])],
        world,
        steps=1000,
        reward="progress",
        probe_every=40,
        seed=1,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("policy", POLICIES)
def test_shares_stay_within_the_intervals_and_a_zombie_gets_nothing(policy: str) -> None:
    outcome = simulate(plan(settings=replace(SETTINGS, policy=policy)))
    # A whole dwell's targets lie within; what is served differs from them by the deal's bound, H_7 - 1 under 1.6 pulls.
    slack = 1.6 / outcome.pulls.sum()
    assert (outcome.share >= outcome.low - slack).all()
    assert (outcome.share <= outcome.high + slack).all()
    zombie = list(BOUNDS).index("zombie")
    assert (outcome.pulls[zombie], outcome.share[zombie], outcome.high[zombie]) == (0, 0.0, 0.0)
    assert outcome.pulls.sum() == 4000
    assert outcome.share.sum() == pytest.approx(1.0)


def test_history_is_the_pulls_of_each_stretch() -> None:
    outcome = simulate(plan(steps=500))
    lengths = np.diff([0, *outcome.ends])
    assert outcome.ends[-1] == 500
    assert len(outcome.ends) == 48
    assert (lengths @ outcome.history * 4).tolist() == pytest.approx(outcome.pulls.tolist())
    assert outcome.epochs.tolist() == pytest.approx((outcome.pulls * 8 / plan().world.windows).tolist())


def test_the_same_plan_gives_the_same_outcome_and_another_seed_another() -> None:
    first, second, other = (
        simulate(plan(steps=200)),
        simulate(plan(steps=200)),
        simulate(plan(steps=200, seed=2)),
    )
    assert first.pulls.tolist() == second.pulls.tolist()
    assert (first.history == second.history).all()
    assert first.goal_loss == second.goal_loss
    assert first.pulls.tolist() != other.pulls.tolist()


def test_the_share_is_of_the_last_phase_and_a_source_it_leaves_out_has_none() -> None:
    made = plan(steps=400)
    ids = {arm.name: arm.id for arm in made.arms}
    opens = [(1, [ids["dictionary"], ids["chat"]]), (201, [ids["chat"], ids["books"]])]
    outcome = simulate(replace(made, phases=opens))
    share = dict(zip(BOUNDS, outcome.share.tolist(), strict=True))
    pulls = dict(zip(BOUNDS, outcome.pulls.tolist(), strict=True))
    assert share["dictionary"] == 0.0 < pulls["dictionary"]
    assert share["chat"] + share["books"] == pytest.approx(1.0)
    assert pulls["chat"] + pulls["dictionary"] + pulls["books"] == 1600
    assert pulls["books"] == round(share["books"] * 800)
    assert outcome.high[list(BOUNDS).index("dictionary")] == 0.0
    assert optimum(replace(made, phases=opens)) <= outcome.goal_loss[1]


def test_agreement_with_the_goal_finds_the_junk_that_bounds_allow() -> None:
    made = plan(junk=("forum", "dictionary"), reward="align", steps=1500)
    even = simulate(replace(made, settings=replace(SETTINGS, policy="fixed")))
    guided = simulate(made)
    forum = list(BOUNDS).index("forum")
    assert guided.share[forum] < 0.5 * even.share[forum]  # 0.05 against 0.26 of the pulls
    assert guided.goal_loss[1] < even.goal_loss[1]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_beats_the_optimum(policy: str) -> None:
    made = plan(settings=replace(SETTINGS, policy=policy), reward="align")
    assert simulate(made).goal_loss[1] > optimum(made)


def test_the_optimum_obeys_the_bounds() -> None:
    free = plan(steps=400)
    bound = replace(free, arms=[replace(arm, max_share=0.3) for arm in free.arms])
    forced = replace(free, arms=[replace(arm, floor=arm.cap) for arm in free.arms])
    assert optimum(free) < optimum(bound)
    even = simulate(replace(forced, settings=replace(SETTINGS, policy="fixed")))
    assert optimum(forced) == pytest.approx(
        even.goal_loss[1], abs=2e-3
    )  # nothing to choose: what is dealt, to rounding


def test_bounds_that_cannot_hold_are_said() -> None:
    arms = [replace(arm, max_share=0.1) for arm in plan().arms]
    assert "max_share" in simulate(plan(arms=arms, steps=20)).relaxed[0]


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_can_be_tried(reward: str) -> None:
    assert simulate(plan(reward=reward, steps=100)).pulls.sum() == 400


def test_the_loss_as_reward_feeds_the_junk_that_agreement_starves() -> None:
    by_loss, by_agreement = (simulate(plan(junk=("forum",), reward=reward)) for reward in ("loss", "align"))
    forum = list(BOUNDS).index("forum")
    assert by_loss.share[forum] > 3 * by_agreement.share[forum]


def test_progress_is_told() -> None:
    told: list[int] = []
    simulate(plan(steps=100), told.append)
    assert told[-1] == 100
    assert told == sorted(told)
