"""A copy of a run's tensors in host memory, taken between two steps, so that they can be written while training goes on.

A thread that wrote the tensors themselves would write values of later steps. The copy is one block of 12 bytes a
parameter (weights and two moments in fp32), allocated at the first checkpoint and used again at every further one.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNED = 64  # bytes; a copy begins where any dtype may


@dataclass(slots=True)
class Tensors:
    """What a checkpoint holds of a run, by name: the model's parameters; the optimizer's memory with the reward's."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Snapshot:
    """The block and where in it each tensor's copy is. One copy at a time: whoever reads it must be done before `take`."""

    def __init__(self, device: torch.device) -> None:
        self.pinned = device.type == "cuda"
        self.copies = Tensors({}, {})
        self.arrived = torch.cuda.Event() if self.pinned else None  # type: ignore[no-untyped-call]

    def take(self, tensors: Tensors) -> None:
        """Copy; on CUDA in the order of the current stream and without waiting, so that the next step may be queued."""
        if _form(tensors) != _form(self.copies):
            self.copies = self._lay_out(tensors)
        for copies, originals in (
            (self.copies.model, tensors.model),
            (self.copies.optimizer, tensors.optimizer),
        ):
            for name, original in originals.items():
                copies[name].copy_(original.detach(), non_blocking=self.pinned)
        if self.arrived is not None:
            self.arrived.record()

    def wait(self) -> Tensors:
        """The copies, once they have arrived; for the thread that writes them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.copies

    def _lay_out(self, tensors: Tensors) -> Tensors:
        self.copies = Tensors({}, {})  # an old block goes before a new one comes
        size = sum(_room(tensor) for tensor in (*tensors.model.values(), *tensors.optimizer.values()))
        block, at = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned), 0
        made = Tensors({}, {})
        for group, originals in ((made.model, tensors.model), (made.optimizer, tensors.optimizer)):
            for name, original in originals.items():
                end = at + original.element_size() * prod(original.shape)
                group[name] = block[at:end].view(original.dtype).view(original.shape)
                at += _room(original)
        return made


def _room(tensor: Tensor) -> int:
    return -(-tensor.element_size() * prod(tensor.shape) // ALIGNED) * ALIGNED


def _form(tensors: Tensors) -> list[tuple[str, torch.dtype, torch.Size]]:
    return [
        (name, tensor.dtype, tensor.shape)
        for group in (tensors.model, tensors.optimizer)
        for name, tensor in group.items()
    ]
