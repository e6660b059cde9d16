"""Checkpoints that a crash left under another name."""

from pathlib import Path

from state import checkpoints


def test_a_checkpoint_whose_successor_never_came_gets_its_name_back(tmp_path: Path) -> None:
    for name in ("step_20.tmp-replaced-1", "step_40", "step_40.tmp-replaced-1", "step_60.tmp-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.json").write_text(name)
    assert checkpoints.sweep(tmp_path) == ["step_40.tmp-replaced-1", "step_60.tmp-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_20", "step_40"]
    assert (tmp_path / "step_20/checkpoint.json").read_text() == "step_20.tmp-replaced-1"
