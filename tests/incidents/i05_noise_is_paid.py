"""I05: the reward was the fall of a source's loss under its average, which noise brings about as well as learning (002 F5)."""

import random
from dataclasses import replace

import numpy as np
import pytest

from bandit.arms import ArmSpec, new_id
from bandit.ledger import Ticket
from bandit.reward import REWARDS
from bandit.scheduler import Scheduler
from bandit.settings import SchedulerConfig
from bandit.simulation.simulate import Plan, simulate
from bandit.simulation.world import World
from curriculum.gate.coherence import score
from curriculum.gate.rule import shortfall
from tests.fixtures.language import spoken
from tests.incidents.switch import caught, incident

GOOD = ("hermes3-general", "gutenberg", "chat", "oasst", "dolly")
LISTS = "repo-docs"  # its loss is low and noisy, and it teaches nothing
STEPS = 800
SAMPLE_EVERY = 20


def the_original_reward(patch: pytest.MonkeyPatch) -> None:
    for name in ("align", "progress"):
        patch.setitem(REWARDS, name, REWARDS["improvement"])


def no_penalties(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "penalize", lambda self, step, short: {})


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


class Sampled(Scheduler):
    """A scheduler that is told what the samples score: the model writes lists by as much as it was fed of them since the last."""

    def pick(self, step: int) -> Ticket:
        ticket = super().pick(step)
        self.fed = [*getattr(self, "fed", ()), self.arms.names[ticket.arm]]
        if len(self.fed) == SAMPLE_EVERY * self.config.grad_accum:
            items = round(60 * self.fed.count(LISTS) / len(self.fed))
            sense = " ".join(spoken(random.Random(step), 60 - items))
            self.penalize(step, shortfall(score("\n".join(["- region"] * items + [sense])).total, 60.0))
            self.fed = []
        return ticket


@incident(off=no_penalties)
def test_what_the_samples_cost_turns_an_argmax_away(monkeypatch: pytest.MonkeyPatch) -> str:
    """Under the reward that pays for noise, and no halt."""
    asked = plan("improvement")
    asked = replace(asked, settings=replace(asked.settings, policy="ucb"))
    alone = simulate(asked)
    assert alone.share[-1] > 0.8, "an argmax feeds next to nothing else"
    monkeypatch.setattr("bandit.simulation.simulate.Scheduler", Sampled)
    ours = simulate(asked)
    caught(ours.share[-1] < 0.1, f"{ours.share[-1]:.1%} of the pulls")
    assert ours.goal_loss[1] < alone.goal_loss[1] - 0.5
    return f"with `improvement` under an argmax {ours.share[-1]:.1%} with the gate's penalties, {alone.share[-1]:.0%} without"


def test_a_mixture_makes_all_pay_alike_and_hardly_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the reward must not pay for noise in the first place."""
    alone = simulate(plan("improvement"))
    monkeypatch.setattr("bandit.simulation.simulate.Scheduler", Sampled)
    assert simulate(plan("improvement")).share[-1] == pytest.approx(alone.share[-1], abs=0.02)
