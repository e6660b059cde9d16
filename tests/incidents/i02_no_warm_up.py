"""I02: the learning rate jumped from 0 to its peak on fresh weights (002 F2)."""

from pathlib import Path

import pytest

from curriculum import config as configs
from curriculum import config_rules
from state.rows import read_rows
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer import optim

PEAK, WARMUP = 3e-3, 10


def unsaid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(config_rules, "warnings", lambda config: [])


def unread(patch: pytest.MonkeyPatch) -> None:
    whole = optim.learning_rate
    patch.setattr(optim, "learning_rate", lambda step, **given: whole(step, **{**given, "warmup_steps": 0}))


@incident(off=unsaid)
def test_a_config_without_warm_up_is_warned_about(config: Path) -> str:
    config.write_text(config.read_text().replace("warmup_steps = 10\nb", "warmup_steps = 0\nb"))
    read = configs.load(config)
    assert (
        optim.learning_rate(1, peak=PEAK, floor=0.0, warmup_steps=read.train.warmup_steps, steps=60) == PEAK
    )
    caught(any(line.startswith("I02: ") for line in config_rules.warnings(read)), "no warning")
    return "at `config check`"


@incident(off=unread)
def test_the_first_steps_rise_to_the_peak(config: Path) -> str:
    go(config, until=WARMUP)
    rates = [row["lr"] for row in read_rows(the_run(config).pulls)]
    assert len(rates) == WARMUP and rates[-1] > 0.9 * PEAK
    caught(rates[0] == pytest.approx(PEAK / WARMUP), f"the first step's rate is {rates[0]}")
    assert rates == sorted(rates)
    return "step 1 has a tenth of the peak"
