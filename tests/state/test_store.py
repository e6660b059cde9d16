"""The store: wholly old or wholly new after anything, previous versions kept, nothing acknowledged is lost."""

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curriculum import files
from curriculum.errors import Exit, FirehoseError
from curriculum.files import write_atomic
from state.envelope import Parent, open_envelope
from state.findings import FindingError
from state.store import KEPT, StateStore, sweep_temporaries

CONFIG_SHA = "c" * 64


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "demo.state.json", now=lambda: "2026-01-02T03:04:05Z")


def commit(store: StateStore, step: int) -> int:
    return store.commit({"step": step}, step=step, config_sha256=CONFIG_SHA).serial


def begin(store: StateStore, commits: int = 1) -> None:
    store.create({"step": 0}, config_sha256=CONFIG_SHA)
    for step in range(1, commits):
        commit(store, step)


def test_commits_count_up_and_the_last_ten_before_are_kept(store: StateStore) -> None:
    assert store.read() == (None, [])
    begin(store, 15)
    current, findings = StateStore(store.path).read()
    assert current is not None and findings == []
    assert (current.serial, current.step, current.payload) == (15, 14, {"step": 14})
    assert [serial for serial, _ in store.versions()] == list(range(15 - KEPT, 15))
    for serial, path in store.versions():
        kept = open_envelope(path.read_bytes(), path)
        assert (kept.serial, kept.step, kept.lineage) == (serial, serial - 1, current.lineage)


def test_a_commit_needs_a_state_and_a_second_lineage_needs_its_parent(store: StateStore) -> None:
    with pytest.raises(FirehoseError) as missing:
        commit(store, 1)
    assert missing.value.exit_code is Exit.NOT_FOUND
    begin(store, 3)
    old = store.read()[0]
    assert old is not None
    with pytest.raises(FindingError, match="F0014"):
        store.create({}, config_sha256=CONFIG_SHA)
    child = store.create(
        {}, step=2, config_sha256=CONFIG_SHA, parent=Parent(old.lineage, old.serial, old.step)
    )
    assert child.serial == 4 and child.lineage != old.lineage
    assert store.versions()[-1][0] == 3
    assert store.commit({}, step=3, config_sha256=CONFIG_SHA).parent == child.parent


def test_a_state_that_was_taken_back_is_no_version_and_its_serial_is_used_up(store: StateStore) -> None:
    begin(store, 3)
    sealed = store.path.read_bytes()
    commit(store, 9)
    store.path.rename(store.folder / "undone-4.json")
    (store.folder / "3.json").unlink()
    store.path.write_bytes(sealed[:-9])
    found, _ = StateStore(store.path).read()
    assert found is not None and (found.serial, found.step) == (2, 1)
    store.path.write_bytes(sealed)
    assert commit(StateStore(store.path), 3) == 5


def test_reserved_serials_are_not_used(store: StateStore) -> None:
    begin(store)
    store.reserve(9)
    assert commit(store, 1) == 10


