"""Batches on their way in: gathered from the token files by a thread, steps ahead of their use."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bandit.ledger import Ticket

Gather = Callable[[Ticket], np.ndarray]


class Feed:
    """Loads the windows of a step's tickets in the background; hands them over when the step is dispatched."""

    def __init__(self, gather: Gather, device: torch.device) -> None:
        self.gather, self.device = gather, device
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self.loading: dict[int, Future[Tensor]] = {}

    def load(self, step: int, tickets: Sequence[Ticket]) -> None:
        """Begin to gather a step's pulls."""
        self.loading[step] = self.worker.submit(self._gather, tuple(tickets))

    def take(self, step: int) -> Tensor:
        """Pulls [grad_accum, micro_batch, block_size + 1] of token ids on the device; waits for the gather alone."""
        return self.loading.pop(step).result().to(self.device, non_blocking=True)

    def drop(self) -> None:
        """Forget what was loaded ahead."""
        for future in self.loading.values():
            future.cancel()
        self.loading.clear()

    def close(self) -> None:
        """Drop what was loaded ahead and end the thread."""
        self.worker.shutdown(cancel_futures=True)
        self.loading.clear()

    def _gather(self, tickets: tuple[Ticket, ...]) -> Tensor:
        pulls = torch.from_numpy(np.stack([self.gather(ticket) for ticket in tickets]))
        return pulls.pin_memory() if self.device.type == "cuda" else pulls
