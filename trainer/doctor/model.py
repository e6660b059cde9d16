"""The model's own checks: each asks the model itself, never its source, so that a model changed by hand is told as well.

All work on float32 weights as they were drawn, on a window or two; none changes the model it is given.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.doctor.checks import Check, verdict
from trainer.model import INIT_STD, Decoder

START_NATS = 0.5  # how far the loss at the start may lie from ln V
ROUND_OFF = 1e-3  # relative, of float32 sums in another order


def loss_at_start(model: Decoder, windows: Tensor) -> Check:
    """Untrained, a model knows nothing: its loss is that of a uniform guess, ln V (I13)."""
    with torch.no_grad():
        loss = model.loss(windows).item()
    expected = math.log(model.shape.vocab_size)
    return verdict(
        "loss at start",
        abs(loss - expected) <= START_NATS,
        loss,
        f"{expected - START_NATS:.2f} to {expected + START_NATS:.2f} (ln {model.shape.vocab_size})",
        "untrained weights already prefer some tokens: look at the head's scale, the norms and the initialisation",
    )


def causality(model: Decoder, windows: Tensor) -> Check:
    """Changing a token, early, in the middle or the last, changes no logit before it, and does change those from it on."""
    tokens = windows[:1, :-1]
    time, leak, felt = tokens.shape[1], 0.0, math.inf
    with torch.no_grad():
        before = model(tokens)
        for at in sorted({time // 8, time // 2, time - 1}):
            changed = tokens.clone()
            changed[:, at] = (changed[:, at] + 1) % model.shape.vocab_size
            moved = (before - model(changed)).abs().amax(dim=(0, 2))
            leak = max(leak, float(moved[:at].max())) if at else leak
            felt = min(felt, float(moved[at:].min()))
    if felt == 0.0:
        why = "a token is not heard by the positions after it: attention mixes nothing"
    else:
        why = "a position sees tokens after it: the attention mask or a shift leaks the future"
    return verdict("causality", leak == 0.0 < felt, leak, "0, and a change at the token itself", why)


def labels(model: Decoder, windows: Tensor, measured: float) -> Check:
    """The loss that training measured is that of predicting, at each position, the very next token of the text.

    measured: what the training step reported for these windows, with weights as they are, in nats a token.
    """
    with torch.no_grad():
        log_p = F.log_softmax(model(windows[:, :-1]).double(), dim=-1)
        found = {}
        for shift in (1, 0, 2, -1):
            target = torch.roll(windows, -shift, dims=1)[:, :-1]
            keep = slice(1, None) if shift < 0 else slice(0, windows.shape[1] - max(shift, 1))
            picked = log_p[:, keep].gather(-1, target[:, keep, None])
            found[shift] = -float(picked.mean())
    near = [shift for shift, loss in found.items() if abs(loss - measured) <= 1e-5 * max(1.0, abs(loss))]
    meaning = {
        0: "labels are shifted by 0: the model is asked for the token it is reading",
        2: "labels are shifted by 2: the model is asked for the token after the next",
        -1: "labels are shifted the other way: the model is asked for the token before",
    }
    other = next((meaning[shift] for shift in near if shift != 1), None)
    return verdict(
        "labels",
        1 in near,
        measured,
        f"{found[1]:.6g}, the loss of each next token",
        other
        or "inputs and labels are not the same text one apart: a token put before the inputs, or padding in the labels",
    )


def rotary(model: Decoder) -> Check:
    """Scores of one repeated token depend on the distance of two positions, and on nothing else (Su et al. 2021, eq. 16)."""
    time = min(model.shape.block_size, 64)
    tokens = torch.full((1, time), 1, device=model.embedding.weight.device)
    with torch.no_grad(), _attention_inputs() as seen:
        model(tokens)
    q, k = seen[0]
    scores = (q @ k.transpose(-1, -2))[0].double()
    scale = float(q.norm(dim=-1).mean() * k.norm(dim=-1).mean())
    drift = float((scores[:, 1:, 1:] - scores[:, :-1, :-1]).abs().max()) / scale
    far = scores[:, :, 0]  # by distance
    variety = float(far.std(dim=1).max()) / scale
    # Turned by one frequency alone, every third score follows from the two before: s(d+1) + s(d-1) = 2 cos(w) s(d).
    ends, middle = far[:, 2:] + far[:, :-2], far[:, 1:-1]
    fit = (ends * middle).sum(1, keepdim=True) / (middle * middle).sum(1, keepdim=True).clamp(min=1e-30)
    rest = float((ends - fit * middle).norm() / ends.norm().clamp(min=1e-30))
    if drift > ROUND_OFF:
        value, why = (
            f"differs by {drift:.2g} at one distance",
            (
                "scores of equal distances differ: queries and keys are turned by different angles, or channels are paired wrongly"
            ),
        )
    elif variety < 1e-6:
        value, why = "no position", "positions are not told apart: queries and keys are not rotated"
    elif rest < ROUND_OFF and q.shape[-1] > 2:
        value, why = (
            "one frequency",
            "all channel pairs are turned by one frequency: the table repeats its first column",
        )
    else:
        value, why = "distance alone", ""
    return verdict("rotary positions", not why, value, "distance alone", why)


def residual(model: Decoder) -> Check:
    """With its sub-layers silent, every block passes its input on unchanged."""
    silent = copy.deepcopy(model)
    for block in silent.blocks:
        _silence(block, "attention.out", "down")
    noise = _noise(model)
    wrong = [
        i for i, block in enumerate(silent.blocks) if not torch.equal(_through(silent, block, noise), noise)
    ]
    return verdict(
        "residual stream",
        not wrong,
        f"cut in block {wrong[0]}" if wrong else "whole",
        "whole",
        "a sub-layer's output replaces its input instead of being added to it",
    )


def norms(model: Decoder) -> Check:
    """What a sub-layer, or the head, makes of the stream does not depend on the stream's scale: a norm stands before it."""
    noise = _noise(model)
    missing = []
    for index in range(len(model.blocks)):
        for name, other in (("attention", "down"), ("MLP", "attention.out")):
            alone = copy.deepcopy(model)
            block = alone.blocks[index]
            _silence(block, other)
            added = [_through(alone, block, noise * scale) - noise * scale for scale in (1.0, 8.0)]
            if not _close(added[1], added[0], 2e-3):
                missing.append(f"the {name} of block {index}")
    with torch.no_grad():
        heads = [_head_of(model, noise * scale) for scale in (1.0, 8.0)]
    if not _close(heads[1], heads[0], 2e-3):
        missing.append("the head")
    return verdict(
        "norms",
        not missing,
        f"none before {missing[0]}" if missing else "before every sub-layer and the head",
        "before every sub-layer and the head",
        "activations grow with depth and with training where a norm is missing",
    )


