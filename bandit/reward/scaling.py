"""Streaming quantile scaling: a raw reward of any unit to [0, 1], by where it lies among the latest ones."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

WINDOW = 256
LEAST = 16


class QuantileScaler:
    """r = clip((raw - lo) / (hi - lo), 0, 1) between two quantiles of the last 256 raw values of all arms.

    The value itself is among them (Graves et al. 2017, arXiv:1704.03003, section 3.3, with a window in place of the
    reservoir: it forgets, and draws nothing at random). Half for fewer than 16 values, or where the quantiles are one.
    A power-of-two scale of all values changes no result, bit for bit.

    >>> scaler = QuantileScaler()
    >>> [scaler.scale(float(raw)) for raw in range(17)][-1]
    1.0
    >>> round(scaler.scale(8.0), 2)
    0.5
    """

    def __init__(self, recent: Iterable[float] = (), low: float = 0.1, high: float = 0.9) -> None:
        self.low, self.high = low, high
        self.recent: deque[float] = deque(recent)
        self._sorted = sorted(self.recent)

    def scale(self, raw: float) -> float:
        """Take a finite value in; where it lies, in [0, 1]."""
        if len(self.recent) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self.recent.popleft())]
        self.recent.append(raw)
        insort(self._sorted, raw)
        if len(self.recent) < LEAST:
            return 0.5
        low, high = self._quantile(self.low), self._quantile(self.high)
        if not low < high:
            return 0.5
        return min(1.0, max(0.0, (raw - low) / (high - low)))

    def _quantile(self, q: float) -> float:
        """Linear between the two nearest values, as numpy's default."""
        at = q * (len(self._sorted) - 1)
        below = int(at)
        above = min(below + 1, len(self._sorted) - 1)
        return self._sorted[below] + (at - below) * (self._sorted[above] - self._sorted[below])
