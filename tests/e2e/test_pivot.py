"""The published pivot on a small run: fifteen sources, v3 base to v3 polish, live and from the command line, and cut."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from curriculum import config as configs
from curriculum.errors import Exit
from curriculum.sources import open_corpus
from state import journal
from state.polish import apply, generations, outlook, polish
from state.repair.check import check
from state.rows import read_rows
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import v3
from tests.fixtures.runs import go
from tests.state.test_pivot import Cut, stop_at

ROOT = Path(__file__).parents[2]
NAME = "andrea-120m"
LAST = 500  # steps of the run that is polished as it runs: more than it trains while two commands are typed
ROWS = ("loss", "pulls", "samples", "heldout")


def firehose(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trainer", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def wait_for(condition: Any, seconds: float = 600.0) -> None:
    """Wait for something that a process of its own does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_commands_take_a_living_run_from_base_to_polish(tmp_path: Path) -> None:
    config = v3.make(tmp_path, steps=LAST)
    run = RunDir(tmp_path / "runs" / NAME)
    begun = firehose(tmp_path, "run", v3.BASE, "--detach")
    assert begun.returncode == 0, begun.stderr
    wait_for(lambda: (run.read_live() or {}).get("step", 0) >= v3.WARMUP + 11)

    planned = firehose(tmp_path, "polish", "plan", "--config", v3.POLISH, "-o", "p.json", "--exit-code")
    assert planned.returncode == Exit.FINDINGS, planned.stderr
    assert planned.stdout.endswith(
        "Plan: 14 to change, 0 to add, 1 to disable, 1 other key.\n"
        "Saved: p.json\nApply: firehose polish apply p.json --confirm repo-docs\n"
    )
    done = firehose(tmp_path, "polish", "apply", "p.json", "--confirm", "repo-docs")
    assert done.returncode == 0, done.stderr
    phases = (
        *("requested: a stop", "signalled", "boundary reached", "durable; archiving"),
        *("new state committed", "resumed: pid"),
    )
    at = [done.stderr.index(phase) for phase in phases]
    assert at == sorted(at)
    wait_for(lambda: run.condition(time.time()).state == "finished")

    (pivot,) = [event for event in run.events() if event["event"] == "pivot"]
    step = pivot["step"]
    assert step % 10 == 0 and v3.WARMUP < step < LAST
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, LAST + 1))
    before = run.archive / "0001-polish/before" / run.samples.name
    sampled = [row["step"] for file in (before, run.samples) for row in read_rows(file)]
    assert sampled == list(range(10, LAST + 1, 10))
    assert {row["step"] for row in read_rows(run.samples)} == set(range(step + 10, LAST + 1, 10))

    state, _ = StateStore(run.state).read()
    assert state is not None and state.parent is not None
    assert (state.parent.step, state.parent.lineage) == (step, pivot["parent"]["lineage"])
    records = state.payload["bandit"]["arms"]
    ids = {record["id"]: name for name, record in records.items()}
    zombie = state.payload["pruned"]["repo-docs"]["record"]["id"]
    ids[zombie] = "repo-docs"
    pulls = {row["step"]: [ids[arm] for arm, *_ in row["pulls"]] for row in read_rows(run.pulls)}
    old = [name for at in range(1, step + 1) for name in pulls[at]]
    new = [name for at in range(step + 1, LAST + 1) for name in pulls[at]]
    assert "repo-docs" not in new
    for name, record in records.items():  # every window in turn, over the pivot too
        assert record["cursor"] == config.train.micro_batch * (old + new).count(name), name
        assert record["pulls"] == (old + new).count(name), name
    taken = configs.load(run.config)
    bounds = outlook.intervals(taken, open_corpus(taken), {n: r["id"] for n, r in records.items()}, step)
    assert set(bounds) == set(records)
    for name, (low, high) in bounds.items():
        slack = 2 / len(new)  # a share is a whole number of pulls
        assert low - slack <= new.count(name) / len(new) <= high + slack, name

    again = firehose(tmp_path, "polish", "apply", "p.json", "--yes", "--json")
    assert again.returncode == Exit.STALE_PLAN
    assert "applied already" in json.loads(again.stdout)["error"]["message"]


# Cuts: the same pivot on a stopped run, in this process.

STEPS, STOP = 40, 20


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the base that stopped at step 20, and a plan."""
    folder = tmp_path_factory.mktemp("stopped")
    config = v3.make(folder, steps=STEPS)
    assert go(config.path, until=STOP)["exit"] == Exit.STOPPED
    run, file = RunDir(folder / "runs" / NAME), folder / v3.POLISH
    _, plan = outlook.prepare(run, file.read_text(), file, file, live=False, now=time.time())
    assert plan is not None
    polish.save(run, plan, None)
    return folder


def copied(stopped: Path, to: Path) -> RunDir:
    shutil.copytree(stopped, to)
    return RunDir(to / "runs" / NAME)


def pivot(run: RunDir) -> None:
    path = polish.plans(run)[-1]
    apply.apply(run, polish.load(path), path, yes=True, resume=False, say=lambda words: None)


def finish(run: RunDir) -> None:
    go(run.config)


def compare(run: RunDir, other: RunDir) -> None:
    """Rows, weights and what the bandit knows are the same, bit for bit."""
    for name in ROWS:
        ours, theirs = (r.root / f"{NAME}.{name}.json" for r in (run, other))
        assert ours.read_bytes() == theirs.read_bytes(), name
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, two = (load_file(r.checkpoints / f"step_{STEPS}" / file) for r in (run, other))
        assert all(one[key].tobytes() == two[key].tobytes() for key in one), file
    states = [StateStore(r.state).read()[0] for r in (run, other)]
    for part in ("bandit", "reward", "gate", "loop", "files"):
        one, two = (state.payload[part] for state in states if state)
        assert one == two, part


@pytest.fixture(scope="module")
def uncut(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = copied(stopped, tmp_path_factory.mktemp("uncut") / "copy")
    pivot(run)
    assert check(run) == []
    finish(run)
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, STEPS + 1))
    return run


@pytest.mark.parametrize(
    ("name", "number", "again"),
    [("_operate", 1, "apply"), ("_operate", 4, "launch"), ("_operate", 7, "launch"), ("_do", 1, "launch")],
)
def test_a_pivot_cut_and_finished_by_whoever_comes_next_is_the_same(
    stopped: Path, uncut: RunDir, tmp_path: Path, name: str, number: int, again: str
) -> None:
    run = copied(stopped, tmp_path / "copy")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, journal, name, number, after=False)
        with pytest.raises(Cut):
            pivot(run)
    if again == "apply":
        pivot(run)
    finish(run)
    compare(run, uncut)


def test_after_a_rollback_the_run_is_as_if_it_had_never_pivoted(
    stopped: Path, uncut: RunDir, tmp_path: Path
) -> None:
    straight = copied(stopped, tmp_path / "straight")
    finish(straight)
    run = copied(stopped, tmp_path / "copy")
    pivot(run)
    go(run.config, until=STOP + 10)
    _, plan = generations.rollback(run, None, keep_weights=False, now=time.time())
    assert plan is not None
    polish.save(run, plan, None)
    pivot(run)
    finish(run)
    assert check(run) == []
    compare(run, straight)
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, STEPS + 1))
    with pytest.raises(AssertionError):
        compare(run, uncut)
