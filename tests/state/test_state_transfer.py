"""A whole state into a run: what is refused and why, that an edit by hand is shown first, and that no write is lost."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from state.envelope import VERSION, Parent
from state.operate import change, transfer
from state.operate.target import resolve
from state.recover import look
from state.run_dir import RunDir
from state.store import StateStore
from tests.state.state_runs import NOW, add_checkpoint, current, make_run, payload_of, sealed_as

OTHER = "11111111-2222-4333-8444-555555555555"
FILE = Path("edited.json")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """State and checkpoint of step 20; the current folder is an empty one."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return make_run(tmp_path)


def push(run: RunDir, data: bytes, **options: Any) -> change.Change:
    return transfer.push(run, data, FILE, now=lambda: NOW, **options)


def refused(run: RunDir, data: bytes, **options: Any) -> FirehoseError:
    """The error of a push, which must have changed nothing."""
    before = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file() and path != run.lock}
    with pytest.raises(FirehoseError) as caught:
        push(run, data, **options)
    left = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file() and path != run.lock}
    assert left == before and caught.value.next and caught.value.changed == "nothing"
    return caught.value


def edited(run: RunDir, old: str, new: str) -> bytes:
    text = run.state.read_text()
    assert old in text
    return text.replace(old, new, 1).encode()


def test_another_lineage_is_refused_with_both_named_and_forced_into_the_runs_own(run: RunDir) -> None:
    payload = {**payload_of(20), "halt": {"step": 20, "reason": "x"}}
    data = sealed_as(run, lineage=OTHER, serial=9, payload=payload)
    error = refused(run, data)
    assert error.exit_code is Exit.REFUSED
    assert OTHER in error.message and current(run).lineage in error.message
    made = push(run, data, force=True)
    assert made.after.lineage == made.before.lineage and made.after.payload["halt"] == payload["halt"]


def test_a_serial_that_is_not_newer_is_refused_with_both_named(run: RunDir) -> None:
    data = sealed_as(run, payload={**payload_of(20), "halt": {"step": 20, "reason": "x"}})
    message = refused(run, data).message
    assert "serial 1," in message and "of serial 1 is newer" in message
    assert push(run, data, force=True).after.serial == 2
    newer = sealed_as(run, payload=payload_of(20), serial=30)
    assert push(run, newer).after.serial == 3, "a new serial of this run, above all it had"


def test_a_damaged_or_newer_file_never_gets_in(run: RunDir) -> None:
    whole = run.state.read_bytes()
    assert refused(run, whole[:-200], force=True).exit_code is Exit.DAMAGED
    assert (
        refused(run, whole.replace(b'"serial": 1', b'"serial": 8'), accept_edit=True).exit_code
        is Exit.DAMAGED
    )
    newer = json.dumps({**json.loads(whole), "version": VERSION + 1, "new": 1}).encode()
    assert refused(run, newer, force=True).exit_code is Exit.NEWER_SCHEMA


def test_an_edit_by_hand_is_shown_then_taken_and_told_of(run: RunDir) -> None:
    data = edited(run, '"mean": 0.66', '"mean": 0.99')
    error = refused(run, data)
    assert error.exit_code is Exit.REFUSED and "bandit.arms.books.mean 0.66239 -> 0.99239" in error.message
    assert "--accept-edit" in str(error.next)
    assert push(run, data, accept_edit=True, dry=True).after.serial == 2 and current(run).serial == 1
    made = push(run, data, accept_edit=True)
    record = current(run).payload["bandit"]["arms"]["books"]
    assert round(record["mean"], 5) == 0.99239 and made.after.payload["edits"][0]["op"] == "set"
    settled = look(run, StateStore(run.state), deep=False).settled
    assert settled.messages == ["an operator's edit is kept: set bandit.arms.books.mean"]
    refusal = refused(run, data, accept_edit=True)
    assert "was pulled at serial 1" in refusal.message and "of serial 2" in refusal.message
    assert push(run, data, accept_edit=True, force=True, dry=True).after.serial == 3


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"windows": 50', '"windows": -4', "windows -4"),
        ('"cursor": 64', '"cursor": "many"', "cursor"),
        ('"pool_weight": ', '"pool_weigth": ', "pool_weight"),
        ('"micro": 0', '"micro": 0.5', "micro"),
        ('"fast": ', '"fats": ', "fast"),
    ],
)
def test_an_edit_that_a_launch_could_not_take_up_is_refused_by_field(
    run: RunDir, old: str, new: str, field: str
) -> None:
    error = refused(run, edited(run, old, new), accept_edit=True)
    assert error.exit_code is Exit.REFUSED and field in error.message, error.message


def test_a_ticket_of_an_arm_that_is_cut_out_by_hand_is_noticed(run: RunDir) -> None:
    body = json.loads(run.state.read_text())
    del body["payload"]["bandit"]["arms"]["code"]
    assert "tickets" in refused(run, json.dumps(body).encode(), accept_edit=True).message


def test_bounds_set_by_hand_come_with_the_word_that_the_config_wins(run: RunDir) -> None:
    made = push(run, edited(run, '"cap": 0.8', '"cap": 0.5'), accept_edit=True, dry=True)
    assert "the config wants books (cap 0.8, floor 0.3): a launch takes its bounds from there" in made.launch


def test_an_edit_is_made_again_on_the_checkpoints_copy(tmp_path: Path) -> None:
    """The state is ahead of its weights: a launch must go back, and the arm stays out."""
    run = make_run(tmp_path, name="ahead", step=20, ahead=4)
    made = change.edit(run, [("rm", {"arm": "forum"})])
    assert made.after.step == 24 and "at step 20" in made.launch[0]
    settled = look(run, StateStore(run.state), deep=False).settled
    assert settled.payload is not None and (settled.source, settled.step) == ("checkpoint", 20)
    assert settled.payload["pruned"]["forum"]["removed"] and settled.payload["pruned"]["forum"]["step"] == 20
    assert settled.payload["edited"] == settled.payload["edits"] == made.after.payload["edits"]


