"""SIGUSR1 at random moments of a run's life: nobody dies, every request is served once, at a boundary.

`python -m tests.faults.signals --count 500 --real 50` sends that many signals to a loop without torch and to real tiny
runs, and prints what came of them; it exits 1 where something is wrong, and where it proved nothing because fewer
signals than were asked for arrived.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from curriculum.errors import Exit, FirehoseError
from state import requests
from state.lock import RunLock
from state.process import catches
from state.requests import Request
from state.run_dir import RunDir
from state.store import StateStore
from trainer.desk import Desk
from trainer.signals import Flags

BOUNDARY = 10
PATIENCE = 120.0  # seconds without an answer after which a request counts as lost
CONFIG_SHA = "c" * 64


# A run without torch: what the loop does with signals, requests, checkpoints and commits.


def loop(root: Path, seed: int) -> int:
    """A process that looks like a trainer to everybody outside, its handler late on purpose."""
    draw, run, flags = Random(seed), RunDir(root), Flags()
    run.create()
    with RunLock(run.lock).acquire(timeout=10):
        run.begin(time.time())
        time.sleep(draw.random() * 0.02)  # a file that names this process, which would die of the signal
        flags.install()
        if (child := os.fork()) == 0:
            run.log.write_text(str(os.getpid()))
            while os.getppid() != 1:
                time.sleep(0.05)
            os._exit(0)
        time.sleep(draw.random() * 0.02)  # loading
        store, desk = StateStore(run.state), Desk(run)
        state = store.read()[0] or store.create({"checkpoint": None}, config_sha256=CONFIG_SHA)
        step, ended = state.step, False
        while not ended:
            time.sleep(0.0002)
            step += 1
            boundary = step % BOUNDARY == 0
            wanted = desk.take(flags, boundary=boundary)
            ended = wanted is not None and (flags.stop is not None or wanted.startswith("stop"))
            if not boundary and not ended:
                continue
            if wanted is not None:
                folder = run.checkpoints / f"step_{step}"
                folder.with_suffix(".tmp").mkdir()
                (folder.with_suffix(".tmp") / "weights").write_bytes(os.urandom(1 << 16))
                folder.with_suffix(".tmp").rename(folder)
            store.commit({"checkpoint": step if wanted else None}, step=step, config_sha256=CONFIG_SHA)
            desk.answer(step, "stopped" if ended else "checkpoint written")
            desk.heard_twice(flags)
        run.end("stopped", exit_code=Exit.STOPPED, step=step, now=time.time())
    flags.retire()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(draw.random() * 0.01)  # an interpreter that ends slowly
    return Exit.STOPPED


# Those who ask.


@dataclass
class Told:
    """What was sent and what came of it; problems is what must be empty."""

    sent: int = 0
    requests: set[str] = field(default_factory=set)
    served: dict[str, int] = field(default_factory=dict)
    stops: int = 0
    starts: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Driver:
    """Starts a run again and again and asks it for things at random moments."""

    def __init__(self, command: list[str], run: RunDir, told: Told, draw: Random, *, forks: bool) -> None:
        self.command, self.run, self.told, self.draw, self.forks = command, run, told, draw, forks
        self.lock = threading.Lock()
        self.patience = 0.05 if forks else 3.0  # seconds in which a bare signal must be served

    def drive(self, count: int) -> None:
        """Until so many signals were delivered."""
        most = self.told.sent + count
        while self.told.sent < most and not self.told.problems:
            self.life(most)
        self.count_checkpoints()

    def life(self, most: int) -> None:
        """One process, from its start to the stop that was asked for."""
        self.told.starts += 1
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self.start_up(process)
            left = self.draw.randrange(4, 40)
            while left > 0 and self.told.sent < most - 2 and process.poll() is None:
                left -= 1
                self.some_moment(process)
            if process.poll() is not None:
                self.told.problems.append("it stopped, and nobody had asked for that")
            elif not self.told.problems:
                self.stop(process)
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.told.problems.append("the process did not end")
            return
        finally:
            process.kill()
            said = process.communicate()[1]
        if code != Exit.STOPPED:
            self.told.problems.append(f"exit status {code}: {said[-300:]}")

    def start_up(self, process: subprocess.Popen[str]) -> None:
        """Ask from the first moment on, until it is heard: before the handler, after it, while it loads."""
        deadline = time.monotonic() + PATIENCE
        pause = self.draw.random() * (0.01 if self.forks else 0.1)
        while process.poll() is None:
            if (asked := self.send("checkpoint", "start-up")) is not None:
                self.wait(asked)
                return
            if time.monotonic() > deadline:
                self.told.problems.append("it never listened")
                return
            time.sleep(pause)
        self.told.problems.append("it ended during its start")

    def some_moment(self, process: subprocess.Popen[str]) -> None:
        """One of the things that happen."""
        time.sleep(self.draw.random() * 0.012)
        kind = self.draw.choice(("once", "twice", "while served", "together", "fork"))
        if kind == "fork" and self.forks:
            self.told.kinds[kind] += 1
            with contextlib.suppress(ProcessLookupError):  # where it stopped, that is told by itself
                os.kill(int(self.run.log.read_text()), signal.SIGUSR1)
            return
        first = self.send("checkpoint", kind)
        if kind == "twice":
            self.wait(self.send("checkpoint", kind))
        elif kind == "while served":
            time.sleep(self.draw.random() * 0.006)
            self.wait(self.send("checkpoint", kind))
        elif kind == "together":
            others = [threading.Thread(target=lambda: self.wait(self.send("checkpoint", kind))) for _ in "ab"]
            for other in others:
                other.start()
            for other in others:
                other.join()
        self.wait(first)

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Stop it, by request or by a bare signal, and go on asking while it stops."""
        self.told.stops += 1
        if self.draw.random() < 0.3:
            self.bare(process)
            return
        self.send("stop", "stop")
        asked = [self.send("checkpoint", "while stopping") for _ in range(self.draw.randrange(4))]
        process.wait(PATIENCE)
        for request in asked:
            self.wait(request)

    def bare(self, process: subprocess.Popen[str]) -> None:
        """Signals without a request, until it has ended: one that comes as a request is served counts for that one."""
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if catches(process.pid, signal.SIGUSR1):
                os.kill(process.pid, signal.SIGUSR1)
                self.told.sent += 1
                self.told.kinds["bare"] += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.patience)

    def send(self, kind: requests.Kind, moment: str) -> Request | None:
        """Ask; None where that is refused, which is fine: nothing was sent then."""
        try:
            request = requests.send(self.run, kind, now=time.time())
        except FirehoseError as error:
            with self.lock:
                self.told.refused[moment] += 1
                if error.exit_code is not Exit.NOT_SIGNALABLE:
                    self.told.problems.append(f"{moment}: {error.message}")
            return None
        with self.lock:
            self.told.sent += 1
            self.told.kinds[moment] += 1
            self.told.requests.add(request.id)
        return request

    def wait(self, request: Request | None) -> None:
        """See a request answered, at a boundary, or the run ended by a stop."""
        if request is None:
            return
        try:
            requests.wait(self.run, request, timeout=PATIENCE, sleep=lambda _: time.sleep(0.002))
        except FirehoseError as error:
            with self.lock:
                self.told.problems.append(f"request {request.id}: {error.message}")
            return
        answer = requests.answered(self.run, request)
        with self.lock:
            if answer is not None and answer.step % BOUNDARY:
                self.told.problems.append(f"request {request.id} was served at step {answer.step}")
            if answer is not None:
                self.told.served[request.id] = answer.step

    def count_checkpoints(self) -> None:
        """A service leaves a checkpoint: there must be one a step that was answered, and one a stop."""
        found = {int(path.name[5:]) for path in self.run.checkpoints.glob("step_*")}
        more = found - set(self.told.served.values())
        if set(self.told.served.values()) - found:
            self.told.problems.append("an answer without its checkpoint")
        if len(more) > self.told.stops:
            self.told.problems.append(
                f"{len(more)} checkpoints that nobody asked for, {self.told.stops} stops"
            )
        if any(step % BOUNDARY for step in found):
            self.told.problems.append(f"a service between boundaries: {sorted(found)}")


