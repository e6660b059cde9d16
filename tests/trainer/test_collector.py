"""The garbage collector runs at boundaries alone, and is given back as it was."""

import gc
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import tiny
from tests.fixtures.runs import go
from trainer.step import TrainStep


def test_no_collection_runs_between_boundaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, collected = [0], []
    run = TrainStep.run

    def watched(self: TrainStep, step: int, *rest: Any) -> None:
        now[0] = step
        run(self, step, *rest)
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        for _ in range(2000):  # what would start one
            cycle: list[Any] = []
            cycle.append(cycle)

    monkeypatch.setattr(TrainStep, "run", watched)
    config = tiny.make(tmp_path, *tiny.QUICK)

    def noted(phase: str, _: dict[str, int]) -> None:
        if phase == "start" and now[0]:
            collected.append(now[0])

    gc.callbacks.append(noted)
    try:
        go(config.path, until=30)
        ended = len(collected)
    finally:
        gc.callbacks.remove(noted)
    assert collected[:ended] == [10, 20, 30]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_run_that_fails_gives_the_collector_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(TrainStep, "run", fails)
    config = tiny.make(tmp_path, *tiny.QUICK)
    with pytest.raises(RuntimeError, match="gone"):
        go(config.path, until=5)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
