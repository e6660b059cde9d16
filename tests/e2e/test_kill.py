"""A run cut by SIGKILL anywhere and resumed ends with the same files and weights as one that was never cut."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from state.rows import read_rows
from state.store import StateStore
from tests.fixtures import tiny

ROOT = Path(__file__).parents[2]
SAME = ("loss.json", "pulls.json", "samples.json", "heldout.json")


def run(config: Path, runs: Path, name: str, cuts: list[str]) -> list[int]:
    """Exit status of each attempt; the last is the one that was left alone."""
    command = [sys.executable, "-m", "tests.e2e.cut", str(config), str(runs), name, *cuts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and run folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("kill")
    config = tiny.make(folder).path
    assert run(config, folder / "runs", "straight", []) == [0]
    return config, folder / "runs"


def compare(runs: Path, name: str) -> None:
    for suffix in SAME:
        ours, theirs = runs / name / f"{name}.{suffix}", runs / "straight" / f"straight.{suffix}"
        assert ours.read_bytes() == theirs.read_bytes(), suffix
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(runs / n / "checkpoints/step_60" / file) for n in (name, "straight"))
        assert ours.keys() == theirs.keys()
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours), file
    states = [StateStore(runs / n / f"{n}.state.json").read()[0] for n in (name, "straight")]
    for part in ("bandit", "reward", "gate", "loop", "files"):
        one, other = (state.payload[part] for state in states if state)
        assert one == other, part


def test_the_straight_run_is_worth_comparing(straight: tuple[Path, Path]) -> None:
    rows = read_rows(straight[1] / "straight/straight.loss.json")
    assert [row[0] for row in rows] == list(range(1, 61))
    assert rows[-1][1] < rows[0][1] - 1
    assert len(read_rows(straight[1] / "straight/straight.samples.json")) == 6


def test_five_random_kills(straight: tuple[Path, Path]) -> None:
    config, runs = straight
    cuts = [f"step:{step}" for step in sorted(random.Random(20).sample(range(5, 60), 5))]
    assert run(config, runs, "cut", cuts) == [-9] * 5 + [0]
    compare(runs, "cut")


def test_killed_inside_commits(straight: tuple[Path, Path]) -> None:
    """At fsyncs of a launch and of its first commits: rows, checkpoint files, state, folders."""
    config, runs = straight
    cuts = [f"sync:{number}" for number in range(2, 36, 6)]
    statuses = run(config, runs, "commits", cuts)
    assert statuses == [-9] * len(cuts) + [0]
    compare(runs, "commits")
