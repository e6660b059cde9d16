"""Adapters of the peers to bench/bandit_play.py; run as `python bandit_peer.py NAME` in the peer's environment.

One configuration a row for all problems. Where a row is told the horizon, the number of changes or the noise, it is
marked. UCB1 has the exploration of its paper (Auer, Cesa-Bianchi and Fischer 2002) in all three libraries.
"""

import functools
import sys
from importlib.metadata import version
from math import log, sqrt
from pathlib import Path

from bandit_play import Absent, Library, Row, serve


class MabwiserPolicy:
    """MABWiser never tries an unseen arm and cannot pick before its first reward: those picks are the harness's."""

    def __init__(self, arms, policy, seed):
        from mabwiser.mab import MAB

        self.mab = MAB(arms=list(range(arms)), learning_policy=policy, seed=seed)
        self.arms, self.picks, self.update = arms, 0, self.mab.fit

    def choose(self):
        self.picks += 1
        if self.picks <= self.arms or self.update == self.mab.fit:
            return (self.picks - 1) % self.arms
        return self.mab.predict()

    def credit(self, arm, reward):
        self.update([arm], [reward])
        self.update = self.mab.partial_fit

    def see_all(self, rewards):
        self.mab.fit(list(range(self.arms)), rewards)
        self.picks, self.update = self.arms, self.mab.partial_fit


def mabwiser() -> Library:
    from mabwiser.mab import LearningPolicy

    def row(name, policy):
        return Row(name, lambda problem, delay, seed: MabwiserPolicy(problem.arms, policy, seed))

    return Library(
        "MABWiser",
        version("mabwiser"),
        [
            row("UCB1 alpha=1", LearningPolicy.UCB1(alpha=1.0)),
            row("UCB1 alpha=0.05, default", LearningPolicy.UCB1(alpha=0.05)),
        ],
        {"UCB1": lambda arms: MabwiserPolicy(arms, LearningPolicy.UCB1(alpha=1.0), 0)},
    )


class RiverPolicy:
    """A policy of river, all arms offered at every pick."""

    def __init__(self, arms, policy):
        self.ids, self.policy = list(range(arms)), policy
        self.credit = policy.update

    def choose(self):
        return self.policy.pull(self.ids)

    def see_all(self, rewards):
        self.choose()  # Exp3 refuses a reward before its first pick
        for arm, reward in zip(self.ids, rewards, strict=True):
            self.credit(arm, reward)


def river() -> Library:
    from river import bandit, proba, stats

    policies = {
        "UCB1": lambda seed: bandit.UCB(delta=1, seed=seed),
        "UCB1, EWMean(0.01)": lambda seed: bandit.UCB(delta=1, reward_obj=stats.EWMean(0.01), seed=seed),
        "Thompson, Beta": lambda seed: bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=seed),
        "Exp3 gamma=0.1": lambda seed: bandit.Exp3(gamma=0.1, seed=seed),
        "EpsilonGreedy 0.1": lambda seed: bandit.EpsilonGreedy(epsilon=0.1, seed=seed),
    }

    def row(name, make):
        return Row(name, lambda problem, delay, seed: RiverPolicy(problem.arms, make(seed)))

    def timed(make):
        return lambda arms: RiverPolicy(arms, make(0))

    return Library(
        "river",
        version("river"),
        [row(name, make) for name, make in policies.items()],
        {name: timed(make) for name, make in policies.items()},
    )


class SmpyPolicy:
    """A policy of SMPyBandits as its simulator calls it."""

    def __init__(self, policy):
        policy.startGame()
        self.policy = policy
        self.credit = policy.getReward

    def choose(self):
        return int(self.policy.choice())

    def see_all(self, rewards):
        for arm, reward in enumerate(rewards):
            self.credit(arm, reward)


