"""What the outside asks of a run: signals set a flag and nothing else; the loop looks at the flag between steps.

SIGTERM, SIGINT and SIGHUP (a closed terminal): checkpoint after the current step and stop. A second one: leave at once, writing nothing.
SIGUSR1: look for a request file at the next boundary; without one, checkpoint there and stop.
Installed before heavy imports, because the default action of SIGUSR1 is death.
"""

import signal
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Flags:
    """The signals received and not yet served."""

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self.request = False

    def install(self) -> "Flags":
        """Catch the signals that stop, and SIGUSR1, in this process."""
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_request)
        return self

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = signal.Signals(number)
        for again in STOPS:  # the system's own action, which no stuck kernel delays
            signal.signal(again, signal.SIG_DFL)

    def _on_request(self, number: int, frame: FrameType | None) -> None:
        self.request = True
