"""A damaged state file is refused with a finding or opens as exactly what was written, whatever was done to its bytes."""

from pathlib import Path
from typing import Any

import pytest

from state import envelope
from tests.faults.mutations import KINDS, attack, fixture, small_subject

COUNT = 100_000


def test_nothing_that_happens_to_the_bytes_goes_unnoticed() -> None:
    outcome = attack(COUNT, 20, [(1, small_subject())])
    assert outcome.wrong == []
    assert outcome.total() == COUNT
    for kind in KINDS:  # it proves nothing unless every kind of damage was done, and refused
        refused = sum(
            n for (name, what), n in outcome.counts.items() if name == kind.__name__ and what[0] == "F"
        )
        assert refused > 0.7 * COUNT / len(KINDS), kind.__name__
    assert outcome.total("F0001") > 0 < outcome.total("F0002") and outcome.total("F0011") > 0
    assert 0 < outcome.total("opened") < 0.1 * COUNT, "white space is no content"


@pytest.mark.parametrize("name", ["plain.state.json", "packed.state.json"])
def test_states_that_runs_wrote(name: str) -> None:
    outcome = attack(900, 3, [(1, fixture(name))])
    assert outcome.wrong == [] and outcome.total() == 900


@pytest.mark.parametrize("blind", ["payload", "header"])
def test_a_reader_that_skips_a_hash_is_caught(blind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = envelope._differs

    def skip(body: Any, path: Path) -> tuple[str, ...]:
        return tuple(part for part in whole(body, path) if part != blind)

    subject = [(1, small_subject())]
    monkeypatch.setattr(envelope, "_differs", skip)
    assert len(attack(4_500, 20, subject).wrong) > 50
