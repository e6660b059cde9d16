"""Anything an operator may do, in any order, with every bound of DESIGN 4.1 checked at every pick (`audit.py`).

Some 20,000 picks here; `python bench/promises.py --picks 1000000` makes the full count.
"""

import random

import pytest
from audit import Audit, random_config, random_specs, wander
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bandit.policies import POLICIES


class Operator(RuleBasedStateMachine):
    """Hypothesis chooses policy, bounds and actions; a failure comes back as the shortest list of actions."""

    audit: Audit

    @initialize(seed=st.integers(0, 2**16), policy=st.sampled_from(list(POLICIES)), count=st.integers(1, 8))
    def launch(self, seed: int, policy: str, count: int) -> None:
        rng = random.Random(seed)
        self.audit = Audit(random_config(rng, policy), random_specs(rng, count))

    @rule(picks=st.integers(1, 20))
    def pick(self, picks: int) -> None:
        for _ in range(picks):
            self.audit.pick()

    @rule(number=st.integers(0, 100))
    def credit_early(self, number: int) -> None:
        self.audit.credit_early(number)

    @rule(awake=st.integers(0, 255))
    def sleep(self, awake: int) -> None:
        self.audit.sleep(awake)

    @rule(seed=st.integers(0, 2**16))
    def edit(self, seed: int) -> None:
        self.audit.edit(random_specs(random.Random(seed), len(self.audit.ids)))

    @precondition(lambda self: self.audit.step > 0)
    @rule(back=st.integers(0, 3), shortfall=st.floats(0.0, 1.0))
    def penalize(self, back: int, shortfall: float) -> None:
        self.audit.penalize(back, shortfall)

    @precondition(lambda self: self.audit.step > 0)
    @rule(back=st.integers(1, 5))
    def cancel(self, back: int) -> None:
        self.audit.cancel(back)

    @rule(packed=st.booleans())
    def cut(self, packed: bool) -> None:
        self.audit.cut(packed)

    def teardown(self) -> None:
        if hasattr(self, "audit"):
            self.audit.cut(packed=False)


Operator.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_every_bound_holds_whatever_an_operator_does = Operator.TestCase


@pytest.mark.parametrize("policy", POLICIES)
def test_every_bound_holds_on_a_long_walk(policy: str) -> None:
    for seed in range(3):
        audit = wander(seed, 600, policy)
        assert audit.picks >= 600
