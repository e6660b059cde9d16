"""Training on a CPU beside nanoGPT: the whole product against its train.py as it is, on one text, in turns.

    python bench/train.py --nanogpt DIR --text FILE [--shape readme|10m] [--batch N] [--steps N] [--dtype D] [--threads N]

DIR is a checkout of nanoGPT, FILE tiny shakespeare's input.txt. Each side is a process of its own, which trains a block
of steps while the other waits. Ours is `firehose run`: bandit, gate, checkpoints, held-out losses and state files; theirs
is train.py with the arguments of its README for a CPU, its own evaluations and checkpoints among them. Same characters,
tokens a step, steps, warm-up, peak and final rate; left out on our side is the building of token files alone.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

ROOT = Path(__file__).parent.parent
SOURCE = "shakespeare"
CONFIG = """
name = "ours"
[data]
dir = "tokens"
vocab_size = 256
[model]
layers = {layers}
heads = {heads}
width = {width}
block_size = {block_size}
[train]
steps = {steps}
micro_batch = {batch}
grad_accum = 1
lr = 1e-3
min_lr = 1e-4
warmup_steps = {warmup}
weight_decay = 0.1
beta2 = 0.99
boundary_every = {every}
sample_every = {every}
heldout_every = {every}
checkpoint_every = {every}
threads = {threads}
dtype = "{dtype}"
device = "cpu"
[gate]
threshold = 0.001
[sources.shakespeare]
path = "text"
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What both train: sizes of the model, windows a step, steps, steps of a turn; dtype and threads are ours."""

    layers: int
    heads: int
    width: int
    block_size: int
    batch: int
    steps: int
    block: int
    every: int
    warmup: int
    dtype: str = "auto"
    threads: int = 0


SHAPES = {
    "readme": Shape(4, 4, 128, 64, batch=12, steps=2000, block=50, every=250, warmup=100),
    "10m": Shape(6, 6, 384, 256, batch=12, steps=12, block=1, every=1000, warmup=100),
}


class Turns:
    """A child's side: counts its steps, tells the seconds of each after a block, and waits until it is let go on."""

    def __init__(self, block: int, asked: TextIO, told: TextIO) -> None:
        self.block, self.asked, self.told = block, asked, told
        self.seconds: list[float] = []
        self.last: float | None = None

    def step(self) -> None:
        """Called once a step; what lies between two calls is a step's time."""
        if self.last is not None:
            self.seconds.append(time.perf_counter() - self.last)
        if self.last is None or len(self.seconds) == self.block:
            print(json.dumps(self.seconds), file=self.told, flush=True)
            self.seconds = []
            if not self.asked.readline():
                sys.exit("the bench is gone")
        self.last = time.perf_counter()


def write_data(folder: Path, text: str) -> None:
    """Both sides' files: characters as ids, nine tenths to train on; ours count from 1, since 0 is the end token."""
    import tokenizers

    from curriculum.files import sha256_file
    from curriculum.text import template, tokenizer
    from curriculum.tokens import manifest
    from curriculum.tokens.btok import BtokWriter

    characters = sorted(set(text))
    ids = {character: index for index, character in enumerate(characters)}
    encoded = np.array([ids[character] for character in text], dtype=np.uint16)
    cut = int(len(text) * 0.9)
    theirs, ours = folder / "data/shakespeare_char", folder / "tokens"
    for made in (theirs, ours, folder / "text"):
        made.mkdir(parents=True)
    encoded[:cut].tofile(theirs / "train.bin")
    encoded[cut:].tofile(theirs / "val.bin")
    names = dict(enumerate(characters))
    (theirs / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(ids), "itos": names, "stoi": ids}))

    vocabulary = {template.END: 0, **{character: index + 1 for character, index in ids.items()}}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    inner.decoder = tokenizers.decoders.Fuse()
    inner.add_special_tokens([template.END])
    path = ours / tokenizer.NAME
    path.write_text(inner.to_str())
    path.with_name(template.NAME).write_bytes(template.TEMPLATE.encode())
    loaded = tokenizer.load(path)
    files = {}
    for name, part in ((SOURCE, encoded[:cut]), (f"{SOURCE}.heldout", encoded[cut:])):
        with BtokWriter(ours / f"{name}.btok", len(vocabulary), loaded.sha256) as writer:
            writer.add(np.append(part + 1, 0))
        made = ours / f"{name}.btok"
        files[name] = manifest.TokenFile(made.name, made.stat().st_size, 1, len(part) + 1, sha256_file(made))
    entry = manifest.SourceEntry(1, len(text), 2, 2, {}, files[SOURCE], files[f"{SOURCE}.heldout"])
    template_path = path.with_name(template.NAME)
    described = manifest.TokenizerEntry(
        path.name, loaded.sha256, loaded.vocab_size, template_path.name, sha256_file(template_path), 0
    )
    manifest.write(ours, manifest.Manifest(described, 64, {SOURCE: entry}))


