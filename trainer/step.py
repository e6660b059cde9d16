"""One training step, from windows to updated weights, without the host reading anything back."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from trainer.align import Alignment
from trainer.goal import GoalLoss
from trainer.model import Decoder
from trainer.ring import Ring


class TrainStep:
    """Gradient accumulation over pulls, global-norm clipping and skip-on-non-finite, all on the device."""

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
    ) -> None:
        self.model, self.optimizer, self.ring = model, optimizer, ring
        self.grad_clip, self.autocast = grad_clip, autocast
        self.align, self.goal_loss = align, goal_loss
        self.parameters = list(model.parameters())

    def run(self, step: int, pulls: Tensor, lr: float) -> None:
        """Train on pulls [grad_accum, micro_batch, block_size + 1]; losses, norm and skip flag go to the ring.

        So does what the reward needs: a cosine a pull, or the goal's loss where this step measures it. A non-finite gradient leaves weights, moments and step counts untouched. The clip coefficient is handed to
        the fused optimizer as a gradient scale, so that no pass over the gradients is spent on it.
        """
        row = self.ring.row(step)
        if self.align is not None:
            self.align.begin(step)
        if self.goal_loss is not None:
            self.goal_loss.measure(step, into=row[-3])
        for micro, windows in enumerate(pulls):
            with self.autocast:
                loss = self.model.loss(windows)
            (loss / len(pulls)).backward()  # type: ignore[no-untyped-call]
            row[micro] = loss.detach()
            if self.align is not None:
                row[len(pulls) + micro] = self.align.cosine()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        bad = ~torch.isfinite(norm)
        row[-2], row[-1] = norm, bad
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.grad_scale = (norm / self.grad_clip).clamp(min=1.0)  # type: ignore[attr-defined]
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ring.publish(step)
