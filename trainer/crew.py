"""A pull shared among the cores of a CPU: each thread takes some of the windows, forward and backward, by itself.

Threads inside every operation meet at its end, hundreds of times a step, and a small model's operations are too short for
that: where a core is taken away for a moment, all wait. These meet once a pull. A thread reads the model's own weights
and has gradients of its own, which are added up in the order of the threads: the same bits whenever their number is.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from trainer.loss import Candidates
from trainer.model import Decoder

# Gradients of all threads together, in numbers: a GiB.
MOST_GRADIENTS = 1 << 28
# Parameters times tokens of a member's part, below which handing over the interpreter costs what a core brings.
LEAST_WORK = 1 << 27


def size(threads: int, rows: int, time: int, parameters: int) -> int:
    """How many share `rows` windows of `time` tokens: the fewest that keep as many threads busy as is worth it.

    >>> size(2, 12, 64, 800_000), size(8, 12, 256, 10_650_000), size(7, 64, 256, 10_650_000), size(2, 4, 32, 25_000)
    (2, 6, 7, 1)
    """
    worth = rows * time * parameters // LEAST_WORK
    most = max(1, min(threads, rows, worth, MOST_GRADIENTS // parameters))
    return min(range(1, most + 1), key=lambda crew: (-(-rows // crew), crew))


def loss_of(model: Decoder) -> Callable[..., Tensor]:
    """What gives the loss of windows [rows, time + 1]: the model, or a crew where a CPU has threads to share them."""
    sharded = any(
        hasattr(parameter, "to_local") for parameter in model.parameters()
    )  # its twins would hold parts
    if model.cos.device.type != "cpu" or torch.get_num_threads() == 1 or sharded:
        return model.loss
    return Crew(model, torch.get_num_threads()).loss


class Crew:
    """`loss` is the model's own, with gradients that are worked out by several threads along with it."""

    def __init__(self, model: Decoder, threads: int) -> None:
        self.model, self.threads = model, threads
        self.parameters = list(model.parameters())
        self.twins: list[Decoder] = []
        self.pool = ThreadPoolExecutor(1)  # has no thread before it is used
        self.count, self.many = model.parameter_count(), 0

    def loss(self, windows: Tensor, among: Candidates | None = None) -> Tensor:
        """Mean cross-entropy in nats a token of windows [rows, time + 1]; among: as of the model's own."""
        rows, time = len(windows), windows.shape[1] - 1
        many = size(self.threads, rows, time, self.count)
        if many != self.many:
            # What is too little to share is not shared within operations either: their threads sleep while they wait.
            little = rows * time * self.count < 2 * LEAST_WORK
            torch.set_num_threads(
                1 if little else self.threads // many
            )  # of threads begun from now on as well
            self.pool.shutdown()
            self.many, self.pool = many, ThreadPoolExecutor(many, thread_name_prefix="crew")
        if many == 1:
            return self.model.loss(windows, among)
        while len(self.twins) < many:
            self.twins.append(self.twin())
        return share(windows, among, self, many, *self.parameters)

    def twin(self) -> Decoder:
        """The model again: the same weights in memory, gradients of its own."""
        with torch.device("meta"):
            twin = Decoder(self.model.shape)
        twin.cos, twin.sin = self.model.cos, self.model.sin
        for module, own in zip(twin.modules(), self.model.modules(), strict=True):
            for name, parameter in own.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(parameter.detach()))
        if self.model.shape.tied:
            twin.head.weight = twin.embedding.weight
        return twin

    def work(self, windows: Tensor, among: Candidates | None, many: int) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradients: the crew's, added up in its order, each with the weight of its rows."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        bounds = [len(windows) * index // many for index in range(many + 1)]
        parts = [windows[low:high] for low, high in itertools.pairwise(bounds)]
        shares = [len(part) / len(windows) for part in parts]
        others = [
            self.pool.submit(member, twin, part, among, weight, dtype)
            for twin, part, weight in list(zip(self.twins, parts, shares, strict=False))[1:]
        ]
        loss, gradients = member(self.twins[0], parts[0], among, shares[0], dtype)
        for other in others:
            more, added = other.result()
            loss = loss + more
            torch._foreach_add_(gradients, added)
        return loss, gradients


def member(
    twin: Decoder, windows: Tensor, among: Candidates | None, weight: float, dtype: torch.dtype | None
) -> tuple[Tensor, list[Tensor]]:
    """One thread's part of the mean, and its gradients."""
    with torch.enable_grad():
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = twin.loss(windows, among) * weight
        return loss.detach(), list(torch.autograd.grad(loss, list(twin.parameters())))


class Share(torch.autograd.Function):
    """Forward finds the gradients already; backward hands them over."""

    @staticmethod
    def forward(
        ctx: Any, windows: Tensor, among: Candidates | None, crew: Crew, many: int, *parameters: Tensor
    ) -> Tensor:
        loss, ctx.gradients = crew.work(windows, among, many)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        torch._foreach_mul_(ctx.gradients, gradients[0])
        return None, None, None, None, *ctx.gradients


share: Callable[..., Tensor] = Share.apply
