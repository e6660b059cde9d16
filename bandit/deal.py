"""The deal: pulls handed out by largest credit, so that served shares follow the targets to within a few pulls.

Every awake arm gains its share, the largest credit is served and pays 1; a sleeping arm's credit is frozen. While
nobody sleeps, served minus target stays in [-(H_K - 1), 1 - 1/K] pulls for any shares chosen online, H_K = 1 +
1/2 + ... + 1/K. Same rule as Megatron's `build_blending_indices`; the bound is the signed form of the cup game's
(Bender, Farach-Colton and Kuszmaul 2019, arXiv:1904.02861).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandit.arms import BoolArray, FloatArray, IntArray
from bandit.bounds import ROUNDING
from bandit.snapshot import Record


@dataclass(slots=True)
class Span:
    """Shares in force from the ticket `first` on; zero for arms asleep."""

    first: int
    awake: BoolArray
    shares: FloatArray


class Dealer:
    """Credits and counts since the last restart, each (arms,).

    credit: pulls owed (above 0) or ahead (below 0). served: the arm's pulls (T_i). offered: pulls of all arms while
    this one was awake (A_i). The shares of open tickets are remembered, so that a pull can be taken back.
    """

    def __init__(self, arms: int) -> None:
        self.credit: FloatArray = np.zeros(arms)
        self.served: IntArray = np.zeros(arms, dtype=np.int64)
        self.offered: IntArray = np.zeros(arms, dtype=np.int64)
        self.spans: list[Span] = []

    def set_shares(self, first: int, awake: BoolArray, shares: FloatArray) -> None:
        """Deal by `shares` (arms,), zero outside `awake` (arms,), from the ticket `first` on."""
        self.spans.append(Span(first, awake.copy(), shares))

    @property
    def shares(self) -> FloatArray:
        """Shares in force now (arms,); zeros before the first `set_shares`."""
        return self.spans[-1].shares if self.spans else np.zeros(len(self.credit))

    def deal(self, tie: Callable[[list[int]], int]) -> int:
        """The row that is served next. `tie` chooses among rows of exactly equal credit."""
        span = self.spans[-1]
        self.credit += span.shares
        score = np.where(span.awake, self.credit, -np.inf)
        row = int(score.argmax())
        equal = score == score[row]
        if np.count_nonzero(equal) > 1:
            row = tie(np.flatnonzero(equal).tolist())
        self.credit[row] -= 1.0
        self.served[row] += 1
        self.offered += span.awake
        return row

    def undo(self, ticket: int, row: int) -> None:
        """Take back the pull of a ticket; a ticket from before the last restart is in no count here."""
        span = next((span for span in reversed(self.spans) if span.first <= ticket), None)
        if span is not None:
            self.credit -= span.shares
            self.credit[row] += 1.0
            self.served[row] -= 1
            self.offered -= span.awake

    def forget(self, oldest_open: int) -> None:
        """Drop the shares that only tickets older than `oldest_open` were dealt by."""
        while len(self.spans) > 1 and self.spans[1].first <= oldest_open:
            del self.spans[0]

    def restart(self) -> None:
        """Forget credits and counts, as at a change of bounds."""
        self.credit[:] = 0.0
        self.served[:] = 0
        self.offered[:] = 0
        self.spans.clear()

    def in_force(self, awake: BoolArray) -> bool:
        """Whether shares are set for exactly these arms (arms,)."""
        if not self.spans:
            return False
        span = self.spans[-1]
        return bool((span.awake == awake).all()) and abs(float(np.sum(span.shares)) - 1.0) < ROUNDING

    def snapshot_spans(self, ids: list[int]) -> list[dict[str, Any]]:
        """The shares of open tickets as plain data: [{"first": ticket, "shares": {arm id: share}}], awake arms only."""
        return [
            {
                "first": span.first,
                "shares": {str(ids[row]): float(span.shares[row]) for row in np.flatnonzero(span.awake)},
            }
            for span in self.spans
        ]

    def restore_spans(self, rows: Mapping[int, int], records: list[Record]) -> None:
        """The inverse of `snapshot_spans`; shares of arms that are gone are left out."""
        for record in records:
            awake = np.zeros(len(self.credit), dtype=np.bool_)
            shares = np.zeros(len(self.credit))
            table = record.table("shares")
            for identity in table:
                row = rows.get(table.key_as_id(identity))
                if row is not None:
                    awake[row] = True
                    shares[row] = table.number(identity)
            self.spans.append(Span(record.whole("first"), awake, shares))
