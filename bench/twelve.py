"""Twelve sources of real text, 1,000 steps, straight and through five SIGKILLs: loss, samples, shares, identical files.

    python bench/twelve.py DATA [--leave-out NAME,NAME] [--steps N] [--out DIR]

DATA holds one folder a source with a `train.jsonl` in it; the first twelve by name that are not left out are used. Prints what was asked and
what came; exits 1 where the run misses it.
"""

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from curriculum import config as configs
from curriculum.text.build import build, plan_for
from state.rows import read_rows
from state.run_dir import RunDir
from trainer import runner
from trainer.signals import Flags

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "straight"
[data]
dir = "tokens"
vocab_size = 4096
[model]
preset = "tiny"
[train]
steps = {steps}
threads = 1
micro_batch = 4
grad_accum = 4
lr = 2e-3
min_lr = 2e-4
warmup_steps = 50
checkpoint_every = 200
heldout_every = 500
[curriculum]
curriculum_warmup_steps = {warmup}
curriculum_warmup_sources = [{first}]
"""


def write_config(folder: Path, data: Path, leave_out: set[str], steps: int) -> Path:
    """A config over the first twelve sources: a cap on every third, a floor on every fourth, six in the warm-up set."""
    names = sorted({path.parent.name for path in data.glob("*/train.jsonl")} - leave_out)[:12]
    if len(names) < 12:
        sys.exit(f"{data} holds {len(names)} sources with a train.jsonl; twelve are needed")
    text = CONFIG.format(steps=steps, warmup=steps // 10, first=", ".join(f'"{name}"' for name in names[:6]))
    for index, name in enumerate(names):
        bounds = "cap = 0.4\n" if index % 3 == 2 else "floor = 0.5\n" if index % 4 == 0 else ""
        text += f'[sources.{name}]\npath = "{data.resolve() / name / "train.jsonl"}"\n{bounds}'
    path = folder / "twelve.toml"
    path.write_text(text)
    return path


def identical(one: RunDir, other: RunDir, step: int) -> list[str]:
    """Names of the files that differ between two runs."""
    pairs = [(one.loss, other.loss), (one.pulls, other.pulls), (one.samples, other.samples)]
    wrong = [a.name for a, b in pairs if a.read_bytes() != b.read_bytes()]
    weights = [load_file(run.checkpoints / f"step_{step}/model.safetensors") for run in (one, other)]
    if any(weights[0][key].tobytes() != weights[1][key].tobytes() for key in weights[0]):
        wrong.append("model.safetensors")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--leave-out", default="", help="names, separated by commas")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="work here and keep the files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        path = write_config(folder, arguments.data, set(arguments.leave_out.split(",")), arguments.steps)
        began = time.time()
        manifest = build(plan_for(configs.load(path)))
        built = time.time() - began
        plan = runner.plan(path, name=None, runs_dir=folder / "runs", resume="auto")
        steps = arguments.steps
        cuts = [f"step:{step}" for step in sorted(random.Random().sample(range(5, steps), 5))]
        command = [sys.executable, "-m", "tests.e2e.cut", str(path), str(folder / "runs"), "cut", *cuts]
        with (folder / "cut.log").open("w") as log:  # both runs at once, each on a thread of its own
            twin = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        began = time.time()
        outcome = runner.train(plan, flags=Flags())
        trained = time.time() - began
        statuses = twin.communicate()[0].split()
        straight, cut = plan.run, RunDir(folder / "runs/cut")
        differ = identical(straight, cut, steps)

        live: dict[str, Any] = json.loads(straight.live.read_text())
        losses = [row[1] for row in read_rows(straight.loss)]
        samples = read_rows(straight.samples)
    vocabulary = manifest.tokenizer.vocab_size
    last = sum(losses[-100:]) / 100
    served = sum(round(arm["share"] * 1e9) for arm in live["arms"])
    slack = 3 / (steps * 0.9 * 4)  # the deal's own rounding: H_12 - 1 pulls of those since the warm-up
    outside = [
        arm["name"]
        for arm in live["arms"]
        if not arm["share_low"] - slack <= arm["share"] <= arm["share_high"] + slack
    ]
    print(
        f"machine {platform.node()}, {os.cpu_count()} cores; built in {built:.0f} s, trained in {trained:.0f} s"
    )
    for arm in live["arms"]:
        print(
            f"{arm['name']:<20} share {arm['share']:6.1%} in {arm['share_low']:6.1%} .. {arm['share_high']:6.1%}  "
            f"pulls {arm['pulls']:>5}  epochs {arm['epochs']:.3f}  loss {arm['loss_ema']:.3f}"
        )
    checks = {
        f"exit {outcome['exit']}": outcome["exit"] == 0,
        f"mean loss of the last 100 steps {last:.3f}, at most ln {vocabulary} - 2 = {math.log(vocabulary) - 2:.3f}": last
        <= math.log(vocabulary) - 2,
        f"{len(samples)} scored samples, at least {steps // 100}": len(samples) >= steps // 100,
        f"shares sum to {served / 1e9:.6f}; outside their intervals: {outside or 'none'}": not outside,
        f"killed at {' '.join(cuts)}: exits {' '.join(statuses)}; files that differ: {differ or 'none'}": not differ
        and statuses == ["-9"] * 5 + ["0"],
    }
    for text, ok in checks.items():
        print(("ok    " if ok else "MISS  ") + text)
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
