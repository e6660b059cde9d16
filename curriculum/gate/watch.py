"""What the losses of pulls and samples, and the run of verdicts, say of each source: memorised, or followed by low samples.

A memorised source is read off its losses: pulls near zero, or under the 0.1 % quantile of its others, are recited (I10),
and a tally of them says when there are too many. A source's streak is the number of low samples in a row among those
that were drawn after it had been fed its share.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEMORY, SLOW = 0.02, 0.001  # weights of a new loss in a source's means
QUANTILE = 3.09  # deviations under the mean: 0.1 % of a normal variable
FAR = 2 * QUANTILE**2  # that many half-variances below the mean, squared
LEAST_PULLS = 30  # before a source has a quantile, and samples before their losses have one
NEAR_ZERO = 0.4  # nats a token: text that is still being learned has pulls under it by rare chance only
RECITED_COUNTS = (
    8  # points of a recited pull in a source's tally; any other takes 1 off: up where over 1 of 9 is recited
)
NAMED = 100  # points that name a source, until there are none left
MOST = 200  # points, so that a source is soon free again
LEVEL = 4  # pulls in a row under the quantile that count: more of them are no pieces between others but a new level
MOVED = 32  # such pulls in a row, from which on they are learnt as the source's level
REMEMBERED = 16  # latest samples that blame is read off
BLAMED = 0.05  # share of pulls by which an arm was fed more before low samples than before others
STREAK = 5  # low samples in a row that raise a source's alarm


class Tail:
    """Running means of losses and their spread below them, over the latest 50 and over the latest 1,000.

    Only what lies below counts for the lower quantile: losses have a long tail above, and a falling mean widens it. Under
    the quantile is what is under that of both: the quick one follows a loss that falls, the slow one forgets no level
    for a spike. A loss under it enters neither, or what is recited would hide itself, until nothing else has come for long.
    """

    __slots__ = ("count", "mean", "row", "slow_mean", "slow_square", "square")

    def __init__(
        self,
        count: int = 0,
        mean: float = 0.0,
        square: float = 0.0,
        row: int = 0,
        slow_mean: float | None = None,
        slow_square: float | None = None,
    ) -> None:
        self.count, self.mean, self.square = count, mean, square
        self.row = row  # latest losses in a row that were under the quantile
        self.slow_mean = mean if slow_mean is None else slow_mean
        self.slow_square = square if slow_square is None else slow_square

    def quantile(self) -> float | None:
        """The 0.1 % quantile, in nats a token; None before there are 30 losses."""
        if self.count < LEAST_PULLS:
            return None
        quick = self.mean - QUANTILE * math.sqrt(2 * self.square)
        return min(quick, self.slow_mean - QUANTILE * math.sqrt(2 * self.slow_square))

    def take(self, loss: float) -> bool:
        """Count a loss; whether it is under the quantile of those before it."""
        gap, slow_gap = loss - self.mean, loss - self.slow_mean
        below = gap * gap if gap < 0 else 0.0
        slow_below = slow_gap * slow_gap if slow_gap < 0 else 0.0
        far = slow_gap * slow_gap > FAR * self.slow_square and self.count >= LEAST_PULLS
        low = far and slow_gap < 0 and below > FAR * self.square
        if low:
            self.row += 1
            if self.row <= MOVED:
                return True
        else:
            self.row = 0
            if far and slow_gap > 0:  # a spike is no level
                slow_gap = math.sqrt(FAR * self.slow_square)
        self.count += 1
        weight = max(MEMORY, 1 / self.count)
        self.mean += weight * gap
        self.square += weight * (below - self.square)
        weight = max(SLOW, 1 / self.count)
        self.slow_mean += weight * slow_gap
        self.slow_square += weight * (slow_below - self.slow_square)
        return low

    def snapshot(self) -> list[float]:
        """What makes it again."""
        return [self.count, self.mean, self.square, self.row, self.slow_mean, self.slow_square]


class Source:
    """The losses of a source's pulls, and the tally of those that were recited."""

    __slots__ = ("latest", "named", "tail", "tally")

    def __init__(
        self, tail: Tail | None = None, tally: int = 0, named: bool = False, latest: float = 0.0
    ) -> None:
        self.tail = Tail() if tail is None else tail
        self.tally, self.named = tally, named
        self.latest = latest  # the last recited loss

    def take(self, loss: float) -> None:
        """Count the loss of a pull."""
        low = self.tail.take(loss)
        if loss < NEAR_ZERO or (low and self.tail.row <= LEVEL):
            self.latest = loss
            self.tally = min(MOST, self.tally + RECITED_COUNTS)
            if self.tally >= NAMED:
                self.named = True
        elif self.tally:
            self.tally -= 1

    def snapshot(self) -> list[Any]:
        """What `restored` takes."""
        return [*self.tail.snapshot(), self.tally, self.named, self.latest]

    @classmethod
    def restored(cls, saved: Sequence[Any]) -> "Source":
        """Of a snapshot; an earlier version had no more than the tail's first three numbers."""
        return cls(Tail(*saved[:6]), *saved[6:])


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
        self._arms: dict[int, Source] = {}
        self._samples = Tail()
        self._pulls: dict[int, int] = {}  # since the last sample
        self._streaks: dict[int, int] = {}
        self._memorised: tuple[int, ...] = ()
        self.drawn = 0  # samples so far
        self.passed: set[str] = set()  # audits that some sample has passed
        self._recent: deque[tuple[bool, dict[int, int]]] = deque(maxlen=REMEMBERED)  # (low, pulls an arm)

    def pull(self, arm: int, loss: float) -> None:
        """Count the loss of one pull, in nats a token."""
        source = self._arms.get(arm)
        if source is None:
            source = self._arms[arm] = Source()
        self._pulls[arm] = self._pulls.get(arm, 0) + 1
        source.take(loss)

    def sample_loss(self, loss: float) -> tuple[float | None, bool]:
        """Count a sample's own loss: the quantile of those before it, and whether it is under that."""
        if not math.isfinite(loss):
            return None, False
        floor = self._samples.quantile()
        return floor, self._samples.take(loss)

    def verdict(self, *, low: bool) -> Seen:
        """Close what was counted since the last sample. low: what the gate said of this one."""
        self.drawn += 1
        total = sum(self._pulls.values())
        for arm, pulls in self._pulls.items():
            if pulls * len(self._pulls) >= total:  # its even share of what was fed
                self._streaks[arm] = self._streaks.get(arm, 0) + 1 if low else 0
        self._memorised = tuple(sorted(arm for arm, source in self._arms.items() if source.named))
        for (
            arm
        ) in self._memorised:  # after a word at least, also where it came and went since the last sample
            self._arms[arm].named = self._arms[arm].tally > 0
        self._recent.append((low, self._pulls))
        self._pulls = {}
        streaks = {arm: streak for arm, streak in self._streaks.items() if streak}
        return Seen(self._memorised, streaks)

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
            f"source {names[arm]} is being memorised: too many of its pulls lose far less than its others or next to "
            f"nothing, the last of them {self._arms[arm].latest:.2f} nats a token"
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
            "arms": {str(arm): source.snapshot() for arm, source in self._arms.items()},
            "samples": self._samples.snapshot(),
            "pulls": {str(arm): pulls for arm, pulls in self._pulls.items()},
            "streaks": {str(arm): streak for arm, streak in self._streaks.items() if streak},
            "memorised": list(self._memorised),
            "drawn": self.drawn,
            "passed": sorted(self.passed),
            "recent": [[low, {str(arm): pulls for arm, pulls in fed.items()}] for low, fed in self._recent],
        }

    def restore(self, saved: Mapping[str, Any], arms: Collection[int]) -> None:
        """Go on from a snapshot, with the arms there are; {} of a state from before there was one."""
        known = set(arms)
        self._arms = {
            int(arm): Source.restored(source)
            for arm, source in saved.get("arms", {}).items()
            if int(arm) in known
        }
        self._samples = Tail(*saved.get("samples", ()))
        self._pulls = {
            int(arm): pulls[0] if isinstance(pulls, list) else pulls  # a list once: [pulls, of them low]
            for arm, pulls in saved.get("pulls", {}).items()
            if int(arm) in known
        }
        self._streaks = {int(arm): n for arm, n in saved.get("streaks", {}).items() if int(arm) in known}
        self._memorised = tuple(arm for arm in saved.get("memorised", ()) if arm in known)
        self.drawn = int(saved.get("drawn", self._samples.count))  # once not counted apart
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
