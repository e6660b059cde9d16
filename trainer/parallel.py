"""How the processes of a run share its model: one alone, a copy each (DDP), or a part each (FSDP2).

What a step computes is the same in all three: the gradient of the whole batch, its norm, and of each pull what the
reward watches. A copy each is averaged bucket by bucket while the backward pass still runs, as torch's own DDP does;
that one orders its buckets anew after the first step, and with four ranks a resumed run could add in another order.
"""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from curriculum.config import Config
from trainer import weights
from trainer.model import Decoder
from trainer.world import World

Kind = Literal["ddp", "fsdp"]
BUCKET = 25 << 20  # bytes of gradients sent at a time
# Bytes a parameter of weights, gradient and two moments, and the share of a device's memory they may take.
BYTES, SHARE = 16, 0.6


def parameters(config: Config, vocab_size: int) -> int:
    """How many parameters the config's model has, without making room for them."""
    with torch.device("meta"):
        return weights.build(config, vocab_size).parameter_count()


def choose(wanted: Literal["auto", "ddp", "fsdp"], parameters: int, device: str) -> Kind:
    """What `auto` comes to: a copy a rank, but where weights, gradients and moments leave no room for a batch."""
    if wanted != "auto":
        return wanted
    if not device.startswith("cuda"):
        return "ddp"
    memory: int = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return "fsdp" if parameters * BYTES > SHARE * memory else "ddp"


