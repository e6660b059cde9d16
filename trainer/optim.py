"""The optimizer and its learning rate: AdamW with decoupled decay on matrices only, warm-up times cosine."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from curriculum.config import LrScale

EVEN = LrScale()


def learning_rate(step: int, *, peak: float, floor: float, warmup_steps: int, steps: int) -> float:
    """Rate of a step counted from 1: cosine from `peak` to `floor` over `steps`, times a linear ramp.

    With t = step - 1 updates done before it, the ramp is min(1, (t + 1) / warmup_steps); no warm-up is factor 1.

    >>> learning_rate(1, peak=1.0, floor=0.0, warmup_steps=4, steps=1000)
    0.25
    """
    t = step - 1
    cosine = floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * t / max(1, steps)))
    return cosine * min(1.0, (t + 1) / warmup_steps) if warmup_steps else cosine


def group_of(name: str, parameter: Tensor) -> str:
    """The group of `train.lr_scale` that a parameter of `Decoder` belongs to; a tied head has the embedding's name.

    >>> group_of("blocks.0.attention.qkv.weight", torch.empty(2, 2)), group_of("blocks.0.mlp_norm.weight", torch.empty(2))
    ('attention', 'norms')
    """
    if parameter.dim() < 2:
        return "norms"
    part = name.split(".")[0]
    return part if part in ("embedding", "head") else "attention" if ".attention." in name else "mlp"


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its part of a step's learning rate, on the device where it is there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * group["scale"])
        else:
            group["lr"] = lr * group["scale"]


def build(
    model: nn.Module,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    device: torch.device,
    scales: LrScale = EVEN,
) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov, Hutter 2019): matrices decay, norms' gains do not.

    scales: of the learning rate, by group of parameters. Those of one scale are one group of the optimizer's, two at
    least; `scale` is in each.
    """
    by_scale: dict[float, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        by_scale.setdefault(getattr(scales, group_of(name, parameter)), []).append(parameter)
    groups = []
    for decay, wanted in ((weight_decay, True), (0.0, False)):
        for scale, parameters in by_scale.items():
            alike = [parameter for parameter in parameters if (parameter.dim() >= 2) == wanted]
            if alike:
                groups.append({"params": alike, "weight_decay": decay, "scale": scale})
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=device.type in ("cpu", "cuda"))


def state_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's memory of named parameters as named tensors (`PARAMETER/exp_avg`, `/exp_avg_sq`, `/step`)."""
    named = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"{name}/{key}"] = value.detach()
    return named


def load_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    tensors: dict[str, Tensor],
    spread: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> None:
    """Put back what `state_tensors` gave; an empty dict is an optimizer that has not stepped yet.

    spread: makes of a parameter's whole tensor what this process keeps of it.
    """
    for name, parameter in parameters.items():
        keys = ("step", "exp_avg", "exp_avg_sq")
        found = {key: tensors[f"{name}/{key}"] for key in keys if f"{name}/{key}" in tensors}
        if found:
            optimizer.state[parameter] = {
                key: spread(name, value.to(parameter.device, torch.float32)) for key, value in found.items()
            }
