"""What everything beside training costs in the demo's run: scheduler, loader, gate and commits against the step.

    python bench/overhead.py [--steps N]

Prints one line a part, sampling and checkpoints on lines of their own, and exits 1 where scheduler, loader, gate,
commits and monitors together take 2 % of the time or more.
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from trainer import demo, runner
from trainer.signals import Flags

OURS = ("scheduler", "loader", "gate", "commit", "monitor")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        config = demo.prepare(Path(folder) / "demo", steps)
        plan = runner.plan(config, name=None, runs_dir=Path(folder) / "runs", resume="never")
        seconds = runner.train(plan, flags=Flags())["seconds"]
    total = sum(seconds.values())
    print(
        f"machine {platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {steps} steps, {total:.0f} s"
    )
    for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(
            f"{part:<12} {spent:8.2f} s  {100 * spent / total:6.2f} %  {1000 * spent / steps:8.3f} ms a step"
        )
    share = sum(seconds.get(part, 0.0) for part in OURS) / total
    print(f"{' + '.join(OURS)}: {100 * share:.2f} % (must be under 2 %)")
    return int(share >= 0.02)


if __name__ == "__main__":
    sys.exit(main())
