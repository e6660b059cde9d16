"""Norm, rotation and attention with their gradients written out: a CPU is bound by passes over memory, not by sums.

Autograd's own chains of small operations make a pass and a new buffer each; these make as few as there can be without
a compiler. The functions are those of `trainer.model`, to the last bits of float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Up to this context attention is float32 also where the linears are not: see `Attention.by_hand`.
SHORT_CONTEXT = 128


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * gain over the last axis of x [..., width] (Zhang, Sennrich 2019, equation 4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        y, inverse = torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], gain, eps)
        ctx.save_for_backward(x, inverse, gain)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, inverse, gain = ctx.saved_tensors
        gradient, width = gradients[0].contiguous(), x.shape[-1]
        # Layer norm's own kernel with a mean of 0; what it takes away for the mean, which is none here, is put back.
        back, to_gain, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, [width], torch.zeros_like(inverse), inverse, gain, None, [True, True, False]
        )
        back.add_((gradient @ gain).unsqueeze_(-1).mul_(inverse), alpha=1.0 / width)
        return back, to_gain, None


def pairs_first(heads: int, width: int) -> Tensor:
    """Rows of a [3 * width] projection so ordered that channels i and i + half of every query and key are neighbours.

    A score is a sum over channels, so it is the same in any order that queries and keys share.
    """
    rows = torch.arange(3 * width)
    turned = rows[: 2 * width].view(2 * heads, 2, -1).transpose(1, 2).reshape(-1)
    return torch.cat((turned, rows[2 * width :]))


class Reorder(torch.autograd.Function):
    """Rows of a matrix in another order, [rows]; `back` is the order that undoes it."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return matrix.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class Rotate(torch.autograd.Function):
    """Queries, keys and values [batch, heads, time, head_width] of a projection [batch, time, 3 * width].

    Each pair of neighbouring channels of queries and keys is a complex number, turned by one multiplication with
    `turn` [time, 1, head_width / 2]: one pass; `back` undoes it. All three come as `dtype`.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, turn: Tensor, back: Tensor, heads: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, width = qkv.shape
        size = (batch, time, heads, width // (3 * heads))
        ctx.back, ctx.size, ctx.given = back, size, qkv.dtype
        q, k, v = qkv.view(batch, time, 3, *size[2:]).unbind(2)
        return (
            turned(q, turn).view(size).to(dtype).transpose(1, 2),
            turned(k, turn).view(size).to(dtype).transpose(1, 2),
            v.to(dtype).transpose(1, 2),
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        batch, time, heads, width = ctx.size
        whole = torch.empty(batch, time, 3, heads, width)
        q, k, v = whole.unbind(2)
        turned(gradients[0].transpose(1, 2), ctx.back, out=q)
        turned(gradients[1].transpose(1, 2), ctx.back, out=k)
        v.copy_(gradients[2].transpose(1, 2))
        return whole.view(batch, time, -1).to(ctx.given), None, None, None, None


def turned(x: Tensor, turn: Tensor, out: Tensor | None = None) -> Tensor:
    """Channels of x [batch, time, heads, head_width] times `turn`, two by two; as pairs where there is no `out`."""
    pairs = (*x.shape[:3], -1, 2)
    if x.dtype != torch.float32:
        x = x.float()
    given = torch.view_as_complex(x.reshape(pairs))
    if out is None:
        return torch.view_as_real(given * turn)
    return torch.mul(given, turn, out=torch.view_as_complex(out.view(pairs)))


rms_norm: Callable[[Tensor, Tensor, float], Tensor] = RmsNorm.apply
reorder: Callable[[Tensor, Tensor, Tensor], Tensor] = Reorder.apply
rotate: Callable[[Tensor, Tensor, Tensor, int, torch.dtype], tuple[Tensor, Tensor, Tensor]] = Rotate.apply
