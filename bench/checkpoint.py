"""Seconds that a checkpoint holds up the loop: written by the loop itself, as before, and by the thread from a copy.

    python bench/checkpoint.py [--shapes tiny andrea-12m] [--device auto] [--rounds 5] [--dir FOLDER]

For each shape a model with AdamW's moments and a record on FOLDER (a temporary one by default). In each round both ways
take turns: `held` is the time until the loop goes on, `durable` until the checkpoint is; `examined` is what the forensics
take of it. With the thread, training steps run beside the writing: `beside` is how much longer they are than alone.
Medians, with the smallest and the largest in brackets.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from curriculum.config import PRESETS
from state.checkpoints import Keep
from state.rows import RowFile
from state.run_dir import RunDir
from state.store import StateStore
from trainer import optim
from trainer.forensics import Evidence, Examiner
from trainer.model import Decoder, Shape
from trainer.record import ROW_FILES, Position, Record
from trainer.snapshot import Tensors

VOCABULARY = 8193
SHAPES = {**PRESETS, "gpt2-124m": (768, 12, 12, 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["tiny", "andrea-12m"], choices=SHAPES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path)
    asked = parser.parse_args()
    cuda = asked.device == "cuda" or (asked.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    name = torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} cores"
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.platform()}, "
        f"load {os.getloadavg()[0]:.1f}; {asked.rounds} rounds"
    )
    for shape in asked.shapes:
        with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
            measure(shape, device, asked.rounds, Path(folder))


def measure(name: str, device: torch.device, rounds: int, folder: Path) -> None:
    """Print a line a way for one shape."""
    width, heads, layers, block_size = SHAPES[name]
    vocabulary = 50304 if name == "gpt2-124m" else VOCABULARY
    shape = Shape(vocabulary, block_size, width, heads, layers)
    model = Decoder(shape)
    model.initialise(1)
    model.to(device)
    optimizer = optim.build(model, weight_decay=0.01, betas=(0.9, 0.95), device=device)
    windows = torch.randint(vocabulary, (1, min(block_size, 256) + 1), device=device)

    def step() -> float:
        began = time.perf_counter()
        model.loss(windows).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    step()
    weights = dict(model.named_parameters())
    record, examiner = opened(folder, shape, model, device), Examiner(shape, 1, quick=True)
    alone = [step() for _ in range(5)]
    times: dict[str, list[float]] = {key: [] for key in ("loop", "held", "durable", "examined", "beside")}
    for number in range(1, 2 * rounds + 1):
        by_loop = number % 2 == 1
        record.examiner = None if by_loop else examiner  # there were no forensics before
        began = time.perf_counter()
        held = Tensors(weights, optim.state_tensors(optimizer, weights))
        record.commit(Position(number), {}, held)
        if by_loop:
            record.join()
            times["loop"].append(time.perf_counter() - began)
            continue
        times["held"].append(time.perf_counter() - began)
        while record.committer.job is not None and not record.committer.job.done():
            times["beside"].append(step())
        record.join()
        times["durable"].append(time.perf_counter() - began)
        began = time.perf_counter()
        examiner.examine(Evidence(number, record.snapshot.wait(), 1e-3, (0.9, 0.95)))
        times["examined"].append(time.perf_counter() - began)
    record.close()
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / len(
        list(folder.rglob("step_*"))
    )
    print(f"{name}: {model.parameter_count():,} parameters, {size / 1e6:.1f} MB a checkpoint")
    for key, told in (
        ("loop", "written by the loop: held and durable"),
        ("held", "written by the thread: held"),
        ("durable", "written by the thread: durable, steps beside"),
        ("examined", "of it forensics, alone"),
    ):
        print(f"  {told:46} {spread(times[key])}")
    print(
        f"  held, to the loop's own writing: {statistics.median(times['held']) / statistics.median(times['loop']):.3f}"
    )
    if times["beside"]:
        print(f"  a step alone {spread(alone)}, beside the writing {spread(times['beside'])}")


def spread(seconds: list[float]) -> str:
    """Median, smallest and largest, in milliseconds."""
    low, high = min(seconds), max(seconds)
    return f"{1000 * statistics.median(seconds):9.1f} ms [{1000 * low:.1f}, {1000 * high:.1f}]"


def opened(folder: Path, shape: Shape, model: Decoder, device: torch.device) -> Record:
    """A record as a launch opens one, on a folder of its own."""
    run = RunDir(folder / "run")
    run.create()
    store = StateStore(run.state)
    store.create({}, config_sha256="c" * 64)
    rows = {name: RowFile(run.root / f"run.{name}.json") for name in ROW_FILES}
    for file in rows.values():
        file.open(None, run.archive, "begin")
    meta: dict[str, Any] = {"shape": msgspec.to_builtins(shape), "seed": 1, "betas": [0.9, 0.95]}
    return Record(
        run,
        store,
        rows,
        config_sha256="c" * 64,
        standing={},
        meta=meta,
        keep=Keep(last=2),
        goal=(),
        checkpoint_step=None,
        device=device,
    )


if __name__ == "__main__":
    main()