def ours(folder: Path, shape: Shape, turns: Turns) -> None:
    """Train with `firehose run`'s own runner."""
    from trainer import runner
    from trainer.signals import Flags
    from trainer.step import TrainStep

    config = folder / "ours.toml"
    config.write_text(CONFIG.format(**asdict(shape)))
    run = TrainStep.run

    def counted(self: TrainStep, *arguments: Any) -> None:
        turns.step()
        run(self, *arguments)

    TrainStep.run = counted  # type: ignore[method-assign]
    plan = runner.plan(config, name=None, runs_dir=folder / "runs", resume="never")
    runner.train(plan, flags=Flags())


def theirs(folder: Path, shape: Shape, turns: Turns, checkout: Path) -> None:
    """Run train.py, in a folder that looks like its own, with the README's arguments."""
    import torch

    os.chdir(folder)
    Path("configurator.py").symlink_to(checkout / "configurator.py")
    sys.path.insert(0, str(checkout))
    learns = shape.steps > shape.every
    arguments = {
        "device": "cpu",
        "compile": False,
        "eval_iters": 20 if learns else 1,
        "eval_interval": shape.every,
        "always_save_checkpoint": True,
        "log_interval": 1,
        "block_size": shape.block_size,
        "batch_size": shape.batch,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_embd": shape.width,
        "max_iters": shape.steps,
        "lr_decay_iters": shape.steps,
        "dropout": 0.0,
    }
    sys.argv = ["train.py", str(checkout / "config/train_shakespeare_char.py")]
    sys.argv += [f"--{name}={value}" for name, value in arguments.items()]
    if shape.threads:
        torch.set_num_threads(shape.threads)
    zero_grad = torch.optim.AdamW.zero_grad

    def counted(
        self: torch.optim.AdamW, *rest: Any, **named: Any
    ) -> None:  # the last thing it does in a step
        zero_grad(self, *rest, **named)
        turns.step()

    torch.optim.AdamW.zero_grad = counted  # type: ignore[method-assign]
    runpy.run_path(str(checkout / "train.py"), run_name="__main__")


def in_turns(commands: dict[str, list[str]], log: Path, rest: float) -> dict[str, list[list[float]]]:
    """Seconds of every step of each side, a list a turn; the turns of the side that is done first end both."""
    children = {}
    blocks: dict[str, list[list[float]]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            said = stack.enter_context((log / f"{name}.log").open("w"))
            children[name] = stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT
                )
            )
        try:
            for name, child in children.items():
                if not hear(child):
                    sys.exit(f"{name} did not begin:\n{(log / f'{name}.log').read_text()[-2000:]}")
            running = list(children)
            while running:
                time.sleep(rest)
                for name in list(running):
                    print("go", file=children[name].stdin, flush=True)
                    answer = hear(children[name])
                    if answer:
                        blocks[name].append(json.loads(answer))
                    else:
                        running.remove(name)
        finally:
            for child in children.values():
                if child.poll() is None and len(running) == len(children):
                    child.kill()
    for name, child in children.items():
        if child.returncode:
            sys.exit(f"{name} failed:\n{(log / f'{name}.log').read_text()[-2000:]}")
    return blocks


def hear(child: "subprocess.Popen[str]") -> str:
    """The next line of a child, empty at its end."""
    assert child.stdout is not None
    return child.stdout.readline()


