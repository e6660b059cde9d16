"""Scenarios of checkpoints: written over one of the same step, swept and thinned out. In the full form only: torch.

The tensor files are written by safetensors' compiled code, below the shim; under it the same bytes go through Python.
Under strace they are written as always.
"""

import _pyio
import builtins
from pathlib import Path
from typing import Any

from state import checkpoints
from state.checkpoints import Keep
from tests.faults.on_files import CONFIG_SHA, payload, the_store
from tests.faults.scenario import Acknowledge, Scenario

STEPS = (10, 20, 20, 30)  # the third is written over the second, as after a resume from the first


def through_python() -> None:
    """Under the shim, have tensor files written by Python."""
    from safetensors.torch import save as as_bytes

    from trainer import checkpoint

    if builtins.open is _pyio.open:
        checkpoint.save_file = lambda tensors, path: Path(path).write_bytes(as_bytes(tensors))


def save(root: Path, number: int) -> None:
    """The n-th checkpoint, with a state in it as a run's has."""
    import msgspec
    import torch

    from trainer import checkpoint

    through_python()
    tensors = {"weight": torch.full((16, 16), float(number))}
    store = the_store(root)
    state = store.read()[0] and store.prepare(payload(number), step=STEPS[number], config_sha256=CONFIG_SHA)
    checkpoint.save(
        root / "checkpoints",
        STEPS[number],
        model=tensors,
        optimizer=tensors,
        meta={"state": msgspec.to_builtins(state), "number": number},
    )


def with_torch() -> None:
    import trainer.checkpoint
    import trainer.record  # noqa: F401


def begin(root: Path) -> None:
    the_store(root).create(payload(0), config_sha256=CONFIG_SHA)
    for number in (0, 1):
        save(root, number)


def write_two(root: Path, acknowledge: Acknowledge) -> None:
    checkpoints.sweep(root / "checkpoints")
    for number in (2, 3):
        save(root, number)
        acknowledge(number)
        checkpoints.retain(root / "checkpoints", Keep(last=2), protect=set())


def whole(root: Path, acks: list[Any]) -> None:
    """The newest complete checkpoint is sound and as new as acknowledged; what else is complete is sound too."""
    checkpoints.sweep(root / "checkpoints")
    found = checkpoints.complete(root / "checkpoints")
    assert found, "no checkpoint is left"
    numbers = [checkpoints.sound(one.path)[0].meta["number"] for one in found]
    assert max(numbers) >= max([1, *acks]) or STEPS[max(numbers)] >= STEPS[max([1, *acks])], (
        f"{numbers} after {acks}"
    )
    write_two(root, lambda number: None)
    names = sorted(path.name for path in (root / "checkpoints").iterdir())
    assert names == ["step_20", "step_30"], names
    assert [checkpoints.sound(root / "checkpoints" / name)[0].meta["number"] for name in names] == [2, 3]


CHECKPOINTS = [Scenario("checkpoint: over another", begin, write_two, whole, short=False, warm=with_torch)]
