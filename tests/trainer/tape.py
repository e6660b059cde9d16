"""What a CUDA graph does, on the CPU: the operations of a step recorded once, then done again on the same memory.

Numbers of Python's are frozen in the recording, tensors are where they were, and nothing of Python's runs in a replay:
whatever cannot stand that in a CUDA graph gives wrong numbers here too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.graph import Work


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Tape(TorchDispatchMode):
    """A `Recorder`; a recording runs the work once to see what it does, and that is its first replay."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "a recorded step reads a number back"
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def warm(self, work: Work) -> None:
        work()

    def record(self, work: Work) -> Work:
        def replay() -> None:
            self.replays += 1
            if self.replays > 1:
                self.again()
                return
            with self:
                work()

        return replay

    @torch.no_grad()
    def again(self) -> None:
        for func, args, kwargs, before in self.operations:
            given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
            now = func(*args, **kwargs)
            for old, new in zip(tensors(before), tensors(now), strict=True):
                if (
                    new.untyped_storage().data_ptr() not in given
                ):  # else it was written in place, or is a view
                    old.detach().copy_(new)
