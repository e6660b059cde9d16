"""Writers that are wrong on purpose: a harness that does not catch them proves nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum.files import write_all, write_atomic
from state import store as stores
from tests.faults.on_files import begin_state, commit_twice, payload, the_store
from tests.faults.scenario import Acknowledge, Scenario

Writer = Callable[..., None]
Act = Callable[[Path, Acknowledge], None]


def in_place(path: Path, data: bytes, *, keep: Path | None = None, durable: bool = True) -> None:
    """Truncate and write: most programs' way."""
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def shrink_later(path: Path, data: bytes, *, keep: Path | None = None, durable: bool = True) -> None:
    """Write over the old bytes and cut the rest off afterwards."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unsynced(path: Path, data: bytes, *, keep: Path | None = None, durable: bool = True) -> None:
    """A temporary and a rename, and nothing synced: no kill can tell it from a right one."""
    write_atomic(path, data, keep=keep, durable=False)


def with_writer(writer: Writer, act: Act) -> Act:
    """The same action, its state written by another writer; in the fork only."""

    def broken(root: Path, acknowledge: Acknowledge) -> None:
        stores.write_atomic = writer
        act(root, acknowledge)

    return broken


def readable(root: Path, acks: list[Any]) -> None:
    """The least that is promised: a state is there, whole, and not older than acknowledged."""
    current, _ = the_store(root).read()
    assert current is not None and current.serial >= max([1, *acks]), f"{current} after {acks}"
    assert current.payload == payload(current.serial - 1)


BROKEN = [
    Scenario(
        "WRONG: in place",
        begin_state,
        with_writer(in_place, commit_twice),
        readable,
        broken=True,
        parts=("kill", "errnos", "crash_states", "power_cut"),
    ),
    Scenario(
        "WRONG: in place, cut after",
        begin_state,
        with_writer(shrink_later, commit_twice),
        readable,
        broken=True,
        parts=("kill", "errnos", "crash_states"),
    ),
    Scenario(
        "WRONG: renamed, not synced",
        begin_state,
        with_writer(unsynced, commit_twice),
        readable,
        broken=True,
        parts=("crash_states", "power_cut"),
    ),
]
