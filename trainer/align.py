"""Alignment: the cosine of every pull's gradient with the goal's, without a sync.

Watched is the output head alone (the embedding where they are tied): of all parts of a model it told good sources
from junk best, and better than the whole gradient (`bench/reward.py` prints both), and a probe of it is a forward pass.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from trainer.goal import GoalText
from trainer.loss import Candidates, cross_entropy
from trainer.model import Decoder
from trainer.parallel import Whole

MEMORY = 0.9
GOAL = "align/goal"


def watched(model: Decoder) -> Tensor:
    """The parameter whose gradients are compared."""
    return model.head.weight


class Alignment:
    """Probes the goal every `every` steps and compares each pull's gradient with what it found.

    goal: average, with 0.9 kept a probe, of the goal's gradients, each batch's made as long as any other's, so that no
    odd window outweighs the rest; shaped like the watched parameter, on its device, 0 before the first probe. It is the
    whole state. mine: the part of it that this process keeps. known: whether there was a probe, so that a bandit that begins at a pivot need not wait for one. text: what is probed.

    Gradients are compared as they are, not divided by AdamW's sqrt(v_hat) as its updates are: that told no better
    (docs/decisions/0003-where-we-differ.md).
    """

    def __init__(
        self,
        model: Decoder,
        text: GoalText,
        *,
        every: int,
        autocast: AbstractContextManager[None],
        shared: Whole | None = None,
    ) -> None:
        self.model, self.text = model, text
        self.every, self.autocast = every, autocast
        self.shared = shared or Whole(model)
        self.parameter = watched(model)
        self.shared.watch(self.parameter)
        self.goal = torch.zeros_like(self.parameter, requires_grad=False)
        self.mine = self.shared.own(self.goal)
        self.known = False
        self.summed: Tensor | None = None

    def begin(self, step: int, among: Candidates | None = None) -> None:
        """At the head of a step, before its first pull: probe at steps 1, 1 + every, ..., and where nothing is known.

        among: the candidates of a funnel, if the step's pulls have them: gradients of one loss are compared.
        A probe that is not finite changes nothing.
        """
        self.summed = None
        if (step - 1) % self.every and self.known:
            return
        self.known = True
        batches = self.text.batch((step - 1) // self.every)
        gradient = torch.zeros_like(self.mine)
        head = self.shared.whole(self.parameter).requires_grad_()
        for batch in batches:
            rows, weight = self.shared.world.rows(len(batch))
            windows = batch[rows]
            # The head as it reads, not as the embedding that it may be as well: no backward pass through the blocks.
            with torch.no_grad(), self.autocast:
                hidden = self.model.hidden(windows[:, :-1])
            with self.autocast:
                loss = cross_entropy(hidden, head, windows[:, 1:], among)
            found = torch.autograd.grad(weight * loss, head)[0]
            self.shared.world.mean_(found)
            gradient += self.shared.own(found) / (torch.linalg.vector_norm(found) * len(batches))
        goal = MEMORY * self.mine + (1.0 - MEMORY) * gradient
        bad = self.shared.add(torch.sum(~torch.isfinite(goal)))
        # In place: a recorded step reads the goal where it lay when it was recorded.
        self.mine.copy_(torch.where(bad == 0, goal, self.mine))

    def cosine(self) -> Tensor:
        """After a pull's backward pass: its cosine with the goal, a scalar on the device; NaN while no goal is known.

        Gradients add up over the pulls of a step; a pull's own is what it added.
        """
        assert self.parameter.grad is not None
        summed = self.shared.own(self.parameter.grad).clone()
        own = summed if self.summed is None else summed - self.summed
        self.summed = summed
        return self.shared.cosine(own, self.mine)

    def tensors(self) -> dict[str, Tensor]:
        """The state as a checkpoint keeps it, beside the optimizer's."""
        return {GOAL: self.goal}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; where there is none, as before the first probe."""
        if GOAL in tensors:
            # Copied: how a file's memory is aligned would show in the last bit of a sum.
            self.mine.copy_(self.shared.own(tensors[GOAL]))
            self.known = True
