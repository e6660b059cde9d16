"""Whether a pull fits the device's memory, found out before the first step and not in its first hour.

What a step holds at most: weights, gradients and two moments, 4 bytes each a parameter; the activations of one pull
between its forward and its backward pass; and one chunk of logits. docs/benchmarks.md counts them for 124M parameters.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from curriculum.config import Train
from curriculum.errors import Exit, FirehoseError
from trainer.model import Decoder
from trainer.step import Loss


class Trial:
    """Forward and backward passes over made-up windows, with all that a step holds beside them in place.

    passes: pulls whose gradients add up; from the second on there are gradients and activations at once.
    """

    def __init__(
        self,
        model: Decoder,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        autocast: AbstractContextManager[None],
        passes: int,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.autocast, self.passes = autocast, passes

    def run(self, forward: Loss, rows: int) -> None:
        """Try pulls of `rows` windows; no weight changes. Raises torch.OutOfMemoryError, with nothing left behind."""
        try:
            moments = [  # two a parameter, which AdamW makes in its first step
                torch.empty_like(parameter, requires_grad=False)
                for parameter in 2 * list(self.model.parameters())
                if parameter not in self.optimizer.state
            ]
            windows = torch.zeros(
                rows, self.model.shape.block_size + 1, dtype=torch.int64, device=self.device
            )
            for _ in range(self.passes):
                with self.autocast:
                    loss = forward(windows)
                loss.backward()  # type: ignore[no-untyped-call]
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            del moments
        finally:
            for parameter in self.model.parameters():
                parameter.grad = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def check(trial: Callable[[int], None], train: Train, rows: int, device: str) -> None:
    """Try a pull of `rows` windows. Raises FirehoseError(REFUSED) naming the largest part of it that does fit.

    rows: of this process; `train.micro_batch` is that of all. trial: raises torch.OutOfMemoryError where it does not fit.
    """
    if fits(trial, rows):
        return
    part = next((n for n in range(rows // 2, 0, -1) if rows % n == 0 and fits(trial, n)), None)
    if part is None:
        raise FirehoseError(
            Exit.REFUSED,
            f"not even a pull of one window fits the memory of {device}",
            next="take a smaller model or model.block_size, or a device with more memory",
        )
    times = rows // part
    raise FirehoseError(
        Exit.REFUSED,
        f"train.micro_batch = {train.micro_batch} does not fit the memory of {device}: tried, no step was trained",
        next=f"set micro_batch = {train.micro_batch // times} and grad_accum = {train.grad_accum * times} under [train]: "
        f"as many tokens a step, in {times} times as many pulls, each of one source (which is another run, if this one "
        "has begun); or share each pull among several devices by torchrun",
    )


def fits(trial: Callable[[int], None], rows: int) -> bool:
    """Whether a trial goes through."""
    try:
        trial(rows)
    except torch.OutOfMemoryError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]
