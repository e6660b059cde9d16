"""Snapshots: bit-exact at any moment through JSON text, readable, editable, and strict about what they name (T9)."""

from dataclasses import replace
from typing import Any

import pytest
from bandit_worlds import arms, config, drive, reward_of, through_json
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.arms import ArmSpec
from bandit.errors import BanditError, SnapshotMismatch
from bandit.packed import expand
from bandit.scheduler import Scheduler

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["pick", "pick", "pick", "credit", "void", "penalize", "eligible", "cancel"]),
        st.integers(0, 99),
    ),
    min_size=5,
    max_size=80,
)


class Operator:
    """Carries out actions; those that the scheduler refuses are left out, so any list of actions is a valid run."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def do(self, action: str, number: int) -> Any:
        state = self.scheduler.snapshot()
        uncredited = [record for record in state["tickets"] if record["credit"] is None]
        ids = self.scheduler.arms.ids
        try:
            if action == "pick":
                step = state["step"] + (state["micro"] == self.scheduler.config.grad_accum)
                for record in uncredited:
                    if record["step"] <= step - self.scheduler.config.delay:
                        self.credit(record["id"])
                return self.scheduler.pick(step)
            if action in ("credit", "void") and uncredited:
                self.credit(uncredited[number % len(uncredited)]["id"], void=action == "void")
            if action == "penalize":
                return self.scheduler.penalize(state["step"] - number % 5, number / 100)
            if action == "eligible":
                chosen = [identity for bit, identity in enumerate(ids) if (number + 1) >> bit & 1]
                return self.scheduler.set_eligible(chosen, restart=number % 3 == 0)
            if action == "cancel":
                return self.scheduler.cancel_from(state["step"] - number % 3)
        except BanditError as error:
            return type(error)
        return None

    def credit(self, ticket_id: int, *, void: bool = False) -> None:
        ticket = next(t for t in self.scheduler.open_tickets() if t.id == ticket_id)
        self.scheduler.credit(ticket_id, None if void else reward_of(ticket))


@given(ACTIONS, ACTIONS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_cut_at_any_moment_changes_nothing_that_follows(before: list, after: list, override: bool) -> None:
    settings_ = config(floors_override_repetition=override, memory=40)
    specs = [replace(spec, floor=0.1 * (number % 2)) for number, spec in enumerate(arms(4))]
    straight = Operator(Scheduler(settings_, specs))
    for action in before:
        straight.do(*action)
    snapshot = straight.scheduler.snapshot()
    cut = Operator(Scheduler.restore(settings_, specs, through_json(snapshot)))
    assert cut.scheduler.snapshot() == snapshot
    assert cut.scheduler.views(99) == straight.scheduler.views(99)
    for action in [*after, *[("pick", 0)] * 20]:
        assert cut.do(*action) == straight.do(*action)
    assert cut.scheduler.snapshot() == straight.scheduler.snapshot()
    assert cut.scheduler.cursors() == straight.scheduler.cursors()


def loaded(changed: list[ArmSpec], steps: int = 30, **edits: Any) -> tuple[Scheduler, dict[str, Any]]:
    """A run of four arms, its snapshot edited, restored with other arms."""
    scheduler = Scheduler(config(dwell=(500, 500)), arms(4))
    drive(scheduler, 1, steps)
    snapshot = through_json(scheduler.snapshot())
    for name, edit in edits.items():
        snapshot["arms"][name.replace("_", "-")].update(edit)
    return Scheduler.restore(config(dwell=(500, 500)), changed, snapshot), snapshot


def test_a_snapshot_is_plain_and_does_not_follow_the_scheduler() -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 1, 10)
    snapshot = scheduler.snapshot()
    text = through_json(snapshot)
    drive(scheduler, 11, 20)
    assert through_json(snapshot) == text != through_json(scheduler.snapshot())
    allowed = (dict, list, int, float, str, bool, type(None))

    def check(value: object) -> None:
        assert type(value) in allowed, value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    check(snapshot)
    assert snapshot["arms"]["source-1"]["cap"] == 1.3 and snapshot["arms"]["source-1"]["windows"] == 237


def test_an_arm_of_the_state_that_is_not_among_the_arms_is_named() -> None:
    with pytest.raises(SnapshotMismatch, match="source-3: in the state") as caught:
        loaded(arms(4)[:3])
    assert caught.value.arm == "source-3"
    other_id = [*arms(4)[:3], ArmSpec("source-3", 77, 100)]
    with pytest.raises(SnapshotMismatch, match="source-3"):
        loaded(other_id)


def test_a_new_arm_starts_fresh_and_first() -> None:
    new = ArmSpec("new", 77, 100)
    scheduler, _ = loaded([*arms(4), new])
    assert drive(scheduler, 31, 31) and scheduler.cursors()[77] >= 0
    view = next(view for view in scheduler.views(31) if view.id == 77)
    assert view.eligible and view.weight == 1.3, "in focus, with the whole bonus for what was not read"


def test_a_renamed_arm_keeps_its_record() -> None:
    renamed = [replace(arms(4)[0], name="renamed"), *arms(4)[1:]]
    scheduler, snapshot = loaded(renamed)
    assert scheduler.snapshot()["arms"]["renamed"] == snapshot["arms"]["source-0"]
    straight, _ = loaded(arms(4))
    assert drive(scheduler, 31, 40) == drive(straight, 31, 40)


@pytest.mark.parametrize("change", [{"cap": 0.9}, {"floor": 0.5}, {"max_share": 0.5}, {"windows": 5000}])
def test_changed_bounds_bind_from_the_next_pick_and_restart_nothing(change: dict[str, Any]) -> None:
    scheduler, snapshot = loaded([replace(arms(4)[0], **change), *arms(4)[1:]])
    drive(scheduler, 31, 31)
    state = scheduler.snapshot()
    assert state["dwell_end"] == 31 + 500 != snapshot["dwell_end"], "refreshed in the middle of a dwell"
    assert sum(r["served"] for r in state["arms"].values()) == 31 * 3


def test_edits_of_a_record_are_taken() -> None:
    scheduler, _ = loaded(arms(4), source_0={"mean": 0.9}, source_1={"cursor": 0, "pulls": 5})
    record = scheduler.snapshot()["arms"]
    assert record["source-0"]["mean"] == pytest.approx(0.9)
    assert (record["source-1"]["cursor"], record["source-1"]["pulls"]) == (0, 5)
    scheduler, _ = loaded(arms(4), source_0={"eligible": False})
    assert arms(4)[0].id not in {ticket.arm for ticket in drive(scheduler, 31, 50)}


def test_a_cursor_set_back_by_an_edit_is_not_set_forward_by_a_cancellation() -> None:
    edits = {f"source_{number}": {"cursor": 0} for number in range(4)}
    scheduler, _ = loaded(arms(4), **edits)
    assert scheduler.cancel_from(28)
    assert set(scheduler.cursors().values()) == {0}


def test_tickets_of_a_pruned_arm_can_be_credited_and_count_nothing() -> None:
    whole = Scheduler(config(), arms(4))
    drive(whole, 1, 30)
    snapshot = through_json(whole.snapshot())
    gone = arms(4)[2]
    assert any(t.arm == gone.id for t in whole.open_tickets()), "else this proves nothing"
    del snapshot["arms"][gone.name]
    kept = [spec for spec in arms(4) if spec != gone]
    scheduler = Scheduler.restore(config(), kept, snapshot)
    assert scheduler.open_tickets() == whole.open_tickets()
    live = sum(t.arm != gone.id for t in scheduler.open_tickets())
    assert scheduler.exploration_total() == pytest.approx(
        live + sum(scheduler._estimator.effective_pulls(30)), abs=1e-12
    )
    assert gone.name not in scheduler.penalize(30, 0.5)
    assert {t.arm for t in drive(scheduler, 31, 32)} <= {spec.id for spec in kept}
    assert scheduler.cancel_from(30) and gone.id not in {t.arm for t in drive(scheduler, 30, 60)}
    assert sum(view.target for view in scheduler.views(60)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("arms", "source-1", "cursor"), -1, r"arms\.source-1\.cursor: expected a whole number"),
        (("arms", "source-1", "cursor"), 1.5, r"arms\.source-1\.cursor: expected a whole number"),
        (("arms", "source-1", "cursor"), 2**63, r"arms\.source-1\.cursor: expected a whole number"),
        (("arms", "source-1", "reward_sum"), float("nan"), r"arms\.source-1\.reward_sum: expected a finite"),
        (("arms", "source-1", "reward_sum"), None, r"arms\.source-1\.reward_sum: expected a finite"),
        (("arms", "source-1", "last_reward"), "x", r"arms\.source-1\.last_reward: expected a finite"),
        (("arms", "source-1", "eligible"), 1, r"arms\.source-1\.eligible: expected true or false"),
        (("arms", "source-1", "id"), True, r"arms\.source-1\.id: expected a whole number"),
        (("arms", "source-1", "id"), arms(1)[0].id, r"arms\.source-1\.id: expected an id that no other arm"),
        (("arms", "source-1"), 3, r"arms\.source-1: expected an object"),
        (("arms",), [], "arms: expected an object"),
        (("step",), "30", "step: expected a whole number"),
        (("micro",), 4, "micro: expected at most the 3"),
        (("tickets",), {}, "tickets: expected a list"),
        (("tickets", 0, "credit"), "later", r"tickets\[0\]\.credit: expected a finite"),
        (("tickets", 0, "id"), 10**6, r"tickets\[0\]\.id: expected a ticket id above"),
        (("tickets", 1, "id"), 0, r"tickets\[1\]\.id: expected a ticket id above"),
        (("deals", 0, "shares"), {"x": 1.0}, r"deals\[0\]\.shares\.x: expected an arm id"),
    ],
)
def test_a_broken_field_is_named(place: tuple, value: object, words: str) -> None:
    scheduler = Scheduler(config(), arms(3))
    drive(scheduler, 1, 30)
    snapshot = through_json(scheduler.snapshot())
    target: Any = snapshot
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(SnapshotMismatch, match=words) as caught:
        Scheduler.restore(config(), arms(3), snapshot)
    if len(place) == 3 and place[0] == "arms":
        assert caught.value.arm == "source-1"


def test_a_field_that_is_not_there_is_named() -> None:
    snapshot = Scheduler(config(), arms(3)).snapshot()
    del snapshot["arms"]["source-1"]["credit"]
    with pytest.raises(SnapshotMismatch, match=r"arms\.source-1\.credit: .* found nothing"):
        Scheduler.restore(config(), arms(3), snapshot)


def test_arms_that_change_the_default_memory_leave_old_sums_at_their_weight() -> None:
    """With 12 arms the default memory is 1152 pulls, with 6 it is 576: the old discount must not be read as the new."""
    few = Scheduler(config(), arms(6))
    drive(few, 1, 300)
    many = Scheduler.restore(config(), arms(12), through_json(few.snapshot()))
    assert few.memory == 576
    assert many.memory == 1152
    before, after = ({view.name: view for view in s.views(300)} for s in (few, many))
    assert all(after[name].mean_reward == pytest.approx(view.mean_reward) for name, view in before.items())
    row, other = few.arms.row[arms(1)[0].id], many.arms.row[arms(1)[0].id]
    estimator = many._estimator
    # In units of the weight of step 300, the sums are what they were.
    today = few._estimator.weight_sum[row] * few.gamma ** (300 - few._estimator.origin)
    assert estimator.weight_sum[other] == pytest.approx(today)
    assert estimator.origin == 300


@pytest.mark.parametrize("policy", ["focus-ucb", "ucb", "exp3"])
def test_a_packed_snapshot_expands_to_the_same_records(policy: str) -> None:
    scheduler = Scheduler(config(policy=policy), arms(5))
    scheduler.set_eligible(scheduler.arms.ids[:4])
    drive(scheduler, 1, 33)
    plain = scheduler.snapshot()
    for text in (False, True):
        packed = scheduler.packed(text=text)
        assert expand(packed) == plain
        assert Scheduler.restore(config(policy=policy), arms(5), packed).snapshot() == plain
    assert expand(through_json(scheduler.packed(text=True))) == through_json(plain)
    assert expand(plain) == plain


def test_names_of_two_lines_are_packed_one_by_one() -> None:
    scheduler = Scheduler(config(), [ArmSpec("two\nlines", 1, 10), ArmSpec("one", 2, 10)])
    assert set(expand(scheduler.packed(text=True))["arms"]) == {"two\nlines", "one"}


@pytest.mark.parametrize(
    ("column", "data", "words"),
    [
        ("f:credit", "!!", "packed.credit: cannot"),
        ("f:credit", "AAAAAAAAAAA=", "packed.credit: 1 numbers for 3 arms"),
    ],
)
def test_a_broken_column_is_named(column: str, data: str, words: str) -> None:
    packed = Scheduler(config(), arms(3)).packed(text=True)
    packed["packed"]["columns"][column] = data
    with pytest.raises(SnapshotMismatch, match=words):
        expand(packed)
    del packed["packed"]["columns"]
    with pytest.raises(SnapshotMismatch, match="packed: cannot"):
        expand(packed)


def test_a_name_that_stands_twice_in_a_packed_snapshot_is_named() -> None:
    packed = Scheduler(config(), arms(3)).packed(text=True)
    packed["packed"]["names"] = "source-0\nsource-0\nsource-2"
    with pytest.raises(SnapshotMismatch, match="a name stands twice"):
        expand(packed)
