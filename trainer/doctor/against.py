"""What the code makes of loud weights, against the same written out once more (`trainer.doctor.reference`).

Freshly drawn weights are so small that attention is all but even and most mistakes move a logit by less than chance does.
So these checks work on a copy whose matrices keep an input's size, and whose gains differ from 1: there every part of the
model shows in every number.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from bandit.hashing import Purpose, mix64
from curriculum.config import Config
from trainer import optim
from trainer.doctor import reference
from trainer.doctor.checks import Check, verdict
from trainer.model import Decoder
from trainer.parts import Parts

CLOSE = 1e-3  # relative, of float32 against float64
EXACT = 1e-4  # relative, of a float32 formula of few operations
RATE = 1e-2  # of the step that is looked at
MOST_TOKENS = 512  # that the whole model is asked of
GRADIENT_TOKENS = 64
MEANING = {
    "embedding": "tokens are not looked up in the embedding as they are",
    "attention_norm": "the norm before attention is not that of the stream",
    "attention": "the scores' scale (1 / sqrt(d)), rotation (base 10,000), mask (all up to itself) or heads are others",
    "mlp_norm": "the norm before the MLP is not that of the stream after attention, or attention is not simply added",
    "up": "the MLP's first matrix is not simply multiplied with",
    "down": "between the MLP's matrices there is another function than GELU",
    "block": "what the sub-layers give is not simply added to the stream",
    "norm": "the last norm is another",
    "head": "the head is not the last norm's product with the embedding (tied) or with its own matrix",
}


def make_loud(model: Decoder) -> None:
    """Scale every matrix, as it was drawn, to keep its input's size; give every channel of every norm a gain of its own."""
    with torch.no_grad():
        for number, (name, weight) in enumerate(model.named_parameters()):
            if weight.dim() < 2:
                channel = torch.arange(len(weight), device=weight.device)
                weight.copy_(1.0 + 0.5 * torch.sin(1.0 + number + 2.4 * channel))
                continue
            part = 2.0 if name in ("embedding.weight", "head.weight") or ".qkv." in name else 1.0
            size = float(torch.linalg.vector_norm(weight)) / math.sqrt(weight.numel())
            weight.mul_(part / math.sqrt(weight.shape[1]) / max(size, 1e-12))


def loud(model: Decoder) -> Decoder:
    """A loud copy, on the CPU."""
    made = copy.deepcopy(model).cpu()
    make_loud(made)
    return made


def forward_pass(model: Decoder, tokens: Tensor) -> Check:
    """Every logit at every position is that of the model as its shape describes it, in loud weights.

    tokens: [1, time] on the CPU. What fails is told by the first module that gives something else, its input being right.
    """
    asked, expected = loud(model), dict[str, Tensor]()
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[Any, Any, Tensor], None]:
        def noted(_: Any, __: Any, out: Tensor) -> None:
            found.setdefault(name, out.detach())

        return noted

    hooks = [module.register_forward_hook(note(name)) for name, module in asked.named_modules() if name]
    try:
        with torch.no_grad():
            whole = asked(tokens)
            reference.logits(asked.shape, dict(asked.named_parameters()), tokens, expected)
    finally:
        for hook in hooks:
            hook.remove()
    found["head"] = whole
    off = _off(whole, expected["head"])
    worst = float(off.max())
    ok = worst <= CLOSE
    why = ""
    if not ok:
        stage = next(name for name in expected if _differs(found.get(name), expected[name]))
        at = int((_off(found[stage], expected[stage]) > CLOSE).nonzero()[0, -1]) if stage in found else 0
        kind = "block" if stage.startswith("blocks.") and stage.count(".") == 1 else stage.split(".")[-1]
        why = f"first at {stage}, from position {at} on: {MEANING[kind]}"
    return verdict(
        "forward pass",
        ok,
        worst,
        f"under {CLOSE:g}, the largest difference from the model written out in float64",
        why,
    )


