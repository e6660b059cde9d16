"""A run right after its pivot: killed at any point it ends as if it had not been; every pick of it is found again."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from curriculum.errors import Exit, FirehoseError
from state import explain, journal, story
from state.polish import apply, generations, outlook, polish
from state.rows import read_rows
from state.run_dir import RunDir
from state.verify import verify
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state
from trainer.align import GOAL
from trainer.loop import Loop
from trainer.step import TrainStep

EDITS = (
    *tiny.QUICK,
    ("[curriculum]\n", "[curriculum]\ndwell = [2, 6]\n"),
    ("[gate]\n", "[gate]\ntarget = 100\n"),
    ("steps = 60", "steps = 45"),
    ("checkpoint_every = 20", "checkpoint_every = 40"),
)
# The pivot falls between two probes of the goal (steps 15 and 22), and into the warm-up of the old config.
NEW = (
    ('goal_sources = ["alpha", "beta"]', 'goal_sources = ["beta"]'),
    ("cap = 0.8", "cap = 0.4"),
    ("curriculum_warmup_steps = 10", "curriculum_warmup_steps = 25"),
)


class Power(SystemExit):
    """The power goes."""


def pivot(config: Path, *edits: tuple[str, str]) -> RunDir:
    """Polish a run that has stopped, and leave it so."""
    run = the_run(config)
    text = run.config.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    file = polish.origin(run)
    _, plan = outlook.prepare(run, text, file, file, live=False, now=0.0)
    assert plan is not None
    path = polish.save(run, plan, None)
    apply.apply(run, plan, path, yes=True, resume=False, say=lambda words: None)
    return run


def rows(run: RunDir) -> list[bytes]:
    return [(run.root / f"tiny.{kind}.json").read_bytes() for kind in ("loss", "pulls", "samples", "heldout")]


@contextmanager
def dying_at(step: int) -> Iterator[None]:
    train = TrainStep.run

    def dying(self: TrainStep, now: int, *rest: Any) -> None:
        if now == step:
            raise Power
        train(self, now, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        patch.setattr(TrainStep, "run", dying)
        yield


@contextmanager
def dying_in_commit(step: int, cut: int) -> Iterator[None]:
    """The power goes at a sync of the commit of a step."""
    commit, sync, calls = Loop.commit, os.fsync, 0

    def dying(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise Power
        sync(descriptor)

    def committing(self: Loop, **how: Any) -> Exit | None:
        with pytest.MonkeyPatch.context() as inner:
            if self.at.step == step:
                inner.setattr(os, "fsync", dying)
            ended = commit(self, **how)
            self.parts.record.join()  # its thread meets the power cut
        return ended

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        patch.setattr(Loop, "commit", committing)
        yield


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped at step 18; tests work on copies."""
    config = tiny.make(tmp_path_factory.mktemp("stopped"), *EDITS).path
    go(config, until=18)
    return config


