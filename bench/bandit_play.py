"""Plays one library's policies on request, one JSON object a line: the half of bench/bandit.py that is a child process.

Runs in the peer's own virtual environment, with numpy alone beside the peer. Each library is asked in a process of
its own, so that nothing one imports slows another down.
"""

import json
import math
import os
import pickle
import platform
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from bandit_problems import PROBLEMS, Problem


class Policy(Protocol):
    """What a library's policy looks like here. Rewards come in the order of the picks."""

    def choose(self) -> int: ...

    def credit(self, arm: int, reward: float) -> None: ...

    def see_all(self, rewards: list[float]) -> None:
        """Before timing: one reward for each arm, by the quickest way there is."""


@dataclass(frozen=True)
class Row:
    """One policy in one configuration. make(problem, delay in rounds, seed); told: it is told the horizon, the
    changes or the noise, and so stands in grey."""

    name: str
    make: Callable[[Problem, int, int], Policy]
    told: bool = False


@dataclass(frozen=True)
class Library:
    """speed: name to make(arms), a policy to be timed. lag: rewards still out at a pick when it is timed."""

    name: str
    version: str
    rows: list[Row]
    speed: dict[str, Callable[[int], Policy]]
    lag: int = 0
    state: Callable[[Policy], dict[str, float]] = field(default_factory=lambda: pickled)


class Absent(Exception):
    """This version of the library has no such policy."""


def play(problem: Problem, delay: int, seed: int, row: Row) -> tuple[float, float]:
    """One run; returns (pseudo-regret, processor time of a round in microseconds).

    The reward of round t is handed over after the pick of round t + delay. Processor time, because a busy machine
    stretches the other kind; the world's own part, some 0.5 us, is in it for every policy alike.
    """
    random.seed(seed)
    np.random.seed(seed)
    world = problem.world(seed)
    policy = row.make(problem, delay, seed)
    waiting: deque[tuple[int, float]] = deque()
    started = time.process_time()
    for round in range(problem.horizon):
        arm = policy.choose()
        waiting.append((arm, world.pull(round, arm)))
        if len(waiting) > delay:
            policy.credit(*waiting.popleft())
    return world.regret, (time.process_time() - started) / problem.horizon * 1e6


class Timing:
    """A policy that has seen every arm once, where it must, and goes on for as many cycles as it is asked to."""

    def __init__(self, library: Library, name: str, arms: int) -> None:
        random.seed(0)
        np.random.seed(0)
        self.policy = library.speed[name](arms)
        self.rewards = np.random.default_rng(0).random(4096).tolist()
        self.waiting: deque[tuple[int, float]] = deque()
        self.lag = library.lag
        self.policy.see_all([self.rewards[arm % 4096] for arm in range(arms)])

    def cycles(self, count: int) -> float:
        """Microseconds of processor time of one pick and one credit, the mean over `count`."""
        policy, rewards, waiting, lag = self.policy, self.rewards, self.waiting, self.lag
        started = time.process_time()
        for cycle in range(count):
            waiting.append((policy.choose(), rewards[cycle % 4096]))
            if len(waiting) > lag:
                policy.credit(*waiting.popleft())
        return (time.process_time() - started) / count * 1e6


def pickled(policy: Policy) -> dict[str, float]:
    """Size and milliseconds of the state as pickle, what the peers offer."""
    return {"pickle": median_ms(lambda: pickle.dumps(policy)), "pickle bytes": len(pickle.dumps(policy))}


def median_ms(work: Callable[[], Any]) -> float:
    """The median of five, in milliseconds of processor time."""
    times = []
    for _ in range(5):
        started = time.process_time()
        work()
        times.append((time.process_time() - started) * 1e3)
    return sorted(times)[2]


def serve(load: Callable[[], Library]) -> None:
    """Answer requests on standard input until it ends. What a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    library = load()
    timing: Timing | None = None

    def answer(**record: Any) -> None:
        answers.write(json.dumps(record) + "\n")

    answer(
        library=library.name,
        version=library.version,
        python=platform.python_version(),
        numpy=np.__version__,
        rows={row.name: row.told for row in library.rows},
        speed=list(library.speed),
    )
    rows = {row.name: row for row in library.rows}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "play":
                problem, delay, row = PROBLEMS[request["problem"]], request["delay"], rows[request["row"]]
                started = time.process_time()
                for number, seed in enumerate(request["seeds"]):
                    late = number + request["done"] >= request["least"]
                    if late and time.process_time() - started > request["limit"]:
                        break
                    regret, us = play(problem, delay, seed, row)
                    if not math.isfinite(regret):
                        raise ValueError(f"regret {regret}")
                    answer(seed=seed, regret=round(regret, 3), us=round(us, 2))
                answer(done=True)
            elif request["do"] == "ready":
                timing = Timing(library, request["name"], request["arms"])
                answer(done=True)
            elif request["do"] == "cycles" and timing:
                answer(us=timing.cycles(request["count"]))
            elif request["do"] == "state" and timing:
                answer(**library.state(timing.policy))
        except Exception as error:  # a peer may raise anything; the others go on
            answer(failed=f"{type(error).__name__}: {error}")
