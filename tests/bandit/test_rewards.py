"""One contract for every reward; quantile scaling; and what each reward pays for, through the real scheduler."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.arms import ArmSpec
from bandit.errors import NonFiniteLoss, SnapshotMismatch, UnknownArm
from bandit.ledger import Ticket
from bandit.reward import REWARDS, Reward
from bandit.reward.scaled import AlignReward, HeldoutReward, ImprovementReward, LossReward
from bandit.reward.scaling import LEAST, WINDOW, QuantileScaler
from bandit.scheduler import Scheduler, SchedulerConfig

NAMES = sorted(REWARDS)
SCALED = sorted(set(NAMES) - {"progress"})


def feed(reward: Reward[Any], pulls: int, seed: int, arms: int = 4) -> list[float]:
    """Rewards of random pulls, with signals and probes where the reward needs them."""
    rng = np.random.default_rng(seed)
    out = []
    for pull in range(pulls):
        if reward.needs == "goal" and pull % 10 == 0:
            reward.probe(float(rng.random()))
        signal = float(rng.uniform(-1, 1)) if reward.needs == "cosine" and pull % 7 else None
        out.append(reward.update(int(rng.integers(arms)), float(rng.normal(3, 1)), signal))
    return out


@pytest.mark.parametrize("name", NAMES)
def test_rewards_are_in_range_and_a_restart_is_exact(name: str) -> None:
    reward = REWARDS[name](range(4))
    first = feed(reward, 400, seed=1)
    assert all(0.0 <= value <= 1.0 for value in first) and len(set(first)) > 20
    loaded = REWARDS[name].restore(range(5), json.loads(json.dumps(reward.snapshot(), allow_nan=False)))
    assert loaded.loss_ema(4) is None and loaded.loss_ema(3) == reward.loss_ema(3)
    assert feed(loaded, 400, seed=2) == feed(reward, 400, seed=2)
    fewer = REWARDS[name].restore([0, 2], reward.snapshot())
    assert {"0", "2"} <= fewer.snapshot().keys() and not {"1", "3"} & fewer.snapshot().keys()
    assert fewer.loss_ema(2) == reward.loss_ema(2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_what_is_no_number_names_the_arm_and_changes_nothing(name: str, bad: float) -> None:
    reward = REWARDS[name]([1, 2], {1: "books", 2: "code"})
    for _ in range(20):
        reward.update(2, 3.0, 0.5)
    before = copy.deepcopy(reward.snapshot())
    for loss, signal in ((bad, 0.5), (3.0, bad)):
        with pytest.raises(NonFiniteLoss, match="code") as caught:
            reward.update(2, loss, signal)
        assert caught.value.arm == "code"
    with pytest.raises(UnknownArm, match="3"):
        reward.update(3, 1.0)
    if reward.needs == "goal":
        with pytest.raises(NonFiniteLoss, match="goal"):
            reward.probe(bad)
    assert reward.snapshot() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("losses", [[2.0], [5.5], [10.8], [0.0], [1e30], [2.0, 5.5, 10.8, 0.0, 1e30]])
def test_20000_updates_leave_only_finite_numbers(name: str, losses: list[float]) -> None:
    reward = REWARDS[name](range(3))
    for pull in range(20_000):
        loss = losses[pull % len(losses)]
        if reward.needs == "goal" and pull % 40 == 0:
            reward.probe(loss)
        got = reward.update(pull % 3, loss, loss / 1e30 if reward.needs == "cosine" else None)
        if pull % 100 == 0 or not 0.0 <= got <= 1.0:
            assert 0.0 <= got <= 1.0
    json.dumps(reward.snapshot(), allow_nan=False)
    assert all(math.isfinite(reward.loss_ema(arm) or 0.0) for arm in range(3))
    assert len(json.dumps(reward.snapshot())) < 10_000, "memory is bounded"


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("recent", [None, [math.nan], ["x"], [0.0] * (WINDOW + 1)])
def test_a_broken_window_is_named(name: str, recent: object) -> None:
    snapshot = REWARDS[name]([1]).snapshot()
    snapshot["shared"]["recent"] = recent
    with pytest.raises(SnapshotMismatch, match=r"reward\.shared\.recent"):
        REWARDS[name].restore([1], snapshot)


# Scaling.


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(-40, 40))
@settings(max_examples=12, deadline=None)
def test_scaling_is_by_the_quantiles_of_the_window_and_free_of_units(
    seed: int, digits: int, power: int
) -> None:
    scaler, scaled = QuantileScaler(), QuantileScaler()
    rng = np.random.default_rng(seed)
    values = np.round(
        rng.normal(np.repeat(rng.normal(0, 3, 5), 90)), digits
    ).tolist()  # with ties, and drifting
    for at, value in enumerate(values):
        got = scaler.scale(value)
        assert scaled.scale(value * 2.0**power) == got
        window = values[max(0, at + 1 - WINDOW) : at + 1]
        low, high = np.quantile(window, [0.1, 0.9])
        if len(window) < LEAST or high - low < 1e-9:
            assert 0.0 <= got <= 1.0
        else:
            assert got == pytest.approx(min(1.0, max(0.0, (value - low) / (high - low))), abs=1e-9)


def test_few_or_equal_values_are_a_half() -> None:
    scaler = QuantileScaler()
    assert [scaler.scale(float(value)) for value in range(LEAST - 1)] == [0.5] * (LEAST - 1)
    assert scaler.scale(100.0) == 1.0
    same = QuantileScaler()
    assert {same.scale(3.0) for _ in range(300)} == {0.5}


# What each pays for, through the real scheduler.


def shares(
    reward: Reward[Any],
    steps: int,
    seed: int,
    outcome: Callable[[Ticket], tuple[float, float | None]],
    *,
    arms: int,
    probe: Callable[[int], float | None] = lambda step: None,
) -> np.ndarray:
    """Arm of every pull, 2 a step, credited 4 steps later with the reward of outcome(ticket) = (loss, signal)."""
    config = SchedulerConfig(seed=seed, grad_accum=2, windows_per_pull=1, delay=4)
    specs = [ArmSpec(f"arm-{arm}", arm, windows=10**9) for arm in range(arms)]
    scheduler = Scheduler(config, specs)
    opened: dict[int, list[Ticket]] = {}
    picked = []
    for step in range(1, steps + 1):
        goal = probe(step)
        if goal is not None:
            reward.probe(goal)
        for ticket in opened.pop(step - 4, ()):
            scheduler.credit(ticket.id, reward.update(ticket.arm, *outcome(ticket)))
        opened[step] = [scheduler.pick(step) for _ in range(2)]
        picked += [ticket.arm for ticket in opened[step]]
    return np.array(picked)


def learning_world(seed: int, arms: int) -> Callable[[Ticket], tuple[float, float | None]]:
    """Arms 0 to 3 learn, arm 4 has five times the noise of the others, the rest are quiet; 4 and up are stationary."""
    rng = np.random.default_rng(seed)
    pulls = np.zeros(arms)

    def outcome(ticket: Ticket) -> tuple[float, float | None]:
        pulls[ticket.arm] += 1
        level = 2.0 + (1 + pulls[ticket.arm] / 40) ** -0.5 if ticket.arm < 4 else 3.0
        return level + (1.0 if ticket.arm == 4 else 0.2) * float(rng.standard_normal()), None

    return outcome


def learning_shares(name: str, steps: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of 12 arms by run: of the first 1,500 picks, and of all."""
    picked = [
        shares(REWARDS[name](range(12)), steps, seed, learning_world(seed, 12), arms=12)
        for seed in range(runs)
    ]
    counts = [[np.bincount(arms, minlength=12) / len(arms) for arms in (run[:1500], run)] for run in picked]
    both = np.array(counts)
    return both[:, 0], both[:, 1]


