"""I16: the funnel's softmax was to widen and narrowed instead, to 200 tokens for 99 % of the training (000)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from curriculum import config as configs
from curriculum import config_rules
from curriculum.errors import Exit, FirehoseError
from tests.incidents.switch import caught, incident
from trainer import funnel as funnels
from trainer.doctor import rehearsal
from trainer.doctor.checks import Check
from trainer.funnel import Funnel

OPENS = ("lr = 3e-3", "lr = 3e-3\nfunnel_steps = 25\nfunnel_start = 20")


def no_look_at_the_funnel(patch: pytest.MonkeyPatch) -> None:
    whole = rehearsal.funnel

    def passed(done: Any) -> tuple[list[Check], float]:
        _, measured = whole(done)
        return [Check("funnel", True, "", "")], measured

    patch.setattr(rehearsal, "funnel", passed)


def no_rules(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(config_rules._Rules, "cadence", lambda self: None)


@incident(off=no_look_at_the_funnel)
def test_a_funnel_that_narrows_is_found_before_the_run(config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    widening = Funnel.size
    monkeypatch.setattr(Funnel, "size", lambda self, step: widening(self, max(1, self.steps + 2 - step)))
    made = Funnel(torch.arange(401), start=20, steps=25)
    assert made.size(1) == 401 and made.size(26) == made.size(10_000) == 20, (
        "wide at first, then locked at 20"
    )
    config.write_text(config.read_text().replace(*OPENS))
    read = configs.load(config)
    with rehearsal.rehearse(rehearsal.short(read)) as done:
        (found,), _ = rehearsal.funnel(done)
    caught(not found.ok, "a funnel that ends at 20 tokens passed")
    return "`doctor`, before step 1"


@incident(off=no_rules)
def test_one_that_would_never_open_is_refused(config: Path) -> str:
    config.write_text(config.read_text().replace(OPENS[0], f"{OPENS[1]}".replace("= 25", "= 60")))
    try:
        read = configs.load(config)
    except FirehoseError as error:
        assert error.exit_code is Exit.REFUSED and "never ends" in error.message
        return "exit 13 at `config check`"
    assert (
        funnels.Funnel(torch.arange(401), start=20, steps=read.train.funnel_steps).size(read.train.steps)
        < 401
    )
    caught(False, "no step would train on the whole vocabulary")
    return ""
