"""The ranking: the index of every arm for an argmax, kept between picks.

What all arms share (the clock, the total of pulls, the pooled noise) is taken at every eighth pick; between, only arms
whose own numbers changed are worked out anew. So a pick costs a few numbers and one search for the largest, not a dozen
operations on every arm: about half the time at 16 arms, for a log and a clock that are up to 8 pulls old.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bandit.arms import FloatArray, cells
from bandit.index import POOL_PULLS, UNCREDITED_MEAN, Common, Estimator, IndexParts
from bandit.snapshot import Record

EVERY = 8
NOTHING = Common(1.0, 0.0, 0.0)


class Ranking:
    """Indices over an estimator and the pulls in flight (arms,).

    worn (arms,): what repetition takes from an arm's mean, as a factor less 1; 0 for a source not read through yet.
    """

    def __init__(self, estimator: Estimator, pending: FloatArray, xi: float, zeta: float) -> None:
        self.estimator, self.pending = estimator, pending
        self.xi, self.zeta = xi, zeta
        arms = len(pending)
        self.worn: FloatArray = np.zeros(arms)
        self.common = NOTHING
        self._left = 0  # picks until the common terms are taken anew
        self._changed: set[int] = set()  # rows to work out at the next pick
        self._singly: set[int] = set()  # rows worked out one by one since the common terms were taken
        self._index: FloatArray = np.empty(arms)
        self._cells, self._in_flight, self._worn = cells(self._index), cells(pending), cells(self.worn)
        self._columns = (
            cells(estimator.weight_sum),
            cells(estimator.reward_sum),
            cells(estimator.difference_sum),
            cells(estimator.difference_weight),
        )

    def touch(self, row: int) -> None:
        """An arm's own numbers changed."""
        self._changed.add(row)

    def renew(self) -> None:
        """Everything may have changed: nothing is kept, in a snapshot neither."""
        self._left, self.common = 0, NOTHING

    def index(self, step: int) -> FloatArray:
        """The index of every arm for a pick of `step` (arms,); the array is used again by the next call."""
        if self._left == 0:
            self.common = self.estimator.common(step, self.pending)
            self._take_all()
            self._left = EVERY
        elif self._changed:
            for row in self._changed:
                self._take(row)
            self._singly |= self._changed
            self._changed.clear()
        self._left -= 1
        return self._index

    def _take_all(self) -> None:
        self._changed.clear()
        self._singly.clear()
        estimator = self.estimator
        estimator.bound(self.common, self.pending, self.xi, self.zeta, self._index)
        self._index += self.worn * estimator.mean()

    def _take(self, row: int) -> None:
        """The formula of `Estimator.parts`, for one arm."""
        weights, rewards, differences, difference_weights = self._columns
        common, weight = self.common, weights[row]
        pulls = weight * common.scale + self._in_flight[row]
        per_pull = math.log(1.0 + common.even / pulls) / pulls
        mean = rewards[row] / weight if weight > 0.0 else UNCREDITED_MEAN
        variance = (differences[row] + POOL_PULLS * common.noise) / (difference_weights[row] + POOL_PULLS)
        width = math.sqrt(2.0 * self.xi * variance * per_pull) + self.zeta * per_pull
        self._cells[row] = mean * (1.0 + self._worn[row]) + width

    def parts(self, step: int) -> IndexParts:
        """The index and its parts as the next pick, of `step`, will see them, repetition aside."""
        common = self.common if self._left else self.estimator.common(step, self.pending)
        return self.estimator.parts(common, self.pending, self.xi, self.zeta)

    def snapshot(self, ids: list[int]) -> dict[str, Any]:
        """Plain data: the common terms, how many picks they still serve, and the arms worked out singly since."""
        singly = sorted(ids[row] for row in self._singly | self._changed) if self._left else []
        return {"left": self._left, **self.common._asdict(), "singly": singly}

    def restore(self, record: Record, rows: Mapping[int, int]) -> None:
        """The inverse of `snapshot`, once all columns are loaded: the same bits for every arm."""
        self.common = Common(*(record.number(key) for key in Common._fields))
        self._left = record.whole("left")
        singly = record.data.get("singly")
        if self._left > EVERY or not isinstance(singly, list) or any(one not in rows for one in singly):
            raise record.wrong("singly", "ids of arms, and at most 8 picks left")
        if self._left:
            self._take_all()
            self._changed |= {rows[one] for one in singly}
