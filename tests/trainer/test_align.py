"""Alignment: the cosine by hand, nothing disturbed, nothing read back, nothing lost."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer import optim
from trainer.align import MEMORY, Alignment, watched
from trainer.goal import GoalLoss
from trainer.model import Decoder, Shape
from trainer.ring import Ring
from trainer.step import TrainStep

SHAPE = Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2)
CPU = torch.device("cpu")


class Text:
    """Two batches of three windows a probe."""

    def batch(self, number: int) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(1000 + number)
        return [torch.randint(0, 64, (3, 17), generator=draw) for _ in range(2)]


def pulls(seed: int) -> torch.Tensor:
    return torch.randint(0, 64, (2, 4, 17), generator=torch.Generator().manual_seed(seed))


def build(every: int | None = 3, goal_every: int | None = None) -> TrainStep:
    model = Decoder(SHAPE)
    model.initialise(1)
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=CPU)
    text: Any = Text()
    align = Alignment(model, text, every=every, autocast=nullcontext()) if every else None
    goal = GoalLoss(model, text, every=goal_every, autocast=nullcontext()) if goal_every else None
    ring = Ring(8, 2, CPU)
    return TrainStep(
        model, optimizer, ring, grad_clip=1.0, autocast=nullcontext(), align=align, goal_loss=goal
    )


def gradient(model: Decoder, windows: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(model.loss(windows), watched(model))[0]


def goal_gradient(model: Decoder, windows: torch.Tensor) -> torch.Tensor:
    """(p - y) outer h, averaged over positions: the head's own part of the gradient."""
    with torch.no_grad():
        hidden = model.hidden(windows[:, :-1]).flatten(0, 1)
        error = torch.softmax(hidden @ model.head.weight.T, dim=1)
        error[torch.arange(len(error)), windows[:, 1:].flatten()] -= 1.0
        return error.T @ hidden / len(hidden)


def test_a_cosine_by_hand() -> None:
    step = build()
    goal = torch.zeros_like(watched(step.model))
    for number in range(1, 9):
        if number % 3 == 1:
            found = [goal_gradient(step.model, batch) for batch in Text().batch(number // 3)]
            goal = MEMORY * goal + (1 - MEMORY) * sum(g / g.norm() for g in found) / 2
        own = [gradient(step.model, windows) for windows in pulls(number)]
        expected = [float((g * goal).sum() / (g.norm() * goal.norm())) for g in own]
        step.run(number, pulls(number), lr=1e-2)
        signals = step.ring.read(number).signals
        assert signals == pytest.approx(expected, abs=1e-4)
        assert max(map(abs, expected)) > 0.01


def test_measuring_changes_no_weight() -> None:
    plain, probed = build(every=None), build(every=3, goal_every=2)
    for number in range(1, 8):
        plain.run(number, pulls(number), lr=1e-2)
        probed.run(number, pulls(number), lr=1e-2)
    for one, other in zip(plain.parameters, probed.parameters, strict=True):
        assert torch.equal(one, other)
    assert plain.ring.read(7).signals == [None, None]


class NoReading(TorchDispatchMode):
    """Refuses whatever brings a number from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "the step reads a number back"
        return func(*args, **(kwargs or {}))


def test_no_number_is_read_back_in_a_step() -> None:
    step = build(every=2, goal_every=2)
    step.run(1, pulls(1), lr=1e-2)
    assert step.align is not None
    with NoReading():
        with pytest.raises(AssertionError, match="reads a number back"):
            step.align.goal.sum().item()
        for number in (2, 3):  # with a probe and without
            step.align.begin(number)
            assert step.goal_loss is not None
            step.goal_loss.measure(number, into=step.ring.row(number)[-3])
            step.model.loss(pulls(number)[0]).backward()
            step.ring.row(number)[2] = step.align.cosine()


def test_a_probe_that_is_not_finite_changes_nothing() -> None:
    step = build(every=2)
    for number in range(1, 3):
        step.run(number, pulls(number), lr=1e-2)
    assert step.align is not None
    before = step.align.goal.clone()
    assert float(before.norm()) > 0
    with torch.no_grad():
        step.model.norm.weight[0] = float("nan")
    step.run(3, pulls(3), lr=1e-2)
    assert torch.equal(step.align.goal, before)
    result = step.ring.read(3)
    assert result.skipped and result.signals == [None, None]


def test_the_state_goes_on_bit_for_bit_and_is_all_there_is() -> None:
    step, other = build(every=2), build(every=2)
    for number in range(1, 6):
        step.run(number, pulls(number), lr=1e-2)
    assert step.align is not None and other.align is not None
    with torch.no_grad():
        for mine, theirs in zip(other.parameters, step.parameters, strict=True):
            mine.copy_(theirs)
    stored = {
        key: tensor.clone() for key, tensor in optim.state_tensors(step.optimizer, step.shared.named).items()
    }
    optim.load_state(other.optimizer, other.shared.named, stored)
    other.align.load({key: tensor.clone() for key, tensor in step.align.tensors().items()})
    for number in range(6, 9):
        step.run(number, pulls(number), lr=1e-2)
        other.run(number, pulls(number), lr=1e-2)
        assert step.ring.read(number) == other.ring.read(number)


def test_the_goals_loss_is_measured_before_the_step_that_is_due() -> None:
    step = build(every=None, goal_every=2)
    step.run(1, pulls(1), lr=1e-2)
    step.run(2, pulls(2), lr=1e-2)
    with torch.no_grad():
        expected = float(torch.stack([step.model.loss(batch) for batch in Text().batch(0)]).mean())
    step.run(3, pulls(3), lr=1e-2)
    assert step.ring.read(2).goal is None
    assert step.ring.read(3).goal == pytest.approx(expected)
