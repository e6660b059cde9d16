"""Row files: the same bytes however often the run was cut, nothing overwritten, and a reader that takes what is whole."""

import errno
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from state.findings import FindingError
from state.rows import EMPTY, TAIL, Mark, RowFile, encode_row, read_rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo.loss.json"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def opened(path: Path, archive: Path, mark: Mark | None = None) -> RowFile:
    rows = RowFile(path)
    rows.open(mark, archive, "step-20-serial-3")
    return rows


def loss_rows(first: int, last: int) -> list[bytes]:
    return [encode_row([step, 3.0 / step]) for step in range(first, last + 1)]


def test_the_bytes(path: Path, archive: Path) -> None:
    rows = opened(path, archive)
    assert path.read_bytes() == b"[\n]\n" and rows.mark == EMPTY
    mark = rows.append([encode_row([1, 0.5]), encode_row({"step": 2, "text": "Ж\n"})])
    assert path.read_bytes() == '[\n[1,0.5],\n{"step":2,"text":"Ж\\n"}\n]\n'.encode()
    assert rows.append([]) == mark
    mark = rows.append([b"[3,1]"])
    assert json.loads(path.read_bytes()) == read_rows(path) == [[1, 0.5], {"step": 2, "text": "Ж\n"}, [3, 1]]
    prefix = path.read_bytes().removesuffix(TAIL)
    assert mark == Mark(len(prefix), 3, hashlib.sha256(prefix).hexdigest())
    assert Mark(**json.loads(json.dumps(mark.as_dict()))) == mark
    assert not archive.exists()


@pytest.mark.parametrize("overlay", [False, True], ids=["truncated", "over-the-old-tail"])
@pytest.mark.parametrize("committed", [0, 3])
def test_a_commit_cut_at_any_byte_is_made_again_to_the_same_bytes(
    path: Path, archive: Path, committed: int, overlay: bool
) -> None:
    rows = opened(path, archive)
    mark = rows.append(loss_rows(1, committed))
    before = path.read_bytes()
    rows.append(loss_rows(committed + 1, committed + 3))
    whole = path.read_bytes()
    expected = read_rows(path)
    for cut in range(mark.bytes, len(whole) + 1):
        path.write_bytes(whole[:cut] + (before[cut:] if overlay else b""))
        seen = read_rows(path)
        assert seen == expected[: len(seen)] and len(seen) >= committed
        again = opened(path, archive, mark)
        assert path.read_bytes() == before
        assert again.append(loss_rows(committed + 1, committed + 3)) == rows.mark
        assert path.read_bytes() == whole


def test_a_run_cut_at_random_places_ends_with_the_same_file(
    path: Path, archive: Path, tmp_path: Path
) -> None:
    draw = random.Random(2)
    straight = opened(tmp_path / "straight.json", archive)
    straight.append(loss_rows(1, 60))
    rows, committed = opened(path, archive), 0
    mark: Mark = EMPTY
    while committed < 60:
        last = min(60, committed + draw.randrange(1, 8))
        after = rows.append(loss_rows(committed + 1, last))
        if draw.random() < 0.5:  # killed before the state that records the mark
            path.write_bytes(path.read_bytes()[: draw.randrange(mark.bytes, path.stat().st_size + 1)])
            rows = opened(path, archive, mark)
            continue
        mark, committed = after, last
    assert path.read_bytes() == straight.path.read_bytes() and mark == straight.mark


def test_what_lies_beyond_the_mark_is_archived_whole_and_never_overwritten(path: Path, archive: Path) -> None:
    rows = opened(path, archive)
    mark = rows.append(loss_rows(1, 2))
    name = "demo.loss.after-step-20-serial-3"
    for last in (4, 5, 5):
        rows.append(loss_rows(3, last))
        (message,) = RowFile(path).open(mark, archive, "step-20-serial-3")
        assert "beyond row 2" in message and "archive/" in message
        rows = opened(path, archive, mark)
    assert sorted(file.name for file in archive.iterdir()) == [f"{name}-2.json", f"{name}.json"]
    assert [row[0] for row in read_rows(archive / f"{name}.json")] == [3, 4]
    assert [row[0] for row in json.loads((archive / f"{name}-2.json").read_bytes())] == [3, 4, 5]


