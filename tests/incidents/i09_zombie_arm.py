"""I09: an arm of an earlier run, weight 1.546 and no data, came back from the state and was reckoned with (002 v3)."""

from pathlib import Path
from typing import Any

import pytest

from bandit.arms import new_id
from bandit.errors import SnapshotMismatch
from state import survey
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import v3
from tests.fixtures.runs import go
from tests.incidents.switch import caught, incident

ZOMBIE, WEIGHT, AT = "repo-docstrings", 1.546, 10


def no_pruning(patch: pytest.MonkeyPatch) -> None:
    """The arms of the state are taken as they come."""
    whole = survey.reconcile

    def reconcile(sources: Any, data: Any, payload: Any, **rest: Any) -> Any:
        known = {
            name: arm for name, arm in payload.get("bandit", {}).get("arms", {}).items() if name != ZOMBIE
        }
        bandit = {**payload.get("bandit", {}), "arms": known}
        result = whole(sources, data, {**payload, "bandit": bandit}, **rest)
        if zombie := payload.get("bandit", {}).get("arms", {}).get(ZOMBIE):
            result.payload["bandit"]["arms"][ZOMBIE] = zombie
        return result

    patch.setattr(survey, "reconcile", reconcile)


@incident(off=no_pruning)
def test_the_zombie_is_put_aside_at_launch(tmp_path: Path) -> str:
    config = v3.make(tmp_path, steps=30)
    assert ZOMBIE in config.curriculum.exclude_sources
    go(config.path, until=AT)
    run = RunDir(tmp_path / "runs" / config.name)
    store = StateStore(run.state)
    envelope, _ = store.read()
    assert envelope is not None and envelope.step == AT
    payload = dict(envelope.payload)
    arms = payload["bandit"]["arms"]
    assert ZOMBIE not in arms
    arms[ZOMBIE] = {**arms["chat"], "id": new_id(ZOMBIE, ()), "weight": WEIGHT}
    store.commit(payload, step=AT, config_sha256=envelope.config_sha256)
    try:
        go(config.path, until=AT + 1)
    except (
        SnapshotMismatch
    ) as error:  # the bandit takes no arm that it was not told of: a second guard, without words
        caught(False, f"the launch died of it: {error}")
    after, _ = store.read()
    assert after is not None and after.step == AT + 1
    caught(ZOMBIE not in after.payload["bandit"]["arms"], "it is in the pool")
    assert after.payload["pruned"][ZOMBIE]["record"]["weight"] == WEIGHT
    prune = next(event for event in run.events() if event["event"] == "prune")
    assert prune["step"] == AT and "is excluded" in prune["reason"]
    assert f"'{ZOMBIE}' was put aside" in run.log.read_text()
    return "F0003 at launch, before the next step"
