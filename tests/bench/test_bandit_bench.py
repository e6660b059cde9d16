"""The comparison with the peers: problems whose answers are known, one noise for all, delays, what is kept and shown."""

import doctest
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
sys.path.append(str(BENCH))  # last: its bandit.py has the name of the package

import bandit_play  # noqa: E402
import bandit_table  # noqa: E402
from bandit_problems import PROBLEMS, SEGMENTS, curves, segment_means  # noqa: E402


def command() -> ModuleType:
    """bench/bandit.py, loaded under a name of its own."""
    spec = importlib.util.spec_from_file_location("bench_bandit", BENCH / "bandit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SEGMENTS)
def test_best_arm_of_every_round_has_no_regret(name: str) -> None:
    world, means = PROBLEMS[name].world(seed=3), segment_means(name)
    assert means.shape == (PROBLEMS[name].horizon, PROBLEMS[name].arms)
    for round, arm in enumerate(means.argmax(axis=1)):
        world.pull(round, int(arm))
    assert world.regret == 0.0


def test_one_arm_for_ever_loses_its_gaps() -> None:
    # Garivier and Moulines' first arm is behind only while the third leads, by 0.4 in 2,000 rounds.
    world = PROBLEMS["GM"].world(seed=1)
    for round in range(10_000):
        world.pull(round, 0)
    assert world.regret == pytest.approx(800.0)


def test_greedy_play_is_the_optimum_of_curves_that_fall() -> None:
    problem = PROBLEMS["LP16"]
    world, means = problem.world(seed=1), curves(problem.arms, problem.horizon)
    pulls = np.zeros(problem.arms, dtype=int)
    for round in range(problem.horizon):
        arm = int(means[np.arange(problem.arms), pulls].argmax())
        pulls[arm] += 1
        assert 0.0 <= world.pull(round, arm) <= 1.0
    assert world.regret == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["GM", "LP16"])
def test_every_policy_meets_the_same_noise(name: str) -> None:
    one, same, other = (PROBLEMS[name].world(seed) for seed in (4, 4, 5))
    rewards = [one.pull(round, round % 3) for round in range(50)]
    for round in range(25):
        same.pull(round, (round + 1) % 3)
    # A round's reward depends on the arm's pulls so far where it decays, and else on the round and the arm alone.
    if name == "GM":
        assert [same.pull(round, round % 3) for round in range(25, 50)] == rewards[25:]
    assert [other.pull(round, round % 3) for round in range(50)] != rewards


class Recorder:
    """A policy that notes what it was told, and when."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def choose(self) -> int:
        self.events.append("pick")
        return 0

    def credit(self, arm: int, reward: float) -> None:
        self.events.append("credit")


@pytest.mark.parametrize("delay", [0, 8])
def test_a_reward_comes_after_the_pick_that_many_rounds_later(delay: int) -> None:
    recorder = Recorder()
    row = bandit_play.Row("recorder", lambda problem, delay, seed: recorder)
    bandit_play.play(PROBLEMS["GM"], delay, 0, row)
    assert recorder.events[: delay + 4] == ["pick"] * (delay + 1) + ["credit", "pick", "credit"]


def test_ours_knows_a_reward_when_a_peer_would() -> None:
    from bandit_ours import OurPolicy, plain

    for delay in (0, 8):
        policy = OurPolicy(plain(3), "focus-ucb", delay, seed=1)
        picked = [policy.choose() for _ in range(delay + 1)]
        assert sum(view.mean_reward != 0.5 for view in policy.scheduler.views(1)) == 0
        policy.credit(picked[0], 1.0)
        policy.choose()
        counted = [view.mean_reward for view in policy.scheduler.views(delay + 2)]
        assert counted.count(1.0) == 1


def test_results_of_a_library_can_be_forgotten_and_replaced(tmp_path: Path) -> None:
    results = command().Results(tmp_path / "results.jsonl")
    run = {"kind": "regret", "version": "1", "row": "ucb", "problem": "GM", "delay": 0}
    results.add(**run, library="ours", seed=0, regret=5.0)
    results.add(**run, library="theirs", seed=0, regret=7.0)
    results.add(kind="forget", what="regret", library="ours")
    results.add(**run, library="ours", seed=0, regret=4.0)
    results.add(**run, library="ours", seed=0, regret=3.0)
    assert [(line["library"], line["regret"]) for line in results.lines()] == [("theirs", 7.0), ("ours", 3.0)]


def test_rows_in_grey_and_dear_rows_have_no_rank() -> None:
    common = {
        "kind": "regret",
        "library": "x",
        "version": "1",
        "problem": "GM",
        "delay": 0,
        "seed": 0,
        "numpy": "2",
    }
    lines = [
        common | {"row": "slow", "told": False, "regret": 1.0, "us": 101.0},
        common | {"row": "told", "told": True, "regret": 2.0, "us": 5.0},
        common | {"row": "worse", "told": False, "regret": 4.0, "us": 5.0},
        common | {"row": "better", "told": False, "regret": 3.0, "us": 5.0},
    ]
    text = bandit_table.regret_table(lines, ranked_us=100.0)
    ranks = [row.split("|")[1:3] for row in text.splitlines()[2:6]]
    assert [[cell.strip() for cell in row] for row in ranks] == [
        ["x better", "1.0"],
        ["x worse", "2.0"],
        ["x slow", "-"],
        ["*x told*", "-"],
    ]


def test_examples_of_the_tables() -> None:
    outcome = doctest.testmod(bandit_table)
    assert outcome.attempted > 3
    assert outcome.failed == 0


def test_scripts_beside_it_still_find_the_package_whose_name_it_hides() -> None:
    code = f"import sys; sys.path.insert(0, {str(BENCH)!r}); from bandit.scheduler import Scheduler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
