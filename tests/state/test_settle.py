"""The rule between a state and a checkpoint: every case, and that no operator's edit is dropped without a word."""

from collections.abc import Callable
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from state.envelope import Envelope, Parent
from state.settle import Settled, settle

Build = Callable[..., Envelope]
OTHER = "11111111-2222-4333-8444-555555555555"


def edit(serial: int, cap: float) -> dict[str, Any]:
    path = ["bandit", "arms", "web", "cap"]
    args = {"changes": [{"path": path, "value": cap}], "step": 60}
    return {"serial": serial, "what": f"set web.cap = {cap}", "op": "set", "args": args}


def body(cap: float = 1.3, *edits: dict[str, Any]) -> dict[str, Any]:
    return {"bandit": {"arms": {"web": {"id": 7, "cap": cap}}}, "edits": list(edits)}


def refused(state: Envelope, checkpoint: Envelope | None) -> FirehoseError:
    with pytest.raises(FirehoseError) as caught:
        settle(state, checkpoint, run="demo")
    assert caught.value.exit_code is Exit.REFUSED and caught.value.next
    return caught.value


def test_nothing_at_all_is_a_fresh_start() -> None:
    assert settle(None, None, run="demo") == Settled("fresh", None, 0, None, 0)


def test_same_step_the_state_wins_edits_and_all(sealed: Build) -> None:
    checkpoint = sealed(body())
    assert settle(sealed(body(), serial=8), checkpoint, run="demo").messages == []
    state = sealed(body(0.3, edit(8, 0.3)), serial=8)
    settled = settle(state, checkpoint, run="demo")
    assert (settled.source, settled.payload, settled.serial) == ("state", state.payload, 8)
    assert settled.messages == ["an operator's edit is kept: set web.cap = 0.3"]


def test_a_state_older_than_the_checkpoint_gives_way_unless_it_was_edited(sealed: Build) -> None:
    checkpoint = sealed(body(), step=40, serial=9)
    settled = settle(sealed(body(), step=20), checkpoint, run="demo")
    assert (settled.source, settled.step, settled.serial) == ("checkpoint", 40, 9)
    assert settled.payload == checkpoint.payload and len(settled.messages) == 1
    error = refused(sealed(body(0.3, edit(8, 0.3)), step=20, serial=8), checkpoint)
    assert "set web.cap = 0.3" in error.message
    known = sealed(body(0.3, edit(8, 0.3)), step=40, serial=9)
    assert settle(sealed(body(0.3, edit(8, 0.3)), step=20), known, run="demo").source == "checkpoint"


def test_a_state_that_went_on_gives_way_and_its_later_edits_are_made_again(sealed: Build) -> None:
    first, second = edit(5, 0.9), edit(9, 0.3)
    removal = {
        "serial": 10,
        "what": "rm note",
        "op": "set",
        "args": {"changes": [{"path": ["note"]}], "step": 60},
    }
    checkpoint = sealed({**body(0.9, first), "note": 1}, step=20, serial=7)
    state = sealed(body(0.3, first, second, removal), step=60, serial=12)
    settled = settle(state, checkpoint, run="demo")
    assert (settled.source, settled.step, settled.serial) == ("checkpoint", 20, 12)
    assert settled.payload == {**body(0.3, first, second, removal), "edited": [second]}
    assert "steps 21 to 60" in settled.messages[0]
    assert settled.messages[1:] == [
        "an operator's edit is made again: set web.cap = 0.3",
        "an operator's edit is made again: rm note",
    ]
    assert checkpoint.payload["bandit"]["arms"]["web"]["cap"] == 0.9, "pure"


def test_an_edit_that_fits_the_checkpoint_no_more_is_refused(sealed: Build) -> None:
    checkpoint = sealed({"bandit": {"arms": {}}}, step=20)
    assert "set web.cap" in refused(sealed(body(0.3, edit(9, 0.3)), step=60), checkpoint).message


def test_a_lost_state_is_the_checkpoints_copy(sealed: Build) -> None:
    checkpoint = sealed(body(), step=40, serial=9)
    settled = settle(None, checkpoint, run="demo")
    assert (settled.source, settled.payload, settled.lineage) == (
        "checkpoint",
        checkpoint.payload,
        checkpoint.lineage,
    )
    assert "no state file" in settled.messages[0]


def test_before_the_first_checkpoint_a_run_starts_over_in_its_lineage(sealed: Build) -> None:
    state = sealed(body(), step=60, serial=4)
    settled = settle(state, None, run="demo")
    assert (settled.source, settled.payload, settled.step) == ("fresh", None, 0)
    assert (settled.lineage, settled.serial) == (state.lineage, 4) and "steps 1 to 60" in settled.messages[0]
    assert settle(sealed(body(), step=0), None, run="demo").source == "state"
    assert "edited" in refused(sealed(body(0.3, edit(2, 0.3)), step=60), None).message


def test_another_lineage_only_from_its_parents_weights(sealed: Build) -> None:
    checkpoint = sealed(body(), step=40)
    parent = Parent(checkpoint.lineage, 7, 40)
    state = sealed(body(0.3), lineage=OTHER, step=40, parent=parent)
    settled = settle(state, checkpoint, run="demo")
    assert (settled.source, settled.lineage, settled.payload) == ("state", OTHER, state.payload)
    for stranger in (
        sealed(body(), lineage=OTHER, step=40),
        sealed(body(), lineage=OTHER, step=40, parent=Parent(checkpoint.lineage, 7, 20)),
        sealed(body(), lineage=OTHER, step=40, parent=Parent(OTHER, 7, 40)),
        sealed(body(), lineage=OTHER, step=60, parent=parent),
    ):
        assert "F0014" in refused(stranger, checkpoint).message
    assert "F0014" in refused(state, None).message
