"""Batches on their way in: read from the token files by a thread, steps ahead of their use, into buffers made once.

A ring of feedback_delay + 1 buffers: the step that is handed over and the steps that are loaded ahead of it. On the
CPU the thread writes int64 straight from the memory map, and the buffer itself is handed over. On CUDA the buffers
are pinned and hold tokens in their width on disk, a quarter or half of int64: one copy a step on a stream of its own,
which the computing stream waits for, and the cast is the device's. No call of CUDA's is made off the main thread,
where it could spoil the capture of a graph.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bandit.ledger import Ticket
from curriculum.config import Train


class Source(Protocol):
    """What a feed reads from: `curriculum.tokens.corpus.Corpus`."""

    block_size: int
    dtype: np.dtype[np.unsignedinteger]

    def fill(self, out: NDArray[np.integer], name: str, arm_id: int, first_window: int) -> None: ...


class Feed:
    """Loads the windows of a step's tickets in the background; hands them over when the step is dispatched.

    names: arm id to source. rank, size: this process among those of the run; it loads rows [rank B / size,
    (rank + 1) B / size) of every pull of B = micro_batch windows.
    """

    def __init__(
        self,
        corpus: Source,
        names: Mapping[int, str],
        train: Train,
        device: torch.device,
        *,
        rank: int,
        size: int,
    ) -> None:
        self.corpus, self.names, self.device = corpus, names, device
        self.rows = train.micro_batch // size
        self.skip = rank * self.rows
        self.depth = train.feedback_delay + 1
        self.cuda = device.type == "cuda"  # a device may also be called cuda:0
        shape = (self.depth, train.grad_accum, self.rows, corpus.block_size + 1)
        width = getattr(torch, corpus.dtype.name) if self.cuda else torch.int64
        self.buffers = torch.empty(shape, dtype=width, pin_memory=self.cuda)
        self.arrays = self.buffers.numpy()
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self.loading: dict[int, Future[None]] = {}
        if self.cuda:
            self.landed = torch.empty(shape, dtype=width, device=device)
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Of each buffer: its copy to the device has ended; the copy has been cast, and may be overwritten.
            self.copied = [torch.cuda.Event() for _ in range(self.depth)]  # type: ignore[no-untyped-call]
            self.cast = [torch.cuda.Event() for _ in range(self.depth)]  # type: ignore[no-untyped-call]

    def load(self, step: int, tickets: Sequence[Ticket]) -> None:
        """Begin to read a step's pulls, one for each ticket; what `take` gave `depth` steps before is overwritten.

        LookupError where the buffer holds a step that has not been taken.
        """
        if (held := step - self.depth) in self.loading:
            raise LookupError(f"step {held} was loaded and not taken: its buffer cannot hold step {step} yet")
        if self.cuda:
            self.copied[step % self.depth].synchronize()  # microseconds: it was begun a step ago
        self.loading[step] = self.worker.submit(self._fill, step % self.depth, tuple(tickets))

    def take(self, step: int) -> Tensor:
        """A step's pulls, int64 [grad_accum, rows, block_size + 1] on the device; waits until they are read, no longer.

        Good until the load of a step `depth` later; what reading them raised is raised here.
        """
        self.loading.pop(step).result()
        slot = step % self.depth
        if not self.cuda:
            return self.buffers[slot]
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.cast[slot])
            self.landed[slot].copy_(self.buffers[slot], non_blocking=True)
            self.copied[slot].record(self.stream)
        computing.wait_event(self.copied[slot])
        pulls = self.landed[slot].to(torch.int64)
        self.cast[slot].record(computing)
        return pulls

    def drop(self) -> None:
        """Forget what was loaded ahead."""
        for future in self.loading.values():
            future.cancel()
        self.loading.clear()

    def close(self) -> None:
        """Drop what was loaded ahead and end the thread."""
        self.worker.shutdown(cancel_futures=True)
        self.loading.clear()

    def _fill(self, slot: int, tickets: tuple[Ticket, ...]) -> None:
        for out, ticket in zip(self.arrays[slot], tickets, strict=True):
            self.corpus.fill(out, self.names[ticket.arm], ticket.arm, ticket.window + self.skip)
