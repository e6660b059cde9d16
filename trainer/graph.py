"""A step recorded once and replayed: one launch instead of hundreds, where launching takes longer than computing.

The first steps run as they are, on the stream that will record: they are the run's own steps and nothing of them is
undone. The next one is recorded, which computes nothing, and from then on replayed. A recording reads and writes the
memory that it read and wrote when it was made, so windows are copied to where the first ones lay.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], None]

# Steps before the recording, so that whatever is set up at its first use (libraries, moments, workspaces) is there.
WARM_UP = 3


class Recorder(Protocol):
    """What runs work as it will be recorded, and records it."""

    def warm(self, work: Work) -> None:
        """Run the work now."""

    def record(self, work: Work) -> Work:
        """Give back what does the same work on the same memory, at each call; nothing is computed yet."""


class CudaRecorder:
    """Records a CUDA graph. The work may use this device alone, and may neither wait for it nor ask it anything."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm(self, work: Work) -> None:
        """On the stream of the recording: autograd notes on which stream a gradient is added up."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Work:
        """Raises RuntimeError, with nothing computed, where something in the work cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.stream.device)
        try:
            # Only this thread's calls are held to the rules: the loader's thread may go on meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(current)  # a recording that failed leaves its own stream in force
        return graph.replay


class Recorded:
    """Does work again and again: as it is at first, then from a recording.

    Where recording fails, `failed` is told why and has to clear up, and the work is done as it is from then on.
    """

    def __init__(
        self, work: Work, recorder: Recorder, failed: Callable[[str], None] = lambda why: None
    ) -> None:
        self.work, self.recorder, self.failed = work, recorder, failed
        self.warm_ups = WARM_UP
        self.replay: Work | None = None

    def __call__(self) -> None:
        if self.warm_ups > 0:
            self.warm_ups -= 1
            self.recorder.warm(self.work)
            return
        if self.replay is None:
            try:
                self.replay = self.recorder.record(self.work)
            except RuntimeError as error:
                self.failed(f"a step could not be recorded: {str(error).splitlines()[0]}")
                self.replay = self.work
        self.replay()


class Replay:
    """Runs `update` on a step's pulls, recorded: they are copied to where those of the recording lay."""

    def __init__(
        self, update: Callable[[Tensor], None], recorder: Recorder, failed: Callable[[str], None]
    ) -> None:
        self.update = update
        self.recorded = Recorded(self.work, recorder, failed)
        self.windows: Tensor | None = None

    def __call__(self, pulls: Tensor) -> None:
        if self.windows is None:
            self.windows = torch.empty_like(pulls)
        self.windows.copy_(pulls)
        self.recorded()

    def work(self) -> None:
        """The update of the windows that lie in the buffer."""
        assert self.windows is not None
        self.update(self.windows)


def static(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let the optimizer take its learning rate from the device, and its steps be recorded."""
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros((), dtype=torch.float32, device=device)
        group["capturable"] = True
