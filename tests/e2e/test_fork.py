"""An audit fork: the parent's weights, place and rows, a bandit of its own; made whole or not at all, again the same."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from curriculum.errors import Exit, FirehoseError
from state import explain, story
from state.polish import fork
from state.rows import read_rows
from state.run_dir import RunDir, list_runs
from state.store import StateStore
from state.verify import verify
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run
from trainer import cli
from trainer.align import GOAL

EDITS = (
    *tiny.QUICK,
    ("[curriculum]\n", "[curriculum]\ndwell = [2, 6]\n"),
    ("[train]\n", "[train]\nkeep_checkpoints = 9\n"),
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run of 60 steps, with checkpoints at 20 and 40; tests fork it into folders of their own."""
    config = tiny.make(tmp_path_factory.mktemp("parent"), *EDITS).path
    assert go(config)["exit"] == Exit.OK
    return config


def forked(parent: Path, runs: Path, name: str, *more: str, config: Path | None = None) -> RunDir:
    where = [str(the_run(parent).checkpoints / "step_40")]
    words = [
        "run",
        *([str(config)] if config else []),
        "--from",
        *where,
        "--name",
        name,
        "--runs-dir",
        str(runs),
    ]
    done = CliRunner().invoke(cli.app, [*words, *more])
    assert done.exit_code in (Exit.OK, Exit.STOPPED), done.output
    return RunDir(runs / name)


def contents(run: RunDir) -> dict[str, bytes]:
    """Everything of a run that must be the same in two forks."""
    found = {
        kind: (run.root / f"{run.name}.{kind}.json").read_bytes()
        for kind in ("loss", "pulls", "samples", "heldout")
    }
    for path in run.checkpoints.glob("step_*/*.safetensors"):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    return found


def rows_from(run: RunDir, first: int) -> list[Any]:
    return [row for row in read_rows(run.pulls) if row["step"] >= first]


def test_two_forks_are_the_same_run_and_differ_from_the_parent_by_the_bandit_alone(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in the_run(parent).root.rglob("*")}
    one, two = (forked(parent, tmp_path, name) for name in ("one", "two"))
    assert contents(one) == contents(two)
    assert {path: path.stat().st_mtime_ns for path in the_run(parent).root.rglob("*")} == before

    old, new = the_run(parent), one
    assert [row[0] for row in read_rows(new.loss)] == list(range(1, 61))
    assert read_rows(new.loss)[:40] == read_rows(old.loss)[:40]
    assert read_rows(new.loss)[41:] != read_rows(old.loss)[41:]
    assert [row["lr"] for row in read_rows(new.pulls)] == [row["lr"] for row in read_rows(old.pulls)]
    assert [row["step"] for row in read_rows(new.samples)] == [50, 60]
    assert [row["step"] for row in read_rows(new.root / "one.heldout.json")] == [20, 40, 60]
    first, last = StateStore(new.state).versions()[0], StateStore(new.state).read()[0]
    assert last is not None and last.parent is not None
    copy = json.loads((old.checkpoints / "step_40/checkpoint.json").read_text())["state"]
    assert (last.parent.lineage, last.parent.serial, last.parent.step) == (
        copy["lineage"],
        copy["serial"],
        40,
    )
    assert last.lineage != copy["lineage"] and first[0] == 1
    assert [e["event"] for e in new.events()][:2] == ["fork", "resume"]
    goals = [
        load_file(run.checkpoints / f"step_{step}/optimizer.safetensors")[GOAL]
        for run, step in ((old, 40), (new, 50))
    ]
    assert (goals[0] != goals[1]).any()


def test_a_fork_goes_on_where_the_parent_would_read_and_remembers_nothing(
    parent: Path, tmp_path: Path
) -> None:
    found = fork.plan(str(the_run(parent).checkpoints / "step_40"), None, "other", tmp_path)
    old = fork.find(str(the_run(parent).checkpoints / "step_40"), tmp_path)[1].payload["bandit"]
    untrained = [ticket for ticket in old["tickets"] if ticket["step"] > 40]
    records = found.new.scheduler.snapshot()["arms"]
    assert untrained
    for name, record in records.items():
        own = [ticket["window"] for ticket in untrained if ticket["arm"] == record["id"]]
        assert record["cursor"] == min([old["arms"][name]["cursor"], *own])
        assert record["pulls"] == old["arms"][name]["pulls"] - len(own)
        assert record["reward_sum"] == record["weight_sum"] == record["served"] == 0
    assert found.new.scheduler.open_tickets() == []


