"""Does a reward rank sources by what they are worth? Branches a run, trains a little on each, measures the goal's drop.

    python bench/reward.py DATA [--seeds 1,2,3] [--branches 400,800,1200] [--world reported|tuning]

DATA holds one folder a source with a `train.jsonl` in it. A model is trained on all twelve sources, evenly dealt, with
every reward looking on. At each branch, from the same weights and moments, it is trained 8 steps on each source alone,
three times over with other text: the mean drop of the goal's held-out loss is the source's worth. Prints the Spearman
rank correlation of each reward's mean by source (since the branch before) with the worth, that of the whole gradient's
cosine, and what align costs of a step. About two minutes a seed.
"""

import argparse
import copy
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from goal_world import REPORTED, TUNING, World, prepare

from bandit.reward import REWARDS
from curriculum.tokens.corpus import Corpus
from trainer import optim, weights
from trainer.align import MEMORY, Alignment
from trainer.build import PROBE_STEPS
from trainer.goal import GoalLoss, GoalText
from trainer.model import Decoder
from trainer.ring import Ring
from trainer.step import TrainStep

CPU = torch.device("cpu")
BRANCH_STEPS, BRANCH_RATE, REPEATS = 8, 1e-3, 3


def spearman(one: list[float], other: list[float]) -> float:
    """Rank correlation, equal values (to a thousandth of their unit) sharing their ranks; 0 where all are equal."""

    def ranks(values: list[float], unit: float) -> np.ndarray:
        rounded = np.round(np.array(values) / unit)
        return np.array([(rounded < value).sum() + ((rounded == value).sum() - 1) / 2 for value in rounded])

    first, second = ranks(one, 1e-3), ranks(other, 1e-6)
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) > 0 else 0.0


