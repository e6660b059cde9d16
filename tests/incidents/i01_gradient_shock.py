"""I01: every switch of source was a shock: a single bad batch pushed the model out of its basin (002 F1)."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from state import checkpoints
from state.rows import read_rows
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer import checkpoint
from trainer.model import Decoder
from trainer.step import TrainStep

SHOCK, AT, END = 1000.0, 11, 20  # the step at which gamma is fed for the first time


def no_clipping(patch: pytest.MonkeyPatch) -> None:
    whole = TrainStep.__init__

    def init(self: TrainStep, *given: Any, **named: Any) -> None:
        whole(self, *given, **{**named, "grad_clip": 1e30})

    patch.setattr(TrainStep, "__init__", init)


@incident(off=no_clipping)
def test_a_shock_at_a_source_switch_is_reported_and_held(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    run, loss, step = TrainStep.run, Decoder.loss, 0

    def counted(self: TrainStep, now: int, *rest: Any) -> None:
        nonlocal step
        step = now
        run(self, now, *rest)

    def shocking(self: Decoder, windows: Tensor) -> Tensor:
        found = loss(self, windows)
        return found + (SHOCK - 1) * (found - found.detach()) if step == AT and found.requires_grad else found

    monkeypatch.setattr(TrainStep, "run", counted)
    monkeypatch.setattr(Decoder, "loss", shocking)
    go(config, until=END)
    rows = {row["step"]: row for row in read_rows(the_run(config).pulls)}
    usual = max(row["norm"] for at, row in rows.items() if at != AT)
    assert rows[AT]["norm"] > 100 * usual, "the step that was shocked says so"
    newest = checkpoints.locate(the_run(config).root)
    memory = checkpoint.tensors(newest, checkpoints.OPTIMIZER)
    energy = sum(float(value.sum()) for name, value in memory.items() if name.endswith("exp_avg_sq"))
    # A running mean of squared gradients, each of norm 1 at most.
    caught(
        energy <= 1.0, f"the optimizer remembers a gradient of norm {energy**0.5:.0f}, {END - AT} steps later"
    )
    return "in the row of the very step"