def test_a_fork_needs_its_parent_no_more_and_is_explained_from_its_first_step(
    parent: Path, tmp_path: Path
) -> None:
    shutil.copytree(parent.parent, tmp_path / "copy")
    copy = tmp_path / "copy/tiny.toml"
    config = tmp_path / "copy/other.toml"
    config.write_text(
        copy.read_text().replace("cap = 0.8", "cap = 0.1").replace("[data]", '[data]\ndir = "data/tiny"')
    )
    run = forked(copy, tmp_path, "other", "--until", "50", config=config)
    shutil.rmtree(copy.parent / "runs")
    assert go(run.config)["exit"] == Exit.OK
    told = story.read(run)
    found = verify(told)
    assert [(m.step, m.what) for m in found.missing] == []
    assert (found.found, found.picks, told.began) == (40, 40, 40)
    for step in (41, 44, 60):
        body = explain.explain(story.read(run), step)
        assert {arm["name"]: arm["cap"] for arm in body["arms"]}["alpha"] == 0.1
    with pytest.raises(FirehoseError, match="not among the steps of this run's files, 41 to 60"):
        explain.explain(story.read(run), 40)
    told.origin = None
    assert verify(told).missing, "without the state it began with, the first steps cannot be found"


@pytest.mark.parametrize(
    ("edit", "keys"),
    [
        (("lr = 3e-3", "lr = 1e-3"), "train.lr"),
        (("seed = 3", "seed = 4"), "seed"),
        (("micro_batch = 2", "micro_batch = 4"), "train.micro_batch"),
        (("width = 32", "width = 64"), "model.width"),
    ],
)
def test_what_a_run_keeps_for_life_a_fork_keeps_too(
    parent: Path, tmp_path: Path, edit: tuple[str, str], keys: str
) -> None:
    config = parent.with_name("other.toml")
    config.write_text(parent.read_text().replace(*edit).replace("[data]", '[data]\ndir = "data/tiny"'))
    with pytest.raises(FirehoseError, match=f"keeps these of its parent: {keys}") as caught:
        fork.plan(str(the_run(parent).root), config, "other", tmp_path)
    assert caught.value.exit_code is Exit.REFUSED
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_makes_nothing_and_a_name_is_needed(parent: Path, tmp_path: Path) -> None:
    where = str(the_run(parent).checkpoints / "step_20")
    words = ["run", "--from", where, "--runs-dir", str(tmp_path)]
    done = CliRunner().invoke(cli.app, [*words, "--name", "other", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert (body["parent"]["step"], body["run"], body["changes"]) == (20, "other", [])
    done = CliRunner().invoke(cli.app, [*words, "--name", "other", "--dry-run"])
    assert "fork of tiny at step 20; changed: nothing" in done.stdout
    assert list(tmp_path.iterdir()) == []
    for wrong in (words, ["run", "--runs-dir", str(tmp_path)], [*words, "--name", "../x"]):
        assert CliRunner().invoke(cli.app, wrong).exit_code == Exit.USAGE


EVERY = 1 if os.environ.get("FIREHOSE_FAULTS") else 6


class Power(SystemExit):
    """The power goes."""


def test_a_fork_is_there_whole_or_not_at_all(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at a sync, each in the full form, as by a kill: nothing clears up behind it but the next fork."""
    found = fork.plan(str(the_run(parent).checkpoints / "step_40"), None, "other", tmp_path)
    sync, rmtree, cut, whole = os.fsync, shutil.rmtree, 1, False
    while not whole:
        cut, calls = cut + EVERY, 0

        def dying(descriptor: int, cut: int = cut) -> None:
            nonlocal calls
            calls += 1
            if calls == cut:
                raise Power
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", dying)
        monkeypatch.setattr(shutil, "rmtree", lambda *rest, **more: None)
        with contextlib.suppress(Power):
            fork.build(found)
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        whole = found.run.root.exists()
        assert [run.name for run in list_runs(tmp_path)] == (["other"] if whole else [])
        if cut == 1 + EVERY:
            assert list(tmp_path.glob(".fork-*"))
    assert cut > 10
    fork.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert StateStore(found.run.state).read()[0].step == 40  # type: ignore[union-attr]
