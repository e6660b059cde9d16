"""The ledger: tickets from pick to credit, so that the order in which rewards arrive changes nothing.

A ticket is open from its pick until the pick that counts it, `delay` steps later. A credit that comes earlier is
held; due ones are counted in ticket order; one that is missing when due is an error, never a guess (Joulani,
Gyorgy and Szepesvari 2013, QPM-D, with the delay made constant). Ticket ids count up from 1 and are never used
twice, not even after a cancellation, so a late credit of a cancelled pull cannot land on another.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bandit.errors import (
    CreditedTwice,
    MissingCredit,
    NonFiniteReward,
    RewardOutOfRange,
    UnknownTicket,
)
from bandit.snapshot import Record


class Ticket(NamedTuple):
    """One pull as issued. arm: its id. window: the arm's cursor before the pull, the first window of the pull."""

    id: int
    step: int
    micro: int
    arm: int
    window: int


_NEW = tuple.__new__  # a quarter of the time of Ticket(...), which is most of what a ticket costs


@dataclass(slots=True)
class Entry:
    """An open ticket. credited: its reward has arrived. reward: None for a void pull. penalty: in reward units.

    share: by which it was dealt, where the policy learns from it.
    """

    ticket: Ticket
    credited: bool = False
    reward: float | None = None
    penalty: float = 0.0
    share: float | None = None


class Ledger:
    """Open tickets in the order of their ids, which is also the order of their steps."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self.entries: dict[int, Entry] = {}
        self.next_id = 1
        self.counted = 0  # the highest ticket id that has been counted

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    @property
    def oldest_open(self) -> int:
        """The lowest open ticket id; the next one to be issued where none is open."""
        return next(iter(self.entries), self.next_id)

    def name(self, arm: int) -> str:
        return self.names.get(arm, f"arm {arm}")

    def issue(self, step: int, micro: int, arm: int, window: int, share: float | None = None) -> Ticket:
        """Open the next ticket. Steps must not fall."""
        identity = self.next_id
        ticket = _NEW(Ticket, (identity, step, micro, arm, window))
        self.entries[identity] = Entry(ticket, False, None, 0.0, share)
        self.next_id = identity + 1
        return ticket

    def credit(self, ticket_id: int, reward: float | None) -> None:
        """Hold a reward in [0, 1], or None for a void pull, until it is due.

        UnknownTicket, CreditedTwice, NonFiniteReward, RewardOutOfRange; nothing is changed by any of them.
        """
        entry = self.entries.get(ticket_id)
        if entry is None:
            if 0 < ticket_id <= self.counted:
                raise CreditedTwice(f"ticket {ticket_id} is closed: it was counted or cancelled")
            raise UnknownTicket(f"ticket {ticket_id} is not open: it was never issued, or was cancelled")
        if entry.credited:
            arm = self.name(entry.ticket.arm)
            raise CreditedTwice(f"{self._where(entry.ticket)}: credited already", arm=arm)
        if reward is not None and not 0.0 <= reward <= 1.0:  # a NaN is not, either
            arm, where = self.name(entry.ticket.arm), self._where(entry.ticket)
            if not math.isfinite(reward):
                raise NonFiniteReward(f"{where}: reward {reward} is not finite", arm=arm)
            raise RewardOutOfRange(f"{where}: reward {reward} is outside [0, 1]", arm=arm)
        entry.reward = None if reward is None else float(reward)
        entry.credited = True

    def _where(self, ticket: Ticket) -> str:
        return f"ticket {ticket.id} of {self.name(ticket.arm)}, step {ticket.step}"

    def due(self, step: int) -> list[Entry]:
        """The open tickets picked at `step` or before, in order. MissingCredit if one of them has no credit yet."""
        due = []
        for entry in self.entries.values():
            if entry.ticket.step > step:
                break
            if not entry.credited:
                arm = self.name(entry.ticket.arm)
                raise MissingCredit(f"{self._where(entry.ticket)}: due, but not credited", arm=arm)
            due.append(entry)
        return due

    def close(self, counted: list[Entry]) -> None:
        """Take counted tickets, the oldest open ones, out."""
        for entry in counted:
            del self.entries[entry.ticket.id]
        self.counted = counted[-1].ticket.id

    def cancel_from(self, step: int) -> list[Ticket]:
        """Take out every open ticket of `step` or later, held credits with them; in the order of their ids."""
        cancelled = [entry.ticket for entry in self.entries.values() if entry.ticket.step >= step]
        for ticket in cancelled:
            del self.entries[ticket.id]
        return cancelled

    def snapshot(self) -> list[dict[str, Any]]:
        """Open tickets as plain data; `credit` is null until it arrives, "void", or the reward; `share` where kept."""
        return [
            {
                "id": entry.ticket.id,
                "step": entry.ticket.step,
                "micro": entry.ticket.micro,
                "arm": entry.ticket.arm,
                "window": entry.ticket.window,
                "credit": ("void" if entry.reward is None else entry.reward) if entry.credited else None,
                "penalty": entry.penalty,
                **({} if entry.share is None else {"share": entry.share}),
            }
            for entry in self.entries.values()
        ]

    def restore(self, records: list[Record], next_id: int, counted: int) -> None:
        """The inverse of `snapshot`, with the two counters that stand beside it."""
        last = counted
        for record in records:
            ticket = Ticket(*(record.whole(key) for key in ("id", "step", "micro", "arm", "window")))
            if not last < ticket.id < next_id:
                raise record.wrong("id", f"a ticket id above {last} and under {next_id}")
            last = ticket.id
            share = record.number("share") if "share" in record.data else None
            self.entries[ticket.id] = Entry(ticket, penalty=record.number("penalty"), share=share)
            if record.data.get("credit") == "void":
                self.credit(ticket.id, None)
            elif (reward := record.number_or_none("credit")) is not None:
                self.credit(ticket.id, reward)
        self.next_id = next_id
        self.counted = counted
