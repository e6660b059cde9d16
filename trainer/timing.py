"""Where a run's time goes: seconds by part, so that the scheduler's cost is printed and not claimed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timers:
    """Wall-clock seconds by named part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def report(self) -> str:
        """One line: each part's share of the time measured, largest first."""
        total = sum(self.seconds.values()) or 1.0
        parts = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "  ".join(f"{name} {100 * spent / total:.2f} %" for name, spent in parts)
