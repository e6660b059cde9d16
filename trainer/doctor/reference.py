"""The model, its loss, one step of its optimizer and its learning rate once more, as plainly as they can be written.

In float64, from the description alone (`trainer.model`'s papers, AdamW of Loshchilov and Hutter 2019), and with numbers of
its own: a constant taken from the code that is examined would be as wrong as the code. Nothing here is fast.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from curriculum.config import LrScale, Train
from trainer.model import Shape

ROTARY_BASE = 10_000.0
NORM_EPS = 1e-5
WEIGHT_STD = 0.02
ADAM_EPS = 1e-8

Weights = Mapping[str, Tensor]


def norm(x: Tensor, gain: Tensor) -> Tensor:
    """RMS norm over the last axis."""
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + NORM_EPS) * gain


def rotated(x: Tensor) -> Tensor:
    """Channels i and i + half of x [..., time, channels] turned by the angle position * base^(-2 i / channels)."""
    time, channels = x.shape[-2:]
    half = channels // 2
    speed = torch.tensor([ROTARY_BASE ** (-2 * i / channels) for i in range(half)], dtype=torch.float64)
    angle = torch.arange(time, dtype=torch.float64)[:, None] * speed
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1
    )


def attention(x: Tensor, qkv: Tensor, out: Tensor, heads: int) -> Tensor:
    """Causal self-attention of x [batch, time, width], head by head."""
    time, width = x.shape[1:]
    d = width // heads
    future = torch.ones(time, time, dtype=torch.bool).triu(1)
    q, k, v = (x @ qkv[part * width : (part + 1) * width].T for part in range(3))
    mixed = []
    for head in range(heads):
        own = slice(head * d, (head + 1) * d)
        scores = rotated(q[..., own]) @ rotated(k[..., own]).transpose(1, 2) / math.sqrt(d)
        mixed.append(torch.softmax(scores.masked_fill(future, -math.inf), dim=-1) @ v[..., own])
    return torch.cat(mixed, dim=-1) @ out.T


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's share below it."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def logits(shape: Shape, weights: Weights, tokens: Tensor, stages: dict[str, Tensor] | None = None) -> Tensor:
    """Logits [batch, time, vocabulary] in float64 of tokens [batch, time].

    weights: by the names of `Decoder`'s parameters. stages: takes what each module of that name gives, in their order.
    """
    seen: dict[str, Tensor] = {} if stages is None else stages

    def of(name: str) -> Tensor:
        return weights[f"{name}.weight"].double()

    x = seen["embedding"] = of("embedding")[tokens]
    for layer in range(shape.layers):
        block = f"blocks.{layer}"
        y = seen[f"{block}.attention_norm"] = norm(x, of(f"{block}.attention_norm"))
        y = attention(y, of(f"{block}.attention.qkv"), of(f"{block}.attention.out"), shape.heads)
        seen[f"{block}.attention"] = y
        x = x + y
        y = seen[f"{block}.mlp_norm"] = norm(x, of(f"{block}.mlp_norm"))
        y = seen[f"{block}.up"] = y @ of(f"{block}.up").T
        y = seen[f"{block}.down"] = gelu(y) @ of(f"{block}.down").T
        x = seen[block] = x + y
    x = seen["norm"] = norm(x, of("norm"))
    found = seen["head"] = x @ of("embedding" if shape.tied else "head").T
    return found


def names(shape: Shape) -> set[str]:
    """The names of all parameters."""
    parts = ("attention_norm", "attention.qkv", "attention.out", "mlp_norm", "up", "down")
    blocks = {f"blocks.{layer}.{part}.weight" for layer in range(shape.layers) for part in parts}
    return {"embedding.weight", "norm.weight", *blocks, *(() if shape.tied else ("head.weight",))}


def loss(shape: Shape, weights: Weights, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats a token over windows [batch, time + 1]: each token predicts the next."""
    log_p = torch.log_softmax(logits(shape, weights, windows[:, :-1]), dim=-1)
    mean: Tensor = -log_p.gather(-1, windows[:, 1:, None]).mean()
    return mean


def gradients(shape: Shape, weights: Weights, windows: Tensor) -> tuple[float, dict[str, Tensor]]:
    """The loss of windows [batch, time + 1], and its gradient by parameter, in float64."""
    leaves = {name: weights[name].detach().double().requires_grad_() for name in sorted(names(shape))}
    found = loss(shape, leaves, windows)
    return float(found.detach()), dict(
        zip(leaves, torch.autograd.grad(found, list(leaves.values())), strict=True)
    )


def moved(
    weight: Tensor,
    gradient: Tensor,
    memory: Mapping[str, Tensor],
    *,
    lr: float,
    decay: float,
    betas: tuple[float, float],
) -> Tensor:
    """By how much a step of AdamW moves a weight. memory: `step`, `exp_avg` and `exp_avg_sq` before it, or nothing."""
    zero = torch.zeros_like(gradient)
    count = float(memory["step"]) + 1 if memory else 1.0
    first = betas[0] * (memory["exp_avg"].double() if memory else zero) + (1 - betas[0]) * gradient
    second = (
        betas[1] * (memory["exp_avg_sq"].double() if memory else zero) + (1 - betas[1]) * gradient * gradient
    )
    first, second = first / (1 - betas[0] ** count), second / (1 - betas[1] ** count)
    by: Tensor = first / (second.sqrt() + ADAM_EPS) + decay * weight.double()
    return by * -lr


def scale_of(name: str, weight: Tensor, scales: LrScale) -> float:
    """The part of the learning rate that a parameter has by `train.lr_scale`; a tied head is the embedding."""
    if weight.dim() < 2:
        return scales.norms
    if name == "embedding.weight":
        return scales.embedding
    if name == "head.weight":
        return scales.head
    return scales.attention if ".attention." in name else scales.mlp


def learning_rate(train: Train, step: int) -> float:
    """Of a step counted from 1: a cosine from `lr` to `min_lr` over all steps, times a ramp over the first of them."""
    done = step - 1
    half = 0.5 * (1.0 + math.cos(math.pi * done / max(1, train.steps)))
    ramp = min(1.0, step / train.warmup_steps) if train.warmup_steps else 1.0
    return ramp * (train.min_lr + (train.lr - train.min_lr) * half)


def initial_std(name: str, shape: Shape) -> float:
    """Of a matrix before any training: 0.02, and for what is added to the stream less by the root of 2 L."""
    added = name.endswith((".attention.out.weight", ".down.weight"))
    return WEIGHT_STD / math.sqrt(2 * shape.layers) if added else WEIGHT_STD


def penalised_means(
    pulls: list[tuple[int, int, float]],
    samples: list[tuple[int, float]],
    *,
    gamma: float,
    keep: float = 63 / 64,
) -> dict[int, float]:
    """Each arm's mean reward as the bandit should know it (DESIGN 4.1, 5.3).

    pulls: (step, arm, reward) in the order of their tickets. samples: (step, shortfall); each takes shortfall *
    0.98^age of every pull since the one before. A pull weighs gamma^-step, and 63/64 less for each later one of its arm.
    """
    sums: dict[int, tuple[float, float]] = {}
    for step, arm, reward in pulls:
        charged = next(((at, short) for at, short in samples if at >= step), None)
        if charged is not None:
            reward -= charged[1] * 0.98 ** (charged[0] - step)
        weight, total = sums.get(arm, (0.0, 0.0))
        own = gamma**-step
        sums[arm] = keep * weight + own, keep * total + own * reward
    return {arm: total / weight for arm, (weight, total) in sums.items()}
