"""Adapters of this project's bandit to bench/bandit_play.py; run as `python bandit_ours.py`, a child of bench/bandit.py.

Timed with everything on: delay of eight steps, discount, bounds of weight and of share on a part of the arms, ledger.
"""

import functools
import json
import time
from collections import deque
from importlib.metadata import PackageNotFoundError, version

import msgspec
import numpy as np
from bandit_play import Library, Row, median_ms, serve

from bandit.books import MOST_RECORDS
from bandit.errors import InvalidConfig
from bandit.scheduler import ArmSpec, Scheduler, SchedulerConfig
from state import envelope

POLICIES = ("ucb", "focus-ucb", "softmax-ucb")
LAG = 8  # steps between a timed pick and its credit
UNREPEATED = 10**9  # windows of a source in a problem: no run comes near repeating one


class OurPolicy:
    """A scheduler of one pull a step. delay: rounds a reward is late, so that step t + delay + 1 is the first to know."""

    def __init__(self, arms: list[ArmSpec], policy: str, delay: int, seed: int) -> None:
        config = SchedulerConfig(
            seed=seed,
            grad_accum=1,
            windows_per_pull=1,
            delay=delay + 1,
            policy=policy,
            drop_test=policy == "ucb",  # as a run has it with rewards whose noise is new at every pull
        )
        self.scheduler = Scheduler(config, arms)
        self.step = 0
        self.tickets: deque[int] = deque()

    def choose(self) -> int:
        self.step += 1
        ticket = self.scheduler.pick(self.step)
        self.tickets.append(ticket.id)
        return ticket.arm

    def credit(self, arm: int, reward: float) -> None:
        self.scheduler.credit(self.tickets.popleft(), reward)

    def see_all(self, rewards: list[float]) -> None:
        """As many picks as it takes to meet most arms; one in the background is met in its turn."""
        for reward in rewards:
            self.credit(self.choose(), reward)


class Uniform:
    """Draws an arm evenly at random, and learns nothing."""

    def __init__(self, arms: int, seed: int) -> None:
        self.arms = iter(np.random.default_rng(seed).integers(arms, size=20_000).tolist())

    def choose(self) -> int:
        return next(self.arms)

    def credit(self, arm: int, reward: float) -> None:
        pass


def plain(arms: int) -> list[ArmSpec]:
    return [ArmSpec(str(arm), arm, windows=UNREPEATED) for arm in range(arms)]


def bounded(arms: int) -> list[ArmSpec]:
    """Bounds that bind: a cap on a quarter of the arms, a floor on another, shares on an eighth."""
    return [
        ArmSpec(
            f"source-{arm:05}",
            arm,
            windows=UNREPEATED,
            cap=0.8 if arm % 4 == 0 else 1.3,
            floor=0.2 if arm % 4 == 1 else 0.0,
            min_share=0.5 / arms if arm % 8 == 2 else 0.0,
            max_share=4.0 / arms if arm % 8 == 2 else 1.0,
        )
        for arm in range(arms)
    ]


def state(policy: OurPolicy) -> dict[str, float]:
    """Size and milliseconds of a snapshot, alone, as msgpack, and as the state file's JSON envelope.

    With more than 1,000 arms a state file holds columns instead of a record an arm, and so does the msgpack here.
    """
    scheduler = policy.scheduler
    wide = len(scheduler.arms) > MOST_RECORDS

    def packed() -> bytes:
        return msgspec.msgpack.encode(scheduler.packed(text=False) if wide else scheduler.snapshot())

    def sealed() -> bytes:
        made = envelope.make(
            {"bandit": scheduler.saved()},
            lineage=envelope.new_lineage(),
            serial=1,
            step=policy.step,
            written_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            config_sha256="0" * 64,
        )
        return envelope.seal(made)

    return {
        "snapshot": median_ms(scheduler.snapshot),
        "msgpack": median_ms(packed),
        "msgpack bytes": len(packed()),
        "envelope": median_ms(sealed),
        "envelope bytes": len(sealed()),
        "JSON bytes": len(json.dumps(scheduler.saved())),
    }


def known(policy: str) -> bool:
    """Whether this version has the policy."""
    try:
        SchedulerConfig(seed=1, grad_accum=1, windows_per_pull=1, delay=1, policy=policy)
    except InvalidConfig:
        return False
    return True


def ours() -> Library:
    policies = [policy for policy in POLICIES if known(policy)]

    def row(policy: str) -> Row:
        return Row(policy, lambda problem, delay, seed: OurPolicy(plain(problem.arms), policy, delay, seed))

    try:
        installed = version("firehose")
    except PackageNotFoundError:
        installed = "checkout"
    return Library(
        "firehose",
        installed,
        [
            *map(row, policies),
            Row("uniform random", lambda problem, delay, seed: Uniform(problem.arms, seed)),
        ],
        {
            policy: functools.partial(
                lambda arms, policy: OurPolicy(bounded(arms), policy, LAG - 1, 0), policy=policy
            )
            for policy in policies
        },
        lag=LAG - 1,
        state=state,
    )


if __name__ == "__main__":
    serve(ours)
