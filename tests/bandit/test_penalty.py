"""Penalties: every pull since the last sample pays by its age, once, and the books balance (T6)."""

import math

import pytest
from bandit_worlds import arms, config, drive, reward_of, through_json
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.errors import ShortfallOutOfRange, StepOutOfOrder
from bandit.hashing import mix64
from bandit.index import PULL_MEMORY
from bandit.ledger import Ticket
from bandit.scheduler import Scheduler

KEEP = 1 - 1 / PULL_MEMORY
AHEAD = 2  # steps picked beyond the one that was sampled; the delay is twice that


def sometimes_void(ticket: Ticket) -> float | None:
    return None if mix64(3, ticket.step) % 5 == 0 else reward_of(ticket)


def counted_after(scheduler: Scheduler, tickets: list[Ticket]) -> dict[int, int]:
    """Of every ticket that is counted and not void: how many of its arm were counted after it."""
    still_open = {ticket.id for ticket in scheduler.open_tickets()}
    after: dict[int, int] = {}
    later: dict[int, int] = {}
    for ticket in reversed(tickets):
        if ticket.id not in still_open and sometimes_void(ticket) is not None:
            after[ticket.id] = later.get(ticket.arm, 0)
            later[ticket.arm] = after[ticket.id] + 1
    return after


@given(st.integers(0, 1000), st.sampled_from([3, 40, 400]), st.sampled_from([1, 5, 30, 140]))
@settings(max_examples=8, deadline=None)
def test_each_pull_pays_by_its_age_and_the_sum_is_minus_the_penalty(
    seed: int, memory: int, every: int
) -> None:
    """Against a list of all pulls, through voids, open tickets and rebases (memory 3 rebases every 256 steps)."""
    scheduler = Scheduler(config(seed=seed, memory=memory), arms(5))
    names, gamma = scheduler.arms.names, scheduler.gamma
    tickets = drive(scheduler, 1, AHEAD, sometimes_void)
    penalties: dict[int, float] = {}
    credited: set[int] = set()
    last = 0
    for step in range(1, 280):
        tickets += drive(scheduler, step + AHEAD, step + AHEAD, sometimes_void)
        if step % every:
            continue
        credited |= {ticket.id for ticket in tickets} - {ticket.id for ticket in scheduler.open_tickets()}
        if step % 2:  # half of the samples find the credits of the open tickets arrived, half do not
            for ticket in scheduler.open_tickets():
                if ticket.step <= step and ticket.id not in credited:
                    scheduler.credit(ticket.id, sometimes_void(ticket))
                    credited.add(ticket.id)
        shortfall = (seed + step) % 11 / 10
        expected: dict[str, list[float]] = {}
        after = counted_after(scheduler, tickets)
        for ticket in tickets:
            known_void = ticket.id in credited and sometimes_void(ticket) is None
            if last < ticket.step <= step and not known_void and shortfall > 0:
                penalties[ticket.id] = shortfall * 0.98 ** (step - ticket.step)
                part = penalties[ticket.id] * gamma ** (step - ticket.step) * KEEP ** after.get(ticket.id, 0)
                expected.setdefault(names[ticket.arm], []).append(part)
        changes = scheduler.penalize(step, shortfall)
        assert changes == pytest.approx(
            {name: -math.fsum(parts) for name, parts in expected.items()}, rel=1e-9
        )
        total = math.fsum(part for parts in expected.values() for part in parts)
        assert math.fsum(changes.values()) == pytest.approx(-total, rel=1e-9)
        assert scheduler.penalize(step, shortfall) == {}, "no pull pays twice"
        last = step
    state = scheduler.snapshot()
    after = counted_after(scheduler, tickets)
    for spec in scheduler.arms.specs:
        parts = [
            (reward - penalties.get(ticket.id, 0.0))
            * gamma ** (state["origin"] - ticket.step)
            * KEEP ** after[ticket.id]
            for ticket in tickets
            if ticket.arm == spec.id and ticket.id in after
            if (reward := sometimes_void(ticket)) is not None
        ]
        reward_sum = state["arms"][spec.name]["reward_sum"]
        assert reward_sum * gamma ** (state["step"] - state["origin"]) == pytest.approx(
            math.fsum(parts) * gamma ** (state["step"] - state["origin"]), rel=1e-7, abs=1e-12
        )


