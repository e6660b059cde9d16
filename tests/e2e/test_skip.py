"""Steps without a finite gradient: skipped on the device, void for the bandit, and the end of a run that only has them."""

from pathlib import Path

import pytest
import torch

from curriculum.errors import Exit
from state.rows import read_rows
from state.run_dir import RunDir
from tests.fixtures import tiny
from tests.fixtures.runs import go
from trainer.model import Decoder
from trainer.step import TrainStep


def poison(monkeypatch: pytest.MonkeyPatch, bad_steps: set[int]) -> None:
    """Make the loss of some steps NaN, weights and data untouched."""
    now = {"step": 0}
    run, loss = TrainStep.run, Decoder.loss

    def watched(self: TrainStep, step: int, pulls: torch.Tensor, lr: float) -> None:
        now["step"] = step
        run(self, step, pulls, lr)
        now["step"] = 0

    monkeypatch.setattr(TrainStep, "run", watched)
    monkeypatch.setattr(
        Decoder, "loss", lambda self, w: loss(self, w) * (float("nan") if now["step"] in bad_steps else 1.0)
    )


def test_skipped_steps_are_void_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.make(tmp_path).path
    run = RunDir(tmp_path / "runs/tiny")
    poison(monkeypatch, {18, 19, 23})
    assert go(config, until=20)["exit"] == Exit.STOPPED  # two of the skipped steps are not credited yet
    assert go(config)["exit"] == Exit.OK
    losses = dict(read_rows(run.loss))
    assert [step for step, loss in losses.items() if loss is None] == [18, 19, 23]
    assert len(losses) == 60
    assert losses[60] < losses[1] - 1
    rows = {row["step"]: row for row in read_rows(run.pulls)}
    assert [step for step, row in rows.items() if row["skipped"]] == [18, 19, 23]
    assert rows[18]["norm"] is None


def test_too_many_in_a_row_end_the_run_resumable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.make(tmp_path, ("lr = 3e-3", "lr = 3e-3\nmax_skipped = 3")).path
    run = RunDir(tmp_path / "runs/tiny")
    poison(monkeypatch, set(range(12, 100)))
    assert go(config)["exit"] == Exit.NON_FINITE == 21
    last = read_rows(run.loss)[-1][0]
    assert last == 12 + 3 + 4  # the fourth skipped step is known feedback_delay steps later
    assert (run.checkpoints / f"step_{last}").is_dir()
    monkeypatch.undo()
    assert go(config)["exit"] == Exit.OK
    assert read_rows(run.loss)[-1][0] == 60
