"""The scheduler's promises: pure picks, bounds always, order and names irrelevant, state that does not grow."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from bandit_worlds import arms, config, credit_due, drive, reward_of, through_json
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.arms import ArmSpec, new_id
from bandit.errors import (
    CancelTooLate,
    InvalidArms,
    InvalidConfig,
    MissingCredit,
    NothingEligible,
    RewardOutOfRange,
    StepOutOfOrder,
    UnknownArm,
)
from bandit.policies import POLICIES
from bandit.scheduler import Scheduler, SchedulerConfig


@given(st.integers(0, 1000), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_reordering_and_renaming_arms_changes_no_pick(seed: int, count: int) -> None:
    specs = arms(count, floor=0.05)
    shuffled = [replace(spec, name=f"{spec.id % 997}-{number}") for number, spec in enumerate(specs)]
    random.Random(seed).shuffle(shuffled)
    one, other = Scheduler(config(seed=seed), specs), Scheduler(config(seed=seed), shuffled)
    for first, last in ((1, 20), (21, 40)):
        assert drive(one, first, last) == drive(other, first, last)
        assert list(one.penalize(last, 0.5).values()) == list(other.penalize(last, 0.5).values())


def test_a_sleeping_arm_before_all_others_changes_no_pick() -> None:
    """Ids, not rows, decide ties: at first every index is a tie."""
    specs = arms(6)
    alone = Scheduler(config(memory=200), specs)
    beside = Scheduler(config(memory=200), [ArmSpec("first", 0, 100), *specs])
    beside.set_eligible([spec.id for spec in specs])
    assert drive(alone, 1, 40) == drive(beside, 1, 40)


def test_the_seed_matters() -> None:
    picks = [[t.arm for t in drive(Scheduler(config(seed=seed), arms(6)), 1, 30)] for seed in (1, 2)]
    assert picks[0] != picks[1]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_arrival_order_changes_nothing_bit_for_bit(seed: int) -> None:
    """The same credits, once each when due and once in random order as soon as the ticket exists."""
    rng = random.Random(seed)
    due, early = Scheduler(config(), arms(4)), Scheduler(config(), arms(4))
    waiting: list = []
    for step in range(1, 40):
        drive(due, step, step)
        waiting += [early.pick(step) for _ in range(3)]
        rng.shuffle(waiting)
        must = [ticket for ticket in waiting if ticket.step <= step + 1 - 4]
        for ticket in must + [t for t in waiting if t not in must and rng.random() < 0.4]:
            early.credit(ticket.id, reward_of(ticket))
            waiting.remove(ticket)
    assert due.open_tickets() == early.open_tickets()
    held = early.snapshot()
    for record in held["tickets"]:
        record["credit"] = None
    assert held == due.snapshot()


def test_in_flight_is_the_open_tickets_and_none_open_means_no_trace_of_delay() -> None:
    scheduler = Scheduler(config(), arms(4))
    for step in range(1, 20):
        drive(scheduler, step, step)
        pending = scheduler._pending
        assert (pending >= 0).all() and pending.sum() == len(scheduler.open_tickets())
        assert scheduler.exploration_total() == pytest.approx(
            pending.sum() + scheduler._estimator.effective_pulls(step).sum()
        )
    # The index after a delay of 4 is that of the same pulls counted at once.
    tickets = scheduler.open_tickets()
    direct = Scheduler.restore(config(), scheduler.arms.specs, scheduler.snapshot())._estimator
    for ticket in tickets:
        direct.add(scheduler.arms.row[ticket.arm], ticket.step, reward_of(ticket), 0.0)
        scheduler.credit(ticket.id, reward_of(ticket))
    for step in (20, 21, 22):
        assert all(scheduler.pick(step).step == step for _ in range(3))
    scheduler.pick(23)
    scheduler.cancel_from(20)
    assert scheduler.open_tickets() == []
    common = direct.common(23, np.zeros(4))
    expected = direct.parts(common, np.zeros(4), 0.25, 0.03).index.tolist()
    assert {v.id: v.index for v in scheduler.views(23)} == dict(
        zip(scheduler.arms.ids, expected, strict=True)
    )


def test_a_step_has_its_picks_in_order() -> None:
    scheduler = Scheduler(config(), arms(3))
    with pytest.raises(StepOutOfOrder):
        scheduler.pick(0)
    assert [(t.id, t.step, t.micro) for t in (scheduler.pick(5) for _ in range(3))] == [
        (1, 5, 0),
        (2, 5, 1),
        (3, 5, 2),
    ]
    before = scheduler.snapshot()
    for step in (4, 5, 7):
        with pytest.raises(StepOutOfOrder, match=f"step {step}"):
            scheduler.pick(step)
    assert scheduler.snapshot() == before
    scheduler.pick(6)
    with pytest.raises(StepOutOfOrder, match="step 6 still lacks picks"):
        scheduler.pick(7)


@pytest.mark.parametrize("policy", POLICIES)
def test_all_picks_of_a_step_at_once_are_the_picks_one_by_one(policy: str) -> None:
    settings = config(policy=policy, grad_accum=5)
    one, other = Scheduler(settings, arms(4)), Scheduler(settings, arms(4))
    for step in range(1, 60):
        credit_due(one, step)
        credit_due(other, step)
        begun = [other.pick(step)] if step % 3 == 0 else []  # the rest of a step that was begun
        assert [one.pick(step) for _ in range(5)] == begun + other.pick_all(step)
        assert one.snapshot() == other.snapshot()
    with pytest.raises(StepOutOfOrder):
        other.pick_all(61)


def test_a_missing_credit_stops_the_pick_and_changes_nothing() -> None:
    scheduler = Scheduler(config(), arms(3))
    for step in range(1, 5):
        tickets = [scheduler.pick(step) for _ in range(3)]
    late = scheduler.open_tickets()[1]
    for ticket in scheduler.open_tickets()[:3]:
        if ticket != late:
            scheduler.credit(ticket.id, 0.5)
    before = scheduler.snapshot()
    with pytest.raises(MissingCredit, match=f"ticket 2 of {scheduler.arms.names[late.arm]}"):
        scheduler.pick(5)
    with pytest.raises(RewardOutOfRange):
        scheduler.credit(late.id, 2.0)
    assert scheduler.snapshot() == before
    scheduler.credit(late.id, None)
    assert scheduler.pick(5).id == tickets[-1].id + 1


def test_picks_know_rewards_of_their_delay_and_no_later_ones() -> None:
    """Changing the rewards of step 11 changes nothing before step 15, and something after."""
    runs = []
    for bonus in (0.0, 0.25):
        scheduler = Scheduler(config(dwell=(1, 1), memory=20), arms(6))
        reward = lambda t, bonus=bonus: reward_of(t) * 0.5 + (bonus if t.step >= 11 and t.arm % 2 else 0)  # noqa: E731
        runs.append(drive(scheduler, 1, 60, reward))
    one, other = ([t.arm for t in run] for run in runs)
    assert one[: 14 * 3] == other[: 14 * 3] and one != other


def test_capped_excluded_and_dataless_arms_are_never_pulled() -> None:
    specs = [
        *arms(4),
        ArmSpec("capped", 50, 100, cap=0.0),
        ArmSpec("dataless", 51, 0),
        ArmSpec("shut", 52, 100, max_share=0.0),
    ]
    excluded = specs[0].id
    allowed = {spec.id for spec in specs[1:4]}
    scheduler = Scheduler(config(), specs)
    scheduler.set_eligible([spec.id for spec in specs if spec.id != excluded])
    assert {t.arm for t in drive(scheduler, 1, 40)} == allowed

    # Whatever state is loaded: every arm awake, owed a hundred pulls, of the best mean.
    snapshot = scheduler.snapshot()
    for record in snapshot["arms"].values():
        record.update(eligible=True, credit=100.0, mean=1.0)
    forged = Scheduler.restore(config(), specs, snapshot)
    assert {t.arm for t in drive(forged, 41, 80)} == allowed | {excluded}
    assert [v.name for v in forged.views(80) if not v.eligible] == ["capped", "dataless", "shut"]

    # An arm that loses its cap between two runs, in the middle of a step.
    credit_due(forged, 81)
    forged.pick(81)
    capped = [replace(spec, cap=0.0) if spec.id == specs[1].id else spec for spec in specs]
    loaded = Scheduler.restore(config(), capped, forged.snapshot())
    assert specs[1].id not in {loaded.pick(81).arm, loaded.pick(81).arm}


def test_served_shares_stay_in_their_implied_intervals() -> None:
    specs = [
        replace(spec, floor=floor, cap=cap, windows=100_000)
        for spec, floor, cap in zip(
            arms(6), [0.8, 0.0, 0.3, 0.0, 0.0, 0.5], [1.3, 1.3, 0.8, 0.2, 1.3, 0.5], strict=True
        )
    ]
    scheduler = Scheduler(config(), specs)
    drive(scheduler, 1, 1000)
    for view in scheduler.views(1000):
        slack = 2.0 / 3000  # H_6 - 1 pulls
        assert view.share_low - slack <= view.share <= view.share_high + slack
        assert view.floor - 1e-12 <= view.weight <= view.cap + 1e-12
    assert sum(view.share for view in scheduler.views(1000)) == pytest.approx(1.0)
    assert sum(view.target for view in scheduler.views(1000)) == pytest.approx(1.0)


def test_hard_shares_hold_and_what_cannot_hold_is_relaxed_and_said() -> None:
    specs = [replace(spec, min_share=0.2, max_share=0.5) for spec in arms(4)]
    scheduler = Scheduler(config(), specs)
    assert scheduler.set_eligible([spec.id for spec in specs]) == []
    drive(scheduler, 1, 50)
    assert all(0.2 - 0.02 <= view.share <= 0.5 + 0.02 for view in scheduler.views(50))
    (message,) = scheduler.set_eligible([specs[0].id], restart=True)
    assert "max_share" in message and specs[0].name in message
    assert {t.arm for t in drive(scheduler, 51, 60)} == {specs[0].id}
    crowd = Scheduler(config(), [replace(spec, min_share=0.3) for spec in specs])
    (message,) = crowd.set_eligible([spec.id for spec in specs])
    assert "min_share" in message and all(spec.name in message for spec in specs)


def test_a_floor_wins_over_repetition_unless_told_otherwise() -> None:
    specs = [ArmSpec("worn", 1, 40, floor=0.8, cap=0.8), ArmSpec("fresh", 2, 10**6)]
    for override, least, most in ((True, 0.3, 0.6), (False, 0.0, 0.2)):
        scheduler = Scheduler(config(floors_override_repetition=override, focus_size=2), specs)
        drive(scheduler, 1, 200)
        worn = scheduler.views(200)[0]
        assert worn.epochs > 4 and least < worn.target < most
        assert worn.share_low <= worn.target
        assert (worn.weight == 0.8) == override


def test_a_new_set_refreshes_at_once_and_the_same_set_changes_nothing() -> None:
    scheduler = Scheduler(config(dwell=(50, 50)), arms(5))
    ids = scheduler.arms.ids
    drive(scheduler, 1, 10)
    twin = Scheduler.restore(scheduler.config, scheduler.arms.specs, scheduler.snapshot())
    assert twin.set_eligible(ids) == []
    assert twin.snapshot() == scheduler.snapshot()
    credit_due(scheduler, 11)
    scheduler.pick(11)
    scheduler.set_eligible(ids[:2])
    assert {scheduler.pick(11).arm, scheduler.pick(11).arm} <= set(ids[:2])
    frozen = {view.name: view for view in scheduler.views(11)}
    record = scheduler.snapshot()["arms"]
    drive(scheduler, 12, 20)
    for identity in ids[2:]:
        name = scheduler.arms.names[identity]
        assert not frozen[name].eligible and frozen[name].target == frozen[name].share_high == 0.0
        assert scheduler.snapshot()["arms"][name]["credit"] == record[name]["credit"]


def test_a_restart_zeroes_credits_and_counts_and_keeps_lifetimes() -> None:
    scheduler = Scheduler(config(), arms(4))
    drive(scheduler, 1, 20)
    before = scheduler.snapshot()["arms"]
    scheduler.set_eligible(scheduler.arms.ids, restart=True)
    for name, record in scheduler.snapshot()["arms"].items():
        assert (record["credit"], record["served"], record["offered"]) == (0.0, 0, 0)
        kept = ("pulls", "cursor", "mean", "reward_sum", "weight_sum", "penalty_trace")
        assert {key: record[key] for key in kept} == {key: before[name][key] for key in kept}
    drive(scheduler, 21, 25)
    assert sum(record["served"] for record in scheduler.snapshot()["arms"].values()) == 15
    assert all(record["offered"] == 15 for record in scheduler.snapshot()["arms"].values())


def test_an_empty_or_unknown_set_is_refused_and_changes_nothing() -> None:
    specs = [*arms(2), ArmSpec("dataless", 51, 0)]
    scheduler = Scheduler(config(), specs)
    before = scheduler.snapshot()
    with pytest.raises(NothingEligible):
        scheduler.set_eligible([51])
    with pytest.raises(UnknownArm, match="999"):
        scheduler.set_eligible([specs[0].id, 999])
    assert scheduler.snapshot() == before
    with pytest.raises(NothingEligible):
        Scheduler(config(), specs[2:]).pick(1)


def test_cursors_advance_by_the_windows_of_a_pull() -> None:
    scheduler = Scheduler(config(windows_per_pull=4), arms(3))
    cursors = dict.fromkeys(scheduler.arms.ids, 0)
    for ticket in drive(scheduler, 1, 30):
        assert ticket.window == cursors[ticket.arm]
        cursors[ticket.arm] += 4
    assert scheduler.cursors() == cursors
    assert all(view.pulls * 4 == cursors[view.id] for view in scheduler.views(30))


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("dwell", [1, 2, 50])
def test_cancelling_takes_the_pulls_back_through_changes_of_weights(restart: bool, dwell: int) -> None:
    scheduler = Scheduler(config(dwell=(dwell, dwell)), arms(5))
    drive(scheduler, 1, 30)
    if restart:
        scheduler.set_eligible(scheduler.arms.ids[:4], restart=True)
        drive(scheduler, 31, 32)
    before, open_before = scheduler.snapshot(), scheduler.open_tickets()
    base = before["step"]
    issued = drive(scheduler, base + 1, base + 3)
    assert scheduler.cancel_from(base + 1) == issued
    after = scheduler.snapshot()
    for name, record in before["arms"].items():
        for key in ("cursor", "pulls", "served", "offered"):
            assert after["arms"][name][key] == record[key], key
        assert after["arms"][name]["credit"] == pytest.approx(record["credit"], abs=1e-12)
    assert scheduler.open_tickets() == [t for t in open_before if t.step > base + 3 - 4]
    assert after["step"] == base and after["refresh"] is True
    again = scheduler.pick(base + 1)
    assert again.id == issued[-1].id + 1 and again.micro == 0


def test_cancelling_reaches_back_over_a_restart_and_no_further_than_what_is_open() -> None:
    scheduler = Scheduler(config(), arms(4))
    drive(scheduler, 1, 20)
    cursors, tickets = scheduler.cursors(), scheduler.open_tickets()
    scheduler.set_eligible(scheduler.arms.ids, restart=True)
    cancelled = scheduler.cancel_from(18)
    assert cancelled == [t for t in tickets if t.step >= 18]
    for identity, cursor in scheduler.cursors().items():
        assert cursor == cursors[identity] - 4 * sum(t.arm == identity for t in cancelled)
    record = scheduler.snapshot()["arms"].values()
    assert all(r["credit"] == 0.0 and r["served"] == 0 and r["offered"] == 0 for r in record)
    before = scheduler.snapshot()
    with pytest.raises(CancelTooLate, match="up to 16"):
        scheduler.cancel_from(16)
    assert scheduler.snapshot() == before and scheduler.cancel_from(25) == []
    drive(scheduler, 18, 40)


def test_dwells_are_whole_steps_in_their_range() -> None:
    scheduler = Scheduler(config(dwell=(3, 9)), arms(5))
    ends, lengths = set(), []
    for step in range(1, 300):
        drive(scheduler, step, step)
        end = scheduler.snapshot()["dwell_end"]
        if end not in ends:
            ends.add(end)
            lengths.append(end - step)
    assert set(lengths) == set(range(3, 10))


def test_nothing_grows_with_the_pulls() -> None:
    scheduler = Scheduler(SchedulerConfig(seed=1, grad_accum=20, windows_per_pull=8, delay=8), arms(1000))
    sizes = []
    for first in (1, 501):
        drive(scheduler, first, first + 499)
        scheduler.penalize(first + 499, 0.5)
        sizes.append((holdings(scheduler), len(scheduler.open_tickets()), len(scheduler._tally.spans)))
    assert sizes[0][1] == sizes[1][1] == 8 * 20
    assert max(spans for *_, spans in sizes) <= 3
    assert abs(sizes[1][0] - sizes[0][0]) <= 3 * 2 * 1000, "a span or two of shares apart"


def holdings(thing: object) -> int:
    """Numbers and objects reachable from an object of this project."""
    if isinstance(thing, np.ndarray):
        return thing.size
    if isinstance(thing, dict):
        return sum(1 + holdings(value) for value in thing.values())
    if isinstance(thing, (list, tuple, set)):
        return sum(1 + holdings(value) for value in thing)
    names = [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())]
    return 1 + sum(holdings(getattr(thing, name)) for name in names)


def test_ten_thousand_steps_of_small_memory_stay_finite_through_rebases() -> None:
    scheduler = Scheduler(config(memory=3, grad_accum=3, dwell=(40, 60)), arms(3))
    drive(scheduler, 1, 10_100)
    snapshot = scheduler.snapshot()
    assert snapshot["origin"] == 10_100 - 10_100 % 256
    json.dumps(snapshot, allow_nan=False)
    assert all(0 <= record["mean"] <= 1 for record in snapshot["arms"].values())


def test_a_run_that_begins_late_has_weights_of_its_own_time() -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 5_000_000, 5_000_050)
    assert scheduler.snapshot()["origin"] == 5_000_000 - 5_000_000 % 4096
    json.dumps(through_json(scheduler.snapshot()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "thompson"}, "'thompson' is not one of focus-ucb, softmax-ucb, ucb, exp3, odm, uniform,"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"grad_accum": 0}, "grad_accum 0"),
        ({"windows_per_pull": 0}, "windows_per_pull 0"),
        ({"delay": 0}, "delay 0"),
        ({"focus_size": 0}, "focus_size 0"),
        ({"dwell": (5, 4)}, r"dwell \[5, 4\]"),
        ({"dwell": (0, 4)}, r"dwell \[0, 4\]"),
        ({"memory": 2}, "memory 2 is under one step's 3 pulls"),
        ({"xi": float("nan")}, "xi nan"),
        ({"zeta": -0.1}, "zeta -0.1"),
        ({"background": float("inf")}, "background inf"),
    ],
)
def test_settings_out_of_range_are_named(change: dict, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        config(**change)


def test_memory_defaults_to_pulls_per_arm() -> None:
    assert Scheduler(config(), arms(3)).memory == 400
    assert Scheduler(config(), arms(12)).memory == 1152
    assert Scheduler(config(memory=50), arms(12)).memory == 50
    assert Scheduler(config(), arms(12)).gamma == pytest.approx(np.exp(-3 / 1152))


def test_ids_and_arms_that_clash() -> None:
    taken = {new_id("books", ())}
    assert new_id("books", taken) not in taken and new_id("books", taken) == new_id("books", taken)
    with pytest.raises(InvalidArms, match="books: two arms"):
        Scheduler(config(), [ArmSpec("books", 1, 10), ArmSpec("books", 2, 10)])
    with pytest.raises(InvalidArms, match="books and code share the id 1"):
        Scheduler(config(), [ArmSpec("books", 1, 10), ArmSpec("code", 1, 10)])
    with pytest.raises(InvalidArms, match="books: floor"):
        Scheduler(config(), [ArmSpec("books", 1, 10, floor=2.0)])


def test_views_of_an_arm() -> None:
    scheduler = Scheduler(
        config(), [ArmSpec("a", 2, 100, floor=0.1), ArmSpec("b", 1, 100), ArmSpec("c", 3, 0)]
    )
    b, a, c = scheduler.views(1)
    assert (b.name, a.name, c.name) == ("b", "a", "c") and a.index is None and a.mean_reward == 0.5
    drive(scheduler, 1, 30)
    b, a, c = scheduler.views(31)
    assert a.pulls + b.pulls == 90 and a.share + b.share == 1.0 and c.pulls == 0 and not c.eligible
    assert a.epochs == a.pulls * 4 / 100 and a.coverage == min(1.0, a.epochs)
    assert a.index is not None and a.index > a.mean_reward > 0
    assert a.share_low == pytest.approx(0.1 / 1.4) and b.share_high == pytest.approx(1.3 / 1.4)
