"""An auditor: runs a scheduler through anything an operator may do, and checks every bound of DESIGN 4.1 at every pick.

It keeps counts and sums of its own, from the tickets alone, and never asks the scheduler what it should have done.
`test_stateful.py` lets hypothesis choose the actions, `bench/promises.py` a seed, for as many picks as wanted.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from bandit_worlds import through_json

from bandit.arms import ArmSpec, new_id
from bandit.errors import NothingEligible
from bandit.hashing import below, mix64
from bandit.index import PULL_MEMORY
from bandit.ledger import Ticket
from bandit.penalty import AGE_DECAY
from bandit.policies import POLICIES
from bandit.scheduler import Scheduler, SchedulerConfig

ROUNDING = 1e-9
KEEP = 1.0 - 1.0 / PULL_MEMORY


def random_config(rng: random.Random, policy: str) -> SchedulerConfig:
    """A scheduler of any policy, step size, delay, dwell and memory."""
    grad_accum, least = rng.choice([1, 1, 3, 8]), rng.choice([1, 2, 7])
    return SchedulerConfig(
        seed=rng.randrange(100),
        grad_accum=grad_accum,
        windows_per_pull=rng.choice([1, 4]),
        delay=rng.choice([1, 2, 8]),
        policy=policy,
        focus_size=rng.choice([None, 1, 3]),
        background=rng.choice([0.0, 0.1]),
        temperature=rng.choice([0.01, 0.1]),
        dwell=(least, least + rng.randrange(6)),
        memory=rng.choice([None, 16, 60]),
        drop_test=rng.random() < 0.5,
        floors_override_repetition=rng.random() < 0.7,
    )


def random_specs(rng: random.Random, count: int) -> list[ArmSpec]:
    """Arms with random bounds, which may well be impossible together; the first can always be pulled."""
    specs = []
    for number in range(count):
        cap = rng.choice([1.3, 1.3, 1.0, 0.5, 0.1, 0.0 if number else 1.0])
        top = rng.choice([1.0, 1.0, 0.6, 0.3, 0.1, 0.0 if number else 1.0])
        specs.append(
            ArmSpec(
                f"source-{number}",
                new_id(f"source-{number}", ()),
                windows=rng.choice([10, 400, 10**6, 0 if number else 50]),
                cap=cap,
                floor=rng.choice([0.0, 0.0, 0.05, 0.5, 1.0]) * cap,
                min_share=rng.choice([0.0, 0.0, 0.0, 0.1, 0.5, 0.9]) * top,
                max_share=top,
            )
        )
    return specs


def reward_of(ticket: Ticket) -> float | None:
    """Any reward, the ends of the range often, and now and then a void pull; a function of the ticket alone."""
    kind = below(10, 3, ticket.id)
    if kind == 0:
        return None
    return float(kind % 2) if kind < 5 else mix64(4, ticket.id, ticket.arm) / 2**64


@dataclass
class Pull:
    """A pull that can still be taken back: what it changed in the auditor's counts, and in which era."""

    ticket: Ticket
    row: int
    awake: np.ndarray
    shares: np.ndarray
    most: np.ndarray
    era: int
    credited: bool = False
    void: bool = False


