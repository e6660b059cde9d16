"""What a reward buys: final loss of the goal under each, against evenly dealt uniform and an oracle that knows the junk.

    python bench/goal.py DATA [--seeds 1,2,3] [--steps 2500] [--world reported|tuning] [--only NAME,NAME] [--out DIR]

DATA holds one folder a source with a `train.jsonl` in it. Every run is a whole one, through the product's own launch,
loop and files. Prints a row a run and what is asked of `align`; exits 1 where it is missed. About a minute and a half a run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from goal_world import REPORTED, TUNING, World, prepare

from curriculum.tokens.corpus import Corpus
from state import checkpoints
from state.rows import read_rows
from trainer import checkpoint, runner, weights
from trainer.signals import Flags

# Name to (lines of [curriculum], whether the junk is capped at 0).
RUNS = {
    "uniform": ('policy = "uniform"\nreward = "progress"', False),
    "align": ('reward = "align"', False),
    "progress": ('reward = "progress"', False),
    "loss": ('reward = "loss"', False),
    "oracle": ('policy = "uniform"\nreward = "progress"', True),
    "heldout": ('reward = "heldout"', False),
    "align-wide": ('reward = "align"\nfocus_size = 8\nmemory = 1000', False),
}
ASKED = ("uniform", "align", "progress", "loss", "oracle")


def one(name: str, seed: int, data: Path, folder: Path, world: World, steps: int) -> dict[str, Any]:
    """A run to its end: mean loss of the good sources' reported windows, the junk's share of the pulls, CPU seconds.

    What a folder holds already is not run again.
    """
    kept = folder / f"{name}-{seed}.json"
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    began = time.process_time()
    curriculum, oracle = RUNS[name]
    run_name = f"{name}-{seed}"
    config = prepare(
        world, data, folder, run_name, curriculum=curriculum, steps=steps, seed=seed, oracle=oracle
    )
    plan = runner.plan(config.path, name=None, runs_dir=folder / "runs", resume="auto")
    runner.train(plan, flags=Flags())
    corpus = Corpus.open(config.resolve(config.data.dir), config.model.block_size, config.seed)
    model = weights.build(config, corpus.vocab_size)
    found = checkpoints.locate(plan.run.root)
    weights.load(model, checkpoint.tensors(found, checkpoints.MODEL), found.path)
    with torch.inference_mode():
        losses = {
            source: float(model.loss(torch.from_numpy(corpus.heldout(source, 1000)))) for source in world.good
        }
    ids = {arm["id"]: arm["name"] for arm in arms(plan.run.state)}
    names = [ids[arm] for row in read_rows(plan.run.pulls) for arm, *_ in row["pulls"]]
    row = {
        "name": name,
        "seed": seed,
        "goal": statistics.fmean(losses.values()),
        "losses": losses,
        "junk": sum(source in world.junk for source in names) / len(names),
        "shares": {source: names.count(source) / len(names) for source in ids.values()},
        "parameters": model.parameter_count(),
        "cpu_seconds": time.process_time() - began,
    }
    kept.write_text(json.dumps(row))
    return row


def arms(state: Path) -> list[dict[str, Any]]:
    """The arms' records of a run's state, names among their fields."""
    records = json.loads(state.read_text())["payload"]["bandit"]["arms"]
    return [{"name": name, **record} for name, record in records.items()]


def summary(rows: list[dict[str, Any]], world: World) -> list[tuple[str, bool, bool]]:
    """By reward: a sentence, whether it closes 60 % of the gap with under half of the junk, whether that is asked."""
    seeds = sorted({row["seed"] for row in rows})
    goal = {(row["name"], row["seed"]): row["goal"] for row in rows}
    even = len(world.junk) / (len(world.good) + len(world.junk))
    gap = {seed: goal["uniform", seed] - goal["oracle", seed] for seed in seeds}
    results = []
    for name in (name for name in RUNS if (name, seeds[0]) in goal and name not in ("uniform", "oracle")):
        won = {seed: goal["uniform", seed] - goal[name, seed] for seed in seeds}
        closed = sum(won.values()) / sum(gap.values())
        each = ", ".join(f"{won[seed] / gap[seed]:.0%}" for seed in seeds)
        junk = statistics.fmean(row["junk"] for row in rows if row["name"] == name)
        text = (
            f"{name} closes {closed:.0%} of the gap between uniform and the oracle ({each} by seed); "
            f"the junk gets {junk:.1%} of the pulls, {even:.1%} under uniform"
        )
        results.append((text, closed >= 0.6 and junk < even / 2, name.startswith("align")))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--world", choices=("reported", "tuning"), default="reported")
    parser.add_argument("--only", default=",".join(ASKED))
    parser.add_argument("--out", type=Path, help="work here and keep the files")
    arguments = parser.parse_args()
    world = {"reported": REPORTED, "tuning": TUNING}[arguments.world]
    print(
        f"machine {platform.node()}, {os.cpu_count()} cores, torch {torch.__version__}, {arguments.steps} steps, "
        f"commit {subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout.strip()}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary)).resolve()
        for seed in map(int, arguments.seeds.split(",")):
            for name in arguments.only.split(","):
                row = one(name, seed, arguments.data, folder, world, arguments.steps)
                rows.append(row)
                print(
                    f"seed {seed}  {name:<9} goal {row['goal']:.4f}  junk {row['junk']:6.1%}  "
                    f"{row['cpu_seconds']:5.0f} s of CPU",
                    flush=True,
                )
    if not {"uniform", "oracle"} <= {row["name"] for row in rows}:
        return 0
    results = summary(rows, world)
    for text, ok, asked in results:
        print(("ok    " if ok else "MISS  " if asked else "      ") + text)
    print("asked of align: at least 60 % of the gap, the junk under half of uniform's share")
    return int(not all(ok for _, ok, asked in results if asked))


if __name__ == "__main__":
    sys.exit(main())
