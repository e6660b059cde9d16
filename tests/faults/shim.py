"""Stands between a process and its files: counts the file system calls on one folder, and kills, fails or records them.

`Shim(root, fault).install()` replaces the functions of `os` (and `fcntl.flock`) that `pathlib`, `shutil`, `filelock` and
the product reach, and puts Python's own `_pyio` under `open`, so that every byte goes through them. It is meant for a
forked child: nothing is put back. Only calls on files under `root` count. Whether it sees all of them is checked
against the kernel's own account by `tests.faults.traced`.
"""

import _pyio
import builtins
import errno
import fcntl
import io
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.trace import Recorder

CHANGES = (
    *("open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "replace", "link"),
    *("symlink", "unlink", "remove", "mkdir", "rmdir", "chmod", "fchmod", "utime", "flock"),
)
LOOKS = ("look", "read", "pread", "stat", "lstat", "scandir", "listdir", "readlink", "access")
WRITES = ("write", "pwrite")
# Which calls can come back with which error. A full disk does not stop a rename of a name that is there already, but
# a folder that must grow for it does.
TAKES_ROOM = (
    "open",
    *WRITES,
    "fsync",
    "fdatasync",
    "ftruncate",
    "rename",
    "replace",
    "link",
    "symlink",
    "mkdir",
)
INTERRUPTED = ("open", *WRITES, "fsync", "fdatasync", "ftruncate", "flock", "look", "read", "pread")
CAN_FAIL = {
    "EIO": (*CHANGES, *LOOKS),
    "ENOSPC": TAKES_ROOM,
    "EDQUOT": TAKES_ROOM,
    "EINTR": INTERRUPTED,
    "short": WRITES,
    "lying": WRITES,
}


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th call that it can happen to (from 1), or from that one on.

    kind: "kill", an errno's name, "short" (half is written, and said so) or "lying" (half is written, all is claimed).
    looks: whether calls that only read count too.
    """

    kind: str
    at: int
    forever: bool = False
    looks: bool = False


class Shim:
    """Counts calls under `root`; `fault` says what to do to them, `recorder` keeps them with their data."""

    def __init__(self, root: Path, fault: Fault | None = None, recorder: Recorder | None = None) -> None:
        self.root = os.fspath(root.resolve())
        self.fault, self.recorder = fault, recorder
        self.calls: list[tuple[str, str]] = []  # what was called, on which path relative to the root
        self.injected = 0
        self._seen = 0
        self._open: dict[int, str] = {}  # file descriptor -> absolute path, for those under the root
        self._os = {name: getattr(os, name) for name in dir(os) if callable(getattr(os, name))}
        self._flock = fcntl.flock

    def install(self) -> "Shim":
        """Replace the functions; for good."""
        for name in (*CHANGES, *LOOKS):
            if name not in ("open", "flock", "look"):
                setattr(os, name, self._wrapped(name, self._os[name]))
        os.open = self._opened  # type: ignore[assignment]
        os.close = self._closed
        os.dup = self._dupped
        fcntl.flock = self._wrapped("flock", self._flock)  # type: ignore[assignment]
        io.open = builtins.open = _pyio.open
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
        return self

    def where(self, target: Any, dir_fd: int | None = None) -> str | None:
        """The path of a call's target relative to the root; None for one that is not below it."""
        if isinstance(target, int):
            path = self._open.get(target)
        else:
            path = os.fsdecode(os.fspath(target))
            if dir_fd is not None and not os.path.isabs(path):
                base = self._open.get(dir_fd)
                path = None if base is None else os.path.join(base, path)
            else:
                path = os.path.abspath(path)
        if path is None or not (path == self.root or path.startswith(self.root + "/")):
            return None
        return path[len(self.root) + 1 :]

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            dir_fd = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
            target = args[0] if args else kwargs.get("path", kwargs.get("src", "."))
            if name == "symlink":
                target = args[1]
            path = self.where(target, dir_fd)
            if path is None:
                return original(*args, **kwargs)
            changed = self._meet(name, path, original, args)
            if changed is not None:
                return changed
            result = original(*args, **kwargs)
            self._note(name, path, args, result)
            return result

        return call

    def _meet(self, name: str, path: str, original: Callable[..., Any], args: tuple[Any, ...]) -> int | None:
        """Count a call; kill, raise, or give back the result that the call has instead of its own."""
        looks = name in LOOKS
        self.calls.append((name, path))
        fault = self.fault
        if fault is None or (looks and not fault.looks):
            return None
        if fault.kind != "kill" and name not in CAN_FAIL[fault.kind]:
            return None
        self._seen += 1
        if self._seen < fault.at or (self._seen > fault.at and not fault.forever):
            return None
        self.injected += 1
        if fault.kind == "kill":
            self._os["kill"](self._os["getpid"](), signal.SIGKILL)
        if fault.kind in ("short", "lying"):
            data = memoryview(args[1]).cast("B")
            half = data[: max(1, len(data) // 2)]
            done: int = original(args[0], half, *args[2:])
            self._note(name, path, (args[0], bytes(half), *args[2:]), done)
            return done if fault.kind == "short" else len(data)
        code = getattr(errno, fault.kind)
        raise OSError(code, os.strerror(code), os.path.join(self.root, path))

    def _note(self, name: str, path: str, args: tuple[Any, ...], result: Any) -> None:
        recorder = self.recorder
        if recorder is None or name in LOOKS:
            return
        if name in ("rename", "replace", "link"):
            other = self.where(args[1])
            if other is None:
                raise RuntimeError(f"{name} of {path} to outside of the folder")
            recorder.link(path, other) if name == "link" else recorder.rename(path, other)
        elif name == "pwrite":
            recorder.write(path, args[2], bytes(memoryview(args[1]).cast("B")[:result]))
        elif name == "write":
            end = self._os["lseek"](args[0], 0, os.SEEK_CUR)
            recorder.write(path, end - result, bytes(memoryview(args[1]).cast("B")[:result]))
        elif name in ("ftruncate", "truncate"):
            recorder.truncate(path, args[1])
        elif name in ("fsync", "fdatasync"):
            recorder.sync(path)
        elif name in ("unlink", "remove", "rmdir"):
            recorder.remove(path)
        elif name == "mkdir":
            recorder.make_folder(path)
        elif name == "symlink":
            raise RuntimeError("symbolic links are not part of the model")

    def _opened(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        original = self._os["open"]
        inside = self.where(path, dir_fd)
        if inside is None:
            fd: int = original(path, flags, mode, dir_fd=dir_fd)
            return fd
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._meet("open" if writes else "look", inside, original, (path, flags))
        fd = original(path, flags, mode, dir_fd=dir_fd)
        self._open[fd] = os.path.join(self.root, inside) if inside else self.root
        if self.recorder is not None and writes:
            self.recorder.open(inside, truncate=bool(flags & os.O_TRUNC))
        return fd

    def _closed(self, fd: int) -> None:
        self._open.pop(fd, None)
        self._os["close"](fd)

    def _dupped(self, fd: int) -> int:
        copy: int = self._os["dup"](fd)
        if fd in self._open:
            self._open[copy] = self._open[fd]
        return copy
