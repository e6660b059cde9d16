"""Losses of every size, 20,000 updates each: what stays finite, and what a library says when it cannot go on.

Run as `python bandit_safety.py ours` or `python bandit_safety.py odm SITE-PACKAGES`, a child of bench/bandit.py: a JSON
line for each policy and loss. The peer is fms-acceleration-odm, online data mixing by EXP3; its update of the weights
is called as its trainer calls it after an evaluation, with the same loss for every source, and its draw as its
iterator makes it. Needs torch.
"""

import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

LOSSES = (2.0, 5.5, 10.8, 0.0, 1e30, math.inf, math.nan)
UPDATES = 20_000
SOURCES = 12
LOOK_EVERY = 500  # updates between two looks at the whole state


class NotFinite(Exception):
    """The state holds a number that is not finite."""


def run(policy: str, loss: float, update: Callable[[], None], look: Callable[[], None]) -> dict[str, Any]:
    """Update until something is raised; says after how many updates, what, and whether the state is finite still."""
    ending = ""
    done = 0
    try:
        for done in range(UPDATES):
            update()
            if done % LOOK_EVERY == 0:
                look()
        done += 1
        look()
    except Exception as error:  # a peer may raise anything, and that is what is asked
        ending = f"{type(error).__name__}: {error}"
    try:
        look()
        finite = True
    except Exception:
        finite = False
    return {"row": policy, "loss": str(loss), "updates": done, "ending": ending, "finite": finite}


def ours() -> Iterator[dict[str, Any]]:
    """Every policy, rewarded for progress of the losses; the state is what would be written."""
    from bandit.policies import POLICIES
    from bandit.reward import ProgressReward
    from bandit.scheduler import ArmSpec, Scheduler, SchedulerConfig
    from state.envelope import canonical

    for policy in POLICIES:
        for loss in LOSSES:
            config = SchedulerConfig(seed=1, grad_accum=1, windows_per_pull=1, delay=1, policy=policy)
            arms = [ArmSpec(f"source-{arm}", arm, windows=10**9) for arm in range(SOURCES)]
            scheduler, reward = Scheduler(config, arms), ProgressReward(range(SOURCES))
            steps = iter(range(1, UPDATES + 1))

            def update(loss=loss, scheduler=scheduler, reward=reward, steps=steps) -> None:
                ticket = scheduler.pick(next(steps))
                scheduler.credit(ticket.id, reward.update(ticket.arm, loss))

            def look(scheduler=scheduler, reward=reward) -> None:
                canonical({"bandit": scheduler.snapshot(), "reward": reward.snapshot()})

            yield run(policy, loss, update, look)


def odm(site_packages: str) -> Iterator[dict[str, Any]]:
    """The peer's shipped class at its default settings, without the data sets that only its iterator reads."""
    import torch

    sys.path.append(site_packages)
    for name in (
        "datasets",
        "torchdata",
        "torchdata.stateful_dataloader",
        "transformers",
        "sentence_transformers",
        "tqdm",
    ):
        sys.modules.setdefault(name, MagicMock())
    package = ModuleType("fms_acceleration_odm")  # its own __init__ imports a trainer as well
    package.__path__ = [f"{site_packages}/fms_acceleration_odm"]
    sys.modules[package.__name__] = package
    from fms_acceleration_odm.odm.dataset import OnlineMixingDataset

    for loss in LOSSES:
        mixing = OnlineMixingDataset.__new__(OnlineMixingDataset)
        mixing.gamma, mixing.eta, mixing.total_categories = 0.1, 0.3, SOURCES
        mixing.sampling_weights = torch.ones(SOURCES, dtype=torch.float64)
        mixing._update_sampling_ratio(mixing.sampling_weights)
        draw = random.Random(42)

        def update(mixing=mixing, loss=loss, draw=draw) -> None:
            mixing._update_weights(torch.ones(SOURCES), torch.full((SOURCES,), loss))
            draw.choices(range(SOURCES), weights=mixing.sampling_ratio)

        def look(mixing=mixing) -> None:
            if not all(map(math.isfinite, [*mixing.sampling_ratio, *mixing.sampling_weights.tolist()])):
                raise NotFinite("weights")

        yield run("EXP3, its defaults", loss, update, look)


if __name__ == "__main__":
    for record in {"ours": ours, "odm": odm}[sys.argv[1]](*sys.argv[2:]):
        print(json.dumps(record), flush=True)