def _off(found: Tensor, expected: Tensor) -> Tensor:
    """The largest difference at each position [batch, time], in root mean squares of what is expected."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return torch.full(expected.shape[:2], math.inf)
    return (found.double() - expected).abs().amax(-1) / expected.pow(2).mean().sqrt()


def _differs(found: Tensor | None, expected: Tensor) -> bool:
    return found is None or float(_off(found, expected).max()) > CLOSE


def initial_weights(model: Decoder) -> Check:
    """Before any training: gains of 1, matrices of the standard deviation that the rule gives them, and no two alike."""
    seen: dict[tuple[Any, ...], str] = {}
    value = why = ""
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            if not bool((weight == 1.0).all()):
                value, why = f"gains of {name} are not 1", "a norm's gain begins at 1"
                break
            continue
        wanted, std = reference.initial_std(name, model.shape), float(weight.detach().double().std())
        if not abs(std / wanted - 1.0) <= 0.02 + 4.0 / math.sqrt(2 * weight.numel()):
            value = f"{name} has {std:.4f} instead of {wanted:.4f}"
            why = "matrices begin with a standard deviation of 0.02, the last of each sub-layer with 0.02 / sqrt(2 L)"
            break
        scaled = weight.detach()[:4, :4].double() / wanted
        key = (tuple(weight.shape), *(round(x, 3) for x in scaled.flatten().tolist()))
        if key in seen:
            value, why = f"{name} is {seen[key]}", "layers that begin alike get like gradients and stay alike"
            break
        seen[key] = name
    return verdict(
        "initial weights",
        not why,
        value or f"{len(seen)} matrices",
        "std 0.02, 0.02 / sqrt(2 L) before the stream, no two alike",
        why,
    )


def sampling(config: Config, parts: Parts) -> Check:
    """In loud weights, a sample's probabilities are those of training's forward pass over the same text, and its tokens
    are those that the seed draws by them at the gate's temperature."""
    from curriculum.text import tokenizer as tokenizers

    model, prompt, gate = parts.model, config.gate.prompts[0], config.gate
    tokenizer = tokenizers.load(parts.corpus.tokenizer)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    make_loud(model)
    drawn = parts.generate(prompt, 1)
    context = model.shape.block_size
    kept = context - min(gate.max_new_tokens, context // 2)  # a long prompt loses its beginning
    ids = [*tokenizer.prompt(prompt)[-kept:], *drawn.ids]
    device = model.embedding.weight.device
    with torch.no_grad():
        logits = model(torch.tensor([ids], device=device))[0, len(ids) - len(drawn.ids) - 1 : -1]
        for name, weight in model.named_parameters():
            weight.copy_(before[name])
    logits = logits.cpu().double()
    chosen = torch.tensor(drawn.ids, dtype=torch.int64)[:, None]
    loss = -float(torch.log_softmax(logits, dim=-1).gather(1, chosen).mean()) if drawn.ids else math.nan
    logits[: gate.min_new_tokens, tokenizer.end_id] = -math.inf
    uniform = [mix64(config.seed, 1, Purpose.SAMPLE, place) / 2.0**64 for place in range(len(drawn.ids))]
    upto = torch.softmax(logits / gate.temperature, dim=-1).cumsum(-1)
    wanted = torch.searchsorted(upto, torch.tensor(uniform, dtype=torch.float64)[:, None], right=True)
    other = int((wanted != chosen).sum())
    close = 1e-4 if device.type == "cpu" else 2e-2  # where products may be made in fewer bits
    near = abs(loss - drawn.loss) <= close * max(1.0, abs(loss))
    alike = other <= 0.1 * len(drawn.ids)  # a draw may lie on the edge between two tokens
    return verdict(
        "sampling as in training",
        near and alike,
        drawn.loss if alike or not near else f"{other} of {len(drawn.ids)} tokens drawn otherwise",
        f"{loss:.6g}, the forward pass's loss of the {len(drawn.ids)} tokens drawn",
        "tokens are not drawn by the model's probabilities at gate.temperature"
        if near
        else "the cache, the positions, the prompt or the weights of sampling are not those of training",
    )


def one_step(config: Config, parts: Parts, windows: Tensor) -> Iterator[Check]:
    """The run's own step in loud weights: its gradients, then what its optimizer makes of them, by the formula.

    windows: [rows, time + 1] on the CPU, dealt to the step's pulls. Leaves the parts' weights and optimizer changed.
    """
    model, step, optimizer = parts.model, parts.train_step, parts.optimizer
    make_loud(model)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    extra = sorted(weights.keys() ^ reference.names(model.shape))
    if extra:
        why = f"the model's parameters are not those of its shape: {', '.join(extra)}"
        yield verdict("gradients", False, f"{len(extra)} parameters", "those of [model]", why)
        return
    count = config.train.grad_accum
    rows = len(windows) // count
    pulls = windows[: rows * count, : GRADIENT_TOKENS + 1].reshape(count, rows, -1)
    wanted = [reference.gradients(model.shape, weights, pull) for pull in pulls]
    mean = {name: torch.stack([each[name] for _, each in wanted]).mean(0) for name in weights}
    norm = math.sqrt(sum(float(gradient.pow(2).sum()) for gradient in mean.values()))

    memory = {name: dict(optimizer.state.get(weight, {})) for name, weight in model.named_parameters()}
    memory = {name: {key: value.clone() for key, value in held.items()} for name, held in memory.items()}
    found: dict[str, Tensor] = {}
    scale: list[float] = []

    def look(*_: Any) -> None:
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                found[name] = weight.grad.detach().double().clone()
        scale.append(float(getattr(optimizer, "grad_scale", 1.0)))

    step.align, step.among, step.autocast, step.grad_clip = (
        None,
        None,
        nullcontext(),
        norm / 2,
    )  # clipped by half
    optim.set_rate(optimizer, RATE)
    hook = optimizer.register_step_pre_hook(look)
    try:
        step.update(pulls)
    finally:
        hook.remove()
    yield _gradients(
        [loss for loss, _ in wanted], step.row[:count].tolist(), mean, [g for _, g in wanted], found
    )
    yield _moves(config, model, weights, memory, found, scale[0] if scale else 0.0, norm / 2)


def _gradients(
    losses: list[float],
    told: list[float],
    mean: Mapping[str, Tensor],
    each: list[dict[str, Tensor]],
    found: Mapping[str, Tensor],
) -> Check:
    def wrong(expected: Mapping[str, Tensor]) -> list[str]:
        return [n for n, g in expected.items() if n not in found or not _near(found[n], g)]

    bad, why, value = wrong(mean), "", "those of the model written out"
    alone = [number for number, own in enumerate(each, 1) if _times(found, own) is not None]
    times = _times(found, mean)
    if any(abs(a - b) > CLOSE * abs(b) for a, b in zip(told, losses, strict=True)):
        value = f"loss {told[0]:.4g} instead of {losses[0]:.4g}"
        why = "the training step's loss is not the mean cross-entropy of each next token"
    elif bad and times is not None:
        value = f"{times:.4g} times what they should be"
        why = "a step's gradient is the mean over its pulls, not their sum nor another part of it"
    elif bad and alone:
        value = f"those of pull {alone[0]} alone"
        why = "a step's gradient is not the mean over its pulls: batches of the others are read in vain"
    elif bad:
        none = [name for name in bad if name not in found or not bool(found[name].any())]
        where = (none or bad)[-1]  # a gradient comes from the head: what is wrong stays so on its way down
        value = f"{len(bad)} of {len(mean)} differ, from {where} down"
        why = f"no gradient reaches {where}" if none else f"another gradient reaches {where}"
        why += ": something on its way is detached, or a gradient written out by hand is wrong"
    return verdict("gradients", not why, value, "by parameter, those of the model written out", why)


def _moves(
    config: Config,
    model: Decoder,
    before: Mapping[str, Tensor],
    memory: Mapping[str, Mapping[str, Tensor]],
    gradients: Mapping[str, Tensor],
    scale: float,
    clip: float,
) -> Check:
    train, wrong, why = config.train, [], ""
    norm = math.sqrt(sum(float(gradient.pow(2).sum()) for gradient in gradients.values()))
    if abs(scale - max(1.0, norm / clip)) > CLOSE * scale:
        value = f"a norm of {norm:.4g} is divided by {scale:.4g}, where {clip:.4g} is allowed"
        why = "gradients are not clipped to train.grad_clip by their norm over all parameters"
        return verdict("one step", False, value, "clipped gradients", why)
    for name, weight in model.named_parameters():
        if name not in gradients:
            continue
        start, moved = before[name].double(), weight.detach().double() - before[name].double()
        decays = train.weight_decay if weight.dim() >= 2 else 0.0
        by = {
            decay: reference.moved(
                start,
                gradients[name] / scale,
                memory[name],
                lr=RATE * reference.scale_of(name, weight, train.lr_scale),
                decay=decay,
                betas=(train.beta1, train.beta2),
            )
            for decay in {decays, 0.0, train.weight_decay}
        }
        if _near(moved, by[decays], EXACT):
            continue
        wrong.append(name)
        other = [decay for decay in by if decay != decays and _near(moved, by[decay], EXACT)]
        if not why:
            why = f"{name} decays by {other[0]:g} instead of {decays:g}" if other else ""
            why = why or f"{name} moves by another rate, another decay or other moments than [train] gives it"
    return verdict(
        "one step",
        not wrong,
        f"{len(wrong)} of {len(before)} weights move otherwise" if wrong else "as AdamW's formula",
        "weights move as AdamW's formula and [train] say",
        f"{why}; matrices decay by train.weight_decay, norms' gains do not",
    )


def _times(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float | None:
    """How many times the expected gradients the found ones are; None where they are no multiple of them."""
    if found.keys() != expected.keys():
        return None
    squares = sum(float(gradient.pow(2).sum()) for gradient in expected.values())
    times = sum(float((found[name] * gradient).sum()) for name, gradient in expected.items()) / squares
    return times if all(_near(found[name], times * g) for name, g in expected.items()) else None


def _near(found: Tensor, expected: Tensor, close: float = CLOSE) -> bool:
    return float((found - expected).norm()) <= close * float(expected.norm()) + 1e-12
