"""I05: the reward was the fall of a source's loss under its average, which noise brings about as well as learning (002 F5)."""

import numpy as np
import pytest

from bandit.arms import ArmSpec, new_id
from bandit.reward import REWARDS
from bandit.settings import SchedulerConfig
from bandit.simulation.simulate import Plan, simulate
from bandit.simulation.world import World
from tests.incidents.switch import caught, incident

GOOD = ("hermes3-general", "gutenberg", "chat", "oasst", "dolly")
LISTS = "repo-docs"  # its loss is low and noisy, and it teaches nothing
STEPS = 800


def the_original_reward(patch: pytest.MonkeyPatch) -> None:
    for name in ("align", "progress"):
        patch.setitem(REWARDS, name, REWARDS["improvement"])


def plan(reward: str) -> Plan:
    names = (*GOOD, LISTS)
    arms = [ArmSpec(name, new_id(name, ()), windows=20_000) for name in names]
    teaches = np.array([name != LISTS for name in names])
    world = World(
        windows=np.full(len(names), 20_000),
        floor=np.where(teaches, 2.0, 1.5),
        amplitude=4.0 * teaches,
        exponent=np.full(len(names), 0.3),
        scale=np.full(len(names), 600.0),
        noise=np.where(teaches, 0.15, 0.6),
        transfer=np.eye(len(names)),
        goal=teaches / teaches.sum(),
    )
    settings = SchedulerConfig(seed=1, grad_accum=4, windows_per_pull=2, delay=8)
    ids = [spec.id for spec in arms]
    return Plan(settings, arms, [(1, ids)], world, STEPS, reward, probe_every=40, seed=1)


@pytest.mark.parametrize("reward", ["align", "progress"])
@incident(off=the_original_reward)
def test_lists_that_teach_nothing_are_not_fed(reward: str) -> str:
    original, ours = simulate(plan("improvement")), simulate(plan(reward))
    even = 1 / len(original.share)
    assert original.share[-1] > 1.5 * even, "the reward that pays for noise feeds them"
    caught(ours.share[-1] < 0.3 * even, f"{ours.share[-1]:.1%} of the pulls")
    assert ours.goal_loss[1] < original.goal_loss[1]
    return f"{ours.share[-1]:.1%} with `{reward}`"
