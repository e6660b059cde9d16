"""Reconciliation: no arm that cannot be pulled stays in the bandit, nothing of it is lost, and drift is told only when it acts."""

import copy
import json
from typing import Any

import pytest

from bandit.arms import ArmSpec, new_id
from bandit.reward import ProgressReward
from bandit.scheduler import Scheduler, SchedulerConfig
from state.reconcile import Reconciled, reconcile

STEP = 20
CONFIG = SchedulerConfig(
    seed=3, grad_accum=2, windows_per_pull=4, delay=8, policy="uniform"
)  # as in conftest
BOUNDS = {"cap": 1.3, "floor": 0.0, "min_share": 0.0, "max_share": 1.0, "excluded": False}


@pytest.fixture
def sources() -> dict[str, dict[str, Any]]:
    return {name: dict(BOUNDS) for name in ("forum", "books", "code")}


@pytest.fixture
def data(payload: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"sha256": sha, "windows": 50} for name, sha in payload["data"].items()}


def ids(result: Reconciled) -> list[str]:
    return [found.id for found in result.findings]


def restored(result: Reconciled) -> Scheduler:
    """The launcher's way on."""
    arms = [ArmSpec(name, arm_id, windows=50) for name, arm_id in result.ids.items()]
    scheduler = Scheduler.restore(CONFIG, arms, result.payload["bandit"])
    ProgressReward.restore(result.ids.values(), result.payload["reward"])
    if result.changed:
        scheduler.cancel_from(STEP + 1)
        scheduler.set_eligible(list(result.ids.values()), restart=True)
    return scheduler


def mentions(value: Any, arm_id: int) -> bool:
    """Whether an arm's id stands anywhere in nested data."""
    if isinstance(value, dict):
        return any(key == str(arm_id) or mentions(item, arm_id) for key, item in value.items())
    if isinstance(value, list):
        return any(mentions(item, arm_id) for item in value)
    return value == arm_id


def test_a_state_that_agrees_is_left_alone(payload: Any, sources: Any, data: Any) -> None:
    before = copy.deepcopy(payload)
    result = reconcile(sources, data, payload, step=STEP)
    assert not result.changed and result.findings == [] and result.events == []
    assert result.payload == before == payload
    assert list(result.ids) == ["forum", "books", "code"], "the config's order"
    assert result.ids["books"] == payload["bandit"]["arms"]["books"]["id"]


def make_zombie(kind: str, sources: Any, data: Any) -> str:
    if kind == "unconfigured":
        del sources["books"]
        return "not configured"
    if kind == "excluded":
        sources["books"]["excluded"] = True
        return "excluded"
    if kind == "cap 0":
        sources["books"]["cap"] = 0
        return "cap is 0"
    if kind == "file gone":
        data["books"] = {"missing": "books.btok does not exist"}
        return "books.btok does not exist"
    if kind == "not in the manifest":
        del data["books"]
        return "the manifest does not have it"
    data["books"]["windows"] = 0
    return "no training window"


@pytest.mark.parametrize(
    "kind", ["unconfigured", "excluded", "cap 0", "file gone", "not in the manifest", "too short"]
)
def test_every_kind_of_zombie_is_put_aside_whole(payload: Any, sources: Any, data: Any, kind: str) -> None:
    before = copy.deepcopy(payload)
    reason = make_zombie(kind, sources, data)
    result = reconcile(sources, data, payload, step=STEP)
    assert payload == before, "pure"
    wanted = kind not in ("unconfigured", "excluded", "cap 0")
    assert ids(result) == ["F0003"] + ["F0004"] * wanted and result.changed
    zombie = result.findings[0]
    assert (zombie.arm, zombie.severity) == ("books", "warning") and reason in zombie.message
    assert result.events == [
        {
            "event": "prune",
            "step": STEP,
            "arm": "books",
            "reason": result.payload["pruned"]["books"]["reason"],
        }
    ]
    entry, record = result.payload["pruned"]["books"], before["bandit"]["arms"]["books"]
    assert entry["reward"] == before["reward"][str(record["id"])]
    assert (entry["step"], entry["data"]) == (STEP, before["data"]["books"])
    assert {**entry["record"], "cursor": 0, "pulls": 0} == {**record, "cursor": 0, "pulls": 0}
    left = {key: value for key, value in result.payload.items() if key != "pruned"}
    assert not mentions(left, record["id"]) and "books" not in json.dumps(left)
    again = reconcile(sources, data, result.payload, step=STEP)
    assert not again.changed and ids(again) == ["F0004"] * wanted and again.payload == result.payload


