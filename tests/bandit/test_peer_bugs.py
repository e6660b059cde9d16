"""The twelve bugs met in peers while measuring them, each a test that our code passes.

What each library does is in the test's docstring; names and versions: docs/bandit.md.
"""

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bandit_worlds import arms, config, credit_due, drive, reward_of, through_json

from bandit.arms import ArmSpec
from bandit.errors import CreditedTwice, InvalidConfig
from bandit.index import NO_PULLS, PULL_MEMORY, Estimator
from bandit.policies import POLICIES, exponential, importance_weighted
from bandit.scheduler import Scheduler, SchedulerConfig


def ucb(**changes: Any) -> SchedulerConfig:
    """The argmax, a pull a step, credited before the next."""
    return config(**{"policy": "ucb", "grad_accum": 1, "windows_per_pull": 1, "delay": 1, **changes})


def endless(count: int) -> list[ArmSpec]:
    return [replace(spec, windows=10**9) for spec in arms(count)]


def play(scheduler: Scheduler, first: int, last: int, means: dict[int, float]) -> Counter[int]:
    """Pulls by arm over steps of one pull each, with the means as rewards."""
    return Counter(ticket.arm for ticket in drive(scheduler, first, last, lambda t: means[t.arm]))


def test_b01_discounted_mass_is_not_truncated_to_whole_numbers() -> None:
    """SMPyBandits 0.9.7 keeps it as integers: it reads 1, 1, 1 after 500 pulls, and one arm has 498 of them."""
    scheduler = Scheduler(ucb(memory=50), endless(3))
    pulled = [ticket.arm for ticket in drive(scheduler, 1, 500)]
    gamma, step = scheduler.gamma, 499  # the last counted one
    mass = scheduler._estimator.effective_pulls(step)
    assert mass.sum() * (1 - gamma) <= 1
    for row, arm in enumerate(scheduler.arms.ids):
        mine = [at for at, other in enumerate(pulled[:step], 1) if other == arm]
        exact = math.fsum(
            gamma ** (step - at) * (1 - 1 / PULL_MEMORY) ** later for later, at in enumerate(reversed(mine))
        )
        assert mass[row] == pytest.approx(exact, rel=1e-9)
        assert mass[row] != round(mass[row])
    assert min(Counter(pulled).values()) > 5
    by_clock = Estimator(1, gamma, pull_memory=math.inf)
    for at in range(1, 501):
        by_clock.add(0, at, 0.5, 0.0)
    assert by_clock.effective_pulls(500)[0] == pytest.approx((1 - gamma**500) / (1 - gamma), rel=1e-12)


def test_b02_forgetting_does_something() -> None:
    """river's `UCB` over a `Rolling` mean clones the mean and drops the window: regret is that of no window."""
    for memory in (60, None):
        specs = endless(3)
        scheduler = Scheduler(ucb(memory=memory), specs)
        one, other, third = (spec.id for spec in specs)
        assert play(scheduler, 1, 1000, {one: 0.9, other: 0.2, third: 0.2})[one] > 800
        # A mean of all of its rewards would still be 0.6 or more after 300 pulls of nothing.
        assert play(scheduler, 1001, 1300, {one: 0.0, other: 0.6, third: 0.2})[one] < 100