def smpybandits(source: str | None = None) -> Library:
    if source:
        sys.path.insert(0, source)
    from SMPyBandits import Policies
    from SMPyBandits.Policies import Posterior

    def policy(name, arms, **settings):
        if not hasattr(Policies, name):
            raise Absent(f"this version has no {name}")
        return SmpyPolicy(getattr(Policies, name)(arms, **settings))

    def row(name, kind, **settings):
        return Row(name, lambda problem, delay, seed: policy(kind, problem.arms, **settings))

    def told(name, kind, settings):
        return Row(
            name, lambda problem, delay, seed: policy(kind, problem.arms, **settings(problem)), told=True
        )

    def horizon(problem):
        return {"horizon": problem.horizon}

    def horizon_and_changes(problem):
        return horizon(problem) | {"max_nb_random_events": max(1, problem.changes)}

    def glr(problem):
        # Per-arm restarts, as the configuration that ships with the library tunes them.
        changes, rounds = max(1, problem.changes), problem.horizon
        return {
            "policy": Policies.klUCB_forGLR,
            "per_arm_restart": True,
            "delta": 1 / sqrt(problem.arms * changes * rounds),
            "alpha0": 0.05 * sqrt(problem.arms * changes * log(rounds) / rounds),
            "use_localization": True,
            "lazy_detect_change_only_x_steps": 10,
            "lazy_try_value_s_only_x_steps": 10,
        }

    def cusum(problem):
        return horizon_and_changes(problem) | {
            "policy": Policies.klUCB,
            "epsilon": 0.1,
            "use_localization": True,
            "lazy_detect_change_only_x_steps": 20,
        }

    def monitored(problem):
        window = problem.arms * -(-problem.horizon // 100)
        return horizon(problem) | {"policy": Policies.klUCB, "w": window, "delta": 0.1}

    def tuned_window(problem):
        rounds = problem.horizon
        return {"tau": int(2 * sqrt(rounds * log(rounds) / max(1, problem.changes)))}

    beta = {"posterior": Posterior.DiscountedBeta, "gamma": 0.99}
    glr_class = "BernoulliGLR_IndexPolicy_WithDeterministicExploration"
    if not hasattr(Policies, glr_class):
        glr_class = "GLR_UCB"
    rows = [
        row("UCB1", "UCB"),
        row("klUCB", "klUCB"),
        row("MOSSAnytime", "MOSSAnytime"),
        row("Thompson", "Thompson"),
        row("DiscountedUCB 0.99", "DiscountedUCB", gamma=0.99),
        row("DiscountedThompson 0.99", "DiscountedThompson", **beta),
        row("EFF_RAWUCB sigma=0.5", "EFF_RAWUCB", subgaussian=0.5, alpha=1.4),
        row("EFF_FEWA sigma=0.5", "EFF_FEWA", subgaussian=0.5, alpha=0.06),
        told("SWUCB+, horizon", "SWUCBPlus", horizon),
        told("DiscountedUCB+, changes", "DiscountedUCBPlus", horizon_and_changes),
        told("SWUCB, changes", "SWUCB", tuned_window),
        told("Exp3S, changes", "Exp3S", horizon_and_changes),
        told("GLR-klUCB, changes", glr_class, glr),
        told("CUSUM-UCB, changes", "CUSUM_IndexPolicy", cusum),
        told("M-klUCB, horizon", "Monitored_IndexPolicy", monitored),
        told("EFF_RAWUCB sigma=0.05", "EFF_RAWUCB", lambda problem: {"subgaussian": 0.05, "alpha": 1.4}),
    ]
    timed = {
        "UCB1": functools.partial(policy, "UCB"),
        "MOSSAnytime": functools.partial(policy, "MOSSAnytime"),
        "DiscountedUCB 0.998": functools.partial(policy, "DiscountedUCB", gamma=0.998),
        "DiscountedThompson 0.99": functools.partial(policy, "DiscountedThompson", **beta),
        "EFF_RAWUCB sigma=0.5": functools.partial(policy, "EFF_RAWUCB", subgaussian=0.5, alpha=1.4),
    }
    installed = version("SMPyBandits")
    return Library("SMPyBandits", f"git {commit(source)}" if source else installed, rows, timed)


def commit(source: str) -> str:
    """The commit of a checkout that is not on a branch's name alone."""
    head = (Path(source) / ".git/HEAD").read_text().strip()
    if head.startswith("ref: "):
        head = (Path(source) / ".git" / head.removeprefix("ref: ")).read_text().strip()
    return head[:7]


if __name__ == "__main__":
    loader = {"mabwiser": mabwiser, "river": river, "smpybandits": smpybandits}[sys.argv[1]]
    serve(functools.partial(loader, *sys.argv[2:]))