class Whole:
    """A model that one process has to itself.

    named: the parameters that are trained, by name, as the optimizer holds them. world: of the processes that share it.
    together: whether no rank can use the model without the others.
    """

    together = False

    def __init__(self, model: Decoder, world: World | None = None) -> None:
        self.model, self.world = model, world or World()
        self.named = dict(model.named_parameters())

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a pull's gradient to those of the step; after the `last` one they are those of all ranks' rows."""
        loss.backward()  # type: ignore[no-untyped-call]

    def norm(self) -> Tensor:
        """Global L2 norm of the step's gradient, a scalar on the device."""
        norm: Tensor = torch.nn.utils.get_total_norm(
            [p.grad for p in self.named.values() if p.grad is not None]
        )
        return norm

    def watch(self, parameter: Tensor) -> None:
        """Have this parameter's gradient averaged over the ranks after every pull, not after the last one alone."""

    def whole(self, parameter: Tensor) -> Tensor:
        """A watched parameter's weights, all of them, detached: the same on every rank."""
        return parameter.detach()

    def own(self, tensor: Tensor) -> Tensor:
        """The part of a tensor, shaped like a parameter or its gradient, that this process keeps."""
        return tensor

    def add(self, parts: Tensor) -> Tensor:
        """Sums that each process has of its own part, added up."""
        return parts

    def cosine(self, one: Tensor, other: Tensor) -> Tensor:
        """The cosine of two tensors of which each process has its own part, a scalar on the device."""
        length = torch.linalg.vector_norm(one) * torch.linalg.vector_norm(other)
        cosine: Tensor = torch.sum(one * other) / length
        return cosine

    def weights(self) -> dict[str, Tensor]:
        """All weights by name, as a checkpoint keeps them. All ranks must ask; rank 0 gets them."""
        return dict(self.named)

    def full(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the optimizer, likewise."""
        return tensors

    def spread(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse: of a tensor shaped like the parameter `name`, what its rank's optimizer holds."""
        return tensor

    def alone(self) -> Decoder | None:
        """The model for rank 0 to use while the others do something else; all ranks must ask, others get None."""
        return self.model


class Copies(Whole):
    """A copy of the model on every rank: gradients are averaged in buckets, in one order, whatever was trained before."""

    def __init__(self, model: Decoder, world: World) -> None:
        super().__init__(model, world)
        buckets: list[list[Tensor]] = [[]]
        room = BUCKET
        for parameter in reversed(
            self.named.values()
        ):  # about the order in which a backward pass makes gradients
            if room <= 0:
                buckets.append([])
                room = BUCKET
            buckets[-1].append(parameter)
            room -= parameter.numel() * parameter.element_size()
        self._fill(buckets)
        self.waiting: list[int] | None = None  # gradients each bucket still lacks; None: no average is due
        self.sent: list[tuple[Tensor, dist.Work]] = []
        self.watched: Tensor | None = None
        self.averaged: Tensor | None = None  # the watched gradient of the pulls so far
        for parameter in self.named.values():
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def _fill(self, buckets: list[list[Tensor]]) -> None:
        self.buckets = buckets
        self.bucket_of = {id(p): number for number, bucket in enumerate(buckets) for p in bucket}

    def watch(self, parameter: Tensor) -> None:
        self.watched = parameter
        others = ([other for other in bucket if other is not parameter] for bucket in self.buckets)
        self._fill(list(filter(None, others)))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        if last:
            self.waiting, self.sent = [len(bucket) for bucket in self.buckets], []
        loss.backward()  # type: ignore[no-untyped-call]
        if self.watched is not None:
            self._average_watched(last)
        if last:
            self.waiting = None
            for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
                work.wait()
                flat.div_(self.world.size)
                at = 0
                for parameter in bucket:
                    assert parameter.grad is not None
                    parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
                    at += parameter.numel()
            self.sent = []

    def _arrived(self, parameter: Tensor) -> None:
        """A gradient of the last pull is there: send its bucket if it was the last one, buckets in their order."""
        if self.waiting is None or parameter is self.watched:
            return
        self.waiting[self.bucket_of[id(parameter)]] -= 1
        while len(self.sent) < len(self.buckets) and self.waiting[len(self.sent)] == 0:
            gradients = [p.grad for p in self.buckets[len(self.sent)] if p.grad is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self.sent.append((flat, self.world.begin_sum(flat)))

    def _average_watched(self, last: bool) -> None:
        assert self.watched is not None and self.watched.grad is not None
        gradient = self.watched.grad
        own = gradient if self.averaged is None else gradient - self.averaged
        self.world.mean_(own)
        if self.averaged is not None:
            gradient.copy_(self.averaged + own)
        self.averaged = None if last else gradient.clone()


class Shards(Whole):
    """A part of every weight, gradient and moment on every rank (FSDP2): weights are gathered block by block to be used.

    Gradients are averaged over the ranks after every pull, each rank keeping its part.
    """

    together = True

    def __init__(self, model: Decoder, world: World, device: torch.device) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        group = world.group or dist.group.WORLD
        assert group is not None
        self.mesh = DeviceMesh.from_group(group, device.type)
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        for method in ("loss", "hidden"):
            register_fsdp_forward_method(model, method)
        super().__init__(
            model, world
        )  # the sharded parameters: while a block is in use, the model names whole ones

    def norm(self) -> Tensor:
        return _full(super().norm())

    def whole(self, parameter: Tensor) -> Tensor:
        return _full(parameter.detach())

    def own(self, tensor: Tensor) -> Tensor:
        if hasattr(tensor, "to_local"):
            local: Tensor = tensor.to_local()
            return local
        parts = torch.chunk(tensor, self.world.size)  # as fully_shard cuts
        return parts[self.world.rank] if self.world.rank < len(parts) else tensor[:0]

    def add(self, parts: Tensor) -> Tensor:
        return self.world.sum_(parts)

    def cosine(self, one: Tensor, other: Tensor) -> Tensor:
        sums = torch.stack([torch.sum(one * other), torch.sum(one * one), torch.sum(other * other)])
        product, first, second = self.add(sums)
        cosine: Tensor = product / (first.sqrt() * second.sqrt())
        return cosine

    def weights(self) -> dict[str, Tensor]:
        return self.full({name: parameter.detach() for name, parameter in self.named.items()})

    def full(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        gathered = {}
        for name, tensor in tensors.items():
            whole = _full(tensor)
            if self.world.first:
                gathered[name] = whole.cpu()  # one at a time: the whole model need not fit on a device
        return gathered

    def spread(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.dim() == 0:
            return tensor
        from torch.distributed.tensor import Shard, distribute_tensor

        return distribute_tensor(tensor, self.mesh, [Shard(0)])

    def alone(self) -> Decoder | None:
        weights = self.weights()
        if not self.world.first:
            return None
        device = self.model.cos.device
        model = Decoder(self.model.shape).to(device)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return model


def _full(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def share(model: Decoder, world: World, kind: Kind, device: torch.device) -> Whole:
    """A model with its weights, put on its device, and shared by the ranks as `kind` says."""
    if world.size > 1 and kind == "fsdp":
        shared = Shards(model, world, device)
        model.to(device)  # buffers
        return shared
    model.to(device)
    return Copies(model, world) if world.size > 1 else Whole(model, world)
