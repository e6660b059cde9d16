"""What a launch finds and does not take over: said before and at the launch, kept, and an alarm from then on."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state import journal
from state.operate import change
from state.operate.cli import state_app
from state.status import status
from state.store import utc_now
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state
from trainer import cli, runner


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at step 20 of 30; tests work on copies."""
    config = tiny.make(tmp_path_factory.mktemp("stopped"), *tiny.QUICK, ("steps = 60", "steps = 30")).path
    go(config, until=20)
    return config


@pytest.fixture
def config(stopped: Path, tmp_path: Path) -> Path:
    """The config of a copy of the run, data and all."""
    shutil.copytree(stopped.parent, tmp_path / "copy")
    return tmp_path / "copy/tiny.toml"


def edit_by_hand(config: Path) -> None:
    state = the_run(config).state
    body = json.loads(state.read_bytes())
    body["payload"]["bandit"]["arms"]["beta"]["cap"] = 0.9
    state.write_text(json.dumps(body))


def dry(config: Path, *more: str) -> str:
    runs = str(config.parent / "runs")
    done = CliRunner().invoke(cli.app, ["run", str(config), "--runs-dir", runs, "--dry-run", *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_launch_that_passes_over_an_edit_says_so_and_keeps_it(config: Path) -> None:
    run = the_run(config)
    edit_by_hand(config)
    edited = run.state.read_bytes()
    assert f"firehose state repair {run.root} --accept-edit takes an edit by hand" in dry(config)

    assert go(config)["exit"] == Exit.ALARMS
    (kept,) = run.versions.glob("damaged-*.json")
    assert kept.read_bytes() == edited
    assert f"firehose state check {run.root}" in log(config) and f"firehose state diff {kept}" in log(config)
    (event,) = [event for event in run.events() if event["event"] == "passed-over"]
    assert (event["step"], event["file"]) == (20, kept.name)
    alarm = f"an edited or damaged state was not used: {kept.name}"
    assert status(run, time.time())[0]["alarms"] == [alarm]
    shown = CliRunner().invoke(state_app, ["diff", str(kept), "--run", str(run.root)])
    assert shown.exit_code == 0, shown.output

    assert go(config)["exit"] == Exit.ALARMS, "for as long as the file is there"
    kept.unlink()
    assert go(config)["exit"] == Exit.OK
    assert status(run, time.time())[0]["alarms"] == []


def test_a_damage_that_is_no_edit_is_not_offered_as_one(config: Path) -> None:
    state = the_run(config).state
    body = json.loads(state.read_bytes())
    state.write_text(json.dumps({**body, "serial": 99}))
    assert "F0002" in dry(config) and "--accept-edit" not in dry(config)


def test_a_dry_run_says_what_the_launch_would_find(config: Path) -> None:
    (config.parent / "data/tiny/gamma.btok").unlink()
    assert "F0003 zombie arm: 'gamma' was put aside" in dry(config)
    found = json.loads(dry(config, "--json"))["findings"]
    assert [(item["id"], item["arm"]) for item in found] == [("F0003", "gamma"), ("F0004", "gamma")]
    assert "gamma" in the_state(config).payload["bandit"]["arms"], "nothing is changed"


def test_the_config_from_before_a_change_is_named_as_that(config: Path) -> None:
    run = the_run(config)
    body: dict[str, Any] = json.loads(run.effective.read_bytes())
    body["config"]["sources"]["beta"]["cap"] = 0.5
    change = journal.Transaction(run, "polish", "beta.cap", now=utc_now())
    change.put(run.effective, json.dumps(body).encode())
    change.record({"event": "pivot", "step": 20, "transaction": "0001-polish"})
    change.commit()
    with pytest.raises(FirehoseError) as caught:
        runner.describe(runner.plan(config, name=None, runs_dir=run.root.parent, resume="auto"))
    expected = "was changed by 0001-polish at step 20 (sources.beta.cap); this file is as it was before"
    assert expected in caught.value.message
    assert caught.value.next is not None and "polish plan" not in caught.value.next
    config.write_text(config.read_text().replace("seed = 3", "seed = 4"))
    assert configs.load(config).seed == 4
    with pytest.raises(FirehoseError, match="not the one this run began with") as caught:
        go(config)
    assert caught.value.next is not None and "polish plan" in caught.value.next


def test_a_source_taken_out_on_purpose_is_no_alarm(config: Path) -> None:
    (config.parent / "data/tiny/gamma.btok").unlink()
    change.edit(the_run(config), [("rm", {"arm": "gamma"})])
    assert go(config)["exit"] == Exit.OK
    assert status(the_run(config), time.time())[0]["alarms"] == []
