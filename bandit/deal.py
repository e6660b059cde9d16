"""The deal: pulls handed out by largest credit, so that served shares follow the targets to within a few pulls.

Every awake arm gains its share, the largest credit is served and pays 1; a sleeping arm's credit is frozen. While
nobody sleeps, served minus target stays in [-(H_K - 1), 1 - 1/K] pulls for any shares chosen online, H_K = 1 +
1/2 + ... + 1/K. Same rule as Megatron's `build_blending_indices`; the bound is the signed form of the cup game's
(Bender, Farach-Colton and Kuszmaul 2019, arXiv:1904.02861).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandit.arms import BoolArray, FloatArray, IntArray, cells
from bandit.bounds import ROUNDING
from bandit.snapshot import Record


@dataclass(slots=True)
class Span:
    """What is in force from the ticket `first` on: who is awake, and the shares dealt; of an argmax, floors and caps."""

    first: int
    awake: BoolArray
    shares: FloatArray
    caps: FloatArray | None = None


class Tally:
    """Counts since the last restart, each (arms,), kept so that any open ticket's pull can be taken back.

    served: the arm's pulls (T_i). offered: pulls of all arms while this one was awake (A_i). credit: pulls owed (above
    0) or ahead (below 0), 0 throughout where nothing is dealt by shares. What a pull changes for many arms is held
    back and added by `fold`, so that a pick touches few numbers.
    """

    def __init__(self, arms: int) -> None:
        self.served: IntArray = np.zeros(arms, dtype=np.int64)
        self.offered: IntArray = np.zeros(arms, dtype=np.int64)
        self.credit: FloatArray = np.zeros(arms)
        self.spans: list[Span] = []
        self._served = cells(self.served)
        self._held = 0  # pulls since the last fold

    def begin(self, first: int, awake: BoolArray, shares: FloatArray, caps: FloatArray | None = None) -> None:
        """Serve the arms of `awake` (arms,) by `shares` (arms,), zero elsewhere, from the ticket `first` on."""
        self.fold()
        self.spans.append(Span(first, awake.copy(), shares, caps))
        self._enter()

    def _enter(self) -> None:
        """Prepare for picks under the newest span."""

    def fold(self) -> None:
        """Add what was held back."""
        if self._held:
            self.offered += self._held * self.spans[-1].awake
            self._held = 0

    def undo(self, ticket: int, row: int) -> None:
        """Take back the pull of a ticket; a ticket from before the last restart is in no count here."""
        self.fold()
        span = next((span for span in reversed(self.spans) if span.first <= ticket), None)
        if span is not None:
            self._undo(span, row)
            self.served[row] -= 1
            self.offered -= span.awake
            self._enter()

    def _undo(self, span: Span, row: int) -> None:
        """What a kind of service takes back beside the counts."""

    def forget(self, oldest_open: int) -> None:
        """Drop the spans that only tickets older than `oldest_open` were picked under."""
        while len(self.spans) > 1 and self.spans[1].first <= oldest_open:
            del self.spans[0]

    def restart(self) -> None:
        """Forget the counts, as at a change of bounds."""
        self.served[:] = 0
        self.offered[:] = 0
        self.credit[:] = 0.0
        self.spans.clear()
        self._held = 0

    @property
    def shares(self) -> FloatArray:
        """Shares in force now (arms,); zeros before the first span."""
        return self.spans[-1].shares if self.spans else np.zeros(len(self.served))

    def in_force(self, awake: BoolArray) -> bool:
        """Whether a span is there for exactly these arms (arms,)."""
        return bool(self.spans) and bool((self.spans[-1].awake == awake).all())

    def snapshot_spans(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """The spans of open tickets as plain data, awake arms only: [{"first": ticket, "shares": {arm id: share}}].

        `caps` beside `shares` in an argmax.
        """

        def by_id(column: FloatArray, awake: BoolArray) -> dict[str, float]:
            return {str(ids[row]): float(column[row]) for row in np.flatnonzero(awake).tolist()}

        return [
            {
                "first": span.first,
                "shares": by_id(span.shares, span.awake),
                **({} if span.caps is None else {"caps": by_id(span.caps, span.awake)}),
            }
            for span in self.spans
        ]

    def restore(self, rows: Mapping[int, int], records: list[Record]) -> None:
        """The inverse of `snapshot_spans`, once the columns are loaded; arms that are gone are left out."""
        for record in records:
            awake, shares = self._by_row(rows, record.table("shares"))
            caps = self._by_row(rows, record.table("caps"))[1] if "caps" in record.data else None
            self.spans.append(Span(record.whole("first"), awake, shares, caps))
        if self.spans:
            self._enter()

    def _by_row(self, rows: Mapping[int, int], table: Record) -> tuple[BoolArray, FloatArray]:
        awake, column = np.zeros(len(self.served), dtype=np.bool_), np.zeros(len(self.served))
        for identity in table:
            row = rows.get(table.key_as_id(identity))
            if row is not None:
                awake[row] = True
                column[row] = table.number(identity)
        return awake, column


class Dealer(Tally):
    """Serves the largest credit, and the first of equal ones: rows stand in the order of preference (`ArmTable`)."""

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self._awake = b""  # the awake arms that _rows lists

    def _enter(self) -> None:
        span = self.spans[-1]
        awake = span.awake.tobytes()
        if awake != self._awake:
            self._awake = awake
            self._at: IntArray = np.flatnonzero(span.awake)
            self._rows: list[int] = self._at.tolist()
        self._gains: FloatArray = span.shares[self._at]
        self._credits: FloatArray = self.credit[self._at]
        self._single = cells(self._credits)

    def fold(self) -> None:
        if self._held:
            self.credit[self._at] = self._credits
        super().fold()

    def deal(self, pulls: int) -> list[int]:
        """The rows that are served next, one for each pull."""
        credits, gains, single = self._credits, self._gains, self._single
        rows, served, add, largest = self._rows, self._served, np.add, self._credits.argmax
        dealt = []
        for _ in range(pulls):
            add(credits, gains, credits)
            at = largest()
            single[at] -= 1.0
            row = rows[at]
            served[row] += 1
            dealt.append(row)
        self._held += pulls
        return dealt

    def _undo(self, span: Span, row: int) -> None:
        self.credit -= span.shares
        self.credit[row] += 1.0

    def in_force(self, awake: BoolArray) -> bool:
        return super().in_force(awake) and abs(float(np.sum(self.shares)) - 1.0) < ROUNDING
