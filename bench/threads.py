"""A step on a CPU by the ways to use its cores, alone and beside a busy program: milliseconds, median and 90th percentile.

    python bench/threads.py [--rounds 3] [--steps 20]

The model is that of nanoGPT's README for a CPU (0.8M parameters, 12 windows of 64). Each way is a process of its own,
since OpenMP reads its environment once; rounds of all ways take turns. The busy program is a loop on one core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

WAYS = {
    "one thread": (1, "passive"),
    "threads in operations, that spin": (0, "active"),
    "threads in operations, that sleep": (0, "passive"),
    "a crew, as trained": (0, "passive"),
}
BUSY = "while True: pass"


def child(way: str, steps: int) -> list[float]:
    """Seconds of each step."""
    import torch

    from trainer import machine, optim
    from trainer.crew import Crew
    from trainer.model import Decoder, Shape
    from trainer.ring import Ring
    from trainer.step import TrainStep

    threads = WAYS[way][0] or machine.cores()
    device, _ = machine.apply({"threads": threads, "device": "cpu", "dtype": "float32"})
    model = Decoder(Shape(vocab_size=66, block_size=64, width=128, heads=4, layers=4))
    model.initialise(1)
    loss = Crew(model, threads).loss if "crew" in way else model.loss
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.99), device=device)
    step = TrainStep(
        model, optimizer, Ring(16, 1, device), grad_clip=1.0, autocast=nullcontext(), forward=loss
    )
    pulls = torch.randint(66, (1, 12, 65), generator=torch.Generator().manual_seed(1))
    seconds = []
    for number in range(1, steps + 4):
        began = time.perf_counter()
        step.run(number, pulls, 1e-3)
        seconds.append(time.perf_counter() - began)
    return seconds[3:]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.steps)))
        return 0
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(arguments.rounds):
        for busy in (False, True):
            neighbour = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            try:
                for way, (_, policy) in WAYS.items():
                    command = [sys.executable, str(Path(__file__).resolve()), "--child", way]
                    env = {**os.environ, "OMP_WAIT_POLICY": policy}
                    done = subprocess.run(
                        [*command, "--steps", str(arguments.steps)], env=env, capture_output=True, check=True
                    )
                    found.setdefault((way, busy), []).extend(json.loads(done.stdout))
            finally:
                if neighbour is not None:
                    neighbour.kill()
                    neighbour.wait()
    print(
        f"load before {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores; {len(next(iter(found.values())))} steps a figure"
    )
    for way in WAYS:
        parts = []
        for busy in (False, True):
            milliseconds = sorted(1000 * second for second in found[way, busy])
            middle, high = statistics.median(milliseconds), milliseconds[len(milliseconds) * 9 // 10]
            parts.append(f"{'busy' if busy else 'alone'} {middle:6.1f} ({high:6.1f})")
        print(f"{way:<36} {'  '.join(parts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