def test_restoring_a_version_undoes_an_edit_for_the_next_launch_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, name="ahead", step=20, ahead=4)
    change.edit(run, [("rm", {"arm": "forum"})])
    made = transfer.restore(run, 2)
    assert (made.after.serial, made.after.step) == (4, 24)
    settled = look(run, StateStore(run.state), deep=False).settled
    assert settled.payload is not None and "forum" in settled.payload["bandit"]["arms"]
    assert [edit["what"] for edit in settled.payload["edits"]] == ["restore serial 2"]


def test_a_state_behind_the_weights_would_not_be_used_and_is_refused(run: RunDir) -> None:
    store = StateStore(run.state)
    later = store.commit(payload_of(24), step=24, config_sha256=current(run).config_sha256)
    add_checkpoint(run, later)
    with pytest.raises(
        FirehoseError, match="weights exist only at checkpoints, the newest of step 24"
    ) as caught:
        transfer.restore(run, 1)
    assert caught.value.exit_code is Exit.REFUSED and "--from" in str(caught.value.next)
    assert current(run) == later
    behind = sealed_as(run, step=20, serial=9, payload=payload_of(20))
    assert "of step 24" in refused(run, behind).message


def test_a_state_that_fell_behind_is_edited_as_its_checkpoint_has_it(run: RunDir) -> None:
    store = StateStore(run.state)
    add_checkpoint(run, store.prepare(payload_of(24), step=24, config_sha256=current(run).config_sha256))
    made = change.edit(run, [("rm", {"arm": "forum"})])
    assert made.after.step == 24 and made.after.serial == 3, "serial 2 is the checkpoint's"
    assert made.done[0] == "the state is behind the checkpoint of step 24, whose copy is taken"
    assert look(run, store, deep=False).settled.source == "state"


def test_an_older_story_is_refused_unless_forced_and_only_where_its_weights_are(run: RunDir) -> None:
    old = current(run)
    store = StateStore(run.state)
    store.create(
        payload_of(20),
        config_sha256=old.config_sha256,
        step=20,
        parent=Parent(old.lineage, old.serial, old.step),
    )
    with pytest.raises(FirehoseError, match="from before a pivot"):
        transfer.restore(run, 1)
    made = transfer.restore(run, 1, force=True)
    assert (made.after.lineage, made.after.parent) == (old.lineage, None)
    assert look(run, store, deep=False).settled.source == "state"


def test_before_the_first_checkpoint_an_edit_would_have_no_effect_and_is_refused(run: RunDir) -> None:
    for path in run.checkpoints.iterdir():
        path.rename(run.root / "gone")
    payload = {**payload_of(20), "checkpoint": None}
    StateStore(run.state).commit(payload, step=20, config_sha256=current(run).config_sha256)
    with pytest.raises(FirehoseError, match="no checkpoint yet") as caught:
        change.edit(run, [("rm", {"arm": "forum"})])
    assert caught.value.exit_code is Exit.REFUSED and current(run).serial == 2


def test_a_damaged_state_is_not_edited_but_a_version_can_be_brought_back(run: RunDir) -> None:
    change.edit(run, [("rm", {"arm": "forum"})])
    damaged = run.state.read_bytes()[:-30]
    run.state.write_bytes(damaged)
    with pytest.raises(FirehoseError) as caught:
        change.edit(run, [("rm", {"arm": "code"})])
    assert caught.value.exit_code is Exit.DAMAGED and f"state repair {run.root}" in str(caught.value.next)
    with pytest.raises(FirehoseError) as caught:
        transfer.pull(resolve(str(run.root), run.root.parent))
    assert caught.value.exit_code is Exit.DAMAGED and caught.value.next
    made = transfer.restore(run, 1)
    assert "forum" in current(run).payload["bandit"]["arms"] and made.after.serial == 3
    assert damaged in [path.read_bytes() for path in run.versions.iterdir()], "what was damaged is kept"


def test_a_write_that_fails_leaves_what_was_to_be_written_beside(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, *more: Any, **options: Any) -> int:
        if f".{run.state.name}." in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *more, **options)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(FirehoseError) as caught:
        change.edit(run, [("rm", {"arm": "forum"})])
    kept = run.root / change.ERRORED
    assert caught.value.exit_code is Exit.WRITE_FAILED and f"state push {kept} {run.root}" in str(
        caught.value.next
    )
    assert "forum" in current(run).payload["bandit"]["arms"]
    monkeypatch.undo()
    transfer.push(run, kept.read_bytes(), kept)
    assert current(run).payload["pruned"]["forum"]["removed"]


def test_an_old_version_is_written_anew_with_the_file_before_it_kept(run: RunDir) -> None:
    """Wherever its weights are: the state means what it did."""
    store = StateStore(run.state)
    add_checkpoint(run, store.prepare(payload_of(24), step=24, config_sha256=current(run).config_sha256))
    body = json.loads(run.state.read_text())
    del body["header_sha256"]
    old = json.dumps({**body, "version": 1}).encode()
    run.state.write_bytes(old)
    dry = transfer.migrate(run, dry=True)
    assert dry.done[0] == f"version 1 -> {VERSION}" and run.state.read_bytes() == old
    transfer.migrate(run)
    assert json.loads(run.state.read_text())["version"] == VERSION
    assert store.versions()[0][1].read_bytes() == old and current(run).serial == 3
    assert transfer.migrate(run).done[0].startswith("nothing to do")
