"""What a run takes of its machine: cores it may use, bfloat16 where it pays, and the choice of the first launch kept."""

import os
from pathlib import Path

import pytest
import torch

from trainer import machine
from trainer.model import Shape


def test_cores_are_those_of_the_control_group(tmp_path: Path) -> None:
    bound = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path) == bound
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.cores(tmp_path) == 1
    assert machine.cores(tmp_path / "none") == bound


@pytest.mark.parametrize(
    ("units", "seconds", "dtype"),
    [
        (["AMX"], {"float32": 2.0, "bfloat16": 1.0}, "bfloat16"),
        (["AMX"], {"float32": 1.0, "bfloat16": 0.99}, "float32"),
        ([], None, "float32"),  # not tried
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(
    units: list[str], seconds: dict[str, float] | None, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "bfloat16_units", lambda: units)

    def trial() -> dict[str, float]:
        assert seconds is not None
        return seconds

    threads = torch.get_num_threads()
    assert machine.choose("cpu", "auto", threads, trial)["dtype"] == dtype
    assert machine.choose("cpu", "bfloat16", threads, trial)["dtype"] == "bfloat16"


def test_a_choice_is_kept_without_being_made_again() -> None:
    first, said = machine.settle(None, lambda: {"device": "cpu", "dtype": "bfloat16", "threads": 3})
    assert said == []

    def never() -> dict[str, object]:
        raise AssertionError("the stored choice is there")

    assert machine.settle(first, never) == (first, [])
    moved = {**first, "hardware": "another"}
    now, said = machine.settle(moved, never)
    assert (now["dtype"], now["threads"]) == ("bfloat16", 3)
    assert "hardware another ->" in said[0]


def test_the_trial_runs_the_shape_in_both() -> None:
    found = machine.trial_of(Shape(31, 8, 16, 2, 1), rows=2)
    assert all(0.0 < seconds < float("inf") for seconds in found.values())
    assert found.keys() == {"float32", "bfloat16"}


def test_bfloat16_by_hand_is_an_autocast_of_the_cpu() -> None:
    before = torch.get_num_threads()
    device, autocast = machine.apply({"device": "cpu", "dtype": "bfloat16", "threads": before})
    weight = torch.ones(4, 4)
    with autocast:
        assert (weight @ weight).dtype == torch.bfloat16
    assert device.type == "cpu"
