"""Small worlds for the bandit's tests: arms, rewards that are a function of the ticket, and a loop that feeds them."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

from bandit.arms import ArmSpec, new_id
from bandit.errors import CreditedTwice
from bandit.hashing import mix64
from bandit.ledger import Ticket
from bandit.scheduler import Scheduler, SchedulerConfig


def config(**changes: Any) -> SchedulerConfig:
    """A scheduler with short dwells, so that a few steps see many refreshes."""
    settings: dict[str, Any] = {
        "seed": 7,
        "grad_accum": 3,
        "windows_per_pull": 4,
        "delay": 4,
        "dwell": (2, 5),
    }
    return SchedulerConfig(**{**settings, **changes})


def arms(count: int, **bounds: Any) -> list[ArmSpec]:
    """Arms of different sizes; `bounds` apply to all."""
    return [
        ArmSpec(f"source-{number}", new_id(f"source-{number}", ()), windows=200 + 37 * number, **bounds)
        for number in range(count)
    ]


def reward_of(ticket: Ticket) -> float:
    """A reward in [0, 1) that depends on the pull alone, higher on average for some arms than for others."""
    noise = mix64(1, ticket.step, ticket.micro, ticket.arm) / 2**64
    return 0.7 * noise + 0.3 * (mix64(2, ticket.arm) / 2**64)


def credit_due(scheduler: Scheduler, step: int, reward: Callable[[Ticket], float | None] = reward_of) -> None:
    """Credit what the first pick of `step` will count and has not been credited yet."""
    for ticket in scheduler.open_tickets():
        if ticket.step <= step - scheduler.config.delay:
            with contextlib.suppress(CreditedTwice):
                scheduler.credit(ticket.id, reward(ticket))


def drive(
    scheduler: Scheduler,
    first: int,
    last: int,
    reward: Callable[[Ticket], float | None] = reward_of,
) -> list[Ticket]:
    """Pick steps first..last, crediting each ticket just before it is due; returns the tickets."""
    picked = []
    for step in range(first, last + 1):
        credit_due(scheduler, step, reward)
        picked += [scheduler.pick(step) for _ in range(scheduler.config.grad_accum)]
    return picked


def through_json(data: dict[str, Any]) -> dict[str, Any]:
    """As a state file holds it: JSON text, no NaN, keys sorted."""
    loaded: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False, sort_keys=True))
    return loaded
