"""One pick taken apart: the parts add up, asking changes nothing, and the sentences say what the numbers say."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from bandit.explain import PickReason, explain, why_picked, why_weighed
from bandit.policies import POLICIES
from bandit.scheduler import ArmSpec, Scheduler, SchedulerConfig

ARMS = [
    ArmSpec("books", 10, windows=10**6, cap=0.8),
    ArmSpec("chat", 11, windows=10**6, floor=0.3),
    ArmSpec("code", 12, windows=400),
    ArmSpec("web", 13, windows=10**6, max_share=0.25),
    ArmSpec("lists", 14, windows=10**6, cap=0.0),
]
REWARDS = {10: 0.9, 11: 0.2, 12: 0.7, 13: 0.6}


def config(policy: str = "focus-ucb", **more: int) -> SchedulerConfig:
    return SchedulerConfig(
        seed=5, grad_accum=4, windows_per_pull=8, delay=2, policy=policy, dwell=(3, 9), **more
    )


def reasons(scheduler: Scheduler, steps: Sequence[int]) -> list[tuple[PickReason, int]]:
    """Every pick of some steps with what it was said to rest on; credits keep their delay."""
    found = []
    for step in steps:
        for _ in range(4):
            reason = explain(scheduler, step)
            ticket = scheduler.pick(step)
            scheduler.credit(ticket.id, REWARDS[ticket.arm] - 0.1 * (ticket.id % 2))
            found.append((reason, ticket.arm))
    return found


MIXTURES = [name for name, policy in POLICIES.items() if policy.weights is not None]


@pytest.mark.parametrize("policy", MIXTURES)
def test_the_explanation_is_the_computation(policy: str) -> None:
    for reason, arm in reasons(Scheduler(config(policy), ARMS), range(1, 60)):
        awake = [each for each in reason.arms if each.awake]
        assert sorted(each.name for each in awake) == ["books", "chat", "code", "web"]
        assert reason.arm(arm).credit == max(each.credit or 0.0 for each in awake)
        assert sum(each.share or 0.0 for each in awake) == pytest.approx(1.0)
        for each in awake:
            assert each.repeated is not None and each.floor is not None
            assert each.weight == min(each.cap, max(each.floor, each.repeated))
            if each.index is not None:
                assert each.mean + each.by_variance + each.by_range == each.index  # type: ignore[operator]
        ranked = sorted(
            (each for each in awake if each.index is not None), key=lambda each: -(each.index or 0)
        )
        assert [each.rank for each in ranked] == sorted(each.rank or 0 for each in ranked)


def test_an_argmax_serves_a_floor_that_is_due_or_the_largest_index_under_its_cap() -> None:
    due = 0
    for reason, arm in reasons(Scheduler(config("ucb"), ARMS), range(1, 120)):
        picked, awake = reason.arm(arm), [each for each in reason.arms if each.awake]
        if any(each.urgent for each in awake):
            due += 1
            assert picked.urgent
            continue
        assert not picked.shut
        if picked.index is not None:
            best = max((each.index or 9.0) + (each.worn or 0.0) for each in awake if not each.shut)
            assert picked.index + (picked.worn or 0.0) == pytest.approx(best, abs=1e-12)
    assert 10 < due < 400
    assert any(reason.arm(12).worn for reason, _ in reasons(Scheduler(config("ucb"), ARMS), range(1, 120)))


@pytest.mark.parametrize("policy", ["focus-ucb", "ucb"])
def test_asking_changes_no_pick(policy: str) -> None:
    asked, left_alone = Scheduler(config(policy), ARMS), Scheduler(config(policy), ARMS)
    picks = [arm for _, arm in reasons(asked, range(1, 60))]
    for step in range(1, 60):
        for number in range(4):
            ticket = left_alone.pick(step)
            assert ticket.arm == picks[4 * (step - 1) + number]
            left_alone.credit(ticket.id, REWARDS[ticket.arm] - 0.1 * (ticket.id % 2))
    assert asked.snapshot() == left_alone.snapshot()


def test_the_working_is_that_of_the_refresh_not_of_the_pick() -> None:
    found = reasons(Scheduler(config(), ARMS), range(1, 30))
    for (before, _), (after, _) in pairwise(found):
        if after.refreshed == before.refreshed:
            assert [(arm.index, arm.weight) for arm in after.arms] == [
                (a.index, a.weight) for a in before.arms
            ]
    assert len({reason.refreshed for reason, _ in found}) > 3


def test_a_restored_scheduler_says_that_it_does_not_know() -> None:
    scheduler = Scheduler(config(), ARMS)
    reasons(scheduler, range(1, 4))
    again = Scheduler.restore(config(), ARMS, scheduler.snapshot())
    known, unknown = explain(scheduler, 4), explain(again, 4)
    assert unknown.refreshed is None and known.refreshed is not None
    assert [arm.share for arm in unknown.arms] == [arm.share for arm in known.arms]
    assert "is not in the files" in why_weighed(unknown, 10)


def test_the_sentences() -> None:
    scheduler = Scheduler(config(), ARMS)
    found = reasons(scheduler, range(1, 60))
    reason, _ = found[-1]
    assert why_weighed(reason, 10) == (
        "books: its index is 1st of 4, so it is in focus: weight 1, then 1.3 for 0.00 epochs read, "
        f"then its cap holds it at 0.8: a share of {reason.arm(10).share:.1%}"
    )
    assert why_weighed(reason, 11) == (
        "chat: its index is 4th of 4, so it is out of focus: weight 0.1, then 0.13 for 0.00 epochs read, "
        f"then its floor lifts it to 0.3: a share of {reason.arm(11).share:.1%}"
    )
    assert why_weighed(explain(Scheduler(config("fixed"), ARMS), 1), 13) == (
        "web: weight 1 by the policy fixed: a share of 25.0%; without min_share and max_share it would be 26.3%"
    )
    first, first_arm = found[0]
    ticket = Scheduler(config(), ARMS).pick(1)
    assert ticket.arm == first_arm
    assert why_picked(first, ticket).startswith(f"{first.arm(first_arm).name}: its credit +")
    alone = Scheduler(config(), ARMS[:1])
    reason = explain(alone, 1)
    assert why_picked(reason, alone.pick(1)) == "books: the only one awake"
    twins = Scheduler(config("fixed"), [ArmSpec("a", 1, windows=9), ArmSpec("b", 2, windows=9)])
    assert "a hash of the seed chose" in why_picked(explain(twins, 1), twins.pick(1))
