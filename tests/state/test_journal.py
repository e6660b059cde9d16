"""Changes of several files: whole or not at all wherever they are cut, told once, undone byte for byte."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from curriculum.files import TEMPORARY
from state import journal
from state.journal import Transaction
from state.run_dir import RunDir

NOW = "2026-01-02T03:04:05Z"


class Cut(BaseException):
    """The process dies here."""


@pytest.fixture
def files(run: RunDir) -> RunDir:
    """A run with two files and a folder."""
    run.config.write_text("old config")
    run.state.write_text('{"serial": 7}')
    (run.checkpoints / "step_20").mkdir()
    (run.checkpoints / "step_20/model").write_text("weights")
    return run


def change(run: RunDir) -> Transaction:
    tx = Transaction(run, "repair", "a change for the test", now=NOW)
    tx.put(run.config, b"new config")
    tx.put(run.state, b'{"serial": 8}')
    tx.put(run.root / "polish" / "new.json", b"{}")
    tx.keep(run.state, run.versions / "7.json")
    tx.aside(run.checkpoints / "step_20")
    tx.record({"event": "repair", "step": 20})
    return tx


def content(root: Path) -> dict[str, bytes]:
    """Every file of the run but the archive, and temporaries, which every launch sweeps."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.relative_to(root).parts[0] not in ("archive", "journal")
        and not TEMPORARY.fullmatch(path.name)
    }


def test_a_change_is_done_and_kept_and_told(files: RunDir) -> None:
    entry = change(files).commit()
    assert files.config.read_text() == "new config"
    assert (files.versions / "7.json").read_text() == '{"serial": 7}'
    assert not (files.checkpoints / "step_20").exists()
    kept = journal.folder(files, entry)
    assert (kept / "before/config.toml").read_text() == "old config"
    assert (kept / "before/checkpoints/step_20/model").read_text() == "weights"
    assert [event["event"] for event in files.events()] == ["repair"]
    assert not files.journal.exists()
    assert [found.name for found in journal.entries(files)] == ["0001-repair"]


CALLS = ("rename", "link", "fsync", "replace", "mkdir", "open", "pwrite", "unlink")


def cutting(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], int]:
    """Die before the given call that reaches the file system; how many there were."""
    made = [0]
    for name in CALLS:
        real = getattr(os, name)

        def call(*arguments: Any, _real: Any = real, **named: Any) -> Any:
            made[0] += 1
            if made[0] > after:
                raise Cut
            return _real(*arguments, **named)

        monkeypatch.setattr(os, name, call)
    return lambda: made[0]


def test_wherever_it_is_cut_it_is_whole_or_nothing(files: RunDir, tmp_path: Path) -> None:
    old = content(files.root)
    tx = change(files)
    shutil.copytree(files.root, tmp_path / "whole" / files.name)
    whole = RunDir(tmp_path / "whole" / files.name)
    change(whole).commit()
    new = content(whole.root)
    undone = finished = 0
    for at in range(1000):
        root = tmp_path / f"cut-{at}" / files.name
        shutil.copytree(files.root, root)
        run = RunDir(root)
        with pytest.MonkeyPatch.context() as patch:
            calls = cutting(patch, at)
            try:
                change(run).commit()
            except Cut:
                done = False
            else:
                done = True
            assert calls() > at or done
        began = run.journal.exists()
        again = journal.redo(run)
        assert (again is not None) == began
        now = content(root)
        assert now == new if began or done else now in (old, new), at  # new: cut after its last rename
        assert not run.journal.exists() and journal.leftovers(run) == []
        undone, finished = undone + (not began and not done), finished + began
        if done:
            break
    else:
        pytest.fail("the change never ended")
    assert undone > 10 and finished > 10
    assert tx.name == "0001-repair"


def test_finishing_can_be_cut_too(files: RunDir, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        real = journal._do
        patch.setattr(journal, "_do", lambda *_: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            change(files).commit()
        assert real is not journal._do
    assert files.journal.is_dir() and files.config.read_text() == "old config"
    cuts = 0
    for at in range(1000):
        root = tmp_path / f"redo-{at}" / files.name
        shutil.copytree(files.root, root)
        run = RunDir(root)
        with pytest.MonkeyPatch.context() as patch:
            cutting(patch, at)
            try:
                journal.redo(run)
                done = True
            except Cut:
                done = False
        journal.redo(run)
        assert run.config.read_text() == "new config" and run.state.read_text() == '{"serial": 8}'
        assert (run.versions / "7.json").read_text() == '{"serial": 7}'
        assert [event["event"] for event in run.events()] == ["repair"], at
        cuts += not done
        if done:
            break
    assert cuts > 15


def test_undo_brings_every_byte_back_and_can_be_undone(files: RunDir) -> None:
    old = content(files.root)
    change(files).commit()
    new = content(files.root)
    journal.undo(files, None, now=NOW)
    back = content(files.root)
    extra = set(back) - set(old)
    # What is never taken back: the history, and the versions that keep serials from being used twice.
    assert extra == {
        "history.jsonl",
        f"{files.name}.state.json.d/7.json",
        f"{files.name}.state.json.d/undone-8.json",
    }
    assert {name: back[name] for name in old} == old
    assert [event["event"] for event in files.events()] == ["repair", "undo"]
    with pytest.raises(FirehoseError) as nothing:
        journal.undo(files, 1, now=NOW)
    assert nothing.value.exit_code is Exit.NOT_FOUND
    journal.undo(files, 2, now=NOW)
    again = content(files.root)
    assert {name: again[name] for name in new if name != "history.jsonl"} == {
        name: data for name, data in new.items() if name != "history.jsonl"
    }


def test_what_came_after_is_not_undone_unasked(files: RunDir) -> None:
    change(files).commit()
    files.state.write_text('{"serial": 9}')
    before = content(files.root)
    with pytest.raises(FirehoseError) as refused:
        journal.undo(files, None, now=NOW)
    assert refused.value.exit_code is Exit.REFUSED and files.state.name in str(refused.value)
    assert content(files.root) == before


def test_a_damaged_journal_is_said_and_left(files: RunDir) -> None:
    files.journal.mkdir()
    (files.journal / "transaction.json").write_text("{")
    with pytest.raises(FirehoseError) as damaged:
        journal.redo(files)
    assert damaged.value.exit_code is Exit.DAMAGED and files.journal.is_dir()
    with pytest.raises(FirehoseError) as waiting:
        change(files).commit()
    assert waiting.value.exit_code is Exit.REFUSED


def test_a_taken_version_name_is_not_lost(files: RunDir) -> None:
    files.versions.mkdir()
    (files.versions / "7.json").write_text("other content")
    change(files).commit()
    assert (files.versions / "7.json").read_text() == "other content"
    assert '{"serial": 7}' in [path.read_text() for path in files.versions.iterdir()]
