"""I10: a source was learned by heart: loss 0.13 on its samples (002), 0.0 (001)."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandit import scheduler
from bandit.simulation.simulate import simulate
from curriculum import config as configs
from curriculum.gate import audits, watch
from curriculum.gate.audits import Audits
from curriculum.gate.reference import load
from curriculum.gate.watch import Watch
from curriculum.text import tokenizer as tokenizers
from curriculum.tokens import manifest as manifests
from curriculum.tokens.btok import Btok
from tests.incidents import i05_noise_is_paid as noise
from tests.incidents.switch import caught, incident

PULLS = 25  # of each source between two samples
HEALTHY = 10  # samples before a source begins to be recited


def no_quantile(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(watch, "NAMED", 10**9)


def no_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(audits, "LEAST_COPY", 10**9)


def no_penalty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        scheduler, "repetition_terms", lambda served, windows: (np.ones(len(served)), np.ones(len(served)))
    )


@incident(off=no_quantile)
def test_losses_near_zero_name_the_source() -> str:
    """Source 4's windows are recited, one after the other, at 0.13 nats a token; the rest goes on as it was."""
    draw, seen = random.Random(1), Watch()
    names = {1: "chat", 2: "oasst", 3: "gutenberg", 4: "repo-docs"}
    named = []
    for sample in range(1, HEALTHY + 101):
        for _ in range(PULLS):
            for arm in names:
                recited = arm == 4 and sample > HEALTHY and draw.random() < 0.2
                seen.pull(arm, 0.13 if recited else draw.gauss(2.8, 0.3))
        said = seen.verdict(low=False)
        if sample <= HEALTHY:
            assert said.memorised == (), "nothing is wrong yet"
        if said.memorised:
            named.append(sample - HEALTHY)
            assert said.memorised == (4,)
            assert any("repo-docs is being memorised" in line for line in seen.alarms(names))
    caught(named, "learned by heart and nothing said so")
    assert named == list(range(named[0], 101)), "as long as it lasts"
    return f"samples {named[0]} to {named[-1]} of 100 of a source a fifth of whose pulls lose 0.13"


@incident(off=no_copies)
def test_a_sample_that_recites_the_training_text_is_found(config: Path) -> str:
    read = configs.load(config)
    folder = read.resolve(read.data.dir)
    file, found = Btok.open(folder / "gamma.btok"), load(folder, manifests.read(folder))
    assert found is not None
    recited = file.tokens[int(file.starts[3]) : int(file.starts[4]) - 1].tolist()
    judged = Audits(found).judge(tokenizers.load(folder / tokenizers.NAME).decode(recited), recited)
    assert judged.longest_copy is not None and judged.longest_copy >= 64
    caught("longest_copy" in judged.found, "recited and passed")
    assert judged.copied_from == "gamma"
    return "the first sample that recites 64 tokens or more"


@incident(off=no_penalty)
def test_what_is_read_again_and_again_loses_its_share() -> str:
    """The noisy source of I05 with the reward that pays for it, 300 windows long: by its end it is read over and over."""
    asked = noise.plan("improvement")
    arms = [replace(spec, windows=300) if spec.name == noise.LISTS else spec for spec in asked.arms]
    windows = np.array([spec.windows for spec in arms])
    found = simulate(replace(asked, arms=arms, world=replace(asked.world, windows=windows)))
    assert found.epochs[-1] > 1, "it is read more than once"
    caught(found.epochs[-1] < 4, f"read {found.epochs[-1]:.1f} times over")
    return f"read {found.epochs[-1]:.1f} times over"