def test_progress_pays_for_learning_and_not_for_noise() -> None:
    runs = 4
    early, whole = learning_shares("progress", 6000, runs)
    assert early[:, :4].mean() * 12 > 1.4
    difference = whole[:, 4] - whole[:, 5:].mean(axis=1)
    assert abs(difference.mean()) < 3 * difference.std(ddof=1) / math.sqrt(runs)
    quiet = whole[:, 5:]
    assert (quiet.std(axis=1) / quiet.mean(axis=1)).mean() <= 0.2


def test_improvement_pays_for_noise() -> None:
    _, whole = learning_shares("improvement", 1500, 3)
    assert (whole[:, 4] > 1.25 * whole[:, 5:].max(axis=1)).all()
    assert (whole[:, 4] > 1.7 * whole[:, 5:].mean(axis=1)).all()
    assert (whole[:, 4] >= whole[:, :4].max(axis=1)).all(), "more than any arm that learns"


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("power", [-13, 9])
def test_a_power_of_two_scale_of_the_raw_rewards_changes_no_pick(name: str, power: int) -> None:
    def run(scale: float) -> np.ndarray:
        rng = np.random.default_rng(5)

        def outcome(ticket: Ticket) -> tuple[float, float | None]:
            raw = scale * (1 + 0.1 * ticket.arm * (1 + float(rng.standard_normal())))
            return raw, raw if name == "align" else None

        def goal(step: int) -> float | None:
            return scale * (5 - step / 500 + 0.1 * math.sin(step)) if step % 20 == 0 else None

        return shares(REWARDS[name](range(6)), 600, 3, outcome, arms=6, probe=goal)

    plain = run(1.0)
    assert (run(2.0**power) == plain).all()
    assert np.ptp(np.bincount(plain[100:])) > 50, "the rewards do reach the picks"