def validation_losses(folder: Path, shape: Shape, checkout: Path) -> dict[str, float]:
    """Mean loss of both sides' last weights over the whole validation text, in nats a character, in float32."""
    import torch
    import torch.nn.functional as F

    from state import checkpoints
    from trainer import (
        checkpoint,
        runner,  # noqa: F401  sets the environment before torch is used
        weights,
    )
    from trainer.model import Decoder
    from trainer.model import Shape as Sizes

    ids = torch.from_numpy(
        np.fromfile(folder / "data/shakespeare_char/val.bin", dtype=np.uint16).astype(np.int64)
    )
    windows = ids[: (len(ids) - 1) // shape.block_size * shape.block_size + 1]
    windows = windows.unfold(0, shape.block_size + 1, shape.block_size)
    found = checkpoints.locate(folder / "runs/ours")
    model = Decoder(Sizes(**found.meta["shape"]))
    weights.load(model, checkpoint.tensors(found, checkpoints.MODEL), found.path)
    sys.path.insert(0, str(checkout))
    theirs_model = runpy.run_path(str(checkout / "model.py"))
    saved = torch.load(folder / "out-shakespeare-char/ckpt.pt", weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = theirs_model["GPT"](theirs_model["GPTConfig"](**saved["model_args"]))
    peer.load_state_dict(saved["model"])
    peer.eval()

    def mean(loss: Callable[[torch.Tensor], torch.Tensor]) -> float:
        with torch.inference_mode():
            parts = [(float(loss(part)), len(part)) for part in windows.split(256)]
        return sum(value * rows for value, rows in parts) / len(windows)

    def peer_loss(part: torch.Tensor) -> torch.Tensor:
        logits, _ = peer(part[:, :-1].contiguous(), part[:, 1:].contiguous())
        return F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())

    return {"ours": mean(lambda part: model.loss(part + 1)), "theirs": mean(peer_loss)}


def report(blocks: dict[str, list[list[float]]], shape: Shape, skip: int) -> list[str]:
    """Tokens a second of each side, and ours in theirs, turn by turn; the first `skip` turns warm up."""
    tokens = shape.batch * shape.block_size
    lines, speeds = [], {}
    for name, turns in blocks.items():
        rates = sorted(tokens / second for turn in turns[skip:] for second in turn)
        speeds[name] = [tokens * len(turn) / sum(turn) for turn in turns[skip:]]
        tenth = len(rates) // 10
        lines.append(
            f"{name:<7} {statistics.median(rates):9,.0f} tokens/s, median of {len(rates)} steps "
            f"(p10 {rates[tenth]:,.0f}, p90 {rates[-1 - tenth]:,.0f}); "
            f"with all that comes between steps {statistics.median(speeds[name]):,.0f}, median of turns"
        )
    ratios = sorted(a / b for a, b in zip(speeds["ours"], speeds["theirs"], strict=False))
    middle = statistics.median(ratios)
    tenth = len(ratios) // 10
    lines.append(
        f"ratio   {middle:.2f}, median of {len(ratios)} pairs of turns (p10 {ratios[tenth]:.2f}, p90 {ratios[-1 - tenth]:.2f})"
    )
    return lines


def machine() -> str:
    """Name, cores, instructions and versions of this machine."""
    import torch

    from trainer import machine as found

    capability = " ".join([torch.backends.cpu.get_cpu_capability(), *found.bfloat16_units()])
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        model = (
            Path("/proc/cpuinfo")
            .read_text()
            .split("model name", 1)[1]
            .split(":", 1)[1]
            .split("\n", 1)[0]
            .strip()
        )
    units = "" if "AMX" in capability else ", no AMX"
    return (
        f"machine {model}, {found.cores()} cores, {capability}{units}, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", required=True)
    parser.add_argument("--text", type=Path, metavar="FILE", required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="readme")
    parser.add_argument("--batch", type=int, help="windows a step, where the shape's own are not meant")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--block", type=int, help="steps of a turn")
    parser.add_argument("--every", type=int, help="steps between evaluations and checkpoints")
    parser.add_argument("--width", type=int, help="channels")
    parser.add_argument("--dtype", default="auto", help="ours: auto, float32 or bfloat16")
    parser.add_argument(
        "--rest", type=float, default=0.0, help="seconds between turns, where others need the machine"
    )
    parser.add_argument("--threads", type=int, default=0, help="of both; each its own default else")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    asked = {
        key: getattr(arguments, key)
        for key in ("batch", "steps", "block", "every", "width", "dtype", "threads")
    }
    shape = Shape(**{**asdict(SHAPES[arguments.shape]), **{k: v for k, v in asked.items() if v is not None}})
    checkout = arguments.nanogpt.resolve()
    if arguments.child:
        side, folder = arguments.child[0], Path(arguments.child[1])
        told = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a side prints is no answer
        turns = Turns(shape.block, sys.stdin, told)
        if side == "ours":
            ours(folder, shape, turns)
        else:
            theirs(folder, shape, turns, checkout)
        return 0
    given = {"nanogpt": checkout, "text": arguments.text.resolve(), "shape": arguments.shape, **asked}
    again = [f"--{name}={value}" for name, value in given.items() if value is not None]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_data(folder, arguments.text.read_text(encoding="utf-8"))
        commands = {
            side: [sys.executable, str(Path(__file__).resolve()), *again, "--child", side, made]
            for side in ("ours", "theirs")
        }
        blocks = in_turns(commands, folder, arguments.rest)
        print(machine())
        print(
            f"shape {arguments.shape}: " + ", ".join(f"{key} {value}" for key, value in asdict(shape).items())
        )
        print("\n".join(report(blocks, shape, skip=1)))
        if shape.steps >= shape.every:
            losses = validation_losses(folder, shape, checkout)
            over = losses["ours"] - losses["theirs"]
            print(
                f"validation loss ours {losses['ours']:.4f}, theirs {losses['theirs']:.4f}: {over:+.4f} (at most +0.02)"
            )
            return int(over > 0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main())
