"""Many processes commit to one state under its lock while some are killed: nothing acknowledged is lost or doubled.

`python -m tests.faults.contention --processes 32 --commits 500 --kills 100` prints what was done; it exits 1 where
something is wrong, and where it proved nothing because fewer commits or kills happened than were asked for.
"""

import argparse
import json
import os
import select
import signal
import struct
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from curriculum.errors import FirehoseError
from state.lock import RunLock
from state.store import StateStore, sweep_temporaries

ACK = struct.Struct("<II")  # slot, serial
CONFIG_SHA = "c" * 64
READERS = 2
PATIENCE = 60.0  # seconds without an acknowledgement after which it has come to a halt


class Waiting(RunLock):
    """The run's lock, waited for."""

    def __enter__(self) -> "RunLock":
        return self.acquire(timeout=PATIENCE)


@dataclass
class Report:
    """What happened. wrong: what must not have; empty where all is well."""

    commits: int = 0
    kills: int = 0
    kills_of_the_holder: int = 0
    unacknowledged: int = 0
    reads: int = 0
    swept: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def worker(
    path: Path, slot: int, commits: int, acks: int, lock: type[AbstractContextManager[Any]]
) -> NoReturn:
    """Add one to what the state counts, `commits` times, each as a command of its own; acknowledge under the lock."""
    status = 1
    try:
        for _ in range(commits):
            with lock(path.with_name("demo.lock")):  # type: ignore[call-arg]
                store = StateStore(path)
                current, findings = store.read()
                assert current is not None and findings == [], findings
                by = current.payload["by"]
                payload = {
                    "total": current.payload["total"] + 1,
                    "by": {**by, str(slot): by.get(str(slot), 0) + 1},
                }
                done = store.commit(payload, step=payload["total"], config_sha256=CONFIG_SHA)
                os.write(acks, ACK.pack(slot, done.serial))
        status = 0
    except BaseException as error:
        os.write(2, f"worker {slot}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def reader(path: Path, stop: Path, out: int) -> NoReturn:
    """Read without a lock until told to stop; say how often, and what was wrong."""
    reads, last, wrong = 0, 0, ""
    try:
        while not stop.exists():
            json.loads(path.read_bytes())
            current, findings = StateStore(path).read()
            assert current is not None and findings == [], findings
            assert current.serial >= last, f"serial {current.serial} after {last}"
            last, reads = current.serial, reads + 1
    except BaseException as error:
        wrong = f"a reader: {type(error).__name__}: {error}"
    finally:
        os.write(out, json.dumps([reads, wrong[:1000]]).encode())
        os._exit(0)


class Contest:
    """One run of it in a folder."""

    def __init__(
        self, folder: Path, processes: int, commits: int, kills: int, seed: int, lock: type[Any] = Waiting
    ) -> None:
        self.path = folder / "demo.state.json"
        self.processes, self.commits, self.kills = processes, commits, kills
        self.draw, self.lock = Random(seed), lock
        self.report = Report()
        self.serials: list[int] = []
        self.acked = [0] * processes
        self.alive: dict[int, int] = {}  # pid to slot
        self.killed: set[int] = set()
        self.inlet, self.outlet = os.pipe()

    def spawn(self, slot: int) -> None:
        pid = os.fork()
        if pid == 0:
            worker(self.path, slot, self.commits - self.acked[slot], self.outlet, self.lock)
        self.alive[pid] = slot

    def listen(self, seconds: float) -> bool:
        """Take in the acknowledgements that come within `seconds`; whether there were any."""
        if not select.select([self.inlet], [], [], seconds)[0]:
            return False
        data = os.read(self.inlet, ACK.size * 4096)  # each was written whole, so they are read whole
        for slot, serial in ACK.iter_unpack(data):
            self.acked[slot] += 1
            self.serials.append(serial)
        return True

    def reap(self, pid: int) -> None:
        """Take note of a worker's end; a killed one has a successor that does what it left."""
        slot, status = self.alive.pop(pid), os.waitpid(pid, 0)[1]
        while self.listen(0):
            pass  # all that it acknowledged is in the pipe by now
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.report.kills += 1
            self.killed.add(pid)
            if self.acked[slot] < self.commits:
                self.spawn(slot)
        elif status != 0:
            self.report.wrong.append(f"worker {slot} ended with {os.waitstatus_to_exitcode(status)}")

    def kill(self) -> None:
        """SIGKILL for a worker that has work left: the one that has the lock, half of the time."""
        self.listen(self.draw.random() * 0.01)  # to a random place inside the commits that follow
        working = [pid for pid, slot in self.alive.items() if self.acked[slot] < self.commits]
        if not working:
            return
        holder = RunLock(self.path.with_name("demo.lock")).holder() if self.draw.random() < 0.5 else None
        holds = holder is not None and holder.pid in working
        pid = holder.pid if holder and holds else self.draw.choice(working)
        os.kill(pid, signal.SIGKILL)
        self.reap(pid)
        self.report.kills_of_the_holder += holds and pid in self.killed

    def run(self) -> Report:
        began = time.monotonic()
        StateStore(self.path).create({"total": 0, "by": {}}, config_sha256=CONFIG_SHA)
        stop, (heard, said) = self.path.with_name("stop"), os.pipe()
        readers = []
        for _ in range(READERS):
            readers.append(os.fork())
            if readers[-1] == 0:
                reader(self.path, stop, said)
        for slot in range(self.processes):
            self.spawn(slot)
        wanted = self.processes * self.commits
        while self.alive:
            kills = self.report.kills
            if kills < self.kills and kills * wanted <= len(self.serials) * (self.kills + 1) and self.busy():
                self.kill()
            elif not self.listen(PATIENCE if self.busy() else 0):
                if self.busy():
                    self.report.wrong.append(f"nothing was committed in {PATIENCE:.0f} s")
                    break
                for pid in list(self.alive):
                    self.reap(pid)
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        stop.touch()
        for pid in readers:
            os.waitpid(pid, 0)
        os.close(said)
        self.judge(os.read(heard, 1 << 16), wanted)
        for descriptor in (heard, self.inlet, self.outlet):
            os.close(descriptor)
        self.report.seconds = time.monotonic() - began
        return self.report

    def busy(self) -> bool:
        """Whether a worker that lives has something left to acknowledge; what has ended badly is taken note of."""
        for pid in list(self.alive):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self.reap(pid)
        return any(self.acked[slot] < self.commits for slot in self.alive.values())

    def judge(self, heard: bytes, wanted: int) -> None:
        """Compare what was acknowledged with what is there."""
        report, serials = self.report, self.serials
        says = report.wrong.append
        report.commits = len(serials)
        if serials != sorted(set(serials)):
            says("serials were acknowledged twice, or out of order")
        try:
            final, findings = StateStore(self.path).read()
        except FirehoseError as error:
            says(f"the state at the end: {error.message}")
            return
        if final is None or findings:
            says(f"the state at the end: {findings}")
        else:
            total, by = final.payload["total"], final.payload["by"]
            report.unacknowledged = final.serial - 1 - len(serials)
            if not total == sum(by.values()) == final.step == final.serial - 1:
                says(f"serial {final.serial}, but {total} additions were kept: some were lost")
            if not 0 <= report.unacknowledged <= report.kills:
                says(f"{report.unacknowledged} commits without acknowledgement for {report.kills} kills")
            if serials and final.serial < max(serials):
                says(f"serial {max(serials)} was acknowledged, the state has {final.serial}")
        at = 0
        text, decoder = heard.decode(), json.JSONDecoder()
        while at < len(text):
            (reads, wrong), at = decoder.raw_decode(text, at)
            report.reads += reads
            if wrong:
                says(wrong)
        folders = self.path.parent, StateStore(self.path).folder
        left = [path for folder in folders for path in folder.glob(".*.tmp")]
        if strangers := [
            path.name for path in left if int(path.name.split(".")[-2].split("-")[0]) not in self.killed
        ]:
            says(f"left by workers that were not killed: {strangers}")
        report.swept = len(sweep_temporaries(self.path.parent))
        if report.swept != len(left) or any(path.exists() for path in left):
            says(f"{len(left)} temporaries were left, {report.swept} of them swept")
        if report.commits < wanted or report.kills < self.kills or report.reads < 10:
            says(f"proved nothing: {report.commits} commits, {report.kills} kills, {report.reads} reads")


def main() -> int:
    """The long form; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--commits", type=int, default=500, help="of each process")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), options.processes, options.commits, options.kills, options.seed)
        report = contest.run()
    print(
        f"{report.commits:,} commits of {options.processes} processes in {report.seconds:.0f} s, {report.kills} kills "
        f"({report.kills_of_the_holder} of the holder), {report.unacknowledged} commits whose acknowledgement was cut, "
        f"{report.reads:,} reads without a lock, {report.swept} temporaries swept"
    )
    print("\n".join(report.wrong) or "every serial unique and in order, nothing lost")
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main())