@pytest.fixture(scope="module")
def pivoted(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, pivoted and not gone on yet; tests work on copies."""
    run = copied(stopped, tmp_path_factory.mktemp("pivoted"))
    return pivot(run.root.parents[1] / "tiny.toml", *NEW).root.parents[1] / "tiny.toml"


@pytest.fixture(scope="module")
def whole(pivoted: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The same run to its end, never interrupted; tests read it."""
    run = copied(pivoted, tmp_path_factory.mktemp("whole"))
    assert go(run.config)["exit"] == Exit.OK
    return run


def copied(config: Path, folder: Path) -> RunDir:
    shutil.copytree(config.parent, folder / "copy")
    return the_run(folder / "copy/tiny.toml")


def test_the_first_boundary_has_a_checkpoint_and_the_story_goes_on(whole: RunDir) -> None:
    steps = sorted(int(path.name[5:]) for path in whole.checkpoints.iterdir())
    assert steps == [18, 20, 40, 45]
    assert [row[0] for row in read_rows(whole.loss)] == list(range(1, 46))
    assert [row["step"] for row in read_rows(whole.samples)] == [20, 30, 40]
    told = [(event["event"], event["step"]) for event in whole.events()]
    assert [found for found in told if found[0] in ("pivot", "resume")] == [("pivot", 18), ("resume", 18)]


def test_the_goal_is_probed_at_the_first_step_and_the_phase_is_the_new_configs(whole: RunDir) -> None:
    pulls = {row["step"]: row["pulls"] for row in read_rows(whole.pulls)}
    assert all(len(pull) == 3 for pull in pulls[19]), "a pull without its cosine"
    gamma = the_state(whole.config.parent.parent.parent / "tiny.toml").payload["bandit"]["arms"]["gamma"][
        "id"
    ]
    assert [step for step in range(19, 26) for arm, *_ in pulls[step] if arm == gamma] == []
    assert any(arm == gamma for step in range(26, 46) for arm, *_ in pulls[step])


CUTS = [
    ("step", 27),
    *(("sync", cut) for cut in ((5, 9) if not os.environ.get("FIREHOSE_FAULTS") else range(1, 13))),
]


@pytest.mark.parametrize(("kind", "number"), CUTS)
def test_killed_round_its_first_boundary_it_ends_as_if_it_had_not_been(
    kind: str, number: int, pivoted: Path, whole: RunDir, tmp_path: Path
) -> None:
    run = copied(pivoted, tmp_path)
    with dying_at(number) if kind == "step" else dying_in_commit(20, number):
        go(run.config)
    assert go(run.config)["exit"] == Exit.OK
    assert rows(run) == rows(whole)
    for name in ("model.safetensors", "optimizer.safetensors"):
        own, other = (r.checkpoints / "step_45" / name for r in (run, whole))
        assert own.read_bytes() == other.read_bytes(), name


def test_every_pick_since_the_pivot_is_explained_and_found(whole: RunDir) -> None:
    found = verify(story.read(whole))
    assert [(m.step, m.what) for m in found.missing] == []
    assert found.found == found.picks == (45 - 18) * 2
    body = explain.explain(story.read(whole), 19)
    assert (body["first_step"], body["replayed_after"]) == (19, 18)
    assert {arm["name"]: arm["cap"] for arm in body["arms"]}["alpha"] == 0.4
    with pytest.raises(FirehoseError, match="19 to 45"):
        explain.explain(story.read(whole), 18)


def test_every_pick_since_a_rollback_is_found_too(pivoted: Path, tmp_path: Path) -> None:
    """It begins with what the bandit before the pivot knew, its untrained picks and a goal's gradient included."""
    run = copied(pivoted, tmp_path)
    go(run.config, until=24)
    _, plan = generations.rollback(run, None, keep_weights=False, now=0.0)
    assert plan is not None
    apply.apply(run, plan, polish.save(run, plan, None), yes=True, resume=False, say=lambda words: None)
    go(run.config)
    found = verify(story.read(run))
    assert ([(m.step, m.what) for m in found.missing], found.found) == ([], 27 * 2)


def test_a_goals_loss_measured_before_the_pivot_is_forgotten(tmp_path: Path) -> None:
    """Step 15 measured the old goal and is credited after the pivot."""
    config = tiny.make(tmp_path, *EDITS, ("goal_sources", 'reward = "heldout"\ngoal_sources')).path
    go(config, until=18)
    run = pivot(config, NEW[0])
    go(run.config, until=30)
    found = verify(story.read(run))
    assert ([(m.step, m.what) for m in found.missing], found.found) == ([], 12 * 2)


def test_a_stored_goal_of_another_config_is_not_taken_over(pivoted: Path, tmp_path: Path) -> None:
    run = copied(pivoted, tmp_path)
    with dying_at(23):
        go(run.config)
    goal = load_file(run.checkpoints / "step_20/optimizer.safetensors")[GOAL]
    length = float((goal**2).sum() ** 0.5)
    assert 0.05 < length <= 0.1, "one probe since the pivot, and nothing from before it"


def test_after_a_polish_the_runs_own_config_counts(pivoted: Path, tmp_path: Path) -> None:
    run = copied(pivoted, tmp_path)
    old = run.root.parents[1] / "tiny.toml"
    before = {
        path: path.read_bytes() for path in run.root.glob("*.*") if path.is_file() and path.suffix != ".log"
    }
    with pytest.raises(FirehoseError) as caught:
        go(old)
    assert caught.value.exit_code is Exit.REFUSED
    for key in ("curriculum.curriculum_warmup_steps", "curriculum.goal_sources", "sources.alpha.cap"):
        assert key in caught.value.message
    assert "changed by 0001-polish at step" in caught.value.message
    assert str(caught.value.next).startswith(f"firehose run {run.config} goes on")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("done", [3] if not os.environ.get("FIREHOSE_FAULTS") else range(6))
def test_a_polish_that_was_killed_is_finished_by_the_next_launch(
    done: int, stopped: Path, whole: RunDir, tmp_path: Path
) -> None:
    """Its journal is written, and the power goes before its operation `done` is."""
    run = copied(stopped, tmp_path)
    config = run.root.parents[1] / "tiny.toml"
    operate, calls = journal._operate, 0

    def dying(*rest: Any) -> None:
        nonlocal calls
        if calls == done:
            raise Power
        calls += 1
        operate(*rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        patch.setattr(journal, "_operate", dying)
        pivot(config, *NEW)
    assert run.journal.exists()
    with pytest.raises(FirehoseError, match=r"sources\.alpha\.cap"):
        go(config)  # what was begun is finished, and then the file of old is not the run's config
    assert not run.journal.exists()
    assert go(run.config)["exit"] == Exit.OK
    assert "finished what was begun and cut short: polish at step 18" in run.log.read_text()
    assert rows(run) == rows(whole)
