"""Edits by command: what each leaves, that nothing of a removed arm stays in any total, and that a launch takes it up."""

import copy
import json
from typing import Any

import pytest

from bandit.arms import ArmSpec
from bandit.reward import ProgressReward
from bandit.scheduler import Scheduler
from curriculum.errors import Exit, FirehoseError
from state import edits
from state.reconcile import reconcile
from tests.state.conftest import CONFIG, make_payload

STEP = 20
BOUNDS = {"cap": 1.3, "floor": 0.0, "min_share": 0.0, "max_share": 1.0, "excluded": False}


def apply(payload: Any, op: str, step: int = STEP, serial: int = 9, **args: Any) -> list[str]:
    return edits.apply(payload, edits.edit(op, serial, args), step)


def refused(payload: Any, op: str, **args: Any) -> FirehoseError:
    with pytest.raises(FirehoseError) as caught:
        apply(payload, op, **args)
    return caught.value


def launched(payload: Any, *names: str) -> Any:
    """What the next launch makes of it."""
    hashes = {"books": "0" * 64, "code": "1" * 64, "forum": "2" * 64}
    data = {name: {"sha256": hashes.get(name, "0" * 64), "windows": 50} for name in names}
    return reconcile({name: dict(BOUNDS) for name in names}, data, payload, step=STEP)


def mentions(value: Any, arm_id: int) -> bool:
    if isinstance(value, dict):
        return any(key == str(arm_id) or mentions(item, arm_id) for key, item in value.items())
    if isinstance(value, list):
        return any(mentions(item, arm_id) for item in value)
    return bool(value == arm_id)


def test_a_removed_arm_is_nowhere_but_put_aside_and_its_untrained_pulls_are_as_if_never_issued(
    payload: Any,
) -> None:
    before = copy.deepcopy(payload)
    record = before["bandit"]["arms"]["books"]
    waiting = [t for t in before["bandit"]["tickets"] if t["arm"] == record["id"] and t["step"] > STEP]
    assert waiting
    apply(payload, "rm", arm="books")
    entry = payload["pruned"]["books"]
    assert (entry["removed"], entry["step"], entry["data"]) == (True, STEP, before["data"]["books"])
    assert entry["record"]["cursor"] == min(ticket["window"] for ticket in waiting)
    assert entry["record"]["pulls"] == record["pulls"] - len(waiting)
    left = {key: value for key, value in payload.items() if key not in ("pruned", "edits", "edited")}
    assert not mentions(left, record["id"]) and "books" not in json.dumps(left)
    assert payload["edits"] == [{"serial": 9, "what": "rm books", "op": "rm", "args": {"arm": "books"}}]


def test_nothing_of_a_removed_arm_of_an_argmax_stays_in_bounds_or_ranking() -> None:
    config = type(CONFIG)(seed=3, grad_accum=2, windows_per_pull=4, delay=8, policy="ucb")
    arms = [
        ArmSpec(name, place, windows=50)
        for place, name in enumerate(("books", "code", "forum"), start=10**12 + 1)
    ]
    scheduler, reward = Scheduler(config, arms), ProgressReward([arm.id for arm in arms])
    for step in range(1, 8):
        for _ in range(2):
            scheduler.credit(scheduler.pick(step).id, 0.5)
    payload = {"bandit": scheduler.snapshot(), "reward": reward.snapshot(), "pruned": {}, "data": {}}
    payload["bandit"]["ranking"]["singly"] = [arms[0].id, arms[1].id]
    apply(payload, "rm", step=7, arm="books")
    assert not mentions(payload["bandit"], arms[0].id)
    Scheduler.restore(config, arms[1:], payload["bandit"])


def test_a_removed_arm_stays_out_until_it_is_restored_and_a_configured_one_begins_anew(payload: Any) -> None:
    old = payload["bandit"]["arms"]["books"]["id"]
    apply(payload, "rm", arm="books")
    without = launched(payload, "code", "forum")
    assert without.changed and "edited" not in without.payload
    assert [event["event"] for event in without.events] == ["edit"]
    assert without.events[0]["edit"]["what"] == "rm books" and without.events[0]["step"] == STEP
    assert not launched(without.payload, "code", "forum").changed, "taken up once"
    wanted = launched(payload, "books", "code", "forum")
    assert [found.id for found in wanted.findings] == ["F0006"]
    assert "new" in wanted.findings[0].message and wanted.ids["books"] != old
    assert wanted.payload["pruned"]["books"]["record"]["id"] == old


def test_an_arm_that_is_removed_and_restored_is_what_it_was(payload: Any) -> None:
    before = copy.deepcopy(payload)
    apply(payload, "rm", arm="books")
    apply(payload, "restore", serial=10, arm="books")
    record, old = payload["bandit"]["arms"]["books"], before["bandit"]["arms"]["books"]
    apart = {"cursor": 0, "pulls": 0, "penalty_trace": 0.0}  # samples meanwhile were not its doing
    assert {**record, **apart} == {**old, **apart}
    assert (
        payload["pruned"] == {}
        and payload["reward"] == before["reward"]
        and payload["data"] == before["data"]
    )
    assert not any(found.id == "F0006" for found in launched(payload, "books", "code", "forum").findings)


