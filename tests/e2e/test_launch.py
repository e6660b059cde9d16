"""Launches that meet something wrong: zombies, missing and damaged data, other configs, other processes."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bandit.arms import new_id
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import Gate
from state.lock import RunLock
from state.rows import read_rows
from state.run_dir import RunDir
from state.status import status
from state.store import StateStore
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run
from trainer import checkpoint
from trainer.loop import Loop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was stopped at step 40; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("stopped")
    config = tiny.make(folder).path
    assert go(config, until=40)["exit"] == Exit.STOPPED
    return folder


@pytest.fixture
def config(stopped: Path, tmp_path: Path) -> Path:
    """The config of a copy of the stopped run."""
    shutil.copytree(stopped, tmp_path / "copy")
    return tmp_path / "copy/tiny.toml"


def pulled_after(config: Path, step: int) -> set[int]:
    rows = read_rows(the_run(config).pulls)
    return {arm for row in rows if row["step"] > step for arm, *_ in row["pulls"]}


def test_an_arm_whose_tokens_were_deleted_is_pruned_and_never_pulled(config: Path) -> None:
    gone = new_id("gamma", set())
    gone_file = config.parent / "data/tiny/gamma.btok"
    gone_file.unlink()
    assert go(config)["exit"] == Exit.ALARMS == 5
    body, _ = status(the_run(config), time.time())
    assert body["alarms"] == [
        f"gamma was put aside at step 40: its data is missing: {gone_file} does not exist"
    ]
    assert "F0003 zombie arm: 'gamma' was put aside" in log(config)
    envelope, _ = StateStore(the_run(config).state).read()
    assert envelope is not None
    assert set(envelope.payload["bandit"]["arms"]) == {"alpha", "beta"}
    assert envelope.payload["pruned"]["gamma"]["record"]["pulls"] > 0
    assert gone in {arm for row in read_rows(the_run(config).pulls) for arm, *_ in row["pulls"]}
    assert gone not in pulled_after(config, 40)
    assert [row[0] for row in read_rows(the_run(config).loss)] == list(range(1, 61))
    assert [e["arm"] for e in the_run(config).events() if e["event"] == "prune"] == ["gamma"]


class Power(SystemExit):
    """The power goes."""


def dying_before_the_history(event: str) -> pytest.MonkeyPatch:
    """The power goes between a commit and the history's line of what it decided."""
    patch, record = pytest.MonkeyPatch(), RunDir.record

    def dying(run: RunDir, found: dict[str, Any]) -> None:
        if found["event"] == event:
            raise Power
        record(run, found)

    patch.setattr(RunDir, "record", dying)
    return patch


def test_a_prune_is_in_the_history_once_however_soon_the_launch_dies(config: Path) -> None:
    (config.parent / "data/tiny/gamma.btok").unlink()
    for _ in range(2):
        patch = dying_before_the_history("prune")
        with pytest.raises(Power):
            go(config)
        patch.undo()
    assert [e for e in the_run(config).events() if e["event"] == "prune"] == []
    for _ in range(2):
        go(config, until=45)
    assert [e["arm"] for e in the_run(config).events() if e["event"] == "prune"] == ["gamma"]


def test_a_halt_is_in_the_history_once_however_soon_the_run_dies(config: Path) -> None:
    rule = Gate.observe
    with pytest.MonkeyPatch.context() as stop:
        stop.setattr(Gate, "observe", lambda *rest: replace(rule(*rest), kind="halt", reason="told to"))
        patch = dying_before_the_history("halt")
        with pytest.raises(Power):
            go(config)
        patch.undo()
    assert [e for e in the_run(config).events() if e["event"] == "halt"] == []
    for _ in range(2):
        with pytest.raises(FirehoseError, match="halted this run at step 50: told to"):
            go(config)
    assert [e["step"] for e in the_run(config).events() if e["event"] == "halt"] == [50]


