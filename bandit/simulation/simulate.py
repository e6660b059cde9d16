"""The simulation: the real scheduler, under its own bounds, in a world where every source's worth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bandit.arms import ArmSpec, FloatArray, IntArray
from bandit.bounds import implied_intervals, intervals, relax
from bandit.reward import REWARDS, repetition_terms
from bandit.scheduler import Scheduler
from bandit.settings import SchedulerConfig
from bandit.simulation.optimum import best_shares
from bandit.simulation.world import World

# A pull's gradient agrees with the goal's as its source's worth does (the best one's 1, junk's 0), with this noise.
AGREEMENT_NOISE = 0.5
COLUMNS = 48

Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. phases: (first step, ids of the sources that may be picked), the first from step 1.

    world: columns in the order of `arms`. reward: a name in `bandit.reward.REWARDS`; one that needs the goal's loss
    hears it every `probe_every` steps. seed: of the noise.
    """

    settings: SchedulerConfig
    arms: Sequence[ArmSpec]
    phases: Sequence[tuple[int, Sequence[int]]]
    world: World
    steps: int
    reward: str
    probe_every: int
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; columns (arms,) in the order of the plan's arms.

    pulls: of all steps. share, low, high: share of the pulls, and the interval the bounds imply for it, since the
    last phase opened; 0 for an arm that it leaves out. history: (columns, arms) share of the pulls in each stretch of
    steps, which ends at `ends` (columns,). goal_loss: the goal's held-out loss at the start and the end. relaxed:
    bounds that could not hold.
    """

    pulls: IntArray
    share: FloatArray
    low: FloatArray
    high: FloatArray
    epochs: FloatArray
    history: FloatArray
    ends: IntArray
    goal_loss: tuple[float, float]
    relaxed: tuple[str, ...]


def simulate(plan: Plan, tick: Tick | None = None) -> Outcome:
    """Run the scheduler for `plan.steps` steps. tick: called with the number of steps done, now and then.

    A pull's reward is handed in at once and held by the ledger until it is due, so that a pick knows what it would
    know in a run. The errors are the scheduler's.
    """
    world, settings = plan.world, plan.settings
    scheduler = Scheduler(settings, plan.arms)
    row = {spec.id: at for at, spec in enumerate(plan.arms)}
    reward = REWARDS[plan.reward](list(row), {spec.id: spec.name for spec in plan.arms})
    signal: float | None = None
    noise = np.random.default_rng(plan.seed).standard_normal((plan.steps, settings.grad_accum))
    served: FloatArray = np.zeros(len(plan.arms))
    pulls: IntArray = np.zeros(len(plan.arms), dtype=np.int64)
    ends = np.unique(np.linspace(0, plan.steps, min(COLUMNS, plan.steps) + 1).astype(np.int64))[1:]
    columns: list[IntArray] = []
    opens = {first: ids for first, ids in plan.phases if first <= plan.steps}
    since, relaxed = pulls.copy(), []
    before = world.goal_loss(served)
    drawn = pulls.copy()
    for step in range(1, plan.steps + 1):
        if step in opens:
            relaxed += scheduler.set_eligible(opens[step], restart=True)
            since = pulls.copy()
        losses = world.training(served)
        if reward.needs == "cosine":
            worth = world.worth(served)
            agreement = worth / max(float(worth.max()), 1e-300)
        elif reward.needs == "goal" and step % plan.probe_every == 0:
            reward.probe(world.goal_loss(served))
        for micro in range(settings.grad_accum):
            ticket = scheduler.pick(step)
            at = row[ticket.arm]
            shock = noise[step - 1, micro]
            if reward.needs == "cosine":
                signal = agreement[at] + AGREEMENT_NOISE * shock
            loss = max(0.0, losses[at] + world.noise[at] * shock)
            scheduler.credit(ticket.id, reward.update(ticket.arm, loss, signal))
            pulls[at] += 1
        served[:] = pulls * settings.windows_per_pull
        if step == ends[len(columns)]:
            columns.append(pulls - drawn)
            drawn = pulls.copy()
            if tick is not None:
                tick(step)
    last = opens[max(opens)]
    implied = implied_intervals([spec for spec in plan.arms if spec.id in last])
    bounds = np.array([implied.get(spec.id, (0.0, 0.0)) for spec in plan.arms])
    counts = np.array(columns, dtype=np.float64)
    return Outcome(
        pulls=pulls,
        share=(pulls - since) / max(1, int((pulls - since).sum())),
        low=bounds[:, 0],
        high=bounds[:, 1],
        epochs=served / np.maximum(1, world.windows),
        history=counts / counts.sum(axis=1, keepdims=True),
        ends=ends,
        goal_loss=(before, world.goal_loss(served)),
        relaxed=tuple(relaxed),
    )


def optimum(plan: Plan) -> float:
    """The goal's held-out loss after `plan.steps` steps of the best shares that the bounds allow.

    Greedy: every `dwell[0]` steps, the shares of greatest worth there and then, known exactly and served exactly. For
    concave curves greedy is the best there is up to what transfer and the end of a source's data make of it. Every
    arm is held to its own interval, as an argmax does; all at once, the clamps of a mixture may allow less.
    """
    world, settings = plan.world, plan.settings
    per_step = settings.grad_accum * settings.windows_per_pull
    served = np.zeros(len(plan.arms))
    opens = dict(plan.phases)
    rows: IntArray = np.arange(0)
    due = 1
    for step in range(1, plan.steps + 1):
        if step in opens:
            allowed = set(opens[step])
            rows = np.array(
                [at for at, spec in enumerate(plan.arms) if spec.id in allowed and spec.pullable],
                dtype=np.int64,
            )
            live = [plan.arms[at] for at in rows]
            floor, cap = np.array([spec.floor for spec in live]), np.array([spec.cap for spec in live])
            low, high, _ = relax(
                np.array([spec.min_share for spec in live]),
                np.array([spec.max_share for spec in live]),
                [spec.name for spec in live],
            )
            due = step
        if step == due:
            binding = floor
            if not settings.floors_override_repetition:
                binding = floor * repetition_terms(served[rows].astype(np.int64), world.windows[rows])[0]
            best = best_shares(world.worth(served)[rows], *intervals(binding, cap, low, high))
            due = step + settings.dwell[0]
        served[rows] += per_step * best
    return world.goal_loss(served)
