"""Power cuts on real file systems: `python -m tests.faults.power_cut [--short] [--json FILE]`, as root.

A child commits in a loop on a loop-mounted image and acknowledges over a socket. At a random moment the file system is
shut down by its own ioctl without flushing its log, which is what a power cut leaves; it is unmounted, mounted again
(its journal is replayed) and looked at.
"""

import argparse
import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.machine import need
from tests.faults.on_files import (
    CONFIG_SHA,
    commit_boundary,
    continue_state,
    payload,
    relaunch,
    the_store,
)
from tests.faults.scenario import Row, proved, workplace, write_json
from tests.faults.writers import in_place, readable, unsynced, with_writer

SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32): EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number
NO_LOG_FLUSH = 2
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20}  # bytes; the image is sparse
TRIALS = {True: (4, 2), False: (40, 10)}  # short: of right writers, of wrong ones


@dataclass(frozen=True)
class Writer:
    """What commits in a loop: `begin` and `loop` in the child, `check` with the last acknowledgement after the cut."""

    name: str
    begin: Callable[[Path], None]
    loop: Callable[[Path, Callable[[int], None]], None]
    check: Callable[[Path, list[int]], None]
    broken: bool = False


def commit_for_ever(root: Path, acknowledge: Callable[[int], None]) -> None:
    store = the_store(root)
    store.read()
    for step in range(1, 10**6):
        acknowledge(store.commit(payload(step), step=step, config_sha256=CONFIG_SHA).serial)


def state_after(root: Path, acks: list[int]) -> None:
    readable(root, acks)
    continue_state(root)
    readable(root, [*acks, max(acks) + 1])


def begin_run(root: Path) -> None:
    relaunch(root)


def train_for_ever(root: Path, acknowledge: Callable[[int], None]) -> None:
    run, store, rows, step = relaunch(root)
    for boundary in range(step + 1, 10**6):
        run.record({"event": "note", "number": boundary})
        acknowledge(commit_boundary(run, store, rows, boundary))


def run_after(root: Path, acks: list[int]) -> None:
    """The run goes on from no earlier than acknowledged; the history has every event before that."""
    run, _, rows, step = relaunch(root)
    assert step >= max(acks), f"goes on from step {step} after {max(acks)} was acknowledged"
    assert {file.mark.rows for file in rows.values()} == {step}
    numbers = [event["number"] for event in run.events()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= step


WRITERS = (
    Writer("state: commits", lambda root: continue_state(root), commit_for_ever, state_after),
    Writer("run: boundaries", begin_run, train_for_ever, run_after),
    Writer("WRONG: in place", continue_state, with_writer(in_place, commit_for_ever), readable, broken=True),
    Writer(
        "WRONG: renamed, not synced",
        continue_state,
        with_writer(unsynced, commit_for_ever),
        readable,
        broken=True,
    ),
)


def command(*words: str | Path) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[None]:
    command("mount", "-o", "loop", image, point)
    try:
        yield
    finally:
        for attempt in range(50):  # the killed child's files may take a moment to be let go of
            if subprocess.run(["umount", point], capture_output=True).returncode == 0:
                break
            if attempt == 49:
                command("umount", "-l", point)
            time.sleep(0.02)


def trial(writer: Writer, image: Path, point: Path, draw: random.Random) -> str | None:
    """One cut. None where all was as promised."""
    with mounted(image, point):
        work = point / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        writer.begin(work)
        os.sync()
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            try:
                writer.loop(work, lambda number: theirs.sendall(struct.pack("<q", number)))
            finally:
                os._exit(1)
        theirs.close()
        wanted = draw.randrange(2, 12)
        data = b""
        while len(data) < 8 * wanted:
            got = ours.recv(8)
            if not got:
                break
            data += got
        time.sleep(draw.random() * 0.01)  # anywhere in the next commit
        descriptor = os.open(point, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(descriptor)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while got := ours.recv(1 << 12):
            data += got
        ours.close()
    acks = [number for (number,) in struct.iter_unpack("<q", data[: len(data) // 8 * 8])]
    if len(acks) < wanted:
        return f"the writer ended after {len(acks)} commits of {wanted}"
    with mounted(image, point):
        try:
            writer.check(point / "work", acks)
        except Exception as error:
            return f"after {max(acks)} was acknowledged: {type(error).__name__}: {error}".replace("\n", " ")
    return None


def cuts(kind: str, folder: Path, *, short: bool, seed: int = 4) -> list[Row]:
    """All writers on one kind of file system."""
    image, point = folder / f"{kind}.image", folder / f"{kind}.mount"
    with image.open("wb") as file:
        file.truncate(SIZES[kind])
    point.mkdir()
    command(f"mkfs.{kind}", *(["-q", "-F"] if kind == "ext4" else ["-q", "-f"]), image)
    rows = []
    for writer in WRITERS:
        row = Row(writer.name, f"power cut on {kind}", broken=writer.broken)
        draw = random.Random(seed)
        for number in range(TRIALS[short][writer.broken]):
            row.injected += 1
            if wrong := trial(writer, image, point, draw):
                row.bad.append(f"cut {number + 1}: {wrong}")
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    began, rows = time.monotonic(), []
    for kind in SIZES:
        why = need("mount", f"mkfs.{kind}") or may_mount(kind)
        if why:
            print(f"SKIPPED: power cuts on {kind}: {why}", file=sys.stderr, flush=True)
            continue
        with workplace() as folder:
            rows += cuts(kind, folder, short=asked.short)
    status = proved(rows, sum(TRIALS[asked.short]) * 2 * len({row.fault for row in rows}), "power cuts")
    print(f"{time.monotonic() - began:.0f} s")
    if asked.json:
        write_json(asked.json, rows)
    return status


def may_mount(kind: str) -> str | None:
    """Why this machine cannot mount an image of this kind, or None."""
    if os.geteuid() != 0:
        return "only root may mount an image; run `make faults` as root"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control; in a container, give it the loop devices and CAP_SYS_ADMIN"
    with workplace() as folder:
        image, point = folder / "image", folder / "point"
        with image.open("wb") as file:
            file.truncate(SIZES[kind])
        point.mkdir()
        try:
            command(f"mkfs.{kind}", "-q", image)
            command("mount", "-o", "loop", image, point)
            command("umount", point)
        except subprocess.CalledProcessError as error:
            return f"{' '.join(error.cmd[:1])} of a {kind} image failed: {error.stderr.strip()}"
    return None


if __name__ == "__main__":
    raise SystemExit(main())