def test_records_of_one_name_stand_on_each_other_and_come_back_newest_first(payload: Any) -> None:
    first = payload["bandit"]["arms"]["books"]["id"]
    apply(payload, "rm", arm="books")
    anew = launched(payload, "books", "code", "forum")
    payload = anew.payload
    fresh = {**payload["bandit"]["arms"]["code"], "id": anew.ids["books"], "pulls": 3}
    payload["bandit"]["arms"]["books"] = fresh
    apply(payload, "rm", arm="books")
    entry = payload["pruned"]["books"]
    assert entry["record"]["id"] == fresh["id"] and entry["earlier"]["record"]["id"] == first
    third = launched(payload, "books", "code", "forum").ids["books"]
    assert third not in (first, fresh["id"]), "an id is never used twice"
    apply(payload, "restore", arm="books")
    assert payload["bandit"]["arms"]["books"]["id"] == fresh["id"]
    assert "in the bandit" in refused(copy.deepcopy(payload), "restore", arm="books").message
    apply(payload, "restore", arm="books", force=True)
    assert payload["bandit"]["arms"]["books"]["id"] == first
    assert payload["pruned"]["books"]["record"]["id"] == fresh["id"]
    assert "earlier" not in payload["pruned"]["books"]


def test_a_renamed_arm_goes_on_to_the_same_picks(payload: Any) -> None:
    before = copy.deepcopy(payload)
    apply(payload, "mv", old="books", new="novels", force=False)
    assert "edited" not in payload, "nothing is shared among others"
    result = launched(payload, "novels", "code", "forum")
    assert result.findings == [] and not result.changed

    def picks(state: Any, ids: dict[str, int]) -> list[int]:
        arms = [ArmSpec(name, arm_id, windows=50) for name, arm_id in ids.items()]
        scheduler = Scheduler.restore(CONFIG, arms, state["bandit"])
        for entry in scheduler.open_tickets():
            scheduler.credit(entry.id, 0.5) if entry.step > STEP - 4 else None
        return [scheduler.pick(step).arm for step in range(STEP + 5, STEP + 9) for _ in range(2)]

    same = launched(before, "books", "code", "forum")
    assert picks(result.payload, result.ids) == picks(same.payload, same.ids)


def test_a_rename_onto_an_arm_needs_that_it_was_never_pulled_and_force(payload: Any) -> None:
    assert "with 1" in refused(copy.deepcopy(payload), "mv", old="books", new="code", force=True).message
    apply(payload, "rm", arm="books")
    payload["bandit"]["arms"]["novels"] = {**payload["bandit"]["arms"]["code"], "id": 5, "pulls": 0}
    assert "--force" in str(
        refused(copy.deepcopy(payload), "mv", old="books", new="novels", force=False).next
    )
    apply(payload, "mv", old="books", new="novels", force=True)
    assert payload["bandit"]["arms"]["novels"]["pulls"] > 0
    assert payload["pruned"]["novels"]["record"]["id"] == 5 and "books" not in payload["pruned"]


@pytest.mark.parametrize("new", ["", "../up", "a b", "web.heldout", "books"])
def test_a_new_name_must_be_one_a_source_can_have(payload: Any, new: str) -> None:
    assert refused(payload, "mv", old="books", new=new).exit_code is Exit.REFUSED


@pytest.mark.parametrize(
    ("op", "args"),
    [("rm", {"arm": "bokos"}), ("mv", {"old": "bokos", "new": "x"}), ("restore", {"arm": "bokos"})],
)
def test_an_unknown_arm_is_named_with_the_nearest(payload: Any, op: str, args: dict[str, Any]) -> None:
    if op == "restore":
        apply(payload, "rm", arm="books")
    error = refused(payload, op, **args)
    assert error.exit_code is Exit.NOT_FOUND and "did you mean 'books'" in error.message


def test_removing_twice_and_restoring_what_is_there_are_refused_with_the_way_on(payload: Any) -> None:
    assert refused(copy.deepcopy(payload), "restore", arm="books").exit_code is Exit.REFUSED
    apply(payload, "rm", arm="books")
    assert "state restore books" in str(refused(payload, "rm", arm="books").next)


def test_removing_what_was_put_aside_keeps_it_aside(payload: Any) -> None:
    aside = launched(payload, "code", "forum").payload
    assert launched(aside, "books", "code", "forum").findings[0].message.startswith("'books' is back")
    apply(aside, "rm", arm="books")
    assert "new" in launched(aside, "books", "code", "forum").findings[0].message


def test_values_of_a_step_are_not_set_at_another(payload: Any) -> None:
    def by_hand(path: list[str], made_at: int) -> dict[str, Any]:
        return edits.edit("set", 9, {"changes": [{"path": path, "value": 1}], "step": made_at})

    counter = ["bandit", "next_ticket"]
    with pytest.raises(FirehoseError, match="was set at step 60 and means nothing at step 20"):
        edits.apply(copy.deepcopy(payload), by_hand(counter, 60), STEP)
    edits.apply(payload, by_hand(counter, STEP), STEP)
    assert payload["bandit"]["next_ticket"] == 1 and payload["edited"]
    with pytest.raises(FirehoseError, match="nothing at 'wiki'"):
        edits.apply(payload, by_hand(["bandit", "arms", "wiki", "cap"], STEP), STEP)


def test_an_edit_of_another_copy_of_the_state_gives_the_same(payload: Any) -> None:
    """What `settle` does with a checkpoint's copy."""
    later = make_payload(24)
    apply(later, "rm", step=24, arm="books")
    apply(payload, "rm", arm="books")
    assert later["pruned"]["books"]["record"]["id"] == payload["pruned"]["books"]["record"]["id"]
    assert later["edits"] == payload["edits"]
