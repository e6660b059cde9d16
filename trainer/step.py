"""One training step, from windows to updated weights, without the host reading anything back.

What the device reads in a step lies where it always lies: the windows and the row of results in buffers of their own,
the learning rate in a tensor where the optimizer has one. So the same kernels can be replayed (`trainer.graph`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from trainer import crew, optim
from trainer.align import Alignment
from trainer.funnel import Funnel
from trainer.goal import GoalLoss
from trainer.loss import Candidates
from trainer.model import Decoder
from trainer.parallel import Whole
from trainer.ring import Ring

Loss = Callable[[Tensor], Tensor]
Update = Callable[[Tensor], None]


class TrainStep:
    """Gradient accumulation over pulls, global-norm clipping and skip-on-non-finite, all on the device.

    forward: what gives the loss of windows [micro_batch, block_size + 1]: the model's own `loss`, or the same compiled,
    wrapped, or shared among threads. runner: what carries out `update` on the pulls of a step: `update` itself, or a replay of it.
    funnel: while it is open steps are neither compiled nor replayed, since each has more candidates than the one before.
    """

    def __init__(
        self,
        model: Decoder,
        optimizer: torch.optim.AdamW,
        ring: Ring,
        *,
        grad_clip: float,
        autocast: AbstractContextManager[None],
        align: Alignment | None = None,
        goal_loss: GoalLoss | None = None,
        shared: Whole | None = None,
        forward: Loss | None = None,
        funnel: Funnel | None = None,
    ) -> None:
        self.model, self.optimizer, self.ring = model, optimizer, ring
        self.grad_clip, self.autocast = grad_clip, autocast
        self.align, self.goal_loss = align, goal_loss
        self.shared = shared or Whole(model)
        self.parameters = list(self.shared.named.values())
        self.row = torch.zeros_like(ring.rows[0])
        self.forward: Loss = forward or crew.loss_of(model)
        self.runner: Update = self.update
        self.funnel, self.among = funnel, None if funnel is None else funnel.at(1)
        self.narrow: Callable[[Tensor, Candidates], Tensor] = crew.loss_of(model)

    def run(self, step: int, pulls: Tensor, lr: float) -> None:
        """Train on pulls [grad_accum, micro_batch, block_size + 1]; losses, norm and skip flag go to the ring.

        So does what the reward needs: a cosine a pull, or the goal's loss where this step measures it. What only some
        steps do comes first, outside of `update`.
        """
        slot = self.ring.row(step)
        self.row.copy_(slot)
        self.among = None if self.funnel is None else self.funnel.at(step)
        if self.align is not None:
            self.align.begin(step, self.among)
        if self.goal_loss is not None:
            self.goal_loss.measure(step, into=self.row[2 * len(pulls)])
        optim.set_rate(self.optimizer, lr)
        if self.among is None:
            self.runner(pulls)
        else:
            self.update(pulls)
        slot.copy_(self.row)
        self.ring.publish(step)

    def update(self, pulls: Tensor) -> None:
        """The part that is alike in every step. It may be recorded, so nothing in it may depend on the step's number.

        A non-finite gradient leaves weights, moments and step counts untouched. The clip coefficient is handed to the
        fused optimizer as a gradient scale, so that no pass over the gradients is spent on it.
        """
        row, count = self.row, len(pulls)
        for micro, windows in enumerate(pulls):
            with self.autocast:
                loss = self.forward(windows) if self.among is None else self.narrow(windows, self.among)
            self.shared.backward(loss / count, last=micro == count - 1)
            row[micro] = loss.detach()
            if self.align is not None:
                row[count + micro] = self.align.cosine()
        norm = self.shared.norm()
        bad = ~torch.isfinite(norm)
        row[2 * count + 1], row[2 * count + 2] = norm, bad
        self.shared.world.mean_(row)
        self.optimizer.grad_scale = (norm / self.grad_clip).clamp(min=1.0)  # type: ignore[attr-defined]
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """Drop what an update that was cut short has left."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.align is not None:
            self.align.summed = None
