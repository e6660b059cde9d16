"""What a run will take, phase by phase: steps, tokens, hours, kWh and cost; and when a phase ends that is judged."""

import math
from typing import TYPE_CHECKING, Any

from curriculum import eligibility

if TYPE_CHECKING:
    from curriculum.config import Config


def projection(config: "Config", step: int, seconds_per_step: float | None = None) -> list[dict[str, Any]]:
    """A row a phase, and what remains after `step`: {phase, steps, tokens, hours, kwh, cost}, None where not known.

    seconds_per_step: the run's own pace, before that of `[budget]`. cost: by the hour and by the kWh, in the currency of
    the prices; None where no price is given or the power that one needs is not.
    """
    spans = [(phase.name, phase.first_step, last) for phase, last in _ends(config)]
    return [
        _row(config, name, max(0, last - first + 1), seconds_per_step or config.budget.seconds_per_step)
        for name, first, last in [*spans, ("remains", step + 1, config.train.steps)]
    ]


def judged(config: "Config", step: int) -> str | None:
    """The phase whose end is judged at this boundary: the first one at or after the phase's last step, before another."""
    if config.budget.max_heldout_loss is None:
        return None
    for phase, last in _ends(config)[:-1]:
        if step - config.train.boundary_every < last <= step:
            return phase.name
    return None


def failing(
    config: "Config", losses: dict[str, float], sampled: dict[str, Any] | None
) -> tuple[str | None, float]:
    """Why a phase must not go over into the next, None where it may; and the mean held-out loss, in nats a token.

    losses: by source; the goal's count, or all where none of them is the goal's. sampled: the last sample's verdict.
    """
    goal, most = config.curriculum.goal_sources, config.budget.max_heldout_loss
    found = [loss for name, loss in losses.items() if name in goal] or list(losses.values())
    mean = sum(found) / len(found) if found else math.nan
    if most is not None and not mean <= most:
        return (
            f"the mean held-out loss is {mean:.4f} nats a token, and budget.max_heldout_loss is {most:g}",
            mean,
        )
    if sampled and sampled["kind"] == "low":
        return f"the last sample is low: {sampled['score']:.1f} at step {sampled['step']}", mean
    return None, mean


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The projection for a person.

    >>> lines([{"phase": "full", "steps": 1000, "tokens": 8_192_000, "hours": 2.5, "kwh": 0.5, "cost": None}])[1]
    'full   1,000  8,192,000   2.50  0.50     -'
    """
    cells = [["phase", "steps", "tokens", "hours", "kWh", "cost"]]
    for row in rows:
        known = ["-" if row[key] is None else f"{row[key]:,.2f}" for key in ("hours", "kwh", "cost")]
        cells.append([row["phase"], f"{row['steps']:,}", f"{row['tokens']:,}", *known])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in cells
    ]


def unknown(rows: list[dict[str, Any]]) -> list[str]:
    """What to say where nothing tells the hours yet."""
    if rows[-1]["hours"] is not None:
        return []
    return ["hours: set budget.seconds_per_step, or see firehose status once the run has a pace of its own"]


def _ends(config: "Config") -> list[tuple[eligibility.Phase, int]]:
    """Every phase with its last step."""
    found = eligibility.phases(config)
    starts = [phase.first_step for phase in found[1:]]
    total = config.train.steps
    return [
        (phase, min(total, last))
        for phase, last in zip(found, [*(s - 1 for s in starts), total], strict=True)
    ]


def _row(config: "Config", name: str, steps: int, pace: float | None) -> dict[str, Any]:
    train, budget = config.train, config.budget
    hours = None if pace is None else steps * pace / 3600
    kwh = None if hours is None or budget.watts is None else hours * budget.watts / 1000
    prices = [(budget.price_per_hour, hours), (budget.price_per_kwh, kwh)]
    asked = [None if amount is None else price * amount for price, amount in prices if price is not None]
    known = [part for part in asked if part is not None]
    return {
        "phase": name,
        "steps": steps,
        "tokens": steps * train.grad_accum * train.micro_batch * config.model.block_size,
        "hours": hours,
        "kwh": kwh,
        "cost": sum(known) if asked and len(known) == len(asked) else None,
    }
