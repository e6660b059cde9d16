"""The lock: one process at a time, told who has it, freed by death, never kept by a fork."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from curriculum.errors import Exit, FirehoseError
from state.lock import RunLock

ROOT = Path(__file__).parents[2]
HOLD = """
import os, sys
from pathlib import Path
from state.lock import RunLock
lock = RunLock(Path(sys.argv[1])).acquire()
child = os.fork()  # as a worker process would be
os.write(1, b"%d\\n" % os.getpid())
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock; it has a forked child that outlives it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(2)}
        assert process.pid in pids and len(pids) == 2
        yield process


def test_a_second_process_is_told_who_holds_it_until_that_dies(
    path: Path, holder: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(FirehoseError) as caught:
        RunLock(path).acquire(timeout=0.1)
    error = caught.value
    assert error.exit_code is Exit.LOCKED and error.path == str(path)
    assert f"pid {holder.pid} on " in error.message and "'demo' is in use" in error.message
    assert "firehose status " in str(error.next)

    holder.send_signal(signal.SIGKILL)  # its forked child lives on, with whatever it inherited
    holder.wait()
    with RunLock(path) as lock:
        record = lock.holder()
        assert record is not None and record.alive()
    assert lock.holder() is None


def test_it_can_be_taken_again_after_release_and_not_twice(path: Path) -> None:
    first, second = RunLock(path), RunLock(path)
    with first, pytest.raises(FirehoseError) as caught:
        second.acquire()
    assert caught.value.exit_code is Exit.LOCKED
    with second:
        assert path.exists()


def test_a_holder_that_cannot_be_read_is_only_a_worse_message(path: Path) -> None:
    with RunLock(path) as lock:
        lock.holder_path.write_text("{")
        with pytest.raises(FirehoseError, match="has not said who it is"):
            RunLock(path).acquire()


def test_a_lock_that_cannot_be_made_is_a_failed_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FirehoseError) as caught:
        RunLock(tmp_path / "file" / "demo.lock").acquire()
    assert caught.value.exit_code is Exit.WRITE_FAILED


def test_a_holder_that_cannot_be_written_leaves_the_lock_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = RunLock(path)  # kept: going out of scope would release it
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(FirehoseError, match="No space"):
            lock.acquire()
    with RunLock(path):
        assert path.exists()


def test_a_forked_child_neither_has_the_lock_nor_gives_it_back(path: Path) -> None:
    with RunLock(path) as lock:
        child = os.fork()
        if child == 0:
            outcome = 1
            try:
                lock.release()  # as the end of a `with` block that the child leaves too
                RunLock(path).acquire()
            except FirehoseError as error:
                outcome = 0 if error.exit_code is Exit.LOCKED else 2
            finally:
                os._exit(outcome)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        record = lock.holder()
        assert record is not None and record.pid == os.getpid()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_and_gets_no_soft_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def missing(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(FirehoseError, match=errno.errorcode[code]) as caught:
        RunLock(path).acquire()
    assert caught.value.exit_code is Exit.WRITE_FAILED and "local disk" in str(caught.value.next)


def test_a_holder_file_that_cannot_go_does_not_keep_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    lock = RunLock(path).acquire()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        lock.release()
    with RunLock(path):
        assert path.exists()
