"""Deadlines: an argmax under exact floors and caps on the share of pulls (DESIGN 4.1, argmax).

Floors by earliest deadline first (Liu and Layland 1973): an arm is urgent when floor_i (A_i + 1) > T_i, and the urgent
arm of least (T_i + 1)/floor_i - A_i is served, the finish tag of weighted fair queueing (Parekh and Gallager 1993).
Otherwise the best arm with T_i <= cap_i (T + 1). Shortfall and excess are at most one pull since the last restart
while all arms are awake; an arm that is urgent is always under its cap, and some awake arm is always under its cap
while caps of the awake sum to 1 or more.

T_i pulls of the arm, T of all arms, A_i of all arms while arm i was awake. One heap orders the floored arms by when
they become urgent, one the urgent ones by deadline, one the capped-out ones by when they open: none is searched.
"""

import heapq
import math
from collections.abc import Callable

import numpy as np

from bandit.arms import BoolArray, FloatArray, cells
from bandit.deal import Tally


class Deadlines(Tally):
    """Serves urgent floors first, then the largest index among the arms awake and under their caps.

    floor, cap (arms,): bounds of the share of pulls in force, 0 and 1 for an arm asleep.
    """

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self.floor: FloatArray = np.zeros(arms)
        self.cap: FloatArray = np.ones(arms)
        self._floors, self._caps = cells(self.floor), cells(self.cap)

    def set_bounds(self, first: int, awake: BoolArray, floor: FloatArray, cap: FloatArray) -> None:
        """Keep the shares of the awake arms in [floor, cap] (arms,) from the ticket `first` on; counts go on."""
        self.floor[:], self.cap[:] = floor, cap
        self.begin(first, awake, np.zeros(len(floor)))

    def _enter(self) -> None:
        """Build the heaps from counts and bounds alone, so that a restored scheduler has the same ones."""
        awake = self.spans[-1].awake
        self._total = int(np.sum(self.served))
        self._bases: list[int] = (self.offered - self._total).tolist()  # A_i - T: constant while i is awake
        self._closed = np.where(awake, 0.0, -np.inf)  # added to the index: -inf asleep or at the cap
        self._gate = cells(self._closed)
        self._asleep = not bool(awake.all())
        rows = np.flatnonzero(awake).tolist()
        # One entry an arm and heap, by a time T: when the arm may have become urgent; its deadline; when it opens.
        self._waiting = [(self._due(row), row) for row in rows if self._floors[row] > 0.0]
        heapq.heapify(self._waiting)
        self._urgent: list[tuple[float, int]] = []
        self._shut: list[tuple[float, int]] = []
        for row in rows:
            self._close(row)

    def _due(self, row: int) -> float:
        due: float = self._served[row] / self._floors[row] - self._bases[row]
        return due

    def _close(self, row: int) -> None:
        """Shut an arm that is at its cap."""
        cap = self._caps[row]
        if cap < 1.0 and self._gate[row] == 0.0:
            opens = self._served[row] / cap if cap > 0.0 else math.inf
            if opens > self._total + 1:
                self._gate[row] = -np.inf
                heapq.heappush(self._shut, (opens, row))

    def serve(self, index: Callable[[], FloatArray]) -> int:
        """The row that is served next, by the index (arms,) that the function gives where no floor is urgent."""
        row = self._most_urgent()
        urgent = row is not None
        if row is None:
            row = self._best(index())
        self._served[row] += 1
        self._held += 1
        self._total += 1
        if urgent:
            heapq.heappush(self._waiting, (self._due(row), row))
        self._close(row)
        return row

    def _most_urgent(self) -> int | None:
        now, waiting = self._total + 1, self._waiting
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
        now, shut = self._total + 1, self._shut
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
