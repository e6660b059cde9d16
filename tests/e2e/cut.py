"""Runs a config to its end through a series of SIGKILLs, each at an exact moment.

`python -m tests.e2e.cut CONFIG RUNS_DIR NAME CUT...`, a CUT being `step:N` (as step N is dispatched) or `sync:N` (at
the process's N-th fsync, which is in the middle of some commit). Each attempt is a fork of this process, made before
torch starts a thread. Prints the exit status of each attempt.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from trainer import launch, loop, runner  # noqa: F401  imported once, before the forks
from trainer.signals import Flags
from trainer.step import TrainStep


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(cut: str) -> None:
    """Make this process kill itself at the moment."""
    kind, number = cut.split(":")
    if kind == "step":
        run = TrainStep.run

        def dying_run(self: TrainStep, step: int, *rest: object) -> None:
            if step == int(number):
                die()
            run(self, step, *rest)  # type: ignore[arg-type]

        TrainStep.run = dying_run  # type: ignore[method-assign]
        return
    sync, calls = os.fsync, 0

    def dying_sync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == int(number):
            die()
        sync(descriptor)

    os.fsync = dying_sync  # type: ignore[assignment]


def attempt(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(config: str, runs_dir: str, name: str, *cuts: str) -> None:
    def work(cut: str | None) -> None:
        if cut:
            arm(cut)
        plan = runner.plan(Path(config), name=name, runs_dir=Path(runs_dir), resume="auto")
        os._exit(int(runner.train(plan, flags=Flags())["exit"]))

    for cut in (*cuts, None):
        print(attempt(lambda cut=cut: work(cut)), flush=True)


main(*sys.argv[1:])
