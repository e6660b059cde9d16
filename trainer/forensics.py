"""Forensics of a checkpoint: weights that shrank, layers that died, tokens that became alike, prefixes that are ignored.

A loss that falls says nothing of these; a model that lost half of its layers to weight decay still learns the
frequencies of words. Every measure is of the tensors alone, so that any checkpoint can be looked at, and none is of
text. The quick form looks at a sample of every tensor and is made of each checkpoint as it is written; its limits are
those of the full one and were measured on healthy runs (docs/forensics.md).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer import forensics_parts as parts
from trainer.model import Decoder, Shape
from trainer.snapshot import Tensors

SAMPLE = 1 << 18  # weights of a tensor that the quick form looks at, evenly spaced
ROWS = 4096  # embeddings of tokens, likewise
EPSILON = 1e-8  # AdamW's
BLOCK = "blocks."


@dataclass(frozen=True, slots=True)
class Limit:
    """least: the value must be at least `value`, otherwise at most."""

    value: float
    least: bool
    about: str


# Name of a check -> what a healthy checkpoint keeps to.
LIMITS = {
    "not_finite": Limit(0, False, "tensors with a value that is no number"),
    "frozen": Limit(0, False, "tensors that no step has changed"),
    "scale": Limit(0.5, True, "smallest matrix: its RMS over that of a fresh draw"),
    "scale_most": Limit(80, False, "largest tensor: its RMS over the largest of a fresh draw"),
    "meaningful": Limit(0.05, True, "poorest matrix: share of weights over a fresh RMS"),
    "contribution": Limit(0.005, True, "weakest half of a layer: RMS it adds over RMS it gets"),
    "dead_heads": Limit(0.2, False, "layer with most heads under a tenth of a fresh RMS: their share"),
    "dead_channels": Limit(0.25, False, "half of a layer with most such channels: their share"),
    "rank": Limit(1.2, True, "flattest matrix: how many directions its rows have"),
    "embedding_spread": Limit(0.5, True, "spread of token norms over a fresh one"),
    "embedding_alike": Limit(0.9, False, "mean cosine of two tokens' embeddings"),
    "embedding_shared": Limit(0.25, False, "share of tokens alike to another"),
    "embedding_loud": Limit(10, False, "largest 1 % of norms to the median"),
    "final_norm": Limit(0.1, True, "RMS of the last norm's gains, which are drawn as 1"),
    "prefix": Limit(0.02, True, "share of the logits the prefix decides"),
    "update": Limit(0.5, False, "largest step of a matrix: RMS of update over RMS"),
    "against": Limit(0.5, True, "smallest matrix: its RMS over the other's"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One measure held against its limit. value: None where it is no number; where: the tensor or layer it is of."""

    name: str
    value: float | None
    limit: float
    ok: bool
    where: str | None = None


@dataclass(slots=True)
class Report:
    """What was found. layers: a record a block, first block first; tokens: what is known of the embeddings."""

    step: int
    checks: list[Check]
    layers: list[dict[str, Any]]
    tokens: dict[str, Any]

    @property
    def failing(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if not check.ok]

    @property
    def verdict(self) -> str:
        """`healthy` or `failing`."""
        return "failing" if self.failing else "healthy"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as `inspect --json` prints it (DESIGN 9.1)."""
        return {
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
            "layers": self.layers,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is looked at. lr, betas: of the optimizer at that step, None where they are not known."""

    step: int
    tensors: Tensors
    lr: float | None = None
    betas: Sequence[float] | None = None


