"""What the losses of pulls and samples, and the run of verdicts, say of each source: memorised, or followed by low samples.

A memorised source is read off its losses: a pull under the 0.1 % quantile of its source's is rare by chance, and a
source whose pulls are there again and again, or near zero, is being recited (I10). A source's streak is the number of
low samples in a row among those that were drawn after it had been fed its share.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEMORY = 0.02  # weight of a new loss in a source's mean
QUANTILE = 3.09  # deviations under the mean: 0.1 % of a normal variable
LEAST_PULLS = 30  # before a source has a quantile, and samples before their losses have one
LOW_PULLS = 3  # since the last sample, and
LOW_PART = 0.1  # of the source's pulls: a memorised source
NEAR_ZERO = 0.3  # nats a token: a source's mean loss under it is no language to be learned any more
REMEMBERED = 16  # latest samples that blame is read off
BLAMED = 0.05  # share of pulls by which an arm was fed more before low samples than before others
STREAK = 5  # low samples in a row that raise a source's alarm


class Tail:
    """A running mean of losses and their spread below it.

    Only what lies below counts for the lower quantile: losses have a long tail above, and a falling mean widens it.
    """

    __slots__ = ("count", "mean", "square")

    def __init__(self, count: int = 0, mean: float = 0.0, square: float = 0.0) -> None:
        self.count, self.mean, self.square = count, mean, square

    def quantile(self) -> float | None:
        """The 0.1 % quantile, in nats a token; None before there are 30 losses."""
        return None if self.count < LEAST_PULLS else self.mean - QUANTILE * math.sqrt(2 * self.square)

    def take(self, loss: float) -> bool:
        """Count a loss; whether it is under the quantile of those before it."""
        quantile = self.quantile()
        self.count += 1
        weight = max(MEMORY, 1 / self.count)
        gap = loss - self.mean
        self.square += weight * (min(gap, 0.0) ** 2 - self.square)
        self.mean += weight * gap
        return quantile is not None and loss < quantile


@dataclass(frozen=True, slots=True)
class Seen:
    """What is said with one sample: memorised sources, and streaks of low samples, by arm id."""

    memorised: tuple[int, ...]
    streaks: dict[int, int]

    def as_dict(self, names: Mapping[int, str]) -> dict[str, Any]:
        """As the sample log holds it."""
        return {
            "memorised": sorted(names[arm] for arm in self.memorised if arm in names),
            "streaks": {
                name: self.streaks[arm]
                for arm, name in sorted(names.items(), key=lambda item: item[1])
                if self.streaks.get(arm)
            },
        }


class Watch:
    """One run's losses and verdicts, by arm id."""

    def __init__(self) -> None:
        self._arms: dict[int, Tail] = {}
        self._samples = Tail()
        self._pulls: dict[int, list[int]] = {}  # since the last sample: [pulls, of them low]
        self._streaks: dict[int, int] = {}
        self._memorised: tuple[int, ...] = ()
        self.passed: set[str] = set()  # audits that some sample has passed
        self._recent: deque[tuple[bool, dict[int, int]]] = deque(maxlen=REMEMBERED)  # (low, pulls an arm)

    def pull(self, arm: int, loss: float) -> None:
        """Count the loss of one pull, in nats a token."""
        tail = self._arms.get(arm)
        if tail is None:
            tail = self._arms[arm] = Tail()
        pulls = self._pulls.setdefault(arm, [0, 0])
        pulls[0] += 1
        pulls[1] += tail.take(loss)

    def sample_loss(self, loss: float) -> tuple[float | None, bool]:
        """Count a sample's own loss: the quantile of those before it, and whether it is under that."""
        if not math.isfinite(loss):
            return None, False
        floor = self._samples.quantile()
        return floor, self._samples.take(loss)

    def verdict(self, *, low: bool) -> Seen:
        """Close what was counted since the last sample. low: what the gate said of this one."""
        total = sum(pulls for pulls, _ in self._pulls.values())
        for arm, (pulls, _) in self._pulls.items():
            if pulls * len(self._pulls) >= total:  # its even share of what was fed
                self._streaks[arm] = self._streaks.get(arm, 0) + 1 if low else 0
        self._memorised = tuple(
            sorted(
                arm
                for arm, tail in self._arms.items()
                if (tail.count >= LEAST_PULLS and tail.mean < NEAR_ZERO)
                or self._often_low(*self._pulls.get(arm, (0, 0)))
            )
        )
        self._recent.append((low, {arm: pulls for arm, (pulls, _) in self._pulls.items()}))
        self._pulls = {}
        streaks = {arm: streak for arm, streak in self._streaks.items() if streak}
        return Seen(self._memorised, streaks)

    @staticmethod
    def _often_low(pulls: int, low: int) -> bool:
        return low >= LOW_PULLS and low >= LOW_PART * pulls

    def blame(self) -> dict[int, float]:
        """The arms that were fed more before the latest low samples than before the others, with that share of pulls.

        Where all samples were low, more than an even share. The most telling first; {} where none stands out.
        """
        before = _shares([pulls for low, pulls in self._recent if low])
        others = _shares([pulls for low, pulls in self._recent if not low])
        even = 1 / max(1, len(before))
        excess = {arm: share - (others.get(arm, 0.0) if others else even) for arm, share in before.items()}
        ranked = sorted(excess, key=lambda arm: (-excess[arm], arm))
        return {arm: before[arm] for arm in ranked if excess[arm] > BLAMED}

    def alarms(self, names: Mapping[int, str]) -> list[str]:
        """Memorised sources, and those whose streak is five samples or more, in words."""
        said = [
            f"source {names[arm]} is being memorised: its mean loss is {self._arms[arm].mean:.2f} nats a token"
            for arm in self._memorised
            if arm in names
        ]
        return said + [
            f"source {names[arm]}: the last {streak} samples drawn after it was fed were low"
            for arm, streak in sorted(self._streaks.items())
            if arm in names and streak >= STREAK
        ]

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs, JSON-able."""
        return {
            "arms": {str(arm): [tail.count, tail.mean, tail.square] for arm, tail in self._arms.items()},
            "samples": [self._samples.count, self._samples.mean, self._samples.square],
            "pulls": {str(arm): pulls for arm, pulls in self._pulls.items()},
            "streaks": {str(arm): streak for arm, streak in self._streaks.items() if streak},
            "memorised": list(self._memorised),
            "passed": sorted(self.passed),
            "recent": [[low, {str(arm): pulls for arm, pulls in fed.items()}] for low, fed in self._recent],
        }

    def restore(self, saved: Mapping[str, Any], arms: Collection[int]) -> None:
        """Go on from a snapshot, with the arms there are; {} of a state from before there was one."""
        known = set(arms)
        self._arms = {
            int(arm): Tail(*tail) for arm, tail in saved.get("arms", {}).items() if int(arm) in known
        }
        self._samples = Tail(*saved.get("samples", (0, 0.0, 0.0)))
        self._pulls = {int(arm): list(p) for arm, p in saved.get("pulls", {}).items() if int(arm) in known}
        self._streaks = {int(arm): n for arm, n in saved.get("streaks", {}).items() if int(arm) in known}
        self._memorised = tuple(arm for arm in saved.get("memorised", ()) if arm in known)
        self.passed = set(saved.get("passed", ()))
        self._recent.clear()
        for low, fed in saved.get("recent", ()):
            self._recent.append((bool(low), {int(arm): n for arm, n in fed.items() if int(arm) in known}))


def _shares(fed: Sequence[Mapping[int, int]]) -> dict[int, float]:
    """Each arm's share of all pulls."""
    total = sum(sum(pulls.values()) for pulls in fed)
    sums: dict[int, int] = {}
    for pulls in fed:
        for arm, count in pulls.items():
            sums[arm] = sums.get(arm, 0) + count
    return {arm: count / total for arm, count in sums.items()}
