"""The language model: a pre-norm decoder with rotary positions and causal attention.

RMS norm before each sub-layer (Zhang, Sennrich 2019), rotary position embedding on queries and keys (Su et al. 2021,
equation 34, half-split pairing), GELU MLP four times as wide, residual projections started smaller by sqrt(2 L)
(GPT-2, section 2.3), head tied to the token embedding unless asked otherwise.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bandit.hashing import Purpose, mix64
from trainer import passes
from trainer.loss import Candidates, cross_entropy

INIT_STD = 0.02
EPS = 1e-5
ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model: width in channels, context (`block_size`) in tokens."""

    vocab_size: int
    block_size: int
    width: int
    heads: int
    layers: int
    tied: bool = True


def rotary_table(positions: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each [positions, head_width / 2]."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (i, i + half) of x [batch, heads, time, head_width] by their position's angle."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)


class Norm(nn.RMSNorm):
    """RMS norm with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        if by_hand(x):
            return passes.rms_norm(x, self.weight, EPS)
        return super().forward(x)


def by_hand(x: Tensor) -> bool:
    """Whether the written-out passes of `trainer.passes` are used: on a CPU, where nothing is compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.turning: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, width = x.shape
        if by_hand(x):
            y = self.by_hand(x, cos, sin)
            return self.out(y.transpose(1, 2).reshape(batch, time, width))  # type: ignore[no-any-return]
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))  # type: ignore[no-any-return]

    def by_hand(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention [batch, heads, time, head_width] on a CPU: in float32 where the context is short.

        There bfloat16 costs more than it saves: its backward pass took six times as long as float32's.
        """
        time = x.shape[1]
        if self.turning is None or len(self.turning[2]) < time:
            order = passes.pairs_first(self.heads, x.shape[-1])
            turn = torch.complex(cos, sin)[:, None]
            self.turning = order, order.argsort(), turn, turn.conj().resolve_conj()
        order, undone, turn, back = self.turning
        qkv = F.linear(x, passes.reorder(self.qkv.weight, order, undone))
        dtype = torch.float32 if time <= passes.SHORT_CONTEXT else qkv.dtype
        q, k, v = passes.rotate(qkv, turn[:time], back[:time], self.heads, dtype)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = Norm(shape.width)
        self.attention = Attention(shape)
        self.mlp_norm = Norm(shape.width)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Tokens [batch, time] in, logits [batch, time, vocab_size] out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        cos, sin = rotary_table(shape.block_size, shape.width // shape.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def initialise(self, seed: int) -> None:
        """Draw all weights from the seed; the same seed gives the same weights whatever was drawn before."""
        generator = torch.Generator().manual_seed(mix64(seed, Purpose.WEIGHTS) >> 1)
        residual_std = INIT_STD / math.sqrt(2 * self.shape.layers)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.dim() < 2:
                    weight.fill_(1.0)
                    continue
                std = residual_std if name.endswith(("attention.out.weight", "down.weight")) else INIT_STD
                draw = torch.empty(weight.shape).normal_(0.0, std, generator=generator)
                weight.copy_(draw)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))  # type: ignore[no-any-return]

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the head reads, [batch, time, width]."""
        time = tokens.shape[1]
        cos, sin = self.cos[:time], self.sin[:time]
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)  # type: ignore[no-any-return]

    def loss(self, windows: Tensor, among: Candidates | None = None) -> Tensor:
        """Mean cross-entropy in nats a token over windows [batch, time + 1]: each token predicts the next.

        among: the candidates of a funnel, where the softmax is not over all tokens.
        """
        return cross_entropy(self.hidden(windows[:, :-1]), self.head.weight, windows[:, 1:], among)

    def parameter_count(self) -> int:
        """Number of trained scalars; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())
