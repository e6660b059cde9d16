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
        rows = x.reshape(-1, x.shape[-1])
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(rows, inverse, gain)
        y: Tensor = (rows * inverse).mul_(gain)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, inverse, gain = ctx.saved_tensors
        gradient, width = gradients[0].reshape(rows.shape), rows.shape[1]
        # Layer norm's own kernel with a mean of 0; what it takes away for the mean, which is none here, is put back.
        back, to_gain, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, rows, [width], torch.zeros_like(inverse), inverse, gain, None, [True, True, False]
        )
        back.add_(torch.mv(gradient, gain)[:, None] * inverse, alpha=1.0 / width)
        return back.view(gradients[0].shape), to_gain, None


def pairs_first(heads: int, width: int) -> Tensor:
    """Rows of a [3 * width] projection so ordered that channels i and i + half of every query and key are neighbours.

    A score is a sum over channels, so it is the same in any order that queries and keys share.
    """
    rows = torch.arange(3 * width)
    turned = rows[: 2 * width].view(2 * heads, 2, -1).transpose(1, 2).reshape(-1)
    return torch.cat((turned, rows[2 * width :]))


def in_pairs(x: Tensor) -> Tensor:
    """x [..., channels] as [..., channels / 2, 2]."""
    return x.view(*x.shape[:-1], -1, 2)


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
    cos + i sin [time, head_width / 2]: one pass. All three come as `dtype`.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, width = qkv.shape
        split = qkv.view(batch, time, 3, heads, width // (3 * heads))
        turn = torch.complex(cos, sin)[:, None]  # [time, 1, head_width / 2]
        ctx.save_for_backward(turn)
        ctx.given = qkv.dtype
        pairs = torch.view_as_complex(in_pairs(split[:, :, :2].float()))
        turned = torch.view_as_real(pairs * turn[:, None]).flatten(-2).to(dtype)
        q, k = turned.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, split[:, :, 2].transpose(1, 2).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (turn,) = ctx.saved_tensors
        back = turn.conj().resolve_conj()
        batch, heads, time, width = gradients[0].shape
        whole = gradients[0].new_empty(batch, time, 3, heads, width, dtype=torch.float32)
        pairs = torch.view_as_complex(in_pairs(whole))
        for index in (0, 1):
            given = gradients[index].transpose(1, 2).float().contiguous()
            torch.mul(torch.view_as_complex(in_pairs(given)), back, out=pairs[:, :, index])
        whole[:, :, 2] = gradients[2].transpose(1, 2)
        return whole.view(batch, time, -1).to(ctx.given), None, None, None, None


rms_norm: Callable[[Tensor, Tensor, float], Tensor] = RmsNorm.apply
reorder: Callable[[Tensor, Tensor, Tensor], Tensor] = Reorder.apply
rotate: Callable[[Tensor, Tensor, Tensor, int, torch.dtype], tuple[Tensor, Tensor, Tensor]] = Rotate.apply
