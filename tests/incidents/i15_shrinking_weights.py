"""I15: weights shrank to nothing, those of the middle layers first, while the loss looked healthy (000)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from state.rows import read_rows
from state.status import status
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer.forensics import Examiner, Report
from trainer.step import TrainStep

SHRINK = 0.94  # a step: 0.29 in the 20 to the first checkpoint, where the original's 6.6 times took 450,000
DEEP = ("layers = 2", "layers = 3"), ("grad_accum = 4", "grad_accum = 2")


def no_forensics(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Examiner, "examine", lambda self, found, against=None: Report(found.step, [], [], {}))


@incident(off=no_forensics)
def test_a_middle_layer_that_shrinks_is_an_alarm_at_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    config = tiny.make(tmp_path, *DEEP).path
    train = TrainStep.run

    def shrinks(self: TrainStep, step: int, *rest: Any) -> None:
        train(self, step, *rest)
        with torch.no_grad():
            for weight in self.model.blocks[1].parameters():
                if weight.dim() >= 2:
                    weight.mul_(SHRINK)

    monkeypatch.setattr(TrainStep, "run", shrinks)
    go(config, until=40)
    run = the_run(config)
    losses = [loss for _, loss in read_rows(run.loss)]
    assert losses[-1] < losses[0] - 1, "the loss says that all is well"
    events = [event for event in run.events() if event["event"] == "forensics"]
    caught(events, "two checkpoints and not a word")
    assert "scale" in {check["name"] for check in events[0]["failing"]}
    assert all("blocks.1." in check["where"] for check in events[0]["failing"] if check["name"] == "scale")
    assert any("forensics" in alarm for alarm in status(run, 0.0)[0]["alarms"])
    return f"step {events[0]['step']}, the first checkpoint"
