"""I04: the gate was there, and wired to another runner (004): garbage from step 80,000, stopped by hand at 165,000."""

from pathlib import Path

import pytest

from curriculum import config as configs
from curriculum.errors import Exit
from state.rows import read_rows
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer import sampling
from trainer.checkup import Checkup
from trainer.doctor import rehearsal
from trainer.doctor.checks import Check

REGION = "region region region region region region region region"


def drawn_and_not_judged(patch: pytest.MonkeyPatch) -> None:
    """What that runner did: it stored samples, and asked nobody."""

    def sample(self: Checkup, step: int) -> bool:
        self.parts.generate(self.parts.config.gate.prompts[0], step)
        return False

    patch.setattr(Checkup, "sample", sample)


def no_look_at_the_gate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rehearsal, "gate", lambda *given: Check("gate attached", True, "", ""))


@incident(off=drawn_and_not_judged)
def test_a_run_that_says_region_region_halts(config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    said: list[int] = []

    def generate(*given: object, **named: object) -> sampling.Drawn:
        said.append(1)
        return sampling.Drawn(REGION, [1, 2, 3], 0.1)

    monkeypatch.setattr(sampling, "generate", generate)
    outcome = go(config)
    assert len(said) >= 5, "samples were drawn"
    caught(outcome["exit"] == Exit.HALTED, f"went on to step {outcome['step']}")
    judged = read_rows(the_run(config).samples)
    assert [row["verdict"]["kind"] for row in judged] == ["low"] * 4 + ["halt"]
    return f"halts at the {len(judged)}th sample"


@incident(off=no_look_at_the_gate)
def test_a_gate_that_is_not_attached_is_found_before_the_run(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    drawn_and_not_judged(monkeypatch)
    read = configs.load(config)
    with rehearsal.rehearse(rehearsal.short(read)) as done:
        assert done.samples == [] and len(done.losses) == rehearsal.STEPS
        found = rehearsal.gate(read, done)
    caught(not found.ok, "the gate is taken to be attached")
    return "`doctor`, before step 1"