def test_loss_rewards_the_hardest_and_align_the_agreeing() -> None:
    hard, agreeing = LossReward(range(4)), AlignReward(range(4))
    rng = np.random.default_rng(8)
    means = np.zeros((2, 4))
    for pull in range(400):
        arm = pull % 4
        noise = 0.05 * float(rng.standard_normal())
        means[0, arm] += hard.update(arm, 2.0 + 0.2 * arm + noise) / 100
        means[1, arm] += agreeing.update(arm, 2.0 + 0.2 * arm, 0.3 - 0.2 * arm + noise) / 100
    assert (np.diff(means[0]) > 0.1).all() and (np.diff(means[1]) < -0.1).all()
    assert AlignReward([0]).update(0, 3.0) == 0.5, "no signal came home"


def test_improvement_by_hand() -> None:
    reward = ImprovementReward([0])
    average, weight, raws = 0.0, 0.0, []
    for loss in np.random.default_rng(9).normal(3, 1, 60):
        raws.append(max(0.0, average / weight - loss) if weight else 0.0)
        average, weight = 0.9 * average + 0.1 * loss, 0.9 * weight + 0.1
        got = reward.update(0, loss)
    low, high = np.quantile(raws, [0.1, 0.9])
    assert got == pytest.approx(min(1.0, max(0.0, (raws[-1] - low) / (high - low))))


def test_heldout_puts_a_drop_down_to_the_arms_that_were_pulled() -> None:
    """Each pull of arm 0 lowers the goal by 0.01, of arm 1 raises it by 0.01; arm 2 does nothing."""
    rng = np.random.default_rng(10)
    reward, goal = HeldoutReward(range(3)), 0.0
    assert reward.update(0, 3.0) == 0.5
    means: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for probe in range(200):
        reward.probe(goal)
        for arm in rng.choice(3, size=30, p=rng.dirichlet([1, 1, 1])).tolist():
            goal += {0: -0.01, 1: 0.01, 2: 0.0}[arm]
            got = reward.update(arm, 3.0)
            if probe > 100:
                means[arm].append(got)
    assert np.mean(means[0]) > np.mean(means[2]) + 0.2 > np.mean(means[1]) + 0.4
    worth = [reward.snapshot()[str(arm)]["worth"] for arm in range(3)]
    assert worth == pytest.approx([0.01, -0.01, 0.0], abs=0.003)