def test_pulls_after_the_sample_and_arms_without_pulls_are_not_touched() -> None:
    scheduler = Scheduler(config(), arms(5))
    scheduler.set_eligible(scheduler.arms.ids[:2])
    drive(scheduler, 1, 10)
    scheduler.set_eligible(scheduler.arms.ids[2:])
    drive(scheduler, 11, 12)
    changes = scheduler.penalize(10, 1.0)
    assert set(changes) == {scheduler.arms.names[identity] for identity in scheduler.arms.ids[:2]}
    charged = {r["id"]: r["penalty"] for r in scheduler.snapshot()["tickets"] if r["penalty"] > 0}
    assert {r["id"] for r in scheduler.snapshot()["tickets"] if r["step"] <= 10} == set(charged)


def test_a_good_sample_charges_nothing_and_starts_the_next_interval() -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 1, 20)
    before = scheduler.snapshot()["arms"]
    assert scheduler.penalize(18, 0.0) == {}
    after = scheduler.snapshot()["arms"]
    assert all(after[name]["reward_sum"] == before[name]["reward_sum"] for name in after)
    total = -sum(scheduler.penalize(20, 1.0).values())
    assert total == pytest.approx(3 * (1 + 0.98 * scheduler.gamma)), "the pulls of steps 19 and 20 alone"


def test_pull_counts_and_effective_pulls_stay() -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 1, 20)
    before, total = scheduler.snapshot()["arms"], scheduler.exploration_total()
    scheduler.penalize(20, 0.8)
    after = scheduler.snapshot()["arms"]
    kept = ("pulls", "served", "cursor", "weight_sum", "difference_sum", "last_reward")
    for name, record in before.items():
        assert {key: after[name][key] for key in kept} == {key: record[key] for key in kept}
        assert after[name]["mean"] < record["mean"]
    assert scheduler.exploration_total() == total


def test_penalties_are_the_same_whenever_credits_arrive() -> None:
    early, late = (Scheduler(config(), arms(4)) for _ in range(2))
    for scheduler in (early, late):
        drive(scheduler, 1, 12, sometimes_void)
    for ticket in early.open_tickets():
        if ticket.step <= 10:
            early.credit(ticket.id, sometimes_void(ticket))
    early.penalize(12, 0.7)
    late.penalize(12, 0.7)
    for ticket in late.open_tickets():
        if ticket.step <= 10:
            late.credit(ticket.id, sometimes_void(ticket))
    for scheduler in (early, late):
        for ticket in scheduler.open_tickets():
            if ticket.step > 10:
                scheduler.credit(ticket.id, sometimes_void(ticket))
        for step in (13, 14, 15, 16):
            assert all(scheduler.pick(step).step == step for _ in range(3))
    assert through_json(early.snapshot()) == through_json(late.snapshot())


@pytest.mark.parametrize("shortfall", [-0.1, 1.1, math.nan, math.inf])
def test_a_bad_shortfall_changes_nothing(shortfall: float) -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 1, 5)
    before = scheduler.snapshot()
    with pytest.raises(ShortfallOutOfRange):
        scheduler.penalize(5, shortfall)
    assert scheduler.snapshot() == before


def test_a_sample_out_of_order_changes_nothing() -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 1, 10)
    scheduler.penalize(8, 0.5)
    before = scheduler.snapshot()
    for step in (7, 11):
        with pytest.raises(StepOutOfOrder, match=f"step {step}"):
            scheduler.penalize(step, 0.5)
    early = Scheduler(config(), arms(3))
    drive(early, 1, 10)
    with pytest.raises(StepOutOfOrder, match="within steps 6 to 10"):
        early.penalize(5, 0.5)
    assert scheduler.snapshot() == before