def test_b03_every_index_has_its_bonus() -> None:
    """river's precedence slip leaves the bonus out where the reward is a distribution.

    Equal means, unequal pulls: the arm pulled less has the larger index, in all that reads one.
    """
    estimator = Estimator(2, 0.999)
    for step in range(1, 51):
        estimator.add(int(step % 10 == 0), step, 0.5 + 0.1 * (step // 10 % 2), 0.0)
    pending = np.full(2, NO_PULLS)
    common = estimator.common(51, pending)
    parts = estimator.parts(common, pending, 0.25, 0.03)
    assert (parts.variance_width > 0).all() and (parts.range_width > 0).all()
    assert parts.index.tolist() == (parts.mean + parts.variance_width + parts.range_width).tolist()
    assert parts.index[1] - parts.mean[1] > 2 * (parts.index[0] - parts.mean[0])
    bound = estimator.bound(common, pending, 0.25, 0.03, np.empty(2))
    assert bound == pytest.approx(parts.index, rel=1e-9)


def test_b04_settings_are_checked_when_they_are_made() -> None:
    """river's `Policy.__post_init__` is never called, so its validation is dead."""
    for change in ({"delay": 0}, {"xi": -1.0}, {"dwell": (9, 3)}, {"memory": 0}, {"policy": "best"}):
        with pytest.raises(InvalidConfig, match=next(iter(change))):
            config(**change)
        with pytest.raises(InvalidConfig, match=next(iter(change))):
            replace(config(), **change)


def test_b05_settings_go_by_name_and_each_does_what_it_says() -> None:
    """river's `RandomPolicy` passes `burn_in` on as `reward_scaler`. Every setting here changes the picks it is for."""
    specs = [replace(spec, floor=0.5 * (at == 0), windows=40) for at, spec in enumerate(arms(6))]

    def picks(**changes: Any) -> list[int]:
        return [ticket.arm for ticket in drive(Scheduler(config(**changes), specs), 1, 60)]

    plain = picks()
    for change in (
        {"seed": 8},
        {"policy": "uniform"},
        {"focus_size": 1},
        {"background": 0.5},
        {"dwell": (9, 9)},
        {"memory": 6},
        {"delay": 1},
        {"windows_per_pull": 1},
        {"floors_override_repetition": False},
    ):
        assert picks(**change) != plain, change
    softmax = picks(policy="softmax-ucb")
    for change in ({"temperature": 5.0}, {"xi": 9.0}, {"zeta": 9.0}):
        assert picks(policy="softmax-ucb", **change) != softmax, change


@pytest.mark.parametrize("policy", POLICIES)
def test_b06_rewards_of_one_overflow_nothing_and_late_credits_find_their_pull(policy: str) -> None:
    """river's `Exp3` dies after 2,811 rewards of 1, and of an update that comes after another arm was pulled."""
    scheduler = Scheduler(ucb(policy=policy, delay=40), endless(3))
    late = scheduler.pick(1)
    for step in range(2, 41):
        scheduler.credit(scheduler.pick(step).id, 1.0)
    scheduler.credit(late.id, 1.0)
    drive(scheduler, 41, 3200, lambda _: 1.0)
    through_json(scheduler.snapshot())
    assert min(view.pulls for view in scheduler.views(3200)) > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_b07_picks_in_flight_are_spread_not_piled_on_one_arm(policy: str) -> None:
    """river with a burn-in of 1 and five picks in flight gives 0, 0, 0, 0, 0."""
    scheduler = Scheduler(ucb(policy=policy, delay=50), endless(5))
    picked = [scheduler.pick(step).arm for step in range(1, 6)]
    assert (
        len(set(picked)) == 5
        if policy in ("ucb", "exp3", "odm", "uniform", "fixed")
        else len(set(picked)) > 1
    )
    argmax = [scheduler.pick(step).arm for step in range(6, 51)]
    assert max(Counter(picked + argmax).values()) <= (10 if policy in ("ucb", "uniform", "fixed") else 25)


def test_b08_a_reward_counts_by_its_size() -> None:
    """river's `Beta.update` takes any reward above 0 for a success: 0.1 is as good as 0.9."""
    poor, good = (spec.id for spec in endless(2))
    for policy in ("ucb", "focus-ucb", "softmax-ucb", "exp3", "odm"):
        scheduler = Scheduler(ucb(policy=policy, focus_size=1), endless(2))
        served = play(scheduler, 1, 600, {poor: 0.1, good: 0.9})
        assert served[good] > served[poor] > 0, policy
        means = {view.id: view.mean_reward for view in scheduler.views(600)}
        assert means == {poor: pytest.approx(0.1), good: pytest.approx(0.9)}


def test_b09_an_arm_never_tried_comes_first() -> None:
    """MABWiser's UCB1 after one fit of arm 0 plays it 200 times of 200: what was not tried has index 0."""
    specs = endless(3)
    first, *others = (spec.id for spec in specs)
    scheduler = Scheduler(ucb(), specs)
    scheduler.set_eligible([first])
    play(scheduler, 1, 1, {first: 0.2})
    scheduler.set_eligible([spec.id for spec in specs])
    means = {first: 0.2, **dict.fromkeys(others, 0.9)}
    served = play(scheduler, 2, 3, means)
    assert set(served) == set(others)
    assert play(scheduler, 4, 201, means)[first] < 20


def test_b10_as_many_arms_as_the_memory_holds_is_no_round_robin() -> None:
    """SMPyBandits' D-UCB gives +inf under one discounted pull: it deals in turn once K nears the memory."""
    specs = endless(64)
    scheduler = Scheduler(ucb(memory=64), specs)
    good = specs[11].id
    means = {spec.id: 0.2 for spec in specs} | {good: 0.9}
    served = play(scheduler, 1, 2000, means)
    assert served[good] > 10 * 2000 / 64
    assert all(view.index is not None for view in scheduler.views(2000)), (
        "seen once is known, whatever its age"
    )
    runs = [ticket.arm for ticket in drive(scheduler, 2001, 2200, lambda t: means[t.arm])]
    assert sum(a == b for a, b in itertools.pairwise(runs)) > 50


SCRIPT = """
import sys, json
sys.path[:0] = json.loads(sys.argv[1])
from bandit_worlds import arms, config, drive
from bandit.scheduler import Scheduler
scheduler = Scheduler.restore(config(policy=sys.argv[2]), arms(4), json.load(sys.stdin))
print(json.dumps([ticket.arm for ticket in drive(scheduler, 31, 60)]))
"""


def test_b11_no_draw_comes_from_a_generator_that_others_share() -> None:
    """SMPyBandits' Thompson draws from numpy's global generator, so nothing resumes exactly.

    Here other draws in between change nothing, neither generator moves, and another process goes on as this one.
    """
    for policy in POLICIES:
        quiet = [ticket.arm for ticket in drive(Scheduler(config(policy=policy), arms(4)), 1, 60)]
        noisy = Scheduler(config(policy=policy), arms(4))
        picked = []
        for step in range(1, 61):
            random.seed(step)
            np.random.seed(step)
            states = random.getstate(), np.random.get_state()[1].tolist()
            picked += [ticket.arm for ticket in drive(noisy, step, step)]
            assert (random.getstate(), np.random.get_state()[1].tolist()) == states
        assert picked == quiet
    scheduler = Scheduler(config(), arms(4))
    drive(scheduler, 1, 30)
    saved = json.dumps(scheduler.snapshot())
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(sys.path), "focus-ucb"],
        input=saved,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(result.stdout) == [ticket.arm for ticket in drive(scheduler, 31, 60)]


def test_b12_both_forms_of_online_data_mixing_are_there_and_neither_grows() -> None:
    """Its code is not its paper: no division by the share, linear in exp(loss); and rewards "/10" against overflow.

    Here the paper's form is `exp3`, the code's is `odm`, and each score stays in the range of what it averages.
    """
    assert importance_weighted(1.0, 0.5, 0.25, 0.1) == pytest.approx(0.9 + 0.1 * 0.5 / 0.25)
    assert exponential(1.0, 0.5, 0.25, 0.1) == pytest.approx(0.9 + 0.1 * math.exp(0.5))
    for policy, most in (("exp3", 6.0), ("odm", math.e + 1e-9)):  # 1 / share is near 3
        scheduler = Scheduler(ucb(policy=policy), endless(3))
        credited = []
        for step in range(1, 3001):
            credit_due(scheduler, step, lambda _: 1.0)
            credited.append(scheduler.pick(step))
        assert max(record["score"] for record in scheduler.snapshot()["arms"].values()) <= most
        least_share = min(view.target for view in scheduler.views(3000))
        assert least_share > 0.2, "equal rewards are dealt alike, however many there were"
    with pytest.raises(CreditedTwice):
        scheduler.credit(credited[0].id, reward_of(credited[0]))
