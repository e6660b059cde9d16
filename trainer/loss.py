"""Cross-entropy of a linear head that never holds the logits of all tokens at once.

The logits of a chunk of tokens are made, turned into their own gradient, multiplied out and dropped, all in the forward
pass; the backward pass only scales. So no matrix product is done twice, and what stands in memory is one chunk's logits
instead of all of them: at 65,536 tokens and 50,257 tokens of vocabulary 0.5 GB in bf16 instead of 6.6 GB, or 13 GB in fp32.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of one chunk. 2^28 are 0.5 GiB in bf16: large enough for a matrix product to run at full speed (5,341 tokens of
# a vocabulary of 50,257), small beside the activations.
CHUNK_LOGITS = 2**28

# The head's rows are padded to a multiple of this, since matrix units work in tiles of 64 to 128 columns and need rows
# that begin at a multiple of 16 bytes: a vocabulary is a power of two and its special tokens, the worst case.
PAD = 128


@dataclass(frozen=True, slots=True)
class Candidates:
    """tokens: [n] ids that every position's softmax has. rank: [vocabulary], under n for those tokens alone."""

    tokens: Tensor
    rank: Tensor


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, among: Candidates | None = None) -> Tensor:
    """Mean cross-entropy in nats a token of logits hidden @ weight.T, a scalar in fp32.

    hidden: [..., width]. weight: [vocabulary, width]. targets: [...] of token ids, all of which count. On the CPU all
    logits are made at once, which is as fast and needs no memory of its own; elsewhere in chunks. among: candidates of a
    funnel, which with a position's own target are then all that its softmax is over.
    """
    if among is not None:
        return _among(hidden.flatten(0, -2), weight, targets.flatten(), among)
    if hidden.device.type == "cpu":
        return F.cross_entropy(F.linear(hidden, weight).flatten(0, -2).float(), targets.flatten())
    return chunked(hidden.flatten(0, -2), weight, targets.flatten())


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor, *, logits: int = CHUNK_LOGITS) -> Tensor:
    """`cross_entropy` of hidden [tokens, width] in chunks of at most `logits` logits (and at least one token)."""
    dtype = product_dtype(hidden)
    size = chunk_of(len(targets), weight.shape[0], logits=logits)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _Chunked.apply(hidden, weight, targets, size, dtype)  # type: ignore[no-untyped-call]
        return loss
    head = _padded(weight, dtype)
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
        scores = _scores(part.to(dtype), head, weight.shape[0])
        total = total + (scores.logsumexp(dim=1) - scores.gather(1, wanted[:, None])[:, 0]).sum()
    return total / len(targets)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """What the head's product is made in: autocast's dtype where that is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def chunk_of(tokens: int, vocabulary: int, *, logits: int = CHUNK_LOGITS) -> int:
    """Tokens of a chunk that has at most `logits` logits."""
    return _even(tokens, max(1, logits // vocabulary))


def _even(tokens: int, most: int) -> int:
    """Tokens of a chunk so that chunks of at most `most` are alike, in whole tiles of PAD where they are that large."""
    size = -(-tokens // -(-tokens // most))
    return size if size <= PAD else min(-(-size // PAD) * PAD, most)


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The head in the dtype of its product, with rows of zeros up to a multiple of PAD: one copy, made anyway to cast."""
    return F.pad(weight.to(dtype), (0, 0, 0, -len(weight) % PAD))


def _scores(hidden: Tensor, head: Tensor, vocabulary: int) -> Tensor:
    """Logits [tokens, rows of head] in fp32; those of padding are -inf and count nowhere."""
    scores = (hidden @ head.T).float()
    scores[:, vocabulary:] = -torch.inf
    return scores


class _Chunked(torch.autograd.Function):
    """Loss and gradients, chunk by chunk. With p = softmax(logits), d loss / d logits = (p - onehot(target)) / tokens."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, size: int, dtype: torch.dtype
    ) -> Tensor:
        head = _padded(weight, dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        for_hidden = []
        for_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for part, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
            part, wanted = part.to(dtype), wanted[:, None]
            scores = _scores(part, head, weight.shape[0])
            logsumexp = scores.logsumexp(dim=1, keepdim=True)
            log_p = scores.gather(1, wanted) - logsumexp
            total = total - log_p.sum()
            gradient = scores.sub_(logsumexp).exp_().to(dtype)
            gradient.scatter_(1, wanted, (log_p.exp() - 1.0).to(dtype))
            if ctx.needs_input_grad[0]:
                for_hidden.append(gradient @ head)
            for_head += gradient.T @ part
        ctx.tokens, ctx.dtype = len(targets), hidden.dtype
        saved = torch.cat(for_hidden) if for_hidden else None
        ctx.save_for_backward(saved, for_head[: weight.shape[0]])
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        for_hidden, for_head = ctx.saved_tensors
        scale = outer / ctx.tokens
        return (
            None if for_hidden is None else for_hidden.to(ctx.dtype) * scale,
            for_head * scale,
            None,
            None,
            None,
        )


def _among(hidden: Tensor, weight: Tensor, targets: Tensor, among: Candidates) -> Tensor:
    size = chunk_of(len(targets), len(among.tokens))
    loss: Tensor = _Among.apply(hidden, weight, targets, among, size, product_dtype(hidden))  # type: ignore[no-untyped-call]
    return loss


class _Among(torch.autograd.Function):
    """Loss and gradients in one pass: with p over candidates and target, d loss / d logit = (p - 1[target]) / tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        among: Candidates,
        size: int,
        dtype: torch.dtype,
    ) -> Tensor:
        head, count = weight[among.tokens].to(dtype), len(among.tokens)
        total = hidden.new_zeros((), dtype=torch.float32)
        for_hidden = []
        for_head = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for_candidates = torch.zeros(head.shape, dtype=torch.float32, device=weight.device)
        for part, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
            part, rows = part.to(dtype), weight[wanted].to(dtype)
            rank = among.rank[wanted][:, None]
            inside, column = rank < count, rank.clamp(max=count - 1)
            scores = (part @ head.T).float()
            alone = (part.float() * rows.float()).sum(dim=1, keepdim=True)
            own = torch.where(inside, scores.gather(1, column), alone)
            logsumexp = scores.logsumexp(dim=1, keepdim=True)
            logsumexp = torch.where(inside, logsumexp, torch.logaddexp(logsumexp, own))
            log_p = own - logsumexp
            total = total - log_p.sum()
            missing = (log_p.exp() - 1.0).to(dtype)
            gradient = scores.sub_(logsumexp).exp_().to(dtype)
            gradient.scatter_(1, column, torch.where(inside, missing, gradient.gather(1, column)))
            outside = missing.masked_fill(inside, 0.0)
            if ctx.needs_input_grad[0]:
                for_hidden.append(gradient @ head + outside * rows)
            for_candidates += gradient.T @ part
            for_head.index_add_(0, wanted, (outside * part).float())
        for_head.index_add_(0, among.tokens, for_candidates)
        ctx.tokens, ctx.dtype = len(targets), hidden.dtype
        ctx.save_for_backward(torch.cat(for_hidden) if for_hidden else None, for_head)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:
        for_hidden, for_head = ctx.saved_tensors
        scale = outer / ctx.tokens
        own = None if for_hidden is None else for_hidden.to(ctx.dtype) * scale
        return own, for_head * scale, None, None, None, None
