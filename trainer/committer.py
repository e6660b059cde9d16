"""One thread that makes commits durable while the loop trains on: one job at a time, its error raised at the next look."""

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from trainer.signals import STOPS


class Committer:
    """Runs one job beside the loop. What a job touches is its own until `join` has returned.

    The thread is started by the first job, so that nothing is lost to a fork before it. It blocks the signals that a
    run listens to: the kernel then gives them to the main thread, which alone can act on them.
    """

    def __init__(self) -> None:
        self.worker = ThreadPoolExecutor(1, "commit", initializer=_leave_signals_to_the_main_thread)
        self.job: Future[None] | None = None

    def hand(self, job: Callable[[], None]) -> None:
        """Start a job; the one before it must have been joined."""
        assert self.job is None, "one job in flight"
        self.job = self.worker.submit(job)

    def join(self) -> None:
        """Wait for the job in flight, if there is one. Raises what it raised, once."""
        job, self.job = self.job, None
        if job is not None:
            job.result()

    def look(self) -> None:
        """`join` where that does not have to wait."""
        if self.job is not None and self.job.done():
            self.join()

    def close(self) -> BaseException | None:
        """Wait for the job in flight and end the thread; what the job raised is given back."""
        job, self.job = self.job, None
        self.worker.shutdown()
        return None if job is None else job.exception()


def _leave_signals_to_the_main_thread() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPS, signal.SIGUSR1})
