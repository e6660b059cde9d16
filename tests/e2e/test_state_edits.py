"""A real run edited by command between launches: it goes on, the arm is out of it, and every pick can be replayed."""

from pathlib import Path

from state import explain, story
from state.operate import change
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state


def test_a_run_goes_on_after_its_arms_were_removed_and_restored(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=20)
    run = the_run(config)
    first = the_state(config).payload["bandit"]["arms"]["gamma"]
    change.edit(run, [("rm", {"arm": "gamma"})])
    go(config, until=30)
    assert "an operator's edit is kept: rm gamma" in log(config)
    anew = the_state(config).payload["bandit"]["arms"]["gamma"]
    assert anew["id"] != first["id"] and "edited" not in the_state(config).payload
    change.edit(run, [("restore", {"arm": "gamma", "force": True})])
    go(config, until=40)
    payload = the_state(config).payload
    assert payload["bandit"]["arms"]["gamma"]["id"] == first["id"]
    assert payload["pruned"]["gamma"]["record"]["id"] == anew["id"]
    assert [event["edit"]["op"] for event in run.events() if event["event"] == "edit"] == ["rm", "restore"]
    verified = explain.verify(story.read(run))
    assert verified["missing"] == [] and verified["found"] == verified["picks"] == 160
