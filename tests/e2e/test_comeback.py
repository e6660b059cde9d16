"""A run that the gate halted goes back by itself: to a checkpoint from before, with lower caps, at most three times."""

import itertools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.judge import Judge
from state import effective, journal, recover, rollback, story
from state.operate import change
from state.polish import fork, generations
from state.repair import check
from state.rows import read_rows
from state.status import status
from state.store import StateStore
from state.verify import verify
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state
from trainer import comeback, runner, sampling
from trainer.signals import Flags
from trainer.step import TrainStep

GOOD, BAD = "It rained all day, so we stayed in and read an old book.", "region region region region region"
EDITS = (
    *tiny.QUICK,
    ("steps = 60", "steps = 120"),
    ("checkpoint_every = 20", "checkpoint_every = 10"),
    ("[gate]", '[gate]\non_halt = "rollback"\nconsecutive = 3'),
    ('path = "text/gamma.jsonl"', 'path = "text/gamma.jsonl"\nfloor = 0.9 # mine'),
)
Speak = Callable[[Callable[[int], str]], None]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose third source is held up by its floor; tests work on copies."""
    return tiny.make(tmp_path_factory.mktemp("built"), *EDITS).path


@pytest.fixture
def config(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.parent, tmp_path / "world")) / "tiny.toml"


@pytest.fixture(autouse=True)
def blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom the losses blame is shown elsewhere (tests/curriculum/test_watch.py); here it is gamma."""
    blame_gamma(monkeypatch)


def blame_gamma(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Judge, "blame", lambda self: {"gamma": 0.5})


def have_say(patch: pytest.MonkeyPatch, say: Callable[[int], str]) -> None:
    """Have the model say what a function of the step gives."""

    def generate(*given: Any, key: tuple[int, int], **named: Any) -> sampling.Drawn:
        return sampling.Drawn(say(key[1]), [1, 2, 3], 2.0)

    patch.setattr(sampling, "generate", generate)


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Speak:
    return lambda say: have_say(monkeypatch, say)


@pytest.fixture(scope="module")
def gone_back(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that collapsed after step 40, went back and trained to its end, and what came of it; tests read it."""
    config = Path(shutil.copytree(built.parent, tmp_path_factory.mktemp("back") / "world")) / "tiny.toml"
    with pytest.MonkeyPatch.context() as patch:
        blame_gamma(patch)
        have_say(patch, while_uncapped(config))
        return config, go(config)


def cap(config: Path) -> float:
    """The cap of the source to blame in the run's own config."""
    run = the_run(config)
    return configs.load(run.config).sources["gamma"].cap if run.config.exists() else 1.3


def while_uncapped(config: Path) -> Callable[[int], str]:
    """A model that collapses after step 40, as long as the source to blame is not held down."""
    return lambda step: BAD if step > 40 and cap(config) > 0.5 else GOOD


def told(config: Path) -> list[str]:
    return [event["event"] for event in the_run(config).events()]


def test_it_goes_back_with_a_lower_cap_and_trains_on(gone_back: tuple[Path, dict[str, Any]]) -> None:
    config, outcome = gone_back
    run = the_run(config)
    assert (outcome["exit"], outcome["step"]) == (Exit.ALARMS, 120)  # whoever was asleep is told

    text = run.config.read_text()
    assert "floor = 0.5 # mine" in text and "cap = 0.5" in text
    assert text.replace("cap = 0.5\n", "").replace("0.5 # mine", "0.9 # mine") == config.read_text()
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, 121))
    assert [row["step"] for row in read_rows(run.samples)] == list(range(10, 121, 10))
    assert {row["verdict"]["kind"] for row in read_rows(run.samples)} == {"pass"}
    kept = [path.name for path in run.archive.rglob("step_*") if path.is_dir()]
    assert sorted(kept) == ["step_50", "step_60", "step_70"]
    for name in ("loss", "pulls", "samples"):
        (cut,) = run.archive.glob(f"tiny.{name}.after-step-40-*.json")
        assert b"70" in cut.read_bytes()
    assert told(config) == ["launch", "halt", "halt-rollback", "resume", "bounds"]

    with pytest.raises(FirehoseError, match="has given this checkpoint up") as caught:
        fork.find(str(next(run.archive.rglob("step_70"))), run.root.parent)
    assert "init_from" in str(caught.value.next)

    alarm = "halted at step 70 and went back to step 40: gamma cap 1.3 -> 0.5, gamma floor 0.9 -> 0.5"
    assert status(run, 0.0)[0]["alarms"] == [alarm]
    said = log(config)
    assert said.index("to blame: gamma (50%") < said.index(
        "GOING BACK, 1 of at most 3 times: back to step 40"
    )
    assert said.count("curriculum: policy=") == 1
    (row,) = [row for row in generations.history(run) if row["kind"] == "halt-rollback"]
    assert (row["step"], row["given_up"], row["generation"]) == (40, 30, None)
    assert {(change["arm"], change["field"], change["new"]) for change in row["changes"]} == {
        ("gamma", "cap", 0.5),
        ("gamma", "floor", 0.5),
    }


