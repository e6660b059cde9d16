"""I19: the backbone's learning rate was too low for it, and the new layers' falling loss hid that (001)."""

from pathlib import Path

import pytest

from curriculum.errors import Exit
from state.rows import read_rows
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer import ratios

SLOW = "lr_scale = { attention = 1e-5, mlp = 1e-5 }"


def no_range(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ratios, "LOW", 0.0)


@incident(off=no_range)
def test_a_backbone_that_stands_still_is_an_alarm(config: Path) -> str:
    config.write_text(config.read_text().replace("lr = 3e-3", f"lr = 3e-3\n{SLOW}"))
    ended = go(config)
    run = the_run(config)
    losses = [loss for _, loss in read_rows(run.loss)]
    assert losses[-1] < losses[0] - 1, "the loss falls, since the embedding learns"
    told = [event for event in run.events() if event["event"] == "update-ratio"]
    caught(told, "the whole run, and not a word")
    assert {event["alarm"].split(":")[0] for event in told} == {"update of attention", "update of mlp"}
    assert ended["exit"] == Exit.ALARMS
    return f"step {told[0]['step']}, the second boundary"
