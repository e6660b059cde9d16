"""When low samples halt a run: so many in a row, or so many of the last few.

The second rule is there because good samples in between reset the first one's count: a run that said "region region
region" from step 80,000 would have been stopped only at 132,000 (I06).
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one sample's score means, with the counts after it; `reason` says it in words, numbers included."""

    kind: Literal["pass", "low", "halt"]
    streak: int
    low_in_window: int
    reason: str


class Gate:
    """Both rules over one run's samples; its memory is the streak and the last `window` samples.

    >>> gate = Gate(threshold=30.0, consecutive=2, window=4, window_low=3)
    >>> [gate.observe(step, score).kind for step, score in ((100, 80.0), (200, 12.0), (300, 9.0))]
    ['pass', 'low', 'halt']
    """

    def __init__(
        self, threshold: float = 30.0, consecutive: int = 5, window: int = 16, window_low: int = 8
    ) -> None:
        self.threshold = threshold
        self.consecutive = consecutive
        self.window = window
        self.window_low = window_low
        self._streak = 0
        self._since = 0  # step of the streak's first sample
        self._recent: deque[tuple[int, bool]] = deque(maxlen=window)  # (step, low), oldest first

    def observe(self, step: int, score: float) -> Verdict:
        """Take the score (0 to 100) of the sample drawn at a step; a sample at the threshold or over it passes.

        Raises ValueError for a score that is not finite, before anything is counted.
        """
        if not math.isfinite(score):
            raise ValueError(f"the score of the sample at step {step} is {score}")
        low = score < self.threshold
        if low and self._streak == 0:
            self._since = step
        self._streak = self._streak + 1 if low else 0
        self._recent.append((step, low))
        low_steps = [step for step, was_low in self._recent if was_low]
        kind: Literal["pass", "low", "halt"] = "low" if low else "pass"
        reason = f"score {score:.1f} {'under' if low else 'at or over'} {self.threshold:g}"
        if low and self._streak >= self.consecutive:
            kind = "halt"
            reason = (
                f"{self._streak} samples in a row scored under {self.threshold:g}, "
                f"from step {self._since} to {step}"
            )
        elif low and len(low_steps) >= self.window_low:
            kind = "halt"
            reason = (
                f"{len(low_steps)} of the last {len(self._recent)} samples scored under {self.threshold:g}, "
                f"from step {low_steps[0]} to {step}"
            )
        return Verdict(kind, self._streak, len(low_steps), reason)

    def restart(self) -> None:
        """Forget every sample: at a pivot, and when an operator clears a halt."""
        self._streak = self._since = 0
        self._recent.clear()

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs, JSON-able."""
        return {
            "streak": self._streak,
            "since": self._since,
            "recent": [[step, low] for step, low in self._recent],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a snapshot; of one taken with a longer window, the latest samples are kept."""
        self._streak, self._since = int(snapshot["streak"]), int(snapshot["since"])
        self._recent = deque(((int(step), bool(low)) for step, low in snapshot["recent"]), maxlen=self.window)


def shortfall(score: float, target: float) -> float:
    """How far a score falls short of the target, as a share of it: max(0, (target - score) / target), 0 to 1.

    >>> shortfall(45.0, 60.0), shortfall(90.0, 60.0)
    (0.25, 0.0)
    """
    return max(0.0, (target - score) / target)
