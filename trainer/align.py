"""Alignment: the cosine of every pull's gradient with the goal's, in the optimizer's coordinates, without a sync.

Watched is the first MLP matrix of the first block alone: of all parts of a model it told good sources from junk best
for its size, and better than the whole gradient (`bench/reward.py` prints both).
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from trainer.goal import GoalText
from trainer.model import Decoder

MEMORY = 0.9
GOAL = "align/goal"


def watched(model: Decoder) -> nn.Parameter:
    """The parameter whose gradients are compared."""
    return model.blocks[0].up.weight  # type: ignore[union-attr,return-value]


class Alignment:
    """Probes the goal every `every` steps and compares each pull's gradient with what it found.

    With a pull's gradient x and AdamW's scale P = 1 / (sqrt(v_hat) + eps), a step along x lowers the goal's loss by
    <goal's gradient, P x> times the rate at first order: the cosine of x with g, the average of P times the goal's
    gradient, is that drop for a pull of unit length.

    goal: g, with 0.9 kept a probe, shaped like the watched parameter and on its device; 0 before the first probe. It
    is the whole state. text: what is probed.
    """

    def __init__(
        self,
        model: Decoder,
        optimizer: torch.optim.AdamW,
        text: GoalText,
        *,
        every: int,
        autocast: AbstractContextManager[None],
    ) -> None:
        self.model, self.optimizer, self.text = model, optimizer, text
        self.every, self.autocast = every, autocast
        self.parameter = watched(model)
        self.goal = torch.zeros_like(self.parameter, requires_grad=False)
        self.summed: Tensor | None = None

    def begin(self, step: int) -> None:
        """At the head of a step, before its first pull: probe where it is due.

        Not before the optimizer has stepped once, since its coordinates are not known. A probe that is not finite
        changes nothing.
        """
        self.summed = None
        if step % self.every or self.parameter not in self.optimizer.state:
            return
        state = self.optimizer.state[self.parameter]
        group = self.optimizer.param_groups[0]
        batches = self.text.batch(step // self.every)
        gradient = torch.zeros_like(self.goal)
        for windows in batches:
            with self.autocast:
                loss = self.model.loss(windows)
            gradient += torch.autograd.grad(loss, self.parameter)[0] / len(batches)
        second = state["exp_avg_sq"] / (1.0 - group["betas"][1] ** state["step"].to(gradient.device))
        goal = MEMORY * self.goal + (1.0 - MEMORY) * gradient / (second.sqrt() + group["eps"])
        self.goal = torch.where(torch.isfinite(goal).all(), goal, self.goal)

    def cosine(self) -> Tensor:
        """After a pull's backward pass: its cosine with the goal, a scalar on the device; NaN while no goal is known.

        Gradients add up over the pulls of a step; a pull's own is what it added.
        """
        assert self.parameter.grad is not None
        summed = self.parameter.grad.clone()
        own = summed if self.summed is None else summed - self.summed
        self.summed = summed
        length = torch.linalg.vector_norm(own) * torch.linalg.vector_norm(self.goal)
        cosine: Tensor = torch.sum(own * self.goal) / length
        return cosine

    def tensors(self) -> dict[str, Tensor]:
        """The state as a checkpoint keeps it, beside the optimizer's."""
        return {GOAL: self.goal}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; where there is none, as before the first probe."""
        if GOAL in tensors:
            # Copied: how a file's memory is aligned would show in the last bit of a sum.
            self.goal.copy_(tensors[GOAL])