def test_the_new_name_comes_after_the_synced_file_and_the_kept_version(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kill can show this order; a power cut would."""
    begin(store, 2)  # so that the folder of the versions is there
    calls: list[str] = []

    def record(name: str, describe: Callable[..., str]) -> None:
        original = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(describe(*args))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapper)

    def kind(descriptor: int) -> str:
        return "sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-")[0]

    record("fsync", kind)
    record("replace", lambda source, target: f"rename to {Path(target).name}")
    record("link", lambda source, target: f"link {Path(target).name}")
    commit(store, 1)
    temporary = f"sync .demo.state.json.{os.getpid()}"
    assert calls[0] == temporary
    assert calls[1:3] == ["link 2.json", "sync demo.state.json.d"]
    assert calls[3] == "rename to demo.state.json"
    assert calls[4].startswith("sync ") and calls[4] != temporary and len(calls) == 5


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync", "pread", "link", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_call_leaves_the_old_state_and_says_so(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    begin(store, 2)
    before = store.path.read_bytes()
    prepared = store.prepare({"step": 2}, step=2, config_sha256=CONFIG_SHA)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(FirehoseError) as caught:
            store.write(prepared)
    assert caught.value.exit_code is Exit.WRITE_FAILED
    assert caught.value.path == str(store.path) and os.strerror(code) in caught.value.message
    assert caught.value.changed.startswith("nothing")
    assert store.path.read_bytes() == before
    assert list(store.path.parent.glob(".*")) == []
    assert commit(store, 2) == 3


def test_a_folder_that_cannot_be_synced_is_told_after_the_switch(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store, 2)

    def fail(folder: Path) -> None:
        if folder == store.path.parent:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_folder", fail)
        with pytest.raises(FirehoseError, match="power cut"):
            commit(store, 1)
    assert commit(store, 2) == 4


@pytest.mark.parametrize("claim", [0, -1, 10**9])
def test_a_write_that_claims_the_impossible_is_not_believed(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, claim: int
) -> None:
    begin(store)
    monkeypatch.setattr(os, "pwrite", lambda *args: claim)
    with pytest.raises(FirehoseError) as caught:
        commit(store, 1)
    assert caught.value.exit_code is Exit.WRITE_FAILED


def test_bytes_claimed_but_not_written_are_noticed(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda descriptor, data, offset: len(data))
        with pytest.raises(FirehoseError, match="do not read back"):
            commit(store, 1)
    assert store.read()[0] is not None


def test_short_writes_are_carried_on(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(store)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:7], offset))
    assert commit(store, 1) == 2


def test_a_damaged_file_is_passed_over_reported_and_kept(store: StateStore) -> None:
    begin(store, 5)
    store.path.write_bytes(store.path.read_bytes().replace(b'"step": 4', b'"step": 9', 2))
    damaged = store.path.read_bytes()
    (store.folder / "4.json").write_text("{")
    again = StateStore(store.path)
    current, findings = again.read()
    assert current is not None and current.serial == 3
    assert [found.id for found in findings] == ["F0002", "F0001"]
    assert "demo.state.json" in findings[0].message and "4.json" in findings[1].message
    assert store.path.read_bytes() == damaged, "reading changes nothing"
    assert commit(again, 6) == 6, "serial 5 was acknowledged once"
    (kept,) = store.folder.glob("damaged-*.json")
    assert kept.read_bytes() == damaged
    assert StateStore(store.path).read()[1] == []


def test_a_missing_file_with_versions_is_not_a_fresh_start(store: StateStore) -> None:
    begin(store, 3)
    store.path.unlink()
    current, findings = StateStore(store.path).read()
    assert current is not None and current.serial == 2
    assert [found.id for found in findings] == ["F0001"]


def test_no_valid_copy_is_an_error_with_a_way_out(store: StateStore) -> None:
    begin(store)
    store.path.write_bytes(b"")
    with pytest.raises(FindingError) as caught:
        StateStore(store.path).read()
    assert caught.value.exit_code is Exit.DAMAGED and "move demo.state.json" in str(caught.value.next)


def test_a_newer_file_is_neither_passed_over_nor_written(store: StateStore) -> None:
    begin(store, 3)
    newer = store.path.read_bytes().replace(b'"version": 2', b'"version": 3, "more": true')
    store.path.write_bytes(newer)
    again = StateStore(store.path)
    for action in (again.read, lambda: commit(again, 3)):
        with pytest.raises(FindingError) as caught:
            action()
        assert caught.value.exit_code is Exit.NEWER_SCHEMA
    assert store.path.read_bytes() == newer


def test_a_second_writer_is_noticed(store: StateStore) -> None:
    begin(store)
    other = StateStore(store.path)
    other.read()
    commit(store, 1)
    with pytest.raises(FirehoseError) as caught:
        commit(other, 1)
    assert caught.value.exit_code is Exit.REFUSED
    assert StateStore(store.path).read()[0] == store.read()[0]


def test_a_version_cut_short_is_used_again_and_a_foreign_one_is_not_touched(store: StateStore) -> None:
    begin(store)
    store.folder.mkdir()
    (store.folder / "1.json").hardlink_to(store.path)  # the commit was killed after the link
    assert commit(store, 1) == 2
    (store.folder / "2.json").write_text("somebody's")
    assert commit(store, 2) == 3
    assert (store.folder / "2.json").read_text() == "somebody's"
    assert len(list(store.folder.glob("2-*.json"))) == 1


def test_a_link_is_followed_not_replaced(store: StateStore, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.json"
    target.write_text("old")
    store.path.symlink_to(target)
    write_atomic(store.path, b"new")
    assert store.path.is_symlink() and target.read_text() == "new"


def test_links_in_a_circle_are_a_failed_write(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FirehoseError, match="ELOOP") as caught:
        write_atomic(tmp_path / "a", b"new")
    assert caught.value.exit_code is Exit.WRITE_FAILED


def test_a_linked_state_keeps_its_versions_even_on_another_file_system(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = store.path.parent / "elsewhere"
    elsewhere.mkdir()
    store.path.symlink_to(elsewhere / "real.json")
    begin(store)
    before = store.path.read_bytes()

    def far(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", far)
    assert commit(store, 1) == 2
    assert store.path.is_symlink() and [serial for serial, _ in store.versions()] == [1]
    assert store.versions()[0][1].read_bytes() == before


def test_permissions_are_kept(store: StateStore) -> None:
    begin(store)
    store.path.chmod(0o660)
    commit(store, 1)
    assert store.path.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("code", "refused"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_a_folder_without_sync_is_lived_with_and_one_that_fails_is_not(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, code: int, refused: bool
) -> None:
    begin(store)
    whole = os.fsync

    def fail(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(code, os.strerror(code))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    if refused:
        with pytest.raises(FirehoseError):
            commit(store, 1)
    else:
        assert commit(store, 1) == 2


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_that_cannot_be_synced_is_not_believed_and_not_synced_again(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    begin(store)
    before, calls = store.path.read_bytes(), []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FirehoseError):
        commit(store, 1)
    assert len(calls) == 1 and store.path.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "word"), [(errno.EBUSY, "mount the folder"), (errno.EXDEV, "one file system")]
)
def test_a_rename_that_cannot_be_has_its_own_advice(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, code: int, word: str
) -> None:
    begin(store)

    def fail(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FirehoseError, match=errno.errorcode[code]) as caught:
        commit(store, 1)
    assert word in str(caught.value.next) and caught.value.changed.startswith("nothing")


def test_a_state_the_disk_has_lost_gives_way_to_its_last_version(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store, 3)
    whole = Path.read_bytes

    def lose(path: Path) -> bytes:
        if path == store.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lose)
        again = StateStore(store.path)
        current, findings = again.read()
        assert current is not None and current.serial == 2 and [f.id for f in findings] == ["F0001"]
        assert commit(again, 3) == 4
    assert len(list(store.folder.glob("damaged-*.json"))) == 1


def test_a_file_of_another_kind_of_number_among_the_versions_is_not_one(store: StateStore) -> None:
    begin(store, 2)
    (store.folder / "²3.json").touch()
    assert [serial for serial, _ in store.versions()] == [1]


def test_only_temporaries_of_the_dead_are_swept(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    ours = [f".demo.state.json.{child}-0123abcd.tmp", f".demo.live.json.{os.getpid()}-0123abcd.tmp"]
    others = [f".demo.state.json.{os.getppid()}-0123abcd.tmp", "notes.tmp", f"x.{child}-0123abcd.tmp"]
    for name in ours + others:
        (tmp_path / name).touch()
    inner = [tmp_path / "archive", tmp_path / "demo.state.json.d"]
    for folder in inner:
        folder.mkdir()
        (folder / ours[0]).touch()
    found = sweep_temporaries(tmp_path, tmp_path / "archive")
    for folder in inner:
        folder.rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert [f.id for f in found] == ["F0015"] * 4 and all(
        name in " ".join(f.message for f in found) for name in ours
    )


def test_killed_writers_never_lose_what_they_acknowledged(store: StateStore) -> None:
    draw = random.Random(11)
    begin(store)
    acknowledged = 1
    for _ in range(20):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                mine = StateStore(store.path)
                for step in range(10_000):
                    os.write(writer, commit(mine, step).to_bytes(4, "little"))
            finally:
                os._exit(1)
        os.close(writer)
        for _ in range(draw.randrange(1, 4)):
            acknowledged = int.from_bytes(os.read(reader, 4), "little")
        time.sleep(draw.random() * 0.01)  # to a random place inside the commits that follow
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        while rest := os.read(reader, 4):
            acknowledged = int.from_bytes(rest, "little")
        os.close(reader)
        current, findings = StateStore(store.path).read()
        assert current is not None and findings == []
        assert acknowledged <= current.serial <= acknowledged + 1
        acknowledged = current.serial
    assert acknowledged > 20
    left = list(store.path.parent.glob(".*.tmp"))
    assert len(sweep_temporaries(store.path.parent)) == len(left)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc names the folder")
def test_an_unreadable_folder_is_a_failed_write_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(FirehoseError) as caught:
        write_atomic(tmp_path / "missing" / "file.json", b"x")
    assert caught.value.exit_code is Exit.WRITE_FAILED and "ENOENT" in caught.value.message


def test_a_monitor_reads_the_lineage_while_another_thread_writes(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)
    seen: list[str | None] = []

    def watched(*rest: Any, **named: Any) -> None:
        seen.append(store.lineage)
        write_atomic(*rest, **named)

    monkeypatch.setattr("state.store.write_atomic", watched)
    commit(store, 1)
    assert seen == [store.lineage] and seen != [None]
