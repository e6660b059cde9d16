"""Checkpoints that a crash left under another name, and which of many are kept."""

import json
import random
from pathlib import Path

import pytest

from state import checkpoints
from state.checkpoints import FORMAT, META, VERSION, Keep


def test_a_checkpoint_whose_successor_never_came_gets_its_name_back(tmp_path: Path) -> None:
    for name in ("step_20.tmp-replaced-1", "step_40", "step_40.tmp-replaced-1", "step_60.tmp-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.json").write_text(name)
    assert checkpoints.sweep(tmp_path) == ["step_40.tmp-replaced-1", "step_60.tmp-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_20", "step_40"]
    assert (tmp_path / "step_20/checkpoint.json").read_text() == "step_20.tmp-replaced-1"


def write(folder: Path, step: int, loss: float | None) -> None:
    body = {"format": FORMAT, "version": VERSION, "step": step, "files": {}, "heldout_loss": loss}
    (folder / f"step_{step}").mkdir()
    (folder / f"step_{step}" / META).write_text(json.dumps(body))


def test_hundreds_of_boundaries_leave_the_newest_the_named_and_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the rule worked out over all that ever were, with losses that rise again and are sometimes missing."""
    monkeypatch.setattr(
        checkpoints, "sync_folder", lambda folder: None
    )  # no power cut here, and it is most of the time
    draw, keep, protect = random.Random(1), Keep(last=3, every=25_000, best=2), {700, 30_000}
    ranked: list[tuple[float, int]] = []
    for step in range(100, 60_001, 100):
        loss = None if draw.random() < 0.2 else round(abs(step - 40_000) / 40_000 + draw.random(), 2)
        write(tmp_path, step, loss)
        if loss is not None:
            ranked = sorted([*ranked, (loss, step)])[: keep.best]
        checkpoints.retain(tmp_path, keep, protect=protect)
        if step % 1000 == 0:
            newest, named = {step, step - 100, step - 200}, {*range(25_000, step + 1, 25_000)}
            kept = newest | named | {at for _, at in ranked} | {at for at in protect if at <= step}
            assert {int(path.name[5:]) for path in tmp_path.iterdir()} == kept
    assert len(kept) <= 3 + 2 + 2 + 2


def test_a_checkpoint_of_before_there_were_held_out_losses_is_no_best(tmp_path: Path) -> None:
    write(tmp_path, 10, None)
    write(tmp_path, 20, 3.0)
    for step in (30, 40):
        write(tmp_path, step, 3.5)
    assert checkpoints.retain(tmp_path, Keep(last=1, best=1), protect=set()) == [10, 30]
