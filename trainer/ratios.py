"""How far a step moves each group of parameters, for its size: told at boundaries, an alarm where it is out of range (I19).

The ratio is the RMS of AdamW's step, without decay, over that of the weights: about 1e-3 in a healthy run. A group whose
learning rate is too low for it learns nothing while the loss, which others make fall, says all is well.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from trainer import optim
from trainer.parallel import Whole

LOW, HIGH = 1e-5, 1e-1
Side = Literal["low", "high"] | None  # of the range
WARM = 0.1  # of the peak learning rate, under which nothing is judged
SAMPLE = 1 << 16  # values of a tensor that are looked at, evenly spaced
EPSILON = 1e-8  # AdamW's


@dataclass(frozen=True, slots=True)
class GroupUpdate:
    """lr: the group's own, of the step. ratio: RMS of the step's update over that of the weights. out: on which side of the
    range the group was when last judged, None within it."""

    name: str
    lr: float
    ratio: float
    out: Side = None

    def as_dict(self) -> dict[str, Any]:
        """The group as `status --json` prints it."""
        return asdict(self)


class Ratios:
    """Measures between two steps. found: at the last boundary. alarms: what was out of range there and at the one before.

    One boundary is not enough: in its first hundred steps a fresh group may pass through. Nothing of it is stored; after a
    resume two boundaries say it again.
    """

    def __init__(self, shared: Whole, optimizer: torch.optim.AdamW, *, peak: float) -> None:
        self.shared, self.optimizer, self.peak = shared, optimizer, peak
        self.found: list[GroupUpdate] = []
        self.alarms: list[str] = []
        self.out: dict[str, Side] = {}  # of each group, at the last boundary that was judged

    def measure(self, step: int, lr: float) -> list[str]:
        """Look at the step just done, of learning rate `lr`; the alarms that were not there before. All ranks must ask.

        Waits for the device once: for a boundary, which waits for it anyway.
        """
        found, known = self._look(lr), {alarm.split(":")[0] for alarm in self.alarms}
        if lr > WARM * self.peak:
            out = {group.name: side(group.ratio) for group in found}
            self.alarms = [
                f"update of {group.name}: {group.ratio:.1e} of its weights a step at step {step}, outside {LOW:g} to "
                f"{HIGH:g}: train.lr_scale.{group.name} is too {out[group.name]} for it"
                for group in found
                if out[group.name] and self.out.get(group.name)
            ]
            self.out = out
        self.found = [replace(group, out=self.out.get(group.name)) for group in found]
        return [alarm for alarm in self.alarms if alarm.split(":")[0] not in known]

    @torch.no_grad()
    def _look(self, lr: float) -> list[GroupUpdate]:
        scales = {id(p): group["scale"] for group in self.optimizer.param_groups for p in group["params"]}
        betas = self.optimizer.defaults["betas"]
        names: dict[str, float] = {}
        sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, parameter in self.shared.named.items():
            memory = self.optimizer.state.get(parameter)
            if memory and id(parameter) in scales:
                group = optim.group_of(name, parameter)
                names[group] = scales[id(parameter)]
                sums.setdefault(group, []).append(self._squares(parameter, memory, betas))
        if not sums:
            return []
        found = torch.stack(
            [torch.stack([sum_(column) for column in zip(*sums[name], strict=True)]) for name in names]
        )
        values = self.shared.add(found).sqrt().tolist()
        return [
            GroupUpdate(name, lr * scale, lr * scale * moved / size if size else 0.0)
            for (name, scale), (moved, size) in zip(names.items(), values, strict=True)
        ]

    def _squares(
        self, parameter: Tensor, memory: dict[str, Tensor], betas: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Sums of squares of the step at learning rate 1 and of the weights, over the same sample, as of all of the tensor."""
        own = self.shared.own(parameter).detach().flatten()
        stride = max(1, own.numel() // SAMPLE)
        first, second = (
            self.shared.own(memory[key]).flatten()[::stride] for key in ("exp_avg", "exp_avg_sq")
        )
        steps = memory["step"].to(own.device)
        moved = first / (1 - betas[0] ** steps) / ((second / (1 - betas[1] ** steps)).sqrt() + EPSILON)
        return moved.double().square().sum() * stride, own[::stride].double().square().sum() * stride


def side(ratio: float) -> Side:
    """On which side of the range a ratio is.

    >>> side(1e-6), side(1e-3), side(0.2)
    ('low', None, 'high')
    """
    return "low" if ratio < LOW else None if ratio <= HIGH else "high"


def sum_(values: Iterable[Tensor]) -> Tensor:
    """The sum of scalars on one device."""
    return torch.stack(tuple(values)).sum()
