"""The memorisation watch: recited sources it names, and healthy ones that it must not.

python bench/gate_watch.py [--seeds 100] [--runs 1000]
"""

import argparse
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from bandit_table import processor

from curriculum.gate.watch import Source, Watch

EACH = (10, 25, 100, 400)  # pulls of the source a sample
HEALTHY, WITHIN = 10, 30  # samples before it is recited, and within which it must be named
SAMPLES = 300  # of a healthy run


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="runs a cell of the first table")
    parser.add_argument("--runs", type=int, default=1_000, help="healthy runs a kind, of 25 pulls a sample")
    given = parser.parse_args()
    print(f"{processor()}, Python {sys.version.split()[0]}, one thread\n")
    print(
        f"Sources named within {WITHIN} samples, of {given.seeds} seeds, and in every sample from there to the last\n"
    )
    print(
        f"| recited | loss | {' | '.join(f'{each} pulls' for each in EACH)} |\n|---|---|{'---|' * len(EACH)}"
    )
    for loss in (0.13, 0.8):
        for share in (0.2, 0.5, 0.8):
            cells = []
            for each in EACH:
                found = [named(seed, share, each, loss) for seed in range(given.seeds)]
                hits = [one for one in found if one and one[0] > 0]
                stays = sum(one == list(range(one[0], WITHIN + 1)) for one in hits)
                cells.append(f"{len(hits)}, {stays}")
            print(f"| {share:.0%} | {loss} | {' | '.join(cells)} |", flush=True)
    print(f"\nHealthy sources named in {SAMPLES} samples of 25 pulls, of {given.runs} runs\n")
    print("| losses | named |\n|---|---|")
    for kind in (normal, left_tail, noisy, log_normal, falling, plateau, spike, wandering):
        wrong = sum(ever_named(kind(random.Random(seed))) for seed in range(given.runs))
        print(f"| {kind.__doc__} | {wrong} |", flush=True)


def named(seed: int, share: float, each: int, loss: float) -> list[int]:
    """The samples, counted from the first recited one, with which the source is named."""
    draw, watch, seen = random.Random(seed), Watch(), []
    for sample in range(1, HEALTHY + WITHIN + 1):
        for _ in range(each):
            recited = sample > HEALTHY and draw.random() < share
            watch.pull(4, loss + draw.gauss(0, 0.02) if recited else draw.gauss(2.8, 0.3))
        if watch.verdict(low=False).memorised:
            seen.append(sample - HEALTHY)
    return seen


def ever_named(losses: Iterator[float]) -> bool:
    """Whether a source with these losses is named within a run."""
    source = Source()
    for _ in range(25 * SAMPLES):
        source.take(next(losses))
        if source.named:
            return True
    return False


def normal(draw: random.Random) -> Iterator[float]:
    """normal, 2.8 +- 0.3"""
    while True:
        yield draw.gauss(2.8, 0.3)


def left_tail(draw: random.Random) -> Iterator[float]:
    """exponential tail below 3.0, 0.25 long"""
    while True:
        yield 3 - draw.expovariate(4)


def noisy(draw: random.Random) -> Iterator[float]:
    """normal, 3.0 +- 0.9"""
    while True:
        yield max(0.05, draw.gauss(3.0, 0.9))


def log_normal(draw: random.Random) -> Iterator[float]:
    """log-normal tail below 4.0"""
    while True:
        yield 4 - 0.5 * math.exp(draw.gauss(0, 0.6))


def falling(draw: random.Random) -> Iterator[float]:
    """falling from 9 as learning goes on, some after a plateau"""
    tau, to, spread = 10 ** draw.uniform(1.3, 3.5), draw.uniform(1.2, 3.5), 10 ** draw.uniform(-1.7, -0.4)
    flat, at = draw.choice((0, 0, 20, 100, 500)), 0
    while True:
        yield to + (9 - to) * math.exp(-max(0, at - flat) / tau) + draw.gauss(0, spread)
        at += 1


def plateau(draw: random.Random) -> Iterator[float]:
    """a plateau, then a straight line down"""
    spread, flat, slope = (
        10 ** draw.uniform(-1.7, -0.4),
        int(10 ** draw.uniform(1.5, 3.3)),
        draw.uniform(-4, -1.5),
    )
    at = 0
    while True:
        yield max(1.5, 9 - max(0, at - flat) * 10**slope) + draw.gauss(0, spread)
        at += 1


def spike(draw: random.Random) -> Iterator[float]:
    """a spike of up to 3 nats and 300 pulls"""
    first, tall, long, at = draw.randint(100, 800), draw.uniform(0.3, 3), draw.randint(3, 300), 0
    while True:
        yield draw.gauss(2.8, 0.15) + tall * (first <= at < first + long)
        at += 1


def wandering(draw: random.Random) -> Iterator[float]:
    """a level that wanders by 0.2"""
    level = 0.0
    while True:
        level = 0.99 * level + draw.gauss(0, 0.03)
        yield 2.8 + level + draw.gauss(0, 0.15)


if __name__ == "__main__":
    main()
