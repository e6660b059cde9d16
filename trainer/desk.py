"""Where a run takes what is asked of it and gives its answers: looked at between steps, without torch."""

import contextlib

from curriculum.errors import FirehoseError
from state import requests
from state.run_dir import RunDir
from trainer.signals import Flags


class Desk:
    """The requests of one run, one at a time.

    request: the one that was taken and is not answered yet.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.request: requests.Request | None = None

    def take(self, flags: Flags, *, boundary: bool) -> str | None:
        """The kind of what is asked for now, None for nothing: SIGUSR1 is heard at a boundary, a stop after any step.

        Without a request file a signal means to checkpoint and stop.
        """
        if flags.stop is None and not (boundary and flags.request):
            return None
        flags.request = False  # first: a signal that comes while the file is read is looked at next time
        self.request = requests.pending(self.run)
        return self.request.kind if self.request else "stop"

    def answer(self, step: int, message: str, *, refused: bool = False) -> None:
        """Say what came of the request that was taken, and be done with it."""
        if self.request is not None:
            with contextlib.suppress(FirehoseError):  # who asked then sees what the run does, not the answer
                requests.serve(self.run, self.request, step=step, message=message, refused=refused)
            self.request = None

    def heard_twice(self, flags: Flags) -> bool:
        """After a service: drop a signal that came meanwhile for the same request; whether there was one."""
        if flags.request and requests.pending(self.run) is None:
            flags.request = False
            return True
        return False

    def idle(self) -> bool:
        """Whether nothing is asked for."""
        return requests.pending(self.run) is None


class NoDesk(Desk):
    """The desk of a rank that touches no file: what is asked for is told by rank 0."""

    def take(self, flags: Flags, *, boundary: bool) -> str | None:
        flags.request = False
        return None

    def answer(self, step: int, message: str, *, refused: bool = False) -> None:
        pass

    def idle(self) -> bool:
        return True
