"""The gate in the one loop: a collapsing run halts, stays halted, and charges what it was fed."""

import ast
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from state.rows import read_rows
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import tiny
from tests.fixtures.runs import go
from trainer import sampling
from trainer.loop import Loop

ROOT = Path(__file__).parents[2]


def say(text: str) -> Any:
    return lambda *rest, **named: sampling.Drawn(text, [1, 2, 3], 0.1)


GOOD = "It rained all day, so we stayed in and read an old book."


def at_first(text: str, *, then: str) -> Any:
    texts = itertools.chain([text], itertools.repeat(then))
    return lambda *rest, **named: sampling.Drawn(next(texts), [1, 2, 3], 0.1)


def test_region_region_region_halts_after_five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.make(tmp_path).path
    run = RunDir(tmp_path / "runs/tiny")
    monkeypatch.setattr(sampling, "generate", say("region region region region region region"))
    assert go(config)["exit"] == Exit.HALTED == 20
    samples = read_rows(run.samples)
    assert [row["step"] for row in samples] == [10, 20, 30, 40, 50]
    assert all(row["score"] < 30 for row in samples)
    assert [row["verdict"]["kind"] for row in samples] == ["low"] * 4 + ["halt"]
    assert (run.checkpoints / "step_50").is_dir()
    assert all(sum(row["penalties"].values()) < 0 for row in samples)

    with pytest.raises(FirehoseError, match="halted this run at step 50") as caught:
        go(config)
    assert caught.value.exit_code is Exit.REFUSED
    monkeypatch.setattr(sampling, "generate", say("It rained all day, so we stayed in and read an old book."))
    assert go(config, clear_halt=True)["exit"] == Exit.OK
    assert [event["event"] for event in run.events()] == ["launch", "halt", "resume", "clear-halt"]
    assert read_rows(run.samples)[-1]["penalties"] == {}


def test_good_samples_in_between_do_not_save_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I06: never five in a row, but eight of the last sixteen."""
    config = tiny.make(tmp_path, ("steps = 60", "steps = 160")).path
    texts = iter(["Budy Budy Budy", "It rained all day, so we stayed in and read an old book."] * 8)
    monkeypatch.setattr(sampling, "generate", lambda *a, **k: sampling.Drawn(next(texts), [1], 0.1))
    outcome = go(config)
    assert outcome["exit"] == Exit.HALTED
    assert outcome["step"] == 150


def test_penalties_reach_the_bandit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, judged differently, leaves every arm with a lower mean reward."""
    means: dict[str, dict[str, float]] = {}
    for name, text in {
        "good": "It rained all day, so we stayed in and read an old book.",
        "bad": "region region region region region region",
    }.items():
        config = tiny.make(tmp_path / name, ("[gate]", "[gate]\nthreshold = 0.001")).path
        monkeypatch.setattr(sampling, "generate", say(text))
        assert go(config)["exit"] == Exit.OK
        envelope, _ = StateStore(RunDir(tmp_path / name / "runs/tiny").state).read()
        assert envelope is not None
        means[name] = {arm: record["mean"] for arm, record in envelope.payload["bandit"]["arms"].items()}
    assert all(means["bad"][arm] < means["good"][arm] - 0.1 for arm in ("alpha", "beta", "gamma")), means


def test_every_runner_samples_through_the_gate() -> None:
    """I04: one loop, built in one place, and no sampling that trains beside it."""
    calls: dict[str, list[str]] = {"Loop": [], "generate": [], "observe": []}
    for path in sorted((ROOT / "trainer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in calls:
                    calls[name].append(path.name)
    assert set(calls["Loop"]) == {"sitting.py", "rehearsal.py"}  # the doctor rehearses the whole launch
    assert calls["observe"] == ["checkup.py"]
    # Two of a run's, its check-up's draw and that draw's making in launch; two that train nothing, `firehose sample` and the doctor.
    assert sorted(calls["generate"]) == ["against.py", "checkup.py", "launch.py", "runner.py"]


def test_a_loop_without_a_gate_cannot_be_built() -> None:
    with pytest.raises(FirehoseError, match="without a coherence gate"):
        Loop(SimpleNamespace(gate=None), display=None)  # type: ignore[arg-type]


def test_a_restart_does_not_make_the_gate_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.make(tmp_path).path
    monkeypatch.setattr(sampling, "generate", say("region region region region region region"))
    assert go(config, until=35)["exit"] == Exit.STOPPED
    outcome = go(config)
    assert (outcome["exit"], outcome["step"]) == (Exit.HALTED, 50)


def test_prompts_rotate(tmp_path: Path) -> None:
    config = tiny.make(tmp_path, ("[gate]", '[gate]\nprompts = ["one", "two"]')).path
    go(config, until=40)
    assert [row["prompt"] for row in read_rows(RunDir(tmp_path / "runs/tiny").samples)] == ["one", "two"] * 2


def test_an_audit_halts_where_it_may_and_says_which_sources_were_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fluent text of another script scores over 30: only the audit sees it. It lands in the log, in status, in history."""
    text = "Собака лежит на крыльце и смотрит на дорогу, по которой утром ушёл хозяин"
    monkeypatch.setattr(sampling, "generate", at_first(GOOD, then=text))
    warned, run = tiny.make(tmp_path / "warns", *tiny.QUICK).path, RunDir(tmp_path / "warns/runs/tiny")
    assert go(warned)["exit"] == Exit.ALARMS
    rows = read_rows(run.samples)
    assert all(row["score"] > 30 and row["audits"]["found"] == ["script_share"] for row in rows[1:])
    assert {row["verdict"]["kind"] for row in rows} == {"pass"}
    assert [row["audits"]["script_share"] for row in rows] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert any(
        "audit script_share: 5 samples in a row" in alarm
        for alarm in json.loads(run.live.read_text())["alarms"]
    )

    edit = ("[gate]", '[gate]\naudit_halt = ["script_share"]')
    halting, run = tiny.make(tmp_path / "halts", edit, *tiny.QUICK).path, RunDir(tmp_path / "halts/runs/tiny")
    monkeypatch.setattr(sampling, "generate", at_first(GOOD, then=text))
    outcome = go(halting)
    assert (outcome["exit"], outcome["step"]) == (Exit.HALTED, 60)
    state, _ = StateStore(run.state).read()
    assert state is not None
    assert "found by script_share" in state.payload["halt"]["reason"]
    halt = next(event for event in run.events() if event["event"] == "halt")
    assert halt["blame"] == state.payload["halt"]["blame"]
    assert "to blame: " in run.log.read_text()


def test_an_audit_that_may_halt_needs_what_it_compares_with(tmp_path: Path) -> None:
    edit = ("[gate]", '[gate]\naudit_halt = ["local_coherence"]')
    with pytest.raises(FirehoseError, match="does not work on so little trusted text") as caught:
        go(tiny.make(tmp_path, edit).path)
    assert caught.value.exit_code is Exit.REFUSED