class Audit:
    """A scheduler, at times a twin restored from its snapshot that must do the same, and counts to judge both by."""

    def __init__(self, config: SchedulerConfig, specs: Sequence[ArmSpec]) -> None:
        self.config = config
        self.scheduler = Scheduler(config, specs)
        self.twin: Scheduler | None = None
        self.mixture = POLICIES[config.policy].weights is not None
        self.ids = [spec.id for spec in specs]
        count = len(specs)
        self.cursor = np.zeros(count, dtype=np.int64)
        self.pulls = np.zeros(count, dtype=np.int64)
        self.open: dict[int, Pull] = {}
        self.recent: list[Pull] = []  # since the last sample
        self.step, self.micro, self.settled, self.sampled, self.next_id = 0, config.grad_accum, 0, 0, 1
        self.era, self.picks = 0, 0
        self._bound(specs)
        self.awake = self.pullable.copy()
        self._restart()

    # What the auditor knows.

    def _bound(self, specs: Sequence[ArmSpec]) -> None:
        self.specs = list(specs)
        self.windows = np.array([spec.windows for spec in specs])
        self.cap, self.floor = (np.array([getattr(s, key) for s in specs]) for key in ("cap", "floor"))
        self.least, self.most = (
            np.array([getattr(s, key) for s in specs]) for key in ("min_share", "max_share")
        )
        self.pullable = (self.windows > 0) & (self.cap > 0) & (self.most > 0)

    def _restart(self) -> None:
        count = len(self.ids)
        self.served, self.offered, self.owed = np.zeros(count), np.zeros(count), np.zeros(count)
        self.allowed = np.zeros(count)
        self.era += 1
        self.disturbed = False  # somebody slept or woke since
        self.seen: object = None
        self._known: tuple[Any, Any] = None, None

    def _hard(self) -> tuple[np.ndarray, np.ndarray]:
        """Hard share bounds of all arms, 0 for a sleeper, relaxed in proportion where they are impossible."""
        low, high = np.where(self.awake, self.least, 0.0), np.where(self.awake, self.most, 0.0)
        return low / max(1.0, low.sum()), high / min(1.0, high.sum())

    def _floors(self) -> np.ndarray:
        if self.config.floors_override_repetition:
            return self.floor
        return self.floor / np.maximum(1.0, self.cursor / np.maximum(1, self.windows))

    def _intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """The shares at which each arm alone is at its floor and the others at their caps, and the reverse."""
        floor = self._floors()
        key = (self.era, self.awake.tobytes(), floor.tobytes())
        if key != self._known[0]:
            own = np.eye(len(floor), dtype=np.bool_)
            corners = np.concatenate([np.where(own, floor, self.cap), np.where(own, self.cap, floor)])
            filled = fill(corners, *self._hard(), self.awake)
            least, most = np.diag(filled), np.diag(filled, -len(floor))
            self._known = key, (least.copy(), most.copy())
        return self._known[1]

    def both(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Do the same with scheduler and twin; they must answer the same."""
        result = getattr(self.scheduler, method)(*arguments, **named)
        if self.twin is not None:
            assert getattr(self.twin, method)(*arguments, **named) == result
        return result

    # What an operator may do.

    def pick(self) -> None:
        """Credit what is due, pick once, and check everything about it."""
        if self.micro == self.config.grad_accum:
            self._settle(self.step + 1)
        ticket = self.both("pick", self.step)
        assert ticket[:3] == (self.next_id, self.step, self.micro)
        assert ticket.arm in self.ids
        row = self.ids.index(ticket.arm)
        assert self.awake[row], "only an arm that is awake, not capped at 0 and has data"
        assert ticket.window == self.cursor[row]
        if self.scheduler._tally.spans[-1] is not self.seen:
            self._changed()
        (self._check_deal if self.mixture else self._check_deadline)(row)
        pull = Pull(ticket, row, self.awake.copy(), self.shares, self.most_now, self.era)
        self.open[ticket.id] = pull
        self.recent.append(pull)
        self.cursor[row] += self.config.windows_per_pull
        self.pulls[row] += 1
        self.next_id, self.micro, self.picks = self.next_id + 1, self.micro + 1, self.picks + 1

    def _settle(self, step: int) -> None:
        """Credit what the first pick of `step` counts; those tickets are closed by it."""
        self.step, self.micro = step, 0
        self.settled = max(self.settled, step - self.config.delay)
        for pull in [pull for pull in self.open.values() if pull.ticket.step <= self.settled]:
            self.credit(pull)
            del self.open[pull.ticket.id]

    def credit(self, pull: Pull) -> None:
        """Hand in the reward of an open pull, once."""
        if not pull.credited:
            reward = reward_of(pull.ticket)
            self.both("credit", pull.ticket.id, reward)
            pull.credited, pull.void = True, reward is None

    def credit_early(self, number: int) -> None:
        """Hand in the reward of some open pull before it is due."""
        if self.open:
            self.credit(list(self.open.values())[number % len(self.open)])

    def sleep(self, number: int) -> None:
        """Keep awake the arms whose bits are set; nobody left is refused, with nothing changed."""
        chosen = np.array([number >> bit & 1 == 1 for bit in range(len(self.ids))])
        ids = [identity for identity, keep in zip(self.ids, chosen, strict=True) if keep]
        if not (chosen & self.pullable).any():
            before = self.scheduler.snapshot()
            with pytest.raises(NothingEligible):
                self.scheduler.set_eligible(ids)
            assert self.scheduler.snapshot() == before
            return
        awake = chosen & self.pullable
        self.disturbed |= bool((awake != self.awake).any())
        self.awake = awake
        said = self.both("set_eligible", ids)
        impossible = (self.least[awake].sum() > 1 + ROUNDING) + (self.most[awake].sum() < 1 - ROUNDING)
        assert len(said) == impossible, "what is relaxed is said"

    def edit(self, specs: Sequence[ArmSpec]) -> None:
        """New bounds for the same arms, as a polish gives them: restored with them, all awake, counts anew."""
        self._bound(specs)
        snapshot = self.scheduler.snapshot()
        self.scheduler = Scheduler.restore(self.config, specs, snapshot)
        if self.twin is not None:
            self.twin = Scheduler.restore(self.config, specs, self.twin.snapshot())
        self.both("set_eligible", self.ids, restart=True)
        self.awake = self.pullable.copy()
        self._restart()

    def penalize(self, back: int, shortfall: float) -> None:
        """A sample after the step `back` steps ago, if that can still be charged; credit is conserved."""
        step = self.step - back
        if not max(self.settled, self.sampled) <= step:
            return
        changes = self.both("penalize", step, shortfall)
        expected: dict[str, float] = {}
        later: dict[str, int] = {}  # counted pulls of the arm since, each of which weakens the earlier ones
        for pull in reversed(self.recent):
            name, age = self.specs[pull.row].name, step - pull.ticket.step
            if not self.sampled < pull.ticket.step <= step or pull.void:
                continue
            kept = 1.0
            if pull.ticket.id not in self.open:
                kept = KEEP ** later.get(name, 0)
                later[name] = later.get(name, 0) + 1
            amount = shortfall * (AGE_DECAY * self.scheduler.gamma) ** age * kept
            expected[name] = expected.get(name, 0.0) + amount
        expected = {name: amount for name, amount in expected.items() if amount > 0.0}
        assert changes.keys() == expected.keys(), "recent arms only"
        for name, amount in expected.items():
            assert -changes[name] == pytest.approx(amount, rel=1e-9)
        self.sampled = step
        self.recent = [pull for pull in self.recent if pull.ticket.step > step]

    def cancel(self, back: int) -> None:
        """Take back the last `back` steps, as far as they are not counted."""
        step = max(self.settled, self.step - back) + 1
        taken = [pull for pull in self.open.values() if pull.ticket.step >= step]
        assert self.both("cancel_from", step) == [pull.ticket for pull in taken]
        for pull in reversed(taken):
            del self.open[pull.ticket.id]
            self.cursor[pull.row] -= self.config.windows_per_pull
            self.pulls[pull.row] -= 1
            if pull.era == self.era:
                self.served[pull.row] -= 1
                self.offered -= pull.awake
                self.owed -= pull.shares
                self.allowed -= pull.most
        self.recent = [pull for pull in self.recent if pull.ticket.step < step]
        if self.step >= step:
            self.step, self.micro = step - 1, self.config.grad_accum
        # Taking pulls back raises floors that repetition had lowered.
        self.disturbed |= not self.config.floors_override_repetition

    def cut(self, packed: bool) -> None:
        """Compare with the twin bit for bit, and begin a new twin from what is saved now."""
        snapshot = self.scheduler.snapshot()
        if self.twin is not None:
            assert self.twin.snapshot() == snapshot
        saved = self.scheduler.packed(text=True) if packed else snapshot
        self.twin = Scheduler.restore(self.config, self.specs, through_json(saved))
        assert self.twin.snapshot() == snapshot
        records = [snapshot["arms"][spec.name] for spec in self.specs]
        for key, column in (("cursor", self.cursor), ("pulls", self.pulls), ("served", self.served)):
            assert [record[key] for record in records] == column.tolist(), key
        assert [record["offered"] for record in records] == self.offered.tolist()
        assert self.scheduler.open_tickets() == [pull.ticket for pull in self.open.values()]
        if self.mixture:
            credit = np.array([record["credit"] for record in records])
            assert np.abs(credit - (self.owed - self.served)).max() < 1e-6
            assert abs(credit.sum()) < 1e-6

    # What must hold.

    def _changed(self) -> None:
        """New shares or bounds are in force: check them."""
        self.seen = self.scheduler._tally.spans[-1]
        views = {view.id: view for view in self.scheduler.views(self.step)}
        self.low, self.high = self._intervals()
        self.shares, self.most_now = self.low * self.awake, self.high * self.awake
        if not self.mixture:
            return
        weight, target = (
            np.array([getattr(views[identity], key) for identity in self.ids]) for key in ("weight", "target")
        )
        self.shares = target
        low, high = self._hard()
        awake = self.awake
        assert (target[~awake] == 0.0).all() and abs(target.sum() - 1.0) < ROUNDING
        assert (target >= low - ROUNDING).all() and (target <= high + ROUNDING).all()
        assert (weight <= self.cap).all() and (weight >= self._floors() * awake - ROUNDING).all()
        assert (target >= self.low - ROUNDING).all() and (target <= self.high + ROUNDING).all()
        # Water-filling: one k with target = clip(k weight, low, high).
        raised = awake & (target > low + ROUNDING) & (weight > 0.0)
        lowered = awake & (target < high - ROUNDING) & (weight > 0.0)
        if raised.any() and lowered.any():
            with np.errstate(over="ignore"):
                least = ((target[raised] - ROUNDING) / weight[raised]).max()
                assert least <= ((target[lowered] + ROUNDING) / weight[lowered]).min() + ROUNDING

    def _check_deal(self, row: int) -> None:
        self.owed += self.shares
        self.served[row] += 1
        self.offered += self.awake
        behind = self.owed - self.served
        count = len(self.ids)
        if self.disturbed:
            assert np.abs(behind).max() <= (count - 1) / 2 + 1 + 1e-6
        else:
            count = int(self.awake.sum())
            assert behind.max() <= sum(1 / k for k in range(2, count + 1)) + 1e-6
            assert behind.min() >= -(1 - 1 / count) - 1e-6

    def _check_deadline(self, row: int) -> None:
        slack = ROUNDING * (self.served.sum() + 1)
        wanted = np.where(self.awake, self.owed + self.low - self.served, -np.inf)
        urgent = wanted > slack
        if urgent.any():
            with np.errstate(divide="ignore"):
                deadline = (self.served + 1 - self.owed) / self.low
            assert wanted[row] > -slack, "an urgent floor first"
            assert deadline[row] <= deadline[urgent].min() + slack
        elif wanted[row] < -slack:
            closed = np.where(self.high > ROUNDING, self.served - self.allowed - self.high, np.inf)
            assert closed[row] <= slack or closed[self.awake].min() > -1e-6
        self.owed += self.shares
        self.allowed += self.most_now
        self.served[row] += 1
        self.offered += self.awake
        if not self.disturbed:
            assert (self.owed - self.served).max() <= 1 + 1e-6
            assert (self.served - self.allowed)[self.awake].max() <= 1 + 1e-6


def fill(weights: np.ndarray, low: np.ndarray, high: np.ndarray, awake: np.ndarray) -> np.ndarray:
    """clip(k weights, low, high) of sum 1 for each row of weights, by bisection on log k; weight 0 comes last of all."""
    weights = np.where(awake, np.maximum(weights, 1e-12), 0.0)
    least, most = np.full((len(weights), 1), -40.0), np.full((len(weights), 1), 60.0)
    for _ in range(70):
        middle = (least + most) / 2
        under = np.clip(np.exp(middle) * weights, low, high).sum(axis=1, keepdims=True) < 1.0
        least, most = np.where(under, middle, least), np.where(under, most, middle)
    return np.clip(np.exp(most) * weights, low, high)


def wander(seed: int, picks: int, policy: str) -> Audit:
    """At least `picks` picks of a policy with actions drawn from `seed`, over one set of arms."""
    rng = random.Random(seed)
    count = rng.randint(1, 9)
    audit = Audit(random_config(rng, policy), random_specs(rng, count))
    while audit.picks < picks:
        for _ in range(rng.choice([1, 5, 30, 100])):
            audit.pick()
            if rng.random() < 0.3:
                audit.credit_early(rng.randrange(1000))
        match rng.randrange(12):
            case 0 | 1 | 2:
                audit.sleep(rng.randrange(2**count))
            case 3 | 4:
                audit.edit([replace(spec) for spec in random_specs(rng, count)])
            case 5 | 6:
                audit.penalize(rng.randrange(3), rng.random())
            case 7:
                audit.cancel(rng.randrange(1, 5))
            case 8 | 9:
                audit.cut(packed=rng.random() < 0.5)
            case _:
                audit.sleep(2**count - 1)
    audit.cut(packed=False)
    return audit
