"""Any sample log through any rule: where it would have halted the run, and what that would have saved (DESIGN 5.5)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.gate.rule import Gate, Rules


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a log: its step, its score, and the audits that found something in it."""

    step: int
    score: float
    found: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backtest:
    """Where a rule would have halted the run, if anywhere, and what it would have saved up to the log's last step.

    saved_hours, saved_kwh: None where the pace or the power is not known.
    """

    rule: str
    halt_step: int | None
    reason: str | None
    last_step: int
    saved_steps: int
    saved_hours: float | None
    saved_kwh: float | None

    def as_dict(self) -> dict[str, Any]:
        """The fields of `gate backtest --json` (DESIGN 9.1)."""
        return {
            "rule": self.rule,
            "halted": self.halt_step is not None,
            "halt_step": self.halt_step,
            "reason": self.reason,
            "last_step": self.last_step,
            "saved_steps": self.saved_steps,
            "saved_hours": self.saved_hours,
            "saved_kwh": self.saved_kwh,
        }


def backtest(
    samples: Sequence[Sample],
    rules: Rules,
    *,
    threshold: float = 30.0,
    audit_halt: Collection[str] = (),
    seconds_per_step: float | None = None,
    watts: float | None = None,
) -> Backtest:
    """Replay a log, at least one sample long, until the rules halt it; seconds_per_step and watts price what is left.

    >>> log = [Sample(100 * at, 80.0 if at % 4 == 0 else 12.0) for at in range(1, 40)]
    >>> [backtest(log, Rules.read(rule)).halt_step for rule in ("5", "8/16")]
    [None, 1000]
    """
    gate = Gate(threshold, rules.consecutive, max(1, rules.window), rules.window_low, rules.tally, audit_halt)
    halt, reason, last = None, None, samples[-1].step
    for sample in samples:
        verdict = gate.observe(sample.step, sample.score, sample.found)
        if verdict.kind == "halt":
            halt, reason = sample.step, verdict.reason
            break
    steps = 0 if halt is None else last - halt
    hours = None if seconds_per_step is None else steps * seconds_per_step / 3600
    kwh = None if hours is None or watts is None else hours * watts / 1000
    return Backtest(rules.words(), halt, reason, last, steps, hours, kwh)
