"""When low samples halt a run: so many in a row, so many of the last few, or a tally that passing ones pay off slowly.

The second rule is there because good samples in between reset the first one's count: a run that said "region region
region" from step 80,000 would have been stopped only at 132,000 (I06). The third sees what stays under both: a share of
low samples that creeps up (docs/decisions/0008-the-gate.md).
"""

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol

LOW_COUNTS = 5  # points of a low sample in the tally; a passing one takes 1 off, down to 0


class Settings(Protocol):
    """What the gate reads of a config's [gate] table."""

    @property
    def threshold(self) -> float: ...
    @property
    def consecutive(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def window_low(self) -> int: ...
    @property
    def tally(self) -> int: ...
    @property
    def audit_halt(self) -> Collection[str]: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """The three rules' limits; 0 switches a rule off.

    >>> [Rules.read(rule).words() for rule in ("5", "8/16", "tally:40")]
    ['5 in a row', '8 of the last 16', 'tally of 40']
    """

    consecutive: int = 5
    window: int = 16
    window_low: int = 8
    tally: int = 40

    @classmethod
    def read(cls, text: str) -> "Rules":
        """One rule alone, as it is typed: `5` in a row, `8/16` of the last, `tally:40`. Raises ValueError."""
        kind, _, value = text.partition(":") if ":" in text else ("", "", text)
        low, slash, window = value.partition("/")
        if kind not in ("", "tally") or (kind and slash):
            raise ValueError(f"{text!r} is no rule")
        if kind:
            rules = cls(0, 1, 0, int(low))
        elif slash:
            rules = cls(0, int(window), int(low), 0)
        else:
            rules = cls(int(low), 1, 0, 0)
        if int(low) < 1 or (slash and not int(low) <= int(window)):
            raise ValueError(f"{text!r} could never fire")
        return rules

    def words(self) -> str:
        """The rules that are on, for a person."""
        said = [f"{self.consecutive} in a row"] if self.consecutive else []
        said += [f"{self.window_low} of the last {self.window}"] if self.window_low else []
        said += [f"tally of {self.tally}"] if self.tally else []
        return ", or ".join(said)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one sample means, with the counts after it; `reason` says it in words, numbers included."""

    kind: Literal["pass", "low", "halt"]
    streak: int
    low_in_window: int
    reason: str


class Count:
    """One thing that samples do or do not (`low`), counted by all three rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.streak = self.tally = self._since = self._first = 0
        self._recent: deque[tuple[int, bool]] = deque(maxlen=rules.window)  # (step, low), oldest first

    def take(self, step: int, low: bool) -> None:
        """Count the sample of a step."""
        if low and self.streak == 0:
            self._since = step
        if low and self.tally == 0:
            self._first = step
        self.streak = self.streak + 1 if low else 0
        self.tally = self.tally + LOW_COUNTS if low else max(0, self.tally - 1)
        self._recent.append((step, low))

    @property
    def low_in_window(self) -> int:
        """Low samples among the last `window`."""
        return sum(low for _, low in self._recent)

    def fired(self) -> str | None:
        """The first rule that holds after the last sample, as `COUNT samples %s, from step A to B`; None for none."""
        rules, last = self.rules, self._recent[-1][0] if self._recent else 0
        if rules.consecutive and self.streak >= rules.consecutive:
            return f"{self.streak} samples in a row %s, from step {self._since} to {last}"
        steps = [step for step, low in self._recent if low]
        if rules.window_low and len(steps) >= rules.window_low:
            return f"{len(steps)} of the last {len(self._recent)} samples %s, from step {steps[0]} to {steps[-1]}"
        if rules.tally and self.tally >= rules.tally:
            return (
                f"too many samples %s between step {self._first} and {last}: a tally of {self.tally}, where such a "
                f"sample adds {LOW_COUNTS}, any other takes 1 off, and {rules.tally} is the limit"
            )
        return None

    def restart(self) -> None:
        """Forget every sample."""
        self.streak = self.tally = self._since = self._first = 0
        self._recent.clear()

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs, JSON-able."""
        return {
            "streak": self.streak,
            "since": self._since,
            "tally": self.tally,
            "first": self._first,
            "recent": [[step, low] for step, low in self._recent],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a snapshot; of one taken with a longer window, the latest samples are kept.

        A state from before there was a tally begins it with what its window held.
        """
        self.streak, self._since = int(saved["streak"]), int(saved["since"])
        recent = [(int(step), bool(low)) for step, low in saved["recent"]]
        self._recent = deque(recent, maxlen=self.rules.window)
        self.tally, self._first = int(saved.get("tally", 0)), int(saved.get("first", 0))
        if "tally" not in saved:
            for step, low in recent:
                if low and self.tally == 0:
                    self._first = step
                self.tally = self.tally + LOW_COUNTS if low else max(0, self.tally - 1)


class Gate:
    """All rules over one run's samples: those that are low by score or by an audit that may halt, and every audit apart.

    audit_halt: audits whose finding makes a sample low. The others are counted too, and raise an alarm (`alarms`)
    where a rule holds for them alone.

    >>> gate = Gate(threshold=30.0, consecutive=2, window=4, window_low=3)
    >>> [gate.observe(step, score).kind for step, score in ((100, 80.0), (200, 12.0), (300, 9.0))]
    ['pass', 'low', 'halt']
    """

    def __init__(
        self,
        threshold: float = 30.0,
        consecutive: int = 5,
        window: int = 16,
        window_low: int = 8,
        tally: int = 40,
        audit_halt: Collection[str] = (),
    ) -> None:
        self.threshold = threshold
        self.rules = Rules(consecutive, window, window_low, tally)
        self.audit_halt = frozenset(audit_halt)
        self._low = Count(self.rules)
        self._audits: dict[str, Count] = {}

    @classmethod
    def of(cls, settings: Settings) -> "Gate":
        """The gate that a config asks for."""
        return cls(
            settings.threshold,
            settings.consecutive,
            settings.window,
            settings.window_low,
            settings.tally,
            settings.audit_halt,
        )

    def observe(
        self, step: int, score: float, found: Collection[str] = (), spared: Collection[str] = ()
    ) -> Verdict:
        """Take the score (0 to 100) of the sample drawn at a step, and the audits that found something in it.

        A sample at the threshold or over it passes, unless an audit of `audit_halt` found something that is not
        `spared`. Raises ValueError for a score that is not finite, before anything is counted.
        """
        if not math.isfinite(score):
            raise ValueError(f"the score of the sample at step {step} is {score}")
        named = sorted(self.audit_halt.intersection(found).difference(spared))
        early = sorted(self.audit_halt.intersection(found, spared))
        under = score < self.threshold
        low = under or bool(named)
        self._low.take(step, low)
        for audit in sorted({*self._audits, *found}):
            count = self._audits.setdefault(audit, Count(self.rules))
            count.take(step, audit in found)
            if not count.tally and not count.low_in_window:
                del self._audits[audit]  # nothing left to remember
        kind: Literal["pass", "low", "halt"] = "low" if low else "pass"
        reason = f"score {score:.1f} {'under' if under else 'at or over'} {self.threshold:g}"
        if named:
            reason += f"; {' and '.join(named)} found something"
        if early:
            reason += f"; {' and '.join(early)} found something, spared: the run is young and no sample has passed it yet"
        fired = self._low.fired() if low else None
        if fired is not None:
            kind = "halt"
            said = f"scored under {self.threshold:g}"
            if self.audit_halt:
                said += f" or were found by {', '.join(sorted(self.audit_halt))}"
            reason = fired.replace("%s", said)
        return Verdict(kind, self._low.streak, self._low.low_in_window, reason)

    @property
    def clean(self) -> bool:
        """Whether passing samples have paid off every low one, as the tally counts them."""
        return self._low.tally == 0

    def alarms(self) -> list[str]:
        """The audits for which a rule holds now, in words."""
        return [
            f"audit {audit}: {fired.replace('%s', 'were found by it')}"
            for audit, count in sorted(self._audits.items())
            if (fired := count.fired()) is not None
        ]

    def restart(self) -> None:
        """Forget every sample: at a pivot, and when an operator clears a halt."""
        self._low.restart()
        self._audits = {}

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs, JSON-able."""
        audits = {audit: count.snapshot() for audit, count in sorted(self._audits.items())}
        return {**self._low.snapshot(), "audits": audits}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a snapshot, also one of an earlier version."""
        self._low.restore(snapshot)
        self._audits = {}
        for audit, saved in snapshot.get("audits", {}).items():
            self._audits[audit] = Count(self.rules)
            self._audits[audit].restore(saved)


def shortfall(score: float, target: float) -> float:
    """How far a score falls short of the target, as a share of it: max(0, (target - score) / target), 0 to 1.

    >>> shortfall(45.0, 60.0), shortfall(90.0, 60.0)
    (0.25, 0.0)
    """
    return max(0.0, (target - score) / target)