def depth(model: Decoder, windows: Tensor) -> Check:
    """Untrained, the stream's root mean square grows from the embedding to the last block as the initial weights say."""
    sizes: list[float] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: sizes.append(float(out.double().pow(2).mean().sqrt())))
        for layer in (model.embedding, *model.blocks)
    ]
    try:
        with torch.no_grad():
            model(windows[:1, :-1])
    finally:
        for hook in hooks:
            hook.remove()
    growth = sizes[-1] / max(sizes[0], 1e-30) if all(map(math.isfinite, sizes)) else math.inf
    # 2 L sub-layers, each of two matrices of std 0.02, the second scaled down by sqrt(2 L), add 0.02^2 w in all.
    expected = math.sqrt(1 + (INIT_STD * model.shape.width) ** 2)
    low, high = 0.5 * expected, 1.5 * expected
    return verdict(
        "variance through depth",
        low <= growth <= high,
        growth,
        f"{low:.1f} to {high:.1f} times the embedding's",
        "a sub-layer is scaled by something other than its own weights, or its output is not scaled down by depth",
    )


def calls(model: Decoder) -> Check:
    """A forward pass asks as much of the device for a long text as for a short one: nothing loops over tokens."""
    counted = {}
    for time in (model.shape.block_size // 2, model.shape.block_size):
        tokens = torch.zeros((1, time), dtype=torch.long, device=model.embedding.weight.device)
        with torch.no_grad(), _Counter() as counter:  # type: ignore[no-untyped-call]
            model(tokens)
        counted[time] = counter.count
    short, long = counted.values()
    return verdict(
        "calls a forward pass",
        long <= short + 2,
        long,
        f"{short}, as for a text half as long",
        "the number of operations grows with the text: something loops over tokens in Python",
    )


def reached(before: Mapping[str, Tensor], model: Decoder) -> Check:
    """A step moves every parameter. before: its weights by name, before a step of a positive rate."""
    still = [name for name, weight in model.named_parameters() if torch.equal(weight.cpu(), before[name])]
    return verdict(
        "every parameter moves",
        not still,
        f"{len(still)} stand still, first {still[0]}" if still else f"{len(before)} of {len(before)}",
        "all",
        "no gradient reaches them, or the optimizer does not hold them",
    )


@contextmanager
def _attention_inputs() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Queries and keys, as attention gets them, of every call inside."""
    seen: list[tuple[Tensor, Tensor]] = []
    inner = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append((q.detach(), k.detach()))
        return inner(q, k, *rest, **more)

    F.scaled_dot_product_attention = watched  # type: ignore[assignment]
    try:
        yield seen
    finally:
        F.scaled_dot_product_attention = inner


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations asked of the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _silence(block: nn.Module, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            block.get_submodule(name).weight.zero_()  # type: ignore[operator]


def _noise(model: Decoder) -> Tensor:
    """A stream [1, time, width] of unit variance."""
    draw = torch.randn(1, 8, model.shape.width, generator=torch.Generator().manual_seed(1))
    return draw.to(model.embedding.weight.device)


def _through(model: Decoder, block: nn.Module, stream: Tensor) -> Tensor:
    """What a block makes of a stream, the model run as it always is."""
    found: list[Tensor] = []
    enter = block.register_forward_pre_hook(lambda _, given: (stream, *given[1:]))
    leave = block.register_forward_hook(lambda _, __, out: found.append(out))
    try:
        with torch.no_grad():
            model(torch.zeros(stream.shape[:2], dtype=torch.long, device=stream.device))
    finally:
        enter.remove()
        leave.remove()
    return found[0]


def _head_of(model: Decoder, stream: Tensor) -> Tensor:
    """The logits where the last block's output is the stream."""
    hook = model.blocks[-1].register_forward_hook(lambda _, __, ___: stream)
    try:
        return model(torch.zeros(stream.shape[:2], dtype=torch.long, device=stream.device))  # type: ignore[no-any-return]
    finally:
        hook.remove()


def _close(found: Tensor, expected: Tensor, relative: float) -> bool:
    return float((found - expected).norm()) <= relative * float(expected.norm())


MODEL_CHECKS: tuple[Callable[[Decoder], Check], ...] = (rotary, residual, norms, calls)
WINDOW_CHECKS: tuple[Callable[[Decoder, Tensor], Check], ...] = (loss_at_start, causality, depth)
