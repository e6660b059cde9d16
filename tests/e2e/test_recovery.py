"""Launches after something was lost, cut or changed in an unlucky place; each was once a way to lose a run."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from curriculum.text.build import build, plan_for
from state import requests
from state.envelope import open_envelope
from state.rows import read_rows
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state
from trainer import runner, sampling
from trainer.loop import Loop
from trainer.signals import Flags
from trainer.step import TrainStep

GOOD = "It rained all day, so we stayed in and read an old book."
BAD = "region region region region region region"


def steps(config: Path) -> list[int]:
    return [row[0] for row in read_rows(the_run(config).loss)]


@pytest.mark.parametrize("gone", ["alpha", "beta", "gamma"])
def test_a_prune_with_one_pull_a_step(gone: str, tmp_path: Path) -> None:
    """Uncredited steps may lose their only ticket with the arm."""
    config = tiny.make(tmp_path, ("grad_accum = 4", "grad_accum = 1")).path
    go(config, until=40)
    (tmp_path / f"data/tiny/{gone}.btok").unlink()
    assert go(config)["exit"] == Exit.ALARMS
    assert steps(config) == list(range(1, 61))


def test_a_prune_is_in_the_next_boundarys_checkpoint(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=40)
    (tmp_path / "data/tiny/gamma.btok").unlink()
    go(config, until=51)
    assert (the_run(config).checkpoints / "step_50").is_dir()


def test_bounds_relaxed_by_a_prune_are_said(tmp_path: Path) -> None:
    third = ('path = "text/gamma.jsonl"', 'path = "text/gamma.jsonl"\nmax_share = 0.4')
    shares = (("cap = 0.8", "cap = 0.8\nmax_share = 0.4"), ("floor = 0.3", "floor = 0.3\nmax_share = 0.4"))
    warmup = ("curriculum_warmup_steps = 10", "curriculum_warmup_steps = 0")
    config = tiny.make(tmp_path, third, *shares, warmup).path
    go(config, until=40)
    (tmp_path / "data/tiny/gamma.btok").unlink()
    assert go(config)["exit"] == Exit.ALARMS
    assert "bounds relaxed:" in log(config)


def test_weights_that_diverged_end_in_21_and_not_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make(tmp_path, ("lr = 3e-3", "lr = 3e-3\nmax_skipped = 3")).path
    run = TrainStep.run

    def diverge(self: TrainStep, step: int, *rest: Any) -> None:
        run(self, step, *rest)
        if step == 16:
            with torch.no_grad():
                self.model.norm.weight.fill_(float("nan"))

    monkeypatch.setattr(TrainStep, "run", diverge)
    assert go(config)["exit"] == Exit.NON_FINITE
    assert read_rows(the_run(config).samples)[1]["loss"] is None


def test_losing_the_only_checkpoint_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    config = tiny.make(tmp_path, ("checkpoint_every = 20", "checkpoint_every = 1000")).path
    go(config, until=40)
    before = the_run(config).loss.read_bytes()
    weights = the_run(config).checkpoints / "step_40/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    for damage in (lambda: None, lambda: shutil.rmtree(the_run(config).checkpoints)):
        damage()
        with pytest.raises(FirehoseError, match="no sound checkpoint of this run is left") as caught:
            go(config)
        assert caught.value.exit_code is Exit.DAMAGED
        assert the_run(config).loss.read_bytes() == before
        assert the_run(config).condition(0.0).state == "stopped"


@pytest.mark.parametrize("damage", [b'"state"', b'"step": 40', None])
def test_a_damaged_checkpoint_json_gives_way_to_the_one_before(tmp_path: Path, damage: bytes | None) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=40)
    meta = the_run(config).checkpoints / "step_40/checkpoint.json"
    data = meta.read_bytes()
    meta.write_bytes(data[: len(data) // 2] if damage is None else data.replace(damage, b'"x": 1, "y"', 1))
    assert go(config)["exit"] == Exit.OK
    assert "the checkpoint of step 20 is used" in log(config)
    assert steps(config) == list(range(1, 61))


def test_a_run_cut_before_its_first_checkpoint_begins_again_with_the_same_weights(tmp_path: Path) -> None:
    first = tiny.make(tmp_path).path
    go(first, until=20)
    text = (
        first.read_text()
        .replace("lr = 3e-3", 'lr = 3e-3\ninit_from = "tiny"')
        .replace("every = 20", "every = 1000")
    )
    second = tmp_path / "second.toml"
    second.write_text(text.replace("[data]", '[data]\ndir = "data/tiny"'))
    run = RunDir(tmp_path / "runs/second")

    plan = runner.plan(second, name=None, runs_dir=tmp_path / "runs", resume="auto")
    train = TrainStep.run

    def die(self: TrainStep, step: int, *rest: Any) -> None:
        if step == 15:
            raise SystemExit
        train(self, step, *rest)

    with pytest.MonkeyPatch.context() as patch:  # after the commit of step 10
        patch.setattr(TrainStep, "run", die)
        with pytest.raises(SystemExit):
            runner.train(plan, flags=Flags())
    before = read_rows(run.loss)
    assert len(before) == 10
    go(first)  # the first run goes on and has newer checkpoints now
    go(second, until=30)
    assert read_rows(run.loss)[:10] == before


def test_data_rebuilt_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=5)
    shutil.rmtree(the_run(config).checkpoints)
    the_run(config).state.unlink()
    shutil.rmtree(tmp_path / "runs/tiny/tiny.state.json.d", ignore_errors=True)
    tiny.write_config(tmp_path, ("vocab_size = 400", "vocab_size = 390"))
    build(plan_for(configs.load(config)))
    tiny.write_config(tmp_path)
    with pytest.raises(FirehoseError, match="tokenizer is not the one") as caught:
        go(config)
    assert caught.value.exit_code is Exit.REFUSED


def test_a_launch_brings_the_state_to_the_checkpoint_it_goes_on_from(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=40)
    run, at_40, store = the_run(config), the_state(config), StateStore(the_run(config).state)
    older = next(path for _, path in store.versions() if open_envelope(path.read_bytes(), path).step == 30)
    sealed = run.state.read_bytes()
    for cut in ("between checkpoint and state", "between two checkpoints"):
        run.state.write_bytes(older.read_bytes() if cut == "between checkpoint and state" else sealed)
        if cut == "between two checkpoints":
            StateStore(run.state).commit(at_40.payload, step=45, config_sha256=at_40.config_sha256)
        go(config, until=40)
        state = the_state(config)
        assert (state.step, state.payload) == (40, at_40.payload), cut
        assert state.serial > at_40.serial
        assert run.events()[-1]["source"] == "checkpoint"


def test_a_lost_state_is_made_again_at_its_step_with_a_higher_serial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=40)
    before = the_state(config)
    the_run(config).state.unlink()
    shutil.rmtree(tmp_path / "runs/tiny/tiny.state.json.d")
    monkeypatch.setattr(Loop, "run", lambda self, until: Exit.STOPPED)
    go(config)
    after = the_state(config)
    assert (after.lineage, after.step) == (before.lineage, 40)
    assert after.serial > before.serial


def test_the_last_checkpoint_whose_sample_passed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make(tmp_path, ("heldout_every = 20", "heldout_every = 20\nkeep_checkpoints = 1")).path
    texts = {10: GOOD, 20: GOOD, 30: BAD, 40: BAD, 50: GOOD, 60: BAD}
    monkeypatch.setattr(sampling, "generate", lambda *a, key, **k: sampling.Drawn(texts[key[1]], [1], 0.1))
    assert go(config)["exit"] == Exit.OK
    assert sorted(path.name for path in the_run(config).checkpoints.iterdir()) == ["step_20", "step_60"]


def test_a_stop_sent_while_a_checkpoint_is_served_is_served_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make(tmp_path).path
    flags = Flags()
    flags.request = True
    waiting = [
        requests.Request(id=kind, kind=kind, target=[1, 1], time=0.0) for kind in ("checkpoint", "stop")
    ]
    served: list[str] = []

    def serve(run: RunDir, request: requests.Request, **named: Any) -> None:
        served.append(f"{request.kind} at {named['step']}")
        waiting.pop(0)
        flags.request = True

    monkeypatch.setattr(requests, "pending", lambda run: waiting[0] if waiting else None)
    monkeypatch.setattr(requests, "serve", serve)
    assert go(config, flags=flags)["exit"] == Exit.STOPPED
    assert served == ["checkpoint at 10", "stop at 20"]


def test_a_cleared_halt_stays_cleared_at_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make(tmp_path, ("steps = 60", "steps = 50")).path
    monkeypatch.setattr(sampling, "generate", lambda *a, **k: sampling.Drawn(BAD, [1], 0.1))
    assert go(config)["exit"] == Exit.HALTED
    assert go(config, clear_halt=True)["exit"] == Exit.OK
    assert the_state(config).payload["halt"] is None
    assert go(config)["exit"] == Exit.OK


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=10)
    (tmp_path / "data/tiny/gamma.btok").unlink()

    def dry() -> dict[str, Any]:
        return runner.describe(runner.plan(config, name=None, runs_dir=tmp_path / "runs", resume="auto"))

    assert {source["name"] for source in dry()["sources"]} == {"alpha", "beta"}
    config.write_text(config.read_text().replace("lr = 3e-3", "lr = 1e-3"))
    with pytest.raises(FirehoseError, match=r"train\.lr"):
        dry()


def test_a_run_outlives_its_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    config = tiny.make(tmp_path).path
    monkeypatch.setattr("sys.stderr", Closed())
    assert go(config)["exit"] == Exit.OK
    assert "finished at step 60" in log(config)


@pytest.mark.parametrize("name", ["../other", ".hidden", "a/b", "-x"])
def test_a_name_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    config = tiny.write_config(tmp_path)
    with pytest.raises(FirehoseError, match="cannot be the name of a run"):
        runner.plan(config, name=name, runs_dir=tmp_path, resume="auto")


def test_a_stop_is_not_taken_for_the_checkpoint_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make(tmp_path).path
    flags = Flags()
    flags.stop = signal.SIGTERM
    asked = requests.Request(id="a", kind="checkpoint", target=[1, 1], time=0.0)
    monkeypatch.setattr(requests, "pending", lambda run: asked)
    monkeypatch.setattr(requests, "serve", lambda *rest, **named: None)
    outcome = go(config, flags=flags)
    assert (outcome["exit"], outcome["step"]) == (Exit.STOPPED, 1)


def test_a_runs_own_config_speaks_of_the_original_files_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    config = tiny.make(home)
    go(config.path, until=10)
    own = configs.load(the_run(config.path).config)
    assert (own.name, own.resolve("text")) == ("tiny", home / "text")
    home.rename(tmp_path / "moved")  # the project, runs and all
    moved = configs.load(tmp_path / "moved/runs/tiny/config.toml")
    assert moved.resolve("text") == tmp_path / "moved/text"
    assert go(tmp_path / "moved/tiny.toml")["exit"] == Exit.OK


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_config_is_still_compared_when_effective_json_is_lost(tmp_path: Path, damage: str) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=10)
    if damage == "flip":
        the_run(config).effective.write_bytes(b"{")
    else:
        the_run(config).effective.unlink()
    config.write_text(config.read_text().replace("lr = 3e-3", "lr = 1e-3"))
    with pytest.raises(FirehoseError, match="not the one this run began with") as caught:
        go(config)
    assert caught.value.exit_code is Exit.REFUSED
    config.write_text(config.read_text().replace("lr = 1e-3", "lr = 3e-3"))
    assert go(config)["exit"] == Exit.OK


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.json"])
def test_a_runs_lost_tokenizer_is_made_again(tmp_path: Path, name: str) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=20)
    copy = the_run(config).root / "tokenizer" / name
    copy.write_bytes(b"{}")
    assert go(config)["exit"] == Exit.OK
    assert copy.read_bytes() == (tmp_path / "data/tiny" / name).read_bytes()
    assert f"{name} was missing or damaged" in log(config)


def test_weights_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=20)
    second = tmp_path / "second.toml"
    text = config.read_text().replace("lr = 3e-3", 'lr = 3e-3\ninit_from = "tiny"')
    second.write_text(text.replace("[data]", '[data]\ndir = "data/second"'))
    with (tmp_path / "text/gamma.jsonl").open("a") as file:
        file.write('{"text": "zebra zebra zebra zebra zebra zebra zebra zebra quagga quagga quagga"}\n' * 50)
    build(plan_for(configs.load(second)))
    with pytest.raises(FirehoseError, match="another tokenizer"):
        runner.train(runner.plan(second, name=None, runs_dir=tmp_path / "runs", resume="auto"), flags=Flags())
