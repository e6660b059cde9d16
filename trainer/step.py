"""One training step, from windows to updated weights, without the host reading anything back."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

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
    ) -> None:
        self.model, self.optimizer, self.ring = model, optimizer, ring
        self.grad_clip, self.autocast = grad_clip, autocast
        self.parameters = list(model.parameters())

    def run(self, step: int, pulls: Tensor, lr: float) -> None:
        """Train on pulls [grad_accum, micro_batch, block_size + 1]; losses, norm and skip flag go to the ring.

        A non-finite gradient leaves weights, moments and step counts untouched. The clip coefficient is handed to
        the fused optimizer as a gradient scale, so that no pass over the gradients is spent on it.
        """
        row = self.ring.row(step)
        for micro, windows in enumerate(pulls):
            with self.autocast:
                loss = self.model.loss(windows)
            (loss / len(pulls)).backward()  # type: ignore[no-untyped-call]
            # A reward that needs this pull's own gradient reads it here, before the next pull adds to it.
            row[micro] = loss.detach()
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
