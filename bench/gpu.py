"""What the step and all that stands round it cost on a GPU: speed, MFU, memory, syncs, samples, and the bandit's share.

    python bench/gpu.py [--models 124m 12m] [--rows 64] [--device cuda] [--tiny]

Of each model, in bf16 at a context of 1,024, on noise that it makes itself, first the bare step on one fixed batch that
lies on the device (no scheduler, no loader), as it is, compiled, and compiled and recorded as one graph; then the same step in a real run over
eight sources with bandit, loader, gate, samples, held-out losses and checkpoints. Prints device, versions, the fastest
matrix product measured, and of every figure its median and spread. `--device cpu --tiny` runs all of it in seconds, on a
toy, to show that it works. Under 8 minutes on one H200.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gpu_world
import torch

from bandit.hashing import mix64
from curriculum.config import Train
from trainer import cuda, loss, machine, optim, peak, runner
from trainer.graph import WARM_UP
from trainer.model import Decoder, Shape
from trainer.ring import Ring
from trainer.sampling import Sampler
from trainer.signals import Flags
from trainer.step import TrainStep

SHAPES = {
    "124m": Shape(vocab_size=50_257, block_size=1024, width=768, heads=12, layers=12),
    "12m": Shape(vocab_size=8_193, block_size=1024, width=384, heads=12, layers=6),
    "tiny": Shape(vocab_size=300, block_size=32, width=32, heads=2, layers=2),
}
OURS = ("scheduler", "loader", "gate", "commit", "checkpoint", "monitor")
SAMPLE_TOKENS = 420
BLOCKS = 5  # of steps that are timed, for the spread

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Size:
    """How much is measured. rows: windows of a step. steps: of each timed block. run_steps, boundary: of the real run."""

    rows: int
    steps: int
    run_steps: int
    boundary: int
    tokens: int
    sample: int
    ceiling_seconds: float
    ceiling_sizes: tuple[int, ...]


FULL = Size(64, 20, 300, 100, 4_000_000, SAMPLE_TOKENS, 2.0, (4096, 8192))
TINY = Size(2, 2, 8, 4, 20_000, 12, 0.02, (64,))


class Bare:
    """The training step alone, on one batch that lies on the device."""

    def __init__(
        self, shape: Shape, size: Size, device: torch.device, *, compile: Switch, graph: Switch
    ) -> None:
        self.size, self.device = size, device
        self.model = Decoder(shape)
        self.model.initialise(1)
        self.model.to(device)
        self.optimizer = optim.build(self.model, weight_decay=0.1, betas=(0.9, 0.95), device=device)
        autocast: Any = (
            torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
        )
        train = Train(micro_batch=size.rows, grad_accum=1, compile=compile, cuda_graph=graph)
        forward = cuda.forward(self.model, self.optimizer, train, device, autocast, size.rows, say)
        ring = Ring(16, 1, device)
        self.step = TrainStep(
            self.model, self.optimizer, ring, grad_clip=1.0, autocast=autocast, forward=forward
        )
        cuda.record(self.step, train, device, alone=True, say=say)
        draw = torch.Generator().manual_seed(0)
        windows = (1, size.rows, shape.block_size + 1)
        self.pulls = torch.randint(0, shape.vocab_size, windows, generator=draw).to(device)
        self.number = 0
        self.go(WARM_UP + 2)

    def go(self, steps: int) -> float:
        """Seconds of a step, over so many."""
        settle(self.device)
        began = time.perf_counter()
        for _ in range(steps):
            self.number += 1
            self.step.run(self.number, self.pulls, 1e-4)
        settle(self.device)
        return (time.perf_counter() - began) / steps

    def syncs(self, steps: int) -> int:
        """How often torch sees the host wait for the device in so many steps."""
        if self.device.type != "cuda":
            return 0
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            for _ in range(steps):
                self.number += 1
                self.step.run(self.number, self.pulls, 1e-4)
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def spread(values: list[float]) -> str:
    """Median and range, in milliseconds."""
    low, middle, high = (1000 * v for v in (min(values), statistics.median(values), max(values)))
    return f"{middle:9.3f} ms ({low:.3f} to {high:.3f})"


def counted(model: Decoder, rows: int) -> dict[str, float]:
    """Bytes that a step of the uncompiled model holds at most, counted by hand (docs/benchmarks.md says how).

    At the end of the forward pass, in bf16, one pull: of each token and layer 40 bytes a channel.
    """
    shape, parameters = model.shape, model.parameter_count()
    tokens = rows * shape.block_size
    padded = -(-shape.vocab_size // loss.PAD) * loss.PAD
    chunk = min(tokens, loss.CHUNK_LOGITS // shape.vocab_size)
    return {
        "weights": 4 * parameters,
        "moments": 8 * parameters,
        "weights in bf16": 2 * (parameters - shape.vocab_size * shape.width),
        "activations": 40 * shape.width * shape.layers * tokens,
        "last norm": (4 + 4 + 2) * shape.width * tokens,
        "head's gradient": 4 * padded * shape.width + 2 * padded * shape.width,
        "one chunk's logits": (4 + 4) * chunk * padded,
    }


def bare_steps(name: str, shape: Shape, size: Size, device: torch.device, top: float) -> float:
    """Measure the bare step in its three forms; the seconds of the one that a run would use."""
    tokens = size.rows * shape.block_size
    known = peak.of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    forms: list[tuple[str, Switch, Switch]] = [("as it is", "off", "off")]
    if device.type == "cuda":
        forms += [("compiled", "on", "off"), ("compiled, one graph", "on", "on")]
    best = 0.0
    for form, compile, graph in forms:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        bare = Bare(shape, size, device, compile=compile, graph=graph)
        flops = peak.flops_per_token(bare.model) * tokens
        if form == "as it is":
            print(
                f"{name}: {bare.model.parameter_count():,} parameters, {tokens:,} tokens a step, "
                f"{flops / 1e12:.2f} TFLOP a step"
            )
        seconds = [bare.go(size.steps) for _ in range(BLOCKS)]
        middle = statistics.median(seconds)
        share = "MFU unknown" if known is None else f"MFU {flops / middle / known:.1%}"
        print(
            f"  {form:<20} {spread(seconds)}  {tokens / middle:12,.0f} tok/s  {share}, "
            f"{flops / middle / top:.1%} of the fastest product, {bare.syncs(10)} syncs in 10 steps"
        )
        if device.type == "cuda":
            held, hand = torch.cuda.max_memory_allocated(device), counted(bare.model, size.rows)
            total = sum(hand.values())
            print(
                f"  {'':<20} peak {held / 2**30:.2f} GiB; by hand, uncompiled, {total / 2**30:.2f} GiB ({held / total - 1:+.1%})"
            )
            if form == "as it is":
                print(
                    "  "
                    + " " * 20
                    + ", ".join(f"{part} {size_of / 2**30:.2f}" for part, size_of in hand.items())
                )
        if form == "compiled" or not best or (graph == "on" and shape.width <= cuda.GRAPH_WIDTH):
            best = middle
        if form == forms[-1][0]:
            samples(bare, size, middle)
        del bare
    return best


def samples(bare: Bare, size: Size, seconds_per_step: float) -> None:
    """What a sample costs, as a share of 100 steps."""
    sampler, spent = Sampler.on_device(bare.model), []
    for text in range(4):
        uniforms = [mix64(text, at) / 2.0**64 for at in range(size.sample)]
        settle(bare.device)
        began = time.perf_counter()
        ids, _ = sampler.draw(list(range(10, 20)), 1, uniforms, temperature=0.8, min_new_tokens=len(uniforms))
        spent.append(time.perf_counter() - began)
        assert len(ids) == size.sample
    middle = statistics.median(spent[1:])
    tokens = size.rows * bare.model.shape.block_size
    print(
        f"  sample of {size.sample} tokens  {spread(spent[1:])}, the first {1000 * spent[0]:.1f} ms; "
        f"{middle / (100 * seconds_per_step):.2%} of 100 steps of {tokens:,} tokens, "
        f"{middle / (100 * seconds_per_step * 524_288 / tokens):.2%} of 100 of 524,288"
    )


def real_run(name: str, shape: Shape, size: Size, device: torch.device, bare: float) -> None:
    """The same step in a run: time a step against the bare one, and where the time between boundaries goes."""
    with tempfile.TemporaryDirectory() as folder:
        config = gpu_world.make(
            Path(folder),
            shape,
            steps=size.run_steps,
            boundary=size.boundary,
            rows=size.rows,
            device=str(device),
            tokens=size.tokens,
            train='compile = "on"' if device.type == "cuda" else "",
        )
        plan = runner.plan(config.path, name=None, runs_dir=Path(folder) / "runs", resume="never")
        seconds = runner.train(plan, flags=Flags())["seconds"]
    total = sum(seconds.values())
    shares = "  ".join(
        f"{part} {spent / total:.2%}" for part, spent in sorted(seconds.items(), key=lambda x: -x[1])
    )
    asked = sum(seconds.get(part, 0.0) for part in OURS)
    print(
        f"  run of {size.run_steps} steps     {1000 * seconds['step'] / size.run_steps:9.3f} ms a step and "
        f"{1000 * total / size.run_steps:.3f} with all else; the bare step {1000 * bare:.3f}"
    )
    print(f"  {shares}")
    print(f"  {' + '.join(OURS)}: {asked / total:.2%} of the time")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=["124m", "12m"])
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    size = TINY if asked.tiny else FULL
    if asked.rows is not None:
        size = replace(size, rows=asked.rows)
    chosen = machine.choose(asked.device, "auto", 0)
    device, _ = machine.apply(chosen)
    print(f"machine {platform.node()}; {machine.describe(chosen)}")
    top = peak.ceiling(device, seconds=size.ceiling_seconds, sizes=size.ceiling_sizes)
    print(f"fastest matrix product in bf16: {top / 1e12:.3f} TFLOP/s")
    for name in ["tiny"] if asked.tiny else asked.models:
        bare = bare_steps(name, SHAPES[name], size, device, top)
        real_run(name, SHAPES[name], size, device, bare)
    return 0


if __name__ == "__main__":
    sys.exit(main())