def test_the_exploration_total_counts_live_arms_only(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gamma pruned the total is what it was, less gamma's pulls, counted and in flight."""
    launched: list[Loop] = []
    monkeypatch.setattr(Loop, "run", lambda loop, until: launched.append(loop) or Exit.STOPPED)
    go(config)
    whole = launched[0].parts.scheduler
    whole.cancel_from(41)  # a prune takes back what was issued and not trained
    gamma = new_id("gamma", set())
    row = whole.arms.row[gamma]
    counted = float(whole._estimator.effective_pulls(40)[row])
    in_flight = sum(ticket.arm == gamma for ticket in whole.open_tickets())
    assert counted > 1

    (config.parent / "data/tiny/gamma.btok").unlink()
    go(config)
    pruned = launched[1].parts.scheduler
    assert pruned.exploration_total() == pytest.approx(
        whole.exploration_total() - counted - in_flight, rel=1e-12
    )


def test_a_zombie_in_the_state_is_pruned(config: Path) -> None:
    """I09: an arm of an earlier run, weight 1.546, that no config names."""
    store = StateStore(the_run(config).state)
    envelope, _ = store.read()
    assert envelope is not None
    payload = dict(envelope.payload)
    zombie = {**payload["bandit"]["arms"]["alpha"], "id": 12345, "weight": 1.546}
    payload["bandit"]["arms"]["repo-docstrings"] = zombie
    store.commit(payload, step=40, config_sha256=envelope.config_sha256)
    assert go(config)["exit"] == Exit.OK
    assert "'repo-docstrings' was put aside: it is not configured" in log(config)
    assert 12345 not in pulled_after(config, 0)


def test_a_source_that_was_never_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    config = tiny.make(tmp_path)
    (tmp_path / "data/tiny/beta.btok").unlink()
    with pytest.raises(FirehoseError, match="beta") as caught:
        go(config.path)
    assert caught.value.exit_code is Exit.NOT_FOUND
    assert "firehose data build" in str(caught.value.next)
    assert not the_run(config.path).exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-9], "bytes"),
        (lambda data: b"NOPE" + data[4:], "not a .btok file"),
        (lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:], "SHA-256"),
    ],
)
def test_damaged_tokens_stop_the_launch(config: Path, damage: Any, said: str) -> None:
    file = config.parent / "data/tiny/beta.btok"
    file.write_bytes(damage(file.read_bytes()))
    before = the_run(config).state.read_bytes()
    with pytest.raises(FirehoseError, match=said) as caught:
        go(config)
    assert caught.value.exit_code is Exit.DAMAGED
    assert caught.value.arm == "beta"
    assert the_run(config).state.read_bytes() == before


def test_a_changed_config_is_refused_and_named(config: Path) -> None:
    config.write_text(config.read_text().replace("lr = 3e-3", "lr = 1e-3"))
    with pytest.raises(FirehoseError, match=r"train\.lr") as caught:
        go(config)
    assert caught.value.exit_code is Exit.REFUSED
    assert go(the_run(config).config)["step"] == 60  # the run's own copy is as it was


def test_a_run_in_use_is_locked(config: Path) -> None:
    with RunLock(the_run(config).lock), pytest.raises(FirehoseError, match="in use by pid") as caught:
        go(config)
    assert caught.value.exit_code is Exit.LOCKED


def test_a_damaged_checkpoint_gives_way_to_the_one_before(config: Path) -> None:
    newest = the_run(config).checkpoints / "step_40/model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert go(config)["exit"] == Exit.OK
    assert "model.safetensors is damaged" in log(config)
    assert [path.name for path in the_run(config).archive.glob("step_40.damaged-*")] != []
    assert [row[0] for row in read_rows(the_run(config).loss)] == list(range(1, 61))


def test_a_full_disk_ends_the_run_with_everything_before_it_intact(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        if "step_60" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(FirehoseError, match="No space left") as caught:
        go(config)
    assert caught.value.exit_code is Exit.WRITE_FAILED
    assert sorted(path.name for path in the_run(config).checkpoints.iterdir()) == ["step_20", "step_40"]
    monkeypatch.undo()
    assert go(config)["step"] == 60
    assert [row[0] for row in read_rows(the_run(config).loss)] == list(range(1, 61))


def test_shares_stay_inside_their_intervals(config: Path) -> None:
    go(config)
    live = json.loads(the_run(config).live.read_text())
    served = sum(arm["pulls"] for arm in live["arms"])
    for arm in live["arms"]:
        slack = 2 / served  # the deal's own rounding: at most H_K - 1 pulls
        assert arm["share_low"] - slack <= arm["share"] <= arm["share_high"] + slack, arm


def test_init_from_begins_with_another_runs_weights(config: Path) -> None:
    text = config.read_text().replace("lr = 3e-3", f'lr = 3e-3\ninit_from = "{the_run(config).root}"')
    (config.parent / "second.toml").write_text(text.replace("[data]", '[data]\ndir = "data/tiny"'))
    go(config.parent / "second.toml", until=10)
    second = RunDir(config.parent / "runs/second")
    assert "(step 40)" in second.log.read_text()
    first_losses, losses = (read_rows(run.loss) for run in (the_run(config), second))
    assert losses[0][1] < first_losses[0][1] - 1


def test_a_machine_without_data_is_told_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer", "run", str(ROOT / "configs/andrea-120m.toml"), "--json"]
    done = subprocess.run(
        [*command, "--runs-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.NOT_FOUND, done.stderr
    error = json.loads(done.stdout)["error"]
    assert "hermes3-general" in error["message"]
    assert "repo-docstrings" not in error["message"]
    assert error["next"].endswith(f"firehose data build {ROOT / 'configs/andrea-120m.toml'}")
    assert list(tmp_path.iterdir()) == []
