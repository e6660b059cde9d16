"""What must hold whatever is fed in: finite numbers, bounds under adversaries, edits that bind at once, flat memory."""

import math
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bandit_worlds import arms, config, credit_due, drive, reward_of, through_json

from bandit.arms import ArmSpec
from bandit.bounds import check_feasible
from bandit.errors import (
    CreditedTwice,
    NonFiniteLoss,
    NonFiniteReward,
    NothingEligible,
    RewardOutOfRange,
    SnapshotMismatch,
    UnknownTicket,
)
from bandit.ledger import Ticket
from bandit.policies import POLICIES
from bandit.reward import REWARDS
from bandit.scheduler import Scheduler, SchedulerConfig

MIXTURES = [name for name, policy in POLICIES.items() if policy.weights is not None]
ADVERSARIES: dict[str, Callable[[Ticket], float]] = {
    "hates the last": lambda ticket: float(ticket.id % 2),
    "loves one": lambda ticket: float(ticket.arm == arms(1)[0].id),
    "turns round": lambda ticket: float((ticket.step // 50 + ticket.arm) % 2),
    "all alike": lambda ticket: 1.0,
}


def harmonic(count: int) -> float:
    return math.fsum(1 / k for k in range(1, count + 1))


def endless(count: int, **bounds: float) -> list[ArmSpec]:
    return [replace(spec, windows=10**9, **bounds) for spec in arms(count)]


def one_at_a_time(**changes: Any) -> SchedulerConfig:
    return config(**{"grad_accum": 1, "windows_per_pull": 1, "delay": 1, **changes})


def assert_finite(data: Any) -> None:
    """Through JSON without NaN or infinity, at any depth."""
    through_json(data)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reward", ["progress", "improvement", "loss"])
def test_no_loss_makes_a_number_that_is_not_finite(policy: str, reward: str) -> None:
    """Constant losses, one after the other in one life: the online mixer of fms-acceleration dies of the first three."""
    specs = endless(3)
    worth = REWARDS[reward]([spec.id for spec in specs])
    scheduler = Scheduler(one_at_a_time(policy=policy), specs)
    step = 0
    for loss in (2.0, 5.5, 10.8, 0.0, 1e30):
        for _ in range(400):
            step += 1
            ticket = scheduler.pick(step)
            scheduler.credit(ticket.id, worth.update(ticket.arm, loss))
        assert_finite([scheduler.snapshot(), worth.snapshot()])
    for loss in (math.inf, -math.inf, math.nan):
        before = scheduler.snapshot(), worth.snapshot()
        ticket = scheduler.open_tickets()[0] if scheduler.open_tickets() else scheduler.pick(step + 1)
        with pytest.raises(NonFiniteLoss, match=str(loss)):
            worth.update(ticket.arm, loss)
        assert worth.snapshot() == before[1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reward", [0.0, 1.0, 5e-324])
def test_no_reward_makes_a_number_that_is_not_finite(policy: str, reward: float) -> None:
    """Always the same end of the range, one arm dealt next to nothing, many restarts with pulls in flight."""
    specs = [replace(endless(3)[0], cap=1e-12), *endless(3)[1:]]
    scheduler = Scheduler(config(policy=policy, memory=3), specs)
    for step in range(1, 301):
        drive(scheduler, step, step, lambda _: reward)
        if step % 40 == 0:
            scheduler.set_eligible(scheduler.arms.ids[: 1 + step // 40 % 3], restart=True)
    assert_finite(scheduler.snapshot())
    assert_finite([view.weight for view in scheduler.views(301)])


@pytest.mark.parametrize("policy", MIXTURES)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_a_mixture_serves_its_targets_over_any_hundred_picks(policy: str, adversary: str) -> None:
    scheduler = Scheduler(one_at_a_time(policy=policy, dwell=(3, 9), memory=20), endless(7))
    names = [spec.name for spec in scheduler.arms.specs]
    ahead, target, end = [np.zeros(7)], np.zeros(7), None
    for step in range(1, 500):
        (ticket,) = drive(scheduler, step, step, ADVERSARIES[adversary])
        if scheduler._dwell_end != end:
            end = scheduler._dwell_end
            targets = {view.name: view.target for view in scheduler.views(step)}
            target = np.array([targets[name] for name in names])
        served = np.arange(7) == scheduler.arms.row[ticket.arm]
        ahead.append(ahead[-1] + served - target)
    sums = np.array(ahead)
    off = np.abs(sums[100:] - sums[:-100]).max()
    assert off <= (harmonic(7) - 1) + (1 - 1 / 7) + 1e-9


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_an_argmax_keeps_floors_and_caps_to_a_pull(adversary: str) -> None:
    bounds = [(0.3, 1.0), (0.0, 0.2), (0.05, 0.1), (0.0, 1.0), (0.2, 0.25), (0.001, 1.0)]
    specs = [replace(s, min_share=f, max_share=c) for s, (f, c) in zip(endless(6), bounds, strict=True)]
    scheduler = Scheduler(config(policy="ucb"), specs)
    served = dict.fromkeys(scheduler.arms.ids, 0)
    for total, ticket in enumerate(drive(scheduler, 1, 1000, ADVERSARIES[adversary]), 1):
        served[ticket.arm] += 1
        for spec in specs:
            assert spec.min_share * total - served[spec.id] <= 1 + 1e-9
            assert served[spec.id] - spec.max_share * total <= 1 + 1e-9


PAST = 50_000


def with_a_past(policy: str, favourite: int) -> Scheduler:
    """Six arms whose counts say that 50,000 pulls went by, all but a few to one arm, as a run of days leaves them."""
    specs = endless(6)
    scheduler = Scheduler(one_at_a_time(policy=policy, dwell=(4, 4)), specs)
    drive(scheduler, 1, 200, lambda ticket: float(ticket.arm == specs[favourite].id))
    snapshot = scheduler.snapshot()
    for record in snapshot["arms"].values():
        record["offered"] = PAST
        record["served"] = PAST - 50 if record["id"] == specs[favourite].id else 10
        record["pulls"] = record["served"]
    return Scheduler.restore(scheduler.config, specs, snapshot)


def polished(scheduler: Scheduler, number: int, **bounds: float) -> Scheduler:
    """The same run with other bounds for one arm, as a pivot applies them."""
    specs = [replace(spec, **bounds) if spec.name == f"source-{number}" else spec for spec in endless(6)]
    edited = Scheduler.restore(scheduler.config, specs, scheduler.snapshot())
    edited.set_eligible(edited.arms.ids, restart=True)
    return edited


@pytest.mark.parametrize("policy", ["ucb", "focus-ucb"])
def test_a_new_floor_binds_at_the_next_pick_with_no_burst(policy: str) -> None:
    """An arm that was never worth a pull gets its share from now on: no more, for the 50,000 pulls it missed."""
    scheduler = polished(with_a_past(policy, 0), 3, min_share=0.25)
    arm, served = arms(6)[3].id, 0
    for total in range(1, 201):
        (ticket,) = drive(scheduler, 200 + total, 200 + total, lambda t: float(t.arm == arms(6)[0].id))
        served += ticket.arm == arm
        assert served >= 0.25 * total - (1 if policy == "ucb" else harmonic(6) - 1)
        assert served <= (0.25 * total + 2 if policy == "ucb" else total / 2 + 1)
    assert served <= 0.3 * 200 if policy == "ucb" else served <= 0.5 * 200


@pytest.mark.parametrize("policy", ["ucb", "focus-ucb"])
def test_a_new_cap_binds_at_the_next_pick_with_no_lock_out(policy: str) -> None:
    """The arm that had nearly all gets its capped share from now on, and no less for its past."""
    scheduler = polished(with_a_past(policy, 0), 0, max_share=0.3)
    arm, served = arms(6)[0].id, []
    for total in range(1, 201):
        (ticket,) = drive(scheduler, 200 + total, 200 + total, lambda t: float(t.arm == arms(6)[0].id))
        served.append(ticket.arm == arm)
        assert sum(served) <= 0.3 * total + 1
    assert any(served[:10]) and sum(served) >= 0.25 * 200
    assert all(any(served[at : at + 20]) for at in range(180))


@pytest.mark.parametrize("policy", POLICIES)
def test_an_edit_waits_for_the_end_of_no_dwell(policy: str) -> None:
    """New bounds are in the very next pick, even in the middle of a dwell of 500 steps."""
    specs = endless(4)
    scheduler = Scheduler(one_at_a_time(policy=policy, dwell=(500, 500)), specs)
    drive(scheduler, 1, 30)
    for number in range(4):
        only = [replace(spec, cap=1.3 if at == number else 0.0) for at, spec in enumerate(specs)]
        scheduler = Scheduler.restore(scheduler.config, only, scheduler.snapshot())
        scheduler.set_eligible(scheduler.arms.ids, restart=True)
        (ticket,) = drive(scheduler, 31 + number, 31 + number)
        assert ticket.arm == specs[number].id


@pytest.mark.parametrize("policy", ["focus-ucb", "ucb", "exp3"])
def test_memory_stays_flat_over_many_pulls_of_a_thousand_arms(policy: str) -> None:
    settings = SchedulerConfig(
        seed=1, grad_accum=20, windows_per_pull=8, delay=4, policy=policy, dwell=(2, 5)
    )
    specs = [replace(spec, floor=0.01 * (at % 3 == 0)) for at, spec in enumerate(arms(1000))]
    scheduler = Scheduler(settings, specs)
    drive(scheduler, 1, 100)
    tracemalloc.start()
    try:
        sizes = []
        for first in range(101, 401, 100):
            drive(scheduler, first, first + 99)
            scheduler.penalize(first + 99, 0.5)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # What 2,000 pulls leave behind: less than a span of shares and flags (9 bytes an arm) and a free list or two.
    assert max(sizes[1:]) - sizes[0] < 64_000


def refused(scheduler: Scheduler, error: type[Exception], words: str, act: Callable[[], object]) -> Any:
    """Do something that must be refused with these words, and change nothing."""
    before = scheduler.snapshot()
    with pytest.raises(error, match=words) as caught:
        act()
    assert scheduler.snapshot() == before
    return caught.value


@pytest.mark.parametrize("policy", POLICIES)
def test_a_bad_reward_is_named_and_changes_nothing(policy: str) -> None:
    scheduler = Scheduler(config(policy=policy), arms(3))
    ticket = drive(scheduler, 1, 10)[-1]
    name = scheduler.arms.names[ticket.arm]
    for reward, error in (
        (math.nan, NonFiniteReward),
        (math.inf, NonFiniteReward),
        (-math.inf, NonFiniteReward),
        (1.0000001, RewardOutOfRange),
        (-1e-9, RewardOutOfRange),
        (1e30, RewardOutOfRange),
    ):
        caught = refused(
            scheduler,
            error,
            f"ticket {ticket.id} of {name}",
            lambda reward=reward: scheduler.credit(ticket.id, reward),
        )
        assert caught.arm == name
    scheduler.credit(ticket.id, 0.5)
    caught = refused(scheduler, CreditedTwice, name, lambda: scheduler.credit(ticket.id, 0.5))
    assert caught.arm == name
    refused(scheduler, CreditedTwice, "ticket 1 is closed", lambda: scheduler.credit(1, 0.5))
    for never in (0, -1, 10**6):
        refused(
            scheduler,
            UnknownTicket,
            f"ticket {never} is not open",
            lambda never=never: scheduler.credit(never, 0.5),
        )


def test_a_snapshot_from_other_arms_is_refused_and_names_one() -> None:
    scheduler = Scheduler(config(), arms(4))
    drive(scheduler, 1, 10)
    for saved in (scheduler.snapshot(), scheduler.packed(text=True)):
        with pytest.raises(SnapshotMismatch, match="source-3") as caught:
            Scheduler.restore(config(), arms(3), saved)
        assert caught.value.arm == "source-3"


def test_bounds_that_leave_nobody_are_refused_and_name_the_arms() -> None:
    shut = [replace(arms(3)[0], cap=0.0), replace(arms(3)[1], max_share=0.0), replace(arms(3)[2], windows=0)]
    (problem,) = check_feasible(shut)
    assert all(spec.name in problem for spec in shut)
    scheduler = Scheduler(config(), [arms(3)[0], *shut[1:]])
    error = refused(
        scheduler,
        NothingEligible,
        "no eligible arm",
        lambda: scheduler.set_eligible([spec.id for spec in shut[1:]]),
    )
    assert all(spec.name in str(error) for spec in shut[1:])
    nobody = Scheduler(config(), shut)
    error = refused(nobody, NothingEligible, "no eligible arm", lambda: nobody.pick(1))
    assert all(spec.name in str(error) for spec in shut)


def test_a_cap_of_nothing_is_a_gate_that_stays_shut() -> None:
    """Floors of the others that sum to 1 leave an arm of an argmax a share of 0: it is not pulled, nothing breaks."""
    specs = [*endless(3, min_share=0.5)[:2], replace(endless(3)[2])]
    scheduler = Scheduler(config(policy="ucb"), specs)
    assert {ticket.arm for ticket in drive(scheduler, 1, 50)} == {spec.id for spec in specs[:2]}


@pytest.mark.parametrize("awake", [1, 2])
def test_rewards_of_pulls_from_before_a_restart_count_as_dealt_evenly(awake: int) -> None:
    """Their share is not known any more: neither a division by nothing nor a score out of all proportion."""
    scheduler = Scheduler(config(policy="exp3", delay=8), endless(2))
    drive(scheduler, 1, 500, reward_of)
    scheduler.set_eligible(scheduler.arms.ids[:awake], restart=True)
    for step in range(501, 520):
        credit_due(scheduler, step, lambda _: 1.0)
        for _ in range(3):
            scheduler.pick(step)
        assert max(record["score"] for record in scheduler.snapshot()["arms"].values()) <= 2.5


@pytest.mark.parametrize("seed", range(3))
def test_random_numbers_of_every_size_in_a_snapshot_never_serve_a_capped_arm(seed: int) -> None:
    """Whatever state is loaded, an arm capped at 0 is not pulled."""
    rng = random.Random(seed)
    specs = [*endless(4), ArmSpec("shut", 5, 100, cap=0.0)]
    for policy in POLICIES:
        scheduler = Scheduler(config(policy=policy), specs)
        drive(scheduler, 1, 5)
        snapshot = scheduler.snapshot()
        for record in snapshot["arms"].values():
            record.update(eligible=True, credit=rng.uniform(-50, 50), served=rng.randrange(1000))
            record.update(offered=rng.randrange(1000), reward_sum=rng.uniform(-9, 9))
        forged = Scheduler.restore(scheduler.config, specs, snapshot)
        assert 5 not in {ticket.arm for ticket in drive(forged, 6, 40)}
        assert_finite(forged.snapshot())