def test_a_pruned_arm_leaves_every_total_and_its_untrained_pulls(
    payload: Any, sources: Any, data: Any
) -> None:
    whole = restored(reconcile(sources, data, payload, step=STEP))
    make_zombie("file gone", sources, data)
    result = reconcile(sources, data, payload, step=STEP)
    record = payload["bandit"]["arms"]["books"]
    untrained = [t for t in payload["bandit"]["tickets"] if t["arm"] == record["id"] and t["step"] > STEP]
    assert untrained, "the state has batches of this arm on the way"
    kept = result.payload["pruned"]["books"]["record"]
    assert kept["cursor"] == record["cursor"] - CONFIG.windows_per_pull * len(untrained)
    assert kept["pulls"] == record["pulls"] - len(untrained)

    pruned = restored(result)
    live = [view.mean_reward for view in whole.views(STEP) if view.name != "books"]
    assert [view.mean_reward for view in pruned.views(STEP)] == live
    assert pruned.exploration_total() < whole.exploration_total()
    for entry in pruned.snapshot()["tickets"]:
        if entry["credit"] is None:
            pruned.credit(entry["id"], 0.5)
    for step in range(STEP + 1, STEP + 60):
        for _ in range(CONFIG.grad_accum):
            ticket = pruned.pick(step)
            assert ticket.arm != record["id"]
            pruned.credit(ticket.id, 0.5)


def test_the_exploration_total_is_that_of_the_live_arms_alone(payload: Any, sources: Any, data: Any) -> None:
    """As if the pruned arm had never been there: the same live records under a scheduler that never knew it."""
    del sources["books"]
    result = reconcile(sources, data, payload, step=STEP)
    without = copy.deepcopy(payload["bandit"])
    gone = without["arms"].pop("books")["id"]
    without["tickets"] = [ticket for ticket in without["tickets"] if ticket["arm"] != gone]
    arms = [ArmSpec(name, arm_id, windows=50) for name, arm_id in result.ids.items()]
    alone = Scheduler.restore(CONFIG, arms, without)
    alone.cancel_from(STEP + 1)
    assert restored(result).exploration_total() == alone.exploration_total()


def test_an_arm_comes_back_as_it_went(payload: Any, sources: Any, data: Any) -> None:
    there = copy.deepcopy(data)
    make_zombie("file gone", sources, data)
    pruned = reconcile(sources, data, payload, step=STEP)
    result = reconcile(sources, there, pruned.payload, step=STEP)
    assert ids(result) == ["F0006"] and "back with its record" in result.findings[0].message
    assert [event["event"] for event in result.events] == ["restore"] and result.changed
    assert result.payload["pruned"] == {} and result.payload["data"] == payload["data"]
    assert result.payload["reward"] == payload["reward"]
    before, after = payload["bandit"]["arms"]["books"], result.payload["bandit"]["arms"]["books"]
    for key in ("id", "weight_sum", "reward_sum", "last_reward", "mean"):
        assert after[key] == before[key]
    restored(result)


def test_an_arm_that_comes_back_after_the_origin_moved_outweighs_nobody(
    payload: Any, sources: Any, data: Any
) -> None:
    """Its sums are relative to an origin 4096 steps back: unscaled, they would count e^40 times too much."""
    there = copy.deepcopy(data)
    make_zombie("file gone", sources, data)
    pruned = reconcile(sources, data, payload, step=STEP).payload
    pruned["bandit"]["origin"] = 4096
    result = reconcile(sources, there, pruned, step=STEP)
    scheduler = restored(result)
    record, mean = result.payload["bandit"]["arms"]["books"], payload["bandit"]["arms"]["books"]["mean"]
    assert record["weight_sum"] == pytest.approx(1e-80) and record["penalty_trace"] == 0.0
    view = next(view for view in scheduler.views(STEP) if view.name == "books")
    assert view.mean_reward == pytest.approx(mean)


