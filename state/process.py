"""Which process a file speaks of, and whether it still lives: pid, start time, and the machine both belong to."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import msgspec


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process, named so that its pid cannot be mistaken for a later one's.

    start: clock ticks from boot to its start (`/proc/PID/stat`, field 22). machine: boot id and pid namespace; only
    inside both does the pid mean anything. since: seconds since 1970.
    """

    pid: int
    start: int
    machine: str
    host: str
    command: str
    since: float

    def describe(self) -> str:
        """One line for a message: pid, host, since when, command."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"pid {self.pid} on {self.host} since {since}: {self.command}"

    def alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be seen from here (another machine or container)."""
        if self.machine != machine():
            return None
        return start_time(self.pid) == self.start


def machine() -> str:
    """Boot id and pid namespace of this machine; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """Start of a living process in clock ticks since boot; None where there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before the last bracket may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def left_behind(pid: int) -> bool:
    """Whether what a writer of this pid left unfinished may go: it is no more, or it is this process, which is past it."""
    return pid == os.getpid() or start_time(pid) is None


def catches(pid: int, signal_number: int) -> bool:
    """Whether a process has a handler for a signal (`SigCgt`): without one, SIGUSR1 would kill it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(mask, 16) >> (signal_number - 1) & 1)


def this_process(now: float) -> Process:
    """The calling process. now: seconds since 1970."""
    return Process(
        pid=os.getpid(),
        start=start_time(os.getpid()) or 0,
        machine=machine(),
        host=os.uname().nodename,
        command=shlex.join(sys.argv),
        since=now,
    )


def read_process(data: Any) -> Process | None:
    """A process from the JSON object that named it; None where that is not one."""
    try:
        return msgspec.convert(data, Process)
    except msgspec.ValidationError:
        return None