def test_a_first_launch_over_rows_of_a_run_that_never_committed(path: Path, archive: Path) -> None:
    opened(path, archive).append(loss_rows(1, 2))
    assert opened(path, archive).mark == EMPTY
    assert path.read_bytes() == b"[\n]\n" and len(list(archive.iterdir())) == 1
    path.write_bytes(b"")
    opened(path, archive).append(loss_rows(1, 1))
    assert read_rows(path) == [[1, 3.0]]


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing"])
def test_a_file_that_lost_what_was_committed_is_refused_untouched(
    path: Path, archive: Path, damage: str
) -> None:
    mark = opened(path, archive).append(loss_rows(1, 4))
    data = path.read_bytes()
    if damage == "shorter":
        path.write_bytes(data[: mark.bytes - 1])
    elif damage == "changed":
        path.write_bytes(data.replace(b"3.0", b"4.0"))
    else:
        path.unlink()
    left = path.read_bytes() if path.exists() else None
    with pytest.raises(FindingError) as caught:
        opened(path, archive, mark)
    assert (caught.value.finding.id, caught.value.exit_code) == ("F0016", Exit.DAMAGED)
    assert f"firehose state repair {path.parent}" in str(caught.value.next)
    assert "4 rows" in str(caught.value.next) and caught.value.path == str(path)
    assert (path.read_bytes() if path.exists() else None) == left and not archive.exists()


def test_a_full_disk_leaves_the_rows_before(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = opened(path, archive)
    mark = rows.append(loss_rows(1, 2))
    before, whole, calls = path.read_bytes(), os.pwrite, []

    def fail(descriptor: int, data: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            return whole(descriptor, data[:5], offset)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(FirehoseError, match="No space left") as caught:
            rows.append(loss_rows(3, 4))
    assert caught.value.exit_code is Exit.WRITE_FAILED
    assert path.read_bytes() == before and rows.mark == mark
    assert rows.append(loss_rows(3, 3)).rows == 3


def test_a_disk_that_claims_more_than_it_wrote_is_not_believed(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = opened(path, archive)
    mark = rows.append(loss_rows(1, 2))
    before, whole = path.read_bytes(), os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda d, data, at: whole(d, data[: len(data) // 2], at) and len(data))
        with pytest.raises(FirehoseError, match="do not read back") as caught:
            rows.append(loss_rows(3, 4))
    assert caught.value.exit_code is Exit.WRITE_FAILED and rows.mark == mark
    assert opened(path, archive, mark).mark == mark and path.read_bytes() == before


def test_a_commit_is_one_write_and_one_sync(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = opened(path, archive)
    calls = []
    for name in ("pwrite", "fsync"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=original: (calls.append(n), f(*a))[1])
    rows.append(loss_rows(1, 50))
    assert calls == ["pwrite", "fsync"]


def test_another_writer_is_noticed_before_anything_is_written(path: Path, archive: Path) -> None:
    rows = opened(path, archive)
    opened(path, archive).append(loss_rows(1, 1))
    before = path.read_bytes()
    with pytest.raises(FindingError, match="another process"):
        rows.append(loss_rows(2, 2))
    assert path.read_bytes() == before


def test_the_reader_names_a_bad_line_in_the_middle(path: Path) -> None:
    path.write_bytes(b"[\n[1,2],\n[3,\n[5,6]\n]\n")
    with pytest.raises(FindingError) as caught:
        read_rows(path)
    assert caught.value.path == f"{path}:3" and caught.value.finding.id == "F0016"
    with pytest.raises(FirehoseError) as missing:
        read_rows(path.with_name("none.json"))
    assert missing.value.exit_code is Exit.NOT_FOUND


def test_the_reader_passes_over_what_a_power_cut_left_at_the_end(path: Path) -> None:
    for rest in (
        b"",
        b"\n",
        b",",
        b",\n",
        b",\n[3",
        b",\n[3,4",
        bytes(600),
        b",\n" + bytes(600),
        b",\n[3,\xff",
        b"\n]\n" + bytes(600) + b"5],\n[6,7]\n]\n",
        b"\n]\n4,5],\n[6,7]\n]\n",
    ):
        path.write_bytes(b"[\n[1,2]" + rest)
        assert read_rows(path) == [[1, 2]]


def test_only_rows_are_appended(path: Path, archive: Path) -> None:
    rows = opened(path, archive)
    for bad in (b"", b"1", b"[1,\n2]"):
        with pytest.raises(ValueError, match="not a row"):
            rows.append([bad])
    with pytest.raises(ValueError, match="Out of range"):
        encode_row([1, float("nan")])
    rows.append([encode_row({"text": "\ud800 and a line\u2028"})])
    assert read_rows(path) == [{"text": "\ud800 and a line\u2028"}]


def test_the_mark_after_rows_is_known_before_they_are_written(path: Path, archive: Path) -> None:
    rows = opened(path, archive)
    for first in (1, 4):
        new = loss_rows(first, first + 2)
        before = path.read_bytes()
        foreseen = rows.after(new)
        assert path.read_bytes() == before and rows.after([]) == rows.mark != foreseen
        assert rows.append(new) == foreseen == rows.mark