def test_its_files_explain_themselves(gone_back: tuple[Path, dict[str, Any]]) -> None:
    """Picks from before and after are those that a replay makes, and a check finds nothing."""
    run = the_run(gone_back[0])
    found = verify(story.read(run))
    assert (found.found, found.missing) == (found.picks, []) and found.picks == 240
    assert check.check(run) == []


def test_it_is_the_run_that_a_person_would_have_edited_there(
    config: Path, speak: Speak, gone_back: tuple[Path, dict[str, Any]]
) -> None:
    speak(lambda step: GOOD)
    go(config, until=40)
    own, back = the_run(config), the_run(gone_back[0])
    own.config.write_bytes(back.config.read_bytes())
    body = json.loads(own.effective.read_text())
    own.effective.write_bytes(effective.changed(body, configs.load(own.config)))
    assert go(own.config)["exit"] == Exit.OK
    for name in ("loss", "pulls", "heldout", "samples"):
        files = [run.root / f"tiny.{name}.json" for run in (back, own)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_an_edit_since_that_checkpoint_is_made_again(config: Path, speak: Speak) -> None:
    run = the_run(config)
    speak(while_uncapped(config))
    go(config, until=40)
    change.edit(run, [("rm", {"arm": "alpha"})])
    assert go(config)["step"] == 120
    assert "alpha" in the_state(config).payload["pruned"]
    found = verify(story.read(run))
    assert (found.found, found.missing) == (240, [])


def test_three_times_and_then_a_person_must_look(config: Path, speak: Speak) -> None:
    speak(lambda step: BAD if step > 40 else GOOD)
    assert go(config)["exit"] == Exit.HALTED
    assert (told(config).count("halt-rollback"), told(config).count("halt")) == (3, 4)
    assert cap(config) == 0.125
    assert "the run stays halted: it has gone back 3 times already, to step 40 last" in log(config)
    assert the_state(config).payload["halt"]["step"] == 70
    assert status(the_run(config), 0.0)[0]["state"] == "halted"
    with pytest.raises(FirehoseError, match="halted this run at step 70") as caught:
        go(config)
    assert caught.value.exit_code is Exit.REFUSED

    speak(lambda step: GOOD)
    assert go(config, clear_halt=True)["exit"] == Exit.OK  # a person has looked: nothing to be told any more
    assert the_state(config).payload["rollbacks"] == []


def test_a_way_back_that_was_cut_short_is_gone_at_the_next_launch(
    config: Path, speak: Speak, monkeypatch: pytest.MonkeyPatch, gone_back: tuple[Path, dict[str, Any]]
) -> None:
    """Killed after the halt, and killed in the middle of the change: the next launch, by the first config, goes on."""

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    speak(while_uncapped(config))
    with monkeypatch.context() as patch:
        patch.setattr(rollback, "transaction", killed)
        with pytest.raises(KeyboardInterrupt):
            go(config)
    assert the_state(config).payload["halt"] is not None
    assert runner.describe(runner.plan(config, name=None, runs_dir=config.parent / "runs", resume="auto"))[
        "goes_back"
    ].startswith("back to step 40 (30 steps")
    done = itertools.count()
    operate = journal._operate
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_operate", lambda *given: killed() if next(done) == 4 else operate(*given))
        with pytest.raises(KeyboardInterrupt):
            go(config)
    assert the_run(config).journal.exists()
    assert go(config)["exit"] == Exit.ALARMS
    for name in ("loss", "pulls", "heldout", "samples"):
        files = [the_run(one).root / f"tiny.{name}.json" for one in (config, gone_back[0])]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_the_first_config_goes_on_after_a_way_back_and_another_does_not(config: Path, speak: Speak) -> None:
    speak(while_uncapped(config))
    assert go(config, until=80)["exit"] == Exit.STOPPED
    assert cap(config) == 0.5
    assert go(config, until=90)["step"] == 90
    config.write_text(config.read_text().replace("cap = 0.8", "cap = 0.7"))
    with pytest.raises(FirehoseError, match=r"sources\.alpha\.cap"):
        go(config)


def test_it_can_be_taken_back_before_anything_is_trained(config: Path, speak: Speak) -> None:
    run = the_run(config)
    config.write_text(config.read_text().replace('"rollback"', '"halt"'))
    speak(while_uncapped(config))
    assert go(config)["exit"] == Exit.HALTED
    files = {path: path.read_bytes() for path in (run.config, run.effective, run.state)}
    store = StateStore(run.state)
    back = rollback.plan(run, store)
    assert back is not None
    rollback.transaction(run, back, store).commit()
    assert recover.look(run, StateStore(run.state)).settled.step == 40
    journal.undo(run, None, now="2026-01-02T03:04:05Z")
    assert {path: path.read_bytes() for path in files} == files
    assert recover.look(run, StateStore(run.state)).settled.step == 70


# Where there is no way back, the run stays halted and says why.


def halted(config: Path, speak: Speak, *, bad_after: int = 40) -> Path:
    """A run that the gate has halted, its config being that of one that goes back."""
    speak(lambda step: BAD if step > bad_after else GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comeback, "come_back", lambda *given: None)
        assert go(config)["exit"] == Exit.HALTED
    return config


def stays(config: Path) -> str:
    """What the next launch says of it, which leaves every file as it is but for the log."""
    with pytest.raises(FirehoseError, match="halted this run") as caught:
        go(config)
    assert caught.value.exit_code is Exit.REFUSED
    assert not list(the_run(config).archive.iterdir())
    return log(config).split("run stays halted: ")[-1]


def test_with_nobody_to_blame(config: Path, speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "blame", lambda self: {})
    assert stays(halted(config, speak)).startswith("no source stands out")


def test_with_no_sample_that_passed(config: Path, speak: Speak) -> None:
    assert stays(halted(config, speak, bad_after=0)).startswith(
        "no checkpoint of it has a sample that passed"
    )


def test_with_a_damaged_checkpoint(config: Path, speak: Speak) -> None:
    run = the_run(halted(config, speak))
    path = run.checkpoints / "step_40/optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    stays(config)
    assert "optimizer.safetensors is damaged" in log(config)
    shutil.rmtree(path.parent)
    assert stays(config).startswith("the checkpoint of step 40, whose sample passed, is not there")


def test_where_another_judge_halted_it(config: Path, speak: Speak) -> None:
    config.write_text(config.read_text() + "[budget]\nmax_heldout_loss = 0.1\n")
    speak(lambda step: GOOD)
    assert go(config)["exit"] == Exit.HALTED
    assert "run stays halted: the evaluation between phases halted it" in log(config)


def test_when_asked_to_stop_at_that_moment_it_stops_and_the_next_launch_goes_back(
    config: Path, speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, whole = Flags(), TrainStep.run

    def stopping(self: TrainStep, step: int, *rest: Any) -> None:
        if step == 70:
            flags.stop = signal.SIGTERM
        whole(self, step, *rest)

    speak(while_uncapped(config))
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "run", stopping)
        assert go(config, flags=flags)["exit"] == Exit.HALTED
    assert the_state(config).step == 70
    assert go(config)["exit"] == Exit.ALARMS
    assert log(config).count("GOING BACK") == 1


def test_not_to_a_step_before_a_pivot(config: Path, speak: Speak) -> None:
    run = the_run(halted(config, speak))
    body = json.loads((run.checkpoints / "step_40/checkpoint.json").read_text())
    body["state"]["lineage"] = "11111111-2222-4333-8444-555555555555"
    del body["state"]["header_sha256"]
    body["state"]["version"] = 1
    (run.checkpoints / "step_40/checkpoint.json").write_text(json.dumps(body))
    said = stays(config)
    assert said.startswith("no sample has passed since the pivot") and "firehose polish rollback" in said


def test_it_goes_back_to_before_the_low_samples(config: Path, speak: Speak) -> None:
    """Among low samples some pass, and the checkpoint of such a one is of a model that collapses already."""
    config.write_text(
        config.read_text().replace("consecutive = 3", "consecutive = 5\nwindow = 6\nwindow_low = 3")
    )
    speak(lambda step: BAD if step in (50, 70, 90) and cap(config) > 0.5 else GOOD)
    assert go(config)["exit"] == Exit.ALARMS
    assert "HALTED by the coherence gate at step 90" in log(config)
    assert "back to step 40 (50 steps are given up)" in log(config)


def test_it_begins_to_judge_anew(config: Path, speak: Speak) -> None:
    """Low samples from before the checkpoint were another mixture's: two more are not three."""
    config.write_text(
        config.read_text().replace("consecutive = 3", "consecutive = 5\nwindow = 6\nwindow_low = 3")
    )
    speak(lambda step: BAD if step in (10, 30, 40) else GOOD)
    assert go(config)["exit"] == Exit.ALARMS
    assert "HALTED by the coherence gate at step 40" in log(config)
    assert "back to step 20 (20 steps are given up)" in log(
        config
    )  # no sample is paid off: the last that passed
