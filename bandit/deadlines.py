"""Deadlines: an argmax under exact floors and caps on the share of pulls (DESIGN 4.1, argmax).

Every pull an awake arm is owed its floor more and allowed its cap more, by the bounds in force then. Floors by earliest
deadline first (Liu and Layland 1973): an arm is urgent when owed_i + floor_i > T_i, and the urgent arm is served that
soonest owes a whole pull, the finish tag of weighted fair queueing (Parekh and Gallager 1993). Otherwise the best arm
with T_i <= allowed_i + cap_i. With bounds that stay and nobody asleep that is floor_i (T + 1) > T_i and T_i <= cap_i (T +
1): shortfall and excess are at most one pull since the last restart, an arm that is urgent is always under its cap, and
some arm is always under its cap where caps sum to 1 or more. Bounds that change, as those implied by floors and caps do
when arms fall asleep or wake, are counted from then on: no burst to make up for a past under other bounds, and no
lock-out; what an arm left unused before, or had beyond its floor, it keeps until the next restart.

T_i pulls of the arm, T of all arms. One heap orders the floored arms by when they become urgent, one the urgent ones by
deadline, one the capped-out ones by when they open: none is searched.
"""

import heapq
import math
from collections.abc import Callable

import numpy as np

from bandit.arms import BoolArray, FloatArray, cells
from bandit.bounds import ROUNDING
from bandit.deal import Span, Tally


class Deadlines(Tally):
    """Serves urgent floors first, then the largest index among the arms awake and under their caps.

    floor, cap (arms,): bounds of the share of pulls in force, 0 for an arm asleep. owed, allowed (arms,): what past
    spans add up to. since: pulls of all arms before the newest span.
    """

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self.floor: FloatArray = np.zeros(arms)
        self.cap: FloatArray = np.zeros(arms)
        self.owed: FloatArray = np.zeros(arms)
        self.allowed: FloatArray = np.zeros(arms)
        self.since = 0
        self._floors, self._caps = cells(self.floor), cells(self.cap)
        self._owed, self._allowed = cells(self.owed), cells(self.allowed)

    def set_bounds(self, first: int, awake: BoolArray, floor: FloatArray, cap: FloatArray) -> None:
        """Keep the shares of the awake arms in [floor, cap] (arms,) from the ticket `first` on; counts go on."""
        total = int(np.sum(self.served))
        self.owed += (total - self.since) * self.floor
        self.allowed += (total - self.since) * self.cap
        self.since = total
        self.floor[:], self.cap[:] = floor * awake, cap * awake
        self.begin(first, awake, self.floor.copy(), self.cap.copy())

    def restart(self) -> None:
        super().restart()
        self.floor[:] = self.cap[:] = self.owed[:] = self.allowed[:] = 0.0
        self.since = 0

    def _undo(self, span: Span, row: int) -> None:
        if span is not self.spans[-1] and span.caps is not None:
            self.owed -= span.shares
            self.allowed -= span.caps
            self.since -= 1

    def _enter(self) -> None:
        """Build the heaps from counts and bounds alone, so that a restored scheduler has the same ones."""
        awake = self.spans[-1].awake
        self._pulls = int(np.sum(self.served)) - self.since
        self._closed = np.where(awake, 0.0, -np.inf)  # added to the index: -inf asleep or at the cap
        self._gate = cells(self._closed)
        self._asleep = not bool(awake.all())
        rows = np.flatnonzero(awake).tolist()
        # One entry an arm and heap, by pulls of the span: when it may have become urgent; its deadline; when it opens.
        self._waiting = [(self._due(row), row) for row in rows if self._floors[row] > ROUNDING]
        heapq.heapify(self._waiting)
        self._urgent: list[tuple[float, int]] = []
        self._shut: list[tuple[float, int]] = []
        for row in rows:
            self._close(row)

    def _due(self, row: int) -> float:
        due: float = (self._served[row] - self._owed[row]) / self._floors[row]
        return due

    def _close(self, row: int) -> None:
        """Shut an arm that is at its cap."""
        cap = self._caps[row]
        if self._gate[row] == 0.0:
            opens = (self._served[row] - self._allowed[row]) / cap if cap > ROUNDING else math.inf
            if opens > self._pulls + 1:
                self._gate[row] = -np.inf
                heapq.heappush(self._shut, (opens, row))

    def urgent(self) -> BoolArray:
        """Which arms are owed a pull now (arms,)."""
        due = self.owed + self.floor * (self._pulls + 1) > self.served
        urgent: BoolArray = (self.floor > ROUNDING) & due
        return urgent

    def shut(self) -> BoolArray:
        """Which arms may not be served by their index now (arms,)."""
        full = self.served > self.allowed + self.cap * (self._pulls + 1)
        shut: BoolArray = (self.cap <= ROUNDING) | full
        return shut

    def serve(self, index: Callable[[], FloatArray]) -> int:
        """The row that is served next, by the index (arms,) that the function gives where no floor is urgent."""
        row = self._most_urgent()
        urgent = row is not None
        if row is None:
            row = self._best(index())
        self._served[row] += 1
        self._held += 1
        self._pulls += 1
        if urgent:
            heapq.heappush(self._waiting, (self._due(row), row))
        self._close(row)
        return row

    def _most_urgent(self) -> int | None:
        now, waiting = self._pulls + 1, self._waiting
        while waiting and waiting[0][0] < now:
            row = waiting[0][1]
            due = self._due(row)
            if due < now:
                heapq.heappop(waiting)
                heapq.heappush(self._urgent, (due + 1.0 / self._floors[row], row))
            else:  # served since by its index
                heapq.heapreplace(waiting, (due, row))
        return heapq.heappop(self._urgent)[1] if self._urgent else None

    def _best(self, index: FloatArray) -> int:
        now, shut = self._pulls + 1, self._shut
        while shut and shut[0][0] <= now:
            self._open()
        if not shut and not self._asleep:
            return int(index.argmax())
        row = int(np.add(index, self._closed).argmax())
        if self._gate[row] < 0.0:  # all at their caps, as rounding can have it: the one that opens first
            row = self._open()
        return row

    def _open(self) -> int:
        row = heapq.heappop(self._shut)[1]
        self._gate[row] = 0.0
        self._close(row)  # served since, by its floor: it stays shut until its own time
        return row
