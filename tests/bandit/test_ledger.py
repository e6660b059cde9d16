"""The ledger: named errors that change nothing, credits held until due, ids never used twice."""

import math

import pytest

from bandit.errors import (
    BanditError,
    CreditedTwice,
    MissingCredit,
    NonFiniteReward,
    RewardOutOfRange,
    UnknownTicket,
)
from bandit.ledger import Ledger, Ticket
from bandit.snapshot import Record


def ledger() -> Ledger:
    """Tickets 1 to 6, two a step."""
    made = Ledger({10: "books", 11: "code"})
    for number in range(6):
        made.issue(step=1 + number // 2, micro=number % 2, arm=10 + number % 2, window=4 * number)
    return made


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        (math.nan, NonFiniteReward),
        (math.inf, NonFiniteReward),
        (-math.inf, NonFiniteReward),
        (-1e-9, RewardOutOfRange),
        (1.0000001, RewardOutOfRange),
    ],
)
def test_a_bad_reward_names_the_arm_and_changes_nothing(reward: float, error: type[BanditError]) -> None:
    made = ledger()
    before = made.snapshot()
    with pytest.raises(error, match="ticket 2 of code, step 1") as caught:
        made.credit(2, reward)
    assert caught.value.arm == "code" and isinstance(caught.value, ValueError)
    assert made.snapshot() == before
    made.credit(2, 1.0)


@pytest.mark.parametrize("first", [0.5, None])
@pytest.mark.parametrize("second", [0.5, None])
def test_a_second_credit_names_the_arm_and_changes_nothing(first: float | None, second: float | None) -> None:
    made = ledger()
    made.credit(1, first)
    before = made.snapshot()
    with pytest.raises(CreditedTwice, match="books") as caught:
        made.credit(1, second)
    assert caught.value.arm == "books" and made.snapshot() == before


def test_unknown_and_closed_tickets() -> None:
    made = ledger()
    for unknown in (0, -1, 7):
        with pytest.raises(UnknownTicket, match=f"ticket {unknown} "):
            made.credit(unknown, 0.5)
    made.credit(1, 0.5)
    made.close([made.entries[1]])
    with pytest.raises(CreditedTwice, match="ticket 1 is closed"):
        made.credit(1, 0.5)


def test_due_is_in_ticket_order_whatever_the_order_of_arrival() -> None:
    made = ledger()
    for ticket in (4, 1, 3, 2, 6):
        made.credit(ticket, ticket / 10)
    assert [(entry.ticket.id, entry.reward) for entry in made.due(2)] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]
    assert made.due(0) == []
    with pytest.raises(MissingCredit, match="ticket 5 of books, step 3") as caught:
        made.due(3)
    assert caught.value.arm == "books" and len(made) == 6


def test_cancelled_ids_are_never_used_again() -> None:
    made = ledger()
    made.credit(6, 0.5)
    assert [ticket.id for ticket in made.cancel_from(2)] == [3, 4, 5, 6]
    with pytest.raises(UnknownTicket):
        made.credit(6, 0.5)
    assert made.issue(2, 0, 10, 0) == Ticket(7, 2, 0, 10, 0)
    assert [entry.ticket.id for entry in made] == [1, 2, 7] and made.oldest_open == 1
    assert made.cancel_from(1) and made.oldest_open == 8


def test_a_snapshot_tells_open_held_and_void_apart() -> None:
    made = ledger()
    made.credit(1, 0.0)
    made.credit(2, None)
    records = made.snapshot()
    assert [record["credit"] for record in records[:3]] == [0.0, "void", None]
    loaded = Ledger(made.names)
    loaded.restore([Record(record) for record in records], made.next_id, made.counted)
    assert loaded.snapshot() == records
    assert [(e.credited, e.reward) for e in loaded][:3] == [(True, 0.0), (True, None), (False, None)]