class Whole:
    """The whole gradient's cosine with the goal's: what the watched part stands in for."""

    def __init__(self, align: Alignment) -> None:
        self.align, self.parameters = align, list(align.model.parameters())
        self.goal = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    def probe(self, step: int, memory: float) -> None:
        if (step - 1) % self.align.every:
            return
        batches = self.align.text.batch((step - 1) // self.align.every)
        for goal in self.goal:
            goal.mul_(memory)
        for windows in batches:
            found = torch.autograd.grad(self.align.model.loss(windows), self.parameters)
            length = float(sum((gradient**2).sum() for gradient in found)) ** 0.5 * len(batches)
            for goal, gradient in zip(self.goal, found, strict=True):
                goal.add_(gradient, alpha=(1 - memory) / length)

    def cosine(self, windows: torch.Tensor) -> float:
        gradient = torch.autograd.grad(self.align.model.loss(windows), self.parameters)
        dot, own, goal = (
            sum(float((a * b).sum()) for a, b in zip(x, y, strict=True))
            for x, y in ((gradient, self.goal), (gradient, gradient), (self.goal, self.goal))
        )
        return dot / (own * goal) ** 0.5 if goal else 0.0


class Bench:
    """One seed's run and what looks on."""

    def __init__(self, world: World, data: Path, folder: Path, seed: int, steps: int) -> None:
        config = prepare(
            world, data, folder, f"reward-{seed}", curriculum="", steps=steps, seed=seed, oracle=False
        )
        self.config, self.world, self.names = config, world, [*world.good, *world.junk]
        self.corpus = Corpus.open(config.resolve(config.data.dir), config.model.block_size, seed)
        self.model = weights.build(config, self.corpus.vocab_size)
        self.model.initialise(seed)
        self.optimizer = optim.build(self.model, weight_decay=0.01, betas=(0.9, 0.95), device=CPU)
        train = config.train
        windows = PROBE_STEPS * train.micro_batch * train.grad_accum
        text = GoalText(self.corpus, world.good, windows=windows, chunk=train.micro_batch, device=CPU)
        even = -(-windows // len(world.good)) * len(world.good)
        fixed = GoalText(self.corpus, world.good, windows=even, chunk=train.micro_batch, device=CPU)
        every = config.curriculum.probe_every
        self.align = Alignment(self.model, text, every=every, autocast=nullcontext())
        goal = GoalLoss(self.model, fixed, every=every, autocast=nullcontext())
        self.step = self.trainer(self.align, goal)
        self.whole = Whole(self.align)
        self.cursor = dict.fromkeys(self.names, 0)
        self.rewards = {name: kind(range(len(self.names))) for name, kind in REWARDS.items()}

    def trainer(self, align: Alignment | None, goal: GoalLoss | None) -> TrainStep:
        ring = Ring(16, self.config.train.grad_accum, CPU)
        return TrainStep(
            self.model,
            self.optimizer,
            ring,
            grad_clip=1.0,
            autocast=nullcontext(),
            align=align,
            goal_loss=goal,
        )

    def batch(self, name: str) -> torch.Tensor:
        count = self.config.train.micro_batch
        windows = np.empty((count, self.config.model.block_size + 1), dtype=np.int64)
        self.corpus.fill(windows, name, self.names.index(name) + 1, self.cursor[name])
        self.cursor[name] += count
        return torch.from_numpy(windows)

    def rate(self, step: int) -> float:
        train = self.config.train
        return optim.learning_rate(
            step, peak=train.lr, floor=train.min_lr, warmup_steps=train.warmup_steps, steps=train.steps
        )

    def goal(self) -> float:
        with torch.inference_mode():
            return statistics.fmean(
                float(self.model.loss(torch.from_numpy(self.corpus.heldout(name, 1000))))
                for name in self.world.good
            )

    def train(self, first: int, last: int) -> dict[str, list[float]]:
        """Train steps first..last evenly dealt; each reward's mean by source, the raw cosines' too."""
        pulls = self.config.train.grad_accum
        seen: dict[str, list[list[float]]] = {
            name: [[] for _ in self.names] for name in (*self.rewards, "part", "whole")
        }
        order: list[int] = []
        for step in range(first, last + 1):
            while len(order) < pulls:
                draw = np.random.default_rng([step, len(order)])
                order += draw.permutation(len(self.names)).tolist()
            arms, order = order[:pulls], order[pulls:]
            windows = torch.stack([self.batch(self.names[arm]) for arm in arms])
            self.whole.probe(step, MEMORY)
            cosines = [self.whole.cosine(pull) for pull in windows]
            self.step.run(step, windows, self.rate(step))
            result = self.step.ring.read(step)
            for reward in self.rewards.values():
                if result.goal is not None:
                    reward.probe(result.goal)
            for arm, loss, signal, cosine in zip(arms, result.losses, result.signals, cosines, strict=True):
                for name, reward in self.rewards.items():
                    wanted = signal if reward.needs == "cosine" else None
                    seen[name][arm].append(reward.update(arm, loss, wanted))
                if signal is not None:
                    seen["part"][arm].append(signal)
                    seen["whole"][arm].append(cosine)
        return {name: [statistics.fmean(values) for values in arms] for name, arms in seen.items()}

    def worth(self) -> list[float]:
        """Drop of the goal's loss by a little training on each source, in nats; the run is left as it was."""
        model, optimizer = (
            copy.deepcopy(self.model.state_dict()),
            copy.deepcopy(self.optimizer.state_dict()),
        )
        plain, before = self.trainer(None, None), self.goal()
        worth = []
        for name in self.names:
            drops = []
            for _ in range(REPEATS):
                for step in range(1, BRANCH_STEPS + 1):
                    pulls = torch.stack([self.batch(name) for _ in range(self.config.train.grad_accum)])
                    plain.run(step, pulls, BRANCH_RATE)
                drops.append(before - self.goal())
                self.model.load_state_dict(model)
                self.optimizer.load_state_dict(copy.deepcopy(optimizer))
            worth.append(statistics.fmean(drops))
        return worth

    def cost(self, step: int) -> float:
        """What align adds to a step: (a probe / its interval + a cosine a pull) / a step, each the least of many tries.

        The least, since whole runs differ by more than this when other programs are busy. step: one with a probe.
        """
        plain, align = self.trainer(None, None), self.align
        pulls = torch.stack([self.batch(self.names[0]) for _ in range(self.config.train.grad_accum)])
        self.model.loss(pulls[0]).backward()  # a gradient to read

        def cosines() -> None:
            align.summed = None
            for _ in pulls:
                align.cosine()

        def least(work: Callable[[], object], tries: int) -> float:
            seconds = []
            for _ in range(tries):
                began = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - began)
            return min(seconds)

        compared, probed = least(cosines, 200), least(lambda: align.begin(step), 60)
        trained = least(lambda: plain.run(step, pulls, 1e-4), 200)
        return (probed / align.every + compared) / trained


def parameters(model: Decoder) -> str:
    return f"{model.parameter_count():,} parameters"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--branches", default="400,800,1200")
    parser.add_argument("--world", choices=("reported", "tuning"), default="reported")
    parser.add_argument("--out", type=Path, help="keep the token files here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = {"reported": REPORTED, "tuning": TUNING}[arguments.world]
    branches = [int(branch) for branch in arguments.branches.split(",")]
    table: dict[str, list[float]] = {}
    agreement, costs = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary)).resolve()
        for seed in map(int, arguments.seeds.split(",")):
            bench, before = Bench(world, arguments.data, folder, seed, steps=2500), 0
            print(
                f"machine {platform.node()}, {os.cpu_count()} cores, torch {torch.__version__}; seed {seed}, "
                f"{parameters(bench.model)}",
                flush=True,
            )
            for branch in branches:
                means = bench.train(before + 1, branch)
                worth, before = bench.worth(), branch
                row = {name: spearman(values, worth) for name, values in means.items()}
                for name, value in row.items():
                    table.setdefault(name, []).append(value)
                agreement.append(spearman(means["part"], means["whole"]))
                print(
                    f"step {branch}: "
                    + "  ".join(f"{name} {value:+.2f}" for name, value in row.items())
                    + f"  (part with whole {agreement[-1]:+.2f})",
                    flush=True,
                )
                for at in np.argsort(worth)[::-1]:
                    print(f"    {bench.names[at]:<20} worth {1000 * worth[at]:+7.2f} mnat  ", end="")
                    print("  ".join(f"{name} {values[at]:+.3f}" for name, values in means.items()))
            costs.append(bench.cost(before + 1 + -before % bench.align.every))
    print("mean rank correlation with measured worth (spread over seeds and branches):")
    for name, values in sorted(table.items(), key=lambda item: -statistics.fmean(item[1])):
        print(f"  {name:<12} {statistics.fmean(values):+.2f}  ({min(values):+.2f} .. {max(values):+.2f})")
    print(f"the watched part ranks as the whole gradient: {statistics.fmean(agreement):+.2f}")
    print(f"align costs {100 * statistics.fmean(costs):.1f} % of a step (asked: under 5 %)")


if __name__ == "__main__":
    main()
