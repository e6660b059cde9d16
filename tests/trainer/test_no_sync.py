"""Nothing in a step waits for the device: on CUDA by torch's own check round 100 steps of a run, here by its twin.

The twin refuses, on the CPU, every operation that on CUDA would bring a number to the host or make it wait.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run
from trainer.loop import Loop
from trainer.step import TrainStep

# Operations whose result's size, or whose result itself, the host has to know.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal", "is_nonzero")


class NoWaiting(TorchDispatchMode):
    """Refuses whatever makes the host wait for the device. `operations` counts the rest."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not any(name == wait or name.startswith(f"{wait}_") for wait in WAITS), (
            f"a step reads back: {name}"
        )
        if name.startswith("index"):  # a mask has as many rows as it has ones
            masks = [i for i in args[1] if i is not None] if isinstance(args[1], tuple | list) else []
            assert not any(mask.dtype == torch.bool for mask in masks), f"a step reads back: {name} by a mask"
        self.operations += 1
        return func(*args, **(kwargs or {}))


def under(mode: NoWaiting, run: Callable[..., None]) -> Callable[..., None]:
    def watched(self: TrainStep, *rest: Any) -> None:
        with mode:
            run(self, *rest)

    return watched


def test_a_step_of_a_run_asks_the_device_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With probes of the goal and without, through a boundary; what is read is read between steps."""
    mode = NoWaiting()
    monkeypatch.setattr(TrainStep, "run", under(mode, TrainStep.run))
    go(tiny.make(tmp_path, *tiny.QUICK).path, until=12)
    assert mode.operations > 12 * 100


@pytest.mark.parametrize(
    "reading",
    [
        lambda step: step.row[0].item(),
        lambda step: bool(step.row[0] > 1e9),
        lambda step: step.row[step.row > 1e9],
        lambda step: torch.nonzero(step.row),
        lambda step: print(f"{step.row[0]:.1f}"),
    ],
)
def test_the_twin_sees_what_reads_back(reading: Callable[[TrainStep], object]) -> None:
    from tests.trainer.test_step import build, pulls

    _, step = build()
    update = step.update

    def reads(windows: torch.Tensor) -> None:
        update(windows)
        reading(step)

    step.runner = reads
    with NoWaiting(), pytest.raises(AssertionError, match="a step reads back"):
        step.run(1, pulls(), 1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("graph", ["on", "off"])
def test_a_hundred_steps_on_cuda_wait_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    """The real loop, from a step after the recording to one before the boundary: picks, loader, credits, probes."""
    first, last = 8, 108
    seen: list[int] = []
    between = Loop.between

    def watched(self: Loop, step: int, until: int) -> Any:
        if step == first:
            torch.cuda.set_sync_debug_mode("error")
        if step == last:
            torch.cuda.set_sync_debug_mode("default")
        seen.append(step)
        return between(self, step, until)

    monkeypatch.setattr(Loop, "between", watched)
    edits = (
        ("steps = 60", f'steps = 120\ndevice = "cuda"\ncuda_graph = "{graph}"'),
        *((f"{key}_every = {n}", f"{key}_every = 120") for key, n in (("boundary", 10), ("sample", 10))),
        *((f"{key}_every = 20", f"{key}_every = 120") for key in ("checkpoint", "heldout")),
    )
    try:
        go(tiny.make(tmp_path, *edits).path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen[-1] == 120
    assert the_run(tmp_path / "tiny.toml").loss.exists()
