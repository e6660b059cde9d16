"""One process at a time writes to a run: a kernel lock on a side file, and who holds it beside that.

The lock is `flock` on `NAME.lock` (reliability: A11), so it ends with its process, however that dies; the file stays and
means nothing. `NAME.lock.json` names the holder, for messages only.
"""

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType

import filelock
import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, write_atomic
from state.process import Process, read_process, this_process


class RunLock:
    """The lock of one run. Not inherited: a forked child does not hold it, and does not keep it when the parent ends.

    Use as a context manager, or `acquire` and `release`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder_path = path.with_name(f"{path.name}.json")
        # Without fallback_to_soft=False a file system without flock would silently get a lock that survives its owner.
        self._lock = filelock.FileLock(path, thread_local=False, fallback_to_soft=False)

    def acquire(self, timeout: float = 0.0) -> "RunLock":
        """Take the lock, waiting up to `timeout` seconds. Raises FirehoseError(LOCKED) that names the holder."""
        with failing_writes(self.path):
            try:
                self._lock.acquire(timeout=timeout, poll_interval=0.05)
            except filelock.Timeout:  # an OSError too
                raise self._held() from None
        holder = json.dumps(msgspec.to_builtins(this_process(time.time()))).encode()
        try:
            write_atomic(self.holder_path, holder, durable=False)
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong first is what is told
                self._lock.release()
            raise
        return self

    def _held(self) -> FirehoseError:
        holder, run = self.holder(), self.path.name.removesuffix(".lock")
        who = holder.describe() if holder else "a process that has not said who it is"
        return FirehoseError(
            Exit.LOCKED,
            f"the run {run!r} is in use by {who}",
            path=self.path,
            next=f"firehose status {self.path.parent}",
        )

    def release(self) -> None:
        """Give the lock back, where this process has it."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # it is for messages only; the lock must be given back
                self.holder_path.unlink()
            with contextlib.suppress(
                OSError
            ):  # the kernel takes it back when this process ends, at the latest
                self._lock.release()

    def holder(self) -> Process | None:
        """Who took the lock last and did not give it back; whether that process lives is another question."""
        try:
            return read_process(json.loads(self.holder_path.read_bytes()))
        except (OSError, ValueError):
            return None

    def __enter__(self) -> "RunLock":
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
