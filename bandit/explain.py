"""Why that arm: one pick taken apart, from its index and weight to the credit that decided it, and said in words."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from bandit.ledger import Ticket
from bandit.scheduler import Scheduler

# What `Scheduler.explain` gives of each arm: how the choice came about, and what decides the pick.
WORKING = ("pulls", "mean", "by_variance", "by_range", "index", "worn", "raw", "repeated", "floor")
DECIDING = ("weight", "share", "credit", "served", "share_low", "share_high", "urgent", "shut")


@dataclass(frozen=True, slots=True)
class ArmReason:
    """One arm before a pick; None for what does not apply: the arm sleeps, was never pulled, or the run was just restored.

    When the weights in force were drawn, or for an argmax at the pick: pulls (effective and in flight), mean,
    by_variance and by_range, whose sum is index (None: nothing to judge by, which comes first); rank of the index among
    the awake arms, 1 the highest; epochs read.
    In a mixture: raw weight of the policy, repeated (after the terms of repetition), floor and cap as they bound it,
    weight (after them), share (after `min_share` and `max_share`); at the pick credit, this pick's share included: the
    largest of the awake arms is served and pays 1.
    In an argmax: worn, at most 0, what repetition adds to the index; served, pulls since the last restart; share_low and
    share_high, the bounds of the share; urgent, its floor is due; shut, it is at its cap.
    """

    name: str
    id: int
    awake: bool
    rank: int | None
    epochs: float | None
    cap: float
    weight: float
    served: int
    pulls: float | None = None
    mean: float | None = None
    by_variance: float | None = None
    by_range: float | None = None
    index: float | None = None
    worn: float | None = None
    raw: float | None = None
    repeated: float | None = None
    floor: float | None = None
    share: float | None = None
    credit: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    urgent: bool | None = None
    shut: bool | None = None


@dataclass(frozen=True, slots=True)
class PickReason:
    """What one pick rested on. refreshed: the step whose first pick drew the weights, in force until before `until`.

    For an argmax refreshed is the step itself: its index is of the moment.
    """

    step: int
    micro: int
    policy: str
    refreshed: int | None
    until: int
    arms: tuple[ArmReason, ...]

    def arm(self, identity: int) -> ArmReason:
        """The arm of an id. Raises KeyError."""
        for arm in self.arms:
            if arm.id == identity:
                return arm
        raise KeyError(identity)


def explain(scheduler: Scheduler, step: int) -> PickReason:
    """What the next pick, of `step`, will rest on; changes no pick. Raises as `Scheduler.pick` does.

    >>> from bandit.scheduler import ArmSpec, SchedulerConfig
    >>> config = SchedulerConfig(seed=1, grad_accum=2, windows_per_pull=8, delay=1)
    >>> scheduler = Scheduler(config, [ArmSpec("books", 10, windows=100), ArmSpec("code", 11, windows=100)])
    >>> reason = explain(scheduler, 1)
    >>> ticket = scheduler.pick(1)
    >>> max(reason.arms, key=lambda arm: arm.credit or 0.0).id == ticket.arm
    True
    """
    found = scheduler.explain(step)
    columns, working = found["arms"], found["working"]
    drawn: dict[str, list[Any]] = working or {}
    best_first = (
        sorted(-order(drawn, row) for row, awake in enumerate(columns["eligible"]) if awake) if drawn else []
    )
    arms = []
    for row, spec in enumerate(scheduler.arms.specs):
        awake = columns["eligible"][row]
        arms.append(
            ArmReason(
                name=spec.name,
                id=spec.id,
                awake=awake,
                rank=1 + bisect_left(best_first, -order(drawn, row)) if drawn and awake else None,
                epochs=drawn["cursor"][row] / spec.windows if drawn and spec.windows else None,
                cap=spec.cap,
                **{key: drawn[key][row] for key in WORKING if key in drawn},
                **{key: columns[key][row] for key in DECIDING if key in columns},
            )
        )
    refreshed = working["step"] if working else None
    return PickReason(step, found["micro"], scheduler.config.policy, refreshed, found["until"], tuple(arms))


def order(working: dict[str, list[Any]], row: int) -> float:
    """What the arms of a working are ranked by: the index, less what repetition takes; infinite without a pull."""
    index = working["index"][row]
    worn = working["worn"][row] if "worn" in working else 0.0
    return math.inf if index is None else index + (worn or 0.0)


def why_picked(reason: PickReason, ticket: Ticket) -> str:
    """One sentence: what decided the pick, and the next best."""
    picked = reason.arm(ticket.arm)
    others = [arm for arm in reason.arms if arm.awake and arm.id != picked.id]
    if not others:
        return f"{picked.name}: the only one awake"
    if picked.credit is None:
        return f"{picked.name}: {_why_served(reason, picked)}"
    best = max(others, key=lambda arm: arm.credit or 0.0)
    if best.credit == picked.credit:
        return f"{picked.name}: its credit {picked.credit:+.3f} ties with {best.name}'s; a hash of the seed chose"
    return f"{picked.name}: its credit {picked.credit:+.3f} was the largest; next {best.name}, {best.credit:+.3f}"


def _why_served(reason: PickReason, picked: ArmReason) -> str:
    """An argmax: a floor that was due, or the index."""
    total = sum(arm.served for arm in reason.arms)
    if any(arm.urgent for arm in reason.arms):
        return f"its floor of {picked.share_low:.1%} was due, with {picked.served} of {total} pulls"
    if picked.index is None:
        return "it has no pull to judge by, which comes first"
    shut = [arm.name for arm in reason.arms if arm.shut]
    over = f"; at their caps: {', '.join(shut)}" if shut else ""
    return (
        f"its index {picked.index:.3f} is {ordinal(picked.rank or 0)} of those awake, and under its cap{over}"
    )


def why_weighed(reason: PickReason, identity: int) -> str:
    """One sentence: how an arm came to its weight and its share; for an argmax, its share and the bounds of it."""
    arm = reason.arm(identity)
    awake = [other for other in reason.arms if other.awake]
    if arm.share is None:
        total = max(1, sum(other.served for other in reason.arms))
        share = f"{arm.served / total:.1%}, bounds {arm.share_low:.1%} to {arm.share_high:.1%}"
        return f"{arm.name}: {arm.served} of {total} pulls since the last restart, {share}"
    if arm.raw is None or arm.repeated is None or arm.floor is None:
        return f"{arm.name}: share {arm.share:.1%}; how its weight came about is not in the files"
    if reason.policy == "focus-ucb":
        place = (
            "it has no pull yet"
            if arm.index is None
            else f"its index is {ordinal(arm.rank or 0)} of {len(awake)}"
        )
        parts = [f"{place}, so it is {'in' if arm.raw == 1.0 else 'out of'} focus: weight {arm.raw:g}"]
    else:
        parts = [f"weight {arm.raw:.3g} by the policy {reason.policy}"]
    if arm.repeated != arm.raw:
        parts.append(f"{arm.repeated:.3g} for {arm.epochs:.2f} epochs read")
    if arm.weight > arm.repeated:
        parts.append(f"its floor lifts it to {arm.weight:.3g}")
    elif arm.weight < arm.repeated:
        parts.append(f"its cap holds it at {arm.weight:.3g}")
    plain = arm.weight / sum(other.weight for other in awake) if arm.weight else 0.0
    bound = ""
    if abs(arm.share - plain) > 1e-9:
        bound = f"; without min_share and max_share it would be {plain:.1%}"
    return f"{arm.name}: {', then '.join(parts)}: a share of {arm.share:.1%}{bound}"


def ordinal(number: int) -> str:
    """A rank in words that fit a sentence.

    >>> [ordinal(number) for number in (1, 2, 3, 4, 11, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd']
    """
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number % 100 in (11, 12, 13) else endings.get(number % 10, "th")
    return f"{number}{ending}"