class Examiner:
    """Looks at checkpoints of models of one shape. seed: of the weights they began with.

    quick: look at samples of the tensors; otherwise at all, and compare with the first draw bit by bit too.
    """

    def __init__(self, shape: Shape, seed: int, *, quick: bool) -> None:
        self.shape, self.seed, self.quick = shape, seed, quick
        self._drawn: dict[str, float] = {}
        self._probe: Probe | None = None

    def examine(self, found: Evidence, against: Evidence | None = None) -> Report:
        """Every check on a checkpoint, and on how it compares with another of the same shape."""
        model, memory = found.tensors.model, found.tensors.optimizer
        matrices = {name: self._some(weight) for name, weight in model.items() if weight.dim() >= 2}
        probe, drawn, same = self._fresh(model)
        rms = {name: _rms(weight) for name, weight in matrices.items()}
        scale = {name: rms[name] / drawn[name] for name in matrices}
        gains = {name: _rms(weight) for name, weight in model.items() if weight.dim() < 2}
        # Residual projections are drawn smaller, and grow to the size of the others.
        large = {name: size / max(drawn.values()) for name, size in rms.items()} | gains
        heads, channels = parts.dead(model, self.shape, drawn, SAMPLE if self.quick else None)
        rank = parts.ranks(model)
        meaningful = {name: _share(weight, drawn[name]) for name, weight in matrices.items()}
        update = {}
        if found.lr is not None and found.betas is not None:
            steps = {name: self._update(name, memory, found.betas) for name in matrices}
            update = {
                name: _ratio(found.lr * size, rms[name]) for name, size in steps.items() if size is not None
            }
        still = {name for name in model if _never_stepped(name, memory)} | same
        other: dict[str, float] = {}
        if against is not None:
            theirs = against.tensors.model
            other = {name: _ratio(rms[name], _rms(self._some(theirs[name]))) for name in matrices}
            if against.step != found.step:
                still |= {name for name in model if torch.equal(model[name], theirs[name])}
        bad = [name for name, tensor in (model | memory).items() if not bool(torch.isfinite(tensor).all())]
        prefix, contribution = probe.run(model)
        tokens = self._tokens(model["embedding.weight"], drawn["embedding.weight"])
        checks = [
            _count("not_finite", bad),
            _count("frozen", sorted(still)),
            _worst("scale", scale),
            _worst("scale_most", large),
            _worst("meaningful", meaningful),
            _worst("contribution", contribution),
            _worst("dead_heads", heads),
            _worst("dead_channels", channels),
            _worst("rank", rank),
            _check("embedding_spread", tokens["spread"] / tokens["spread_fresh"]),
            _check("embedding_alike", tokens["alike"]),
            _check("embedding_shared", tokens["shared"]),
            _check("embedding_loud", tokens["norm_p99"] / max(tokens["norm_p50"], tokens["norm_fresh"])),
            _check("final_norm", gains["norm.weight"], "norm.weight"),
            _check("prefix", prefix),
            *([_worst("update", update)] if update else []),
            *([_worst("against", other)] if other else []),
        ]
        layers = [
            {
                "layer": at,
                "scale": _least(scale, at),
                "meaningful": _least(meaningful, at),
                "attention": _number(contribution[f"layer {at} attention"]),
                "mlp": _number(contribution[f"layer {at} mlp"]),
                "dead": _most(heads | channels, at),
                "rank": _least(rank, at),
                "update": _most(update, at),
                "against": _least(other, at),
            }
            for at in range(self.shape.layers)
        ]
        return Report(found.step, checks, layers, {name: _number(value) for name, value in tokens.items()})

    def _some(self, tensor: Tensor) -> Tensor:
        flat = tensor.detach().flatten()
        return flat[:: max(1, flat.numel() // SAMPLE)] if self.quick else flat

    def _fresh(self, model: dict[str, Tensor]) -> tuple["Probe", dict[str, float], set[str]]:
        """A probe, the RMS of each matrix as it is first drawn, and the matrices that still are that very draw."""
        if self._probe is not None and self.quick:  # drawn once a run
            return self._probe, self._drawn, set()
        first = Decoder(self.shape)
        first.initialise(self.seed)
        weights = {name: weight.detach() for name, weight in first.named_parameters() if weight.dim() >= 2}
        self._drawn = {name: _rms(self._some(weight)) for name, weight in weights.items()}
        same = set() if self.quick else {name for name in weights if torch.equal(weights[name], model[name])}
        self._probe = Probe(first, pairs=4 if self.quick else 16)
        return self._probe, self._drawn, same

    def _update(self, name: str, memory: dict[str, Tensor], betas: Sequence[float]) -> float | None:
        """RMS of AdamW's next step at learning rate 1, without decay; None where it has not stepped."""
        steps = float(memory.get(f"{name}/step", 0))
        if steps < 1:
            return None
        first = self._some(memory[f"{name}/exp_avg"]) / (1 - betas[0] ** steps)
        second = self._some(memory[f"{name}/exp_avg_sq"]) / (1 - betas[1] ** steps)
        return _rms(first / (second.sqrt() + EPSILON))

    def _tokens(self, embedding: Tensor, drawn: float) -> dict[str, float]:
        rows = embedding[:: max(1, len(embedding) // ROWS)] if self.quick else embedding
        norms = rows.norm(dim=1)
        width = embedding.shape[1]
        mean = float(norms.mean())
        directions = rows / norms[:, None].clamp(min=1e-30)
        low, middle, high = torch.quantile(norms, torch.tensor([0.01, 0.5, 0.99])).tolist()
        # The mean of all pairs' cosines, each token's with itself left out: |sum|^2 = n + n (n - 1) mean.
        count = len(rows)
        alike = (float(directions.sum(dim=0).square().sum()) - count) / (count * (count - 1))
        return {
            "count": len(embedding),
            "norm_mean": mean,
            "norm_fresh": drawn * math.sqrt(width),
            "norm_p01": low,
            "norm_p50": middle,
            "norm_p99": high,
            "spread": _ratio(float(norms.std()), mean),
            "spread_fresh": 1 / math.sqrt(2 * width),  # of the norm of `width` normal draws, to first order
            "alike": alike,
            "shared": parts.shared(directions),
        }


class Probe(nn.Module):
    """Runs a model over pairs of sequences of random tokens that end in the same token and differ in all before it."""

    def __init__(self, decoder: Decoder, *, pairs: int) -> None:
        super().__init__()
        self.decoder, shape = decoder, decoder.shape
        draw = torch.Generator().manual_seed(0)
        length = min(16, shape.block_size)
        self.one, self.other = torch.randint(shape.vocab_size, (2, pairs, length), generator=draw)
        self.other[:, -1] = self.one[:, -1]
        self.added: dict[str, float] = {}
        for at, block in enumerate(self.decoder.blocks):
            self._watch(at, block)

    def _watch(self, layer: int, block: nn.Module) -> None:
        attended: list[Tensor] = []

        def of_attention(_: nn.Module, inputs: Any, output: Tensor) -> None:
            attended.append(output)

        def of_block(_: nn.Module, inputs: Any, output: Tensor) -> None:
            before, added = inputs[0], attended.pop()
            self.added[f"layer {layer} attention"] = _ratio(_rms(added), _rms(before))
            self.added[f"layer {layer} mlp"] = _ratio(_rms(output - before - added), _rms(before + added))

        block.get_submodule("attention").register_forward_hook(of_attention)
        block.register_forward_hook(of_block)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the last position [sequences, vocab_size], their mean taken off, which no probability feels."""
        logits: Tensor = self.decoder.head(self.decoder.hidden(tokens)[:, -1]).float()
        return logits - logits.mean(dim=1, keepdim=True)

    @torch.no_grad()
    def run(self, model: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """How far another prefix moves the logits, over how far another prefix and another last token do; what layers add.

        0: the prefix is ignored; 1: it decides as much as everything. And for each block's attention and MLP the RMS of
        what it adds to the residual stream, over the RMS of that.
        """
        for name, parameter in self.decoder.named_parameters():
            parameter.data = model[name]  # no copy
        one, other = self(torch.cat((self.one, self.other))).chunk(2)
        moved, all_moved = _rms(one - other), _rms(one - other.roll(1, dims=0))
        return _ratio(moved, all_moved), self.added


def _rms(tensor: Tensor) -> float:
    """Root of the mean square, the squares summed in double precision."""
    return math.sqrt(float(tensor.double().square().mean())) if tensor.numel() else 0.0


def _share(weights: Tensor, size: float) -> float:
    return float((weights.abs() >= size).double().mean())


def _ratio(value: float, base: float) -> float:
    """value / base; 0 where both are 0: nothing of nothing."""
    if base == 0.0:
        return 0.0 if value == 0.0 else math.inf
    return value / base


def _never_stepped(name: str, memory: dict[str, Tensor]) -> bool:
    second = memory.get(f"{name}/exp_avg_sq")
    return second is None or not bool(second.any())


def _number(value: float | None) -> float | None:
    """Four digits of a number; None where it is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _check(name: str, value: float, where: str | None = None) -> Check:
    limit = LIMITS[name]
    ok = value >= limit.value if limit.least else value <= limit.value  # NaN is neither
    return Check(name, _number(value), limit.value, ok, where)


def _count(name: str, found: Sequence[str]) -> Check:
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return _check(name, len(found), f"{found[0]}{more}" if found else None)


def _worst(name: str, values: dict[str, float]) -> Check:
    """The check of the value nearest to its limit or furthest beyond it; of one that is no number before all others."""
    sign = 1 if LIMITS[name].least else -1
    where, value = min(values.items(), key=lambda item: (not math.isnan(item[1]), sign * item[1]))
    return _check(name, value, where)


def _of_layer(values: dict[str, float], layer: int) -> list[float]:
    return [value for name, value in values.items() if name.startswith(f"{BLOCK}{layer}.")]


def _least(values: dict[str, float], layer: int) -> float | None:
    return _number(min(_of_layer(values, layer), default=None))


def _most(values: dict[str, float], layer: int) -> float | None:
    return _number(max(_of_layer(values, layer), default=None))
