"""A bank of collapsing runs, made by code with fixed seeds: bad samples of five kinds among good ones, more and more of them."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from curriculum.gate.backtest import Sample

HEALTHY = 32  # samples before a run begins to go wrong
LONGEST = 3_000  # samples; five in a row come within them also at 30 %, in 99 runs of 100
AFTER = 60  # samples after a ramp, all of them bad
STEADY = (0.30, 0.325, 0.35, 0.375, 0.40)
RAMPS = (100, 150, 200, 300, 500)  # samples from the first bad one to all bad

PUNCTUATION = ["'", "''", "'''", "?", "!", ".", "...", "--", ",", ";", ":", "○", "●"]
# Letters of three scripts, to make words of; the audit looks at scripts, not at words.
FOREIGN = (
    "абвгдежзиклмнопрстуфхцчшыя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "的一是不了人我在有他这中大来上个国到说们",
)


def repetition(draw: random.Random, words: Sequence[str]) -> str:
    """One to three words over and over."""
    cycle = draw.choices(words, k=draw.randint(1, 3))
    return " ".join(itertools.islice(itertools.cycle(cycle), draw.randint(30, 90)))


def punctuation(draw: random.Random, words: Sequence[str]) -> str:
    """Marks without words."""
    return " ".join(draw.choices(PUNCTUATION[: draw.randint(2, 6)], k=draw.randint(30, 90)))


def foreign(draw: random.Random, words: Sequence[str]) -> str:
    """Words of letters of another script, none repeated on purpose."""
    letters = draw.choice(FOREIGN)
    return " ".join("".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(draw.randint(30, 90)))


def salad(draw: random.Random, words: Sequence[str]) -> str:
    """Real words, each independent of the one before. words: with their repetitions, so drawn by frequency."""
    pool = words if draw.random() < 0.5 else sorted(set(draw.choices(words, k=2_000)))
    return " ".join(draw.choices(pool, k=draw.randint(60, 120)))


def dominance(draw: random.Random, words: Sequence[str]) -> str:
    """Text in which one word takes a third to a half of all places."""
    start = draw.randrange(len(words) - 200)
    text = list(words[start : start + draw.randint(80, 120)])
    word = draw.choice(("a", "the", "and", "I"))
    share = draw.uniform(0.34, 0.5)
    return " ".join(word if draw.random() < share else each for each in text)


KINDS: dict[str, Callable[[random.Random, Sequence[str]], str]] = {
    "repetition": repetition,
    "punctuation": punctuation,
    "foreign script": foreign,
    "word salad": salad,
    "one token": dominance,
}


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One run's samples. onset: the step from which samples go bad."""

    world: str
    kind: str
    onset: int
    samples: list[Sample]


def shares(world: str) -> Iterator[float]:
    """The share of bad samples, sample by sample, from the onset on."""
    name, _, value = world.partition(" ")
    number = float(value)
    while name == "steady":
        yield number
    for at in itertools.count(1):
        yield min(1.0, at / number)


def worlds() -> list[str]:
    """Every way in which runs go bad: `steady 0.35`, `ramp 200`."""
    return [*(f"steady {share:g}" for share in (*STEADY, 0.5)), *(f"ramp {length}" for length in RAMPS)]


def trajectories(
    good: Sequence[tuple[float, tuple[str, ...]]],
    bad: dict[str, Sequence[tuple[float, tuple[str, ...]]]],
    each: int,
) -> Iterator[Trajectory]:
    """`each` runs of every world and kind. good, bad: judged samples, score and findings, to draw from."""
    for world in worlds():
        for kind, pool in bad.items():
            for seed in range(each):
                draw = random.Random(f"{world}/{kind}/{seed}")
                samples = [Sample(100 * at, *draw.choice(good)) for at in range(1, HEALTHY + 1)]
                onset = 100 * HEALTHY
                length = LONGEST if world.startswith("steady") else int(world.split()[1]) + AFTER
                for at, share in enumerate(itertools.islice(shares(world), length), HEALTHY + 1):
                    samples.append(Sample(100 * at, *draw.choice(pool if draw.random() < share else good)))
                yield Trajectory(world, kind, onset, samples)
