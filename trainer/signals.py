"""What the outside asks of a run: signals set a flag and nothing else; the loop looks at the flag between steps.

SIGTERM, SIGINT and SIGHUP (a closed terminal): checkpoint after the current step and stop. A second one: leave at once, writing nothing.
SIGUSR1: look for a request file at the next boundary; without one, checkpoint there and stop.
Installed before heavy imports, because the default action of SIGUSR1 is death. A process forked off a run ignores
SIGUSR1: what was meant for the run is not its business. `retire` ignores it in the run itself once nobody looks any
more: the end of the interpreter would put the default action back.
"""

import os
import signal
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Flags:
    """The signals received and not yet served."""

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self.request = False
        self.pid: int | None = None  # of the process they were installed in

    def install(self) -> "Flags":
        """Catch the signals that stop, and SIGUSR1, in this process."""
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_request)
        os.register_at_fork(after_in_child=self._forked)
        self.pid = os.getpid()
        return self

    def retire(self) -> None:
        """Nothing looks at the flags any more: ignore SIGUSR1 until the process is gone."""
        if self.pid == os.getpid():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _forked(self) -> None:
        if signal.getsignal(signal.SIGUSR1) == self._on_request:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = signal.Signals(number)
        for again in STOPS:  # the system's own action, which no stuck kernel delays
            signal.signal(again, signal.SIG_DFL)

    def _on_request(self, number: int, frame: FrameType | None) -> None:
        self.request = True