def test_data_that_changed_while_an_arm_was_away_is_noticed(payload: Any, sources: Any, data: Any) -> None:
    there = copy.deepcopy(data)
    make_zombie("file gone", sources, data)
    pruned = reconcile(sources, data, payload, step=STEP)
    there["books"]["sha256"] = "9" * 64
    assert ids(reconcile(sources, there, pruned.payload, step=STEP)) == ["F0006", "F0005"]


def test_changed_data_restarts_the_cursor_and_cancelled_tickets_do_not_bring_it_back(
    payload: Any, sources: Any, data: Any
) -> None:
    data["code"]["sha256"] = "9" * 64
    result = reconcile(sources, data, payload, step=STEP)
    assert ids(result) == ["F0005"] and result.changed and result.findings[0].arm == "code"
    assert result.payload["data"]["code"] == "9" * 64
    before, after = payload["bandit"]["arms"]["code"], result.payload["bandit"]["arms"]["code"]
    assert after == {**before, "cursor": 0} and before["cursor"] > 0
    assert restored(result).cursors()[before["id"]] == 0
    assert not reconcile(sources, data, result.payload, step=STEP).changed


def test_a_new_source_gets_an_id_that_no_arm_ever_had(payload: Any, sources: Any, data: Any) -> None:
    sources["wiki"], data["wiki"] = dict(BOUNDS), {"sha256": "5" * 64, "windows": 9}
    payload["pruned"]["old"] = {"record": {"id": new_id("wiki", ())}}
    result = reconcile(sources, data, payload, step=STEP)
    assert ids(result) == ["F0006"] and result.changed
    assert result.ids["wiki"] == new_id("wiki", {new_id("wiki", ())})
    assert "wiki" not in result.payload["bandit"]["arms"] and result.payload["data"]["wiki"] == "5" * 64
    assert {arm.name for arm in restored(result).views(STEP)} == set(sources)


def test_a_first_launch_has_ids_and_nothing_to_tell(sources: Any, data: Any) -> None:
    sources["code"]["excluded"] = True
    sources["ghost"] = dict(BOUNDS)
    result = reconcile(sources, data, {}, step=0)
    assert result.ids == {name: new_id(name, ()) for name in ("forum", "books")}
    assert ids(result) == ["F0004"] and not result.changed


@pytest.mark.parametrize(
    ("key", "value", "acts"),
    [
        ("cap", 0.4, True),
        ("floor", 0.2, True),
        ("max_share", 0.5, True),
        ("cap", 2.0, False),
        ("cap", 1.3, False),
    ],
)
def test_bound_drift_is_told_only_where_it_acts(
    payload: Any, sources: Any, data: Any, key: str, value: float, acts: bool
) -> None:
    sources["code"][key] = value
    result = reconcile(sources, data, payload, step=STEP)
    assert ids(result) == ["F0007"] * acts and result.changed is acts
    assert result.payload["bandit"]["arms"]["code"][key] == value, "the config's bounds are in force"
    if acts:
        assert result.findings[0].arm == "code" and f"-> {value}" in result.findings[0].message


def test_the_order_of_the_config_changes_nothing_but_the_order_of_the_ids(
    payload: Any, sources: Any, data: Any
) -> None:
    for name in ("wiki", "mail"):
        sources[name], data[name] = dict(BOUNDS), {"sha256": "5" * 64, "windows": 9}
    forwards = reconcile(sources, data, payload, step=STEP)
    backwards = reconcile(dict(reversed(sources.items())), data, payload, step=STEP)
    assert backwards.ids == forwards.ids and list(backwards.ids) == list(reversed(forwards.ids))
    assert backwards.findings == forwards.findings and backwards.payload == forwards.payload