def report(name: str, told: Told, count: int) -> bool:
    """Print what came of it; whether it held."""
    if told.sent < count:
        told.problems.append(f"proved nothing: {told.sent} of {count} signals were delivered")
    moments = ", ".join(f"{kind} {number}" for kind, number in sorted(told.kinds.items()))
    print(
        f"{name}: {told.sent} signals delivered ({moments}), {sum(told.refused.values())} refused and not sent"
    )
    print(
        f"  {len(told.requests)} requests, {len(told.served)} answered with their own step, {told.starts} processes, "
        f"{told.stops} stops asked for, {len(told.problems)} problems"
    )
    for problem in told.problems[:10]:
        print(f"  PROBLEM: {problem}")
    return not told.problems


def main() -> int:
    """The exit status is 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loop", type=Path, help="be the loop without torch, on this run folder")
    options = parser.parse_args()
    if options.loop is not None:
        return loop(options.loop, options.seed)
    draw, held = Random(options.seed), True
    promptly = requests._signal

    def sleepily(*rest: Any) -> None:
        """Some of those who ask are put to sleep between the request's write and its signal."""
        if draw.random() < 0.3:
            time.sleep(draw.random() * 0.02)
        promptly(*rest)

    requests._signal = sleepily
    with tempfile.TemporaryDirectory() as folder:
        if options.count:
            run, told = RunDir(Path(folder, "loop")), Told()
            command = [sys.executable, "-m", "tests.faults.signals", "--loop", str(run.root)]
            Driver(command, run, told, draw, forks=True).drive(options.count)
            held &= report("a loop without torch", told, options.count)
        if options.real:
            from tests.fixtures import tiny

            rare = ("steps = 60", "steps = 1000000"), ("checkpoint_every = 20", "checkpoint_every = 1000000")
            kept = ("[train]\n", "[train]\nkeep_checkpoints = 100000\n")
            config = tiny.make(Path(folder), *rare, kept, ("sample_every = 10", "sample_every = 1000")).path
            run, told = RunDir(Path(folder, "runs/tiny")), Told()
            command = [sys.executable, "-m", "trainer", "run", str(config), "--runs-dir", f"{folder}/runs"]
            Driver(command, run, told, draw, forks=False).drive(options.real)
            held &= report("a real run", told, options.real)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
