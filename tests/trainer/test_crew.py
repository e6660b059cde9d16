"""A pull shared among threads: the loss and gradients of one, the same bits every time, weights that stay shared."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from trainer import crew, optim
from trainer.crew import Crew, loss_of
from trainer.model import Decoder, Shape
from trainer.ring import Ring
from trainer.step import TrainStep

WINDOWS = torch.randint(0, 31, (5, 17), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every pull is worth sharing; the number of threads is put back."""
    monkeypatch.setattr(crew, "LEAST_WORK", 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def model(tied: bool = True) -> Decoder:
    decoder = Decoder(Shape(31, 16, 32, 4, 2, tied))
    decoder.initialise(4)
    return decoder


def step(decoder: Decoder, by: Crew | None) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of two pulls, the second on top of the first."""
    decoder.zero_grad()
    loss = decoder.loss if by is None else by.loss
    total = 0.0
    for windows in (WINDOWS, WINDOWS.flip(0)[:4]):
        found = loss(windows)
        (found / 2).backward()
        total += float(found.detach()) / 2
    return total, [p.grad for p in decoder.parameters() if p.grad is not None]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("many", [2, 3, 5])
def test_loss_and_gradients_are_those_of_one_thread(many: int, tied: bool) -> None:
    decoder = model(tied)
    alone, one = step(decoder, None)
    one = [gradient.clone() for gradient in one]
    members = Crew(decoder, many)
    for _ in range(3):
        shared, all_of_them = step(decoder, members)
        assert shared == pytest.approx(alone, rel=1e-6)
        assert len(one) == len(all_of_them)
        for a, b in zip(one, all_of_them, strict=True):
            assert float((a - b).norm()) <= 3e-6 * float(a.norm())


@pytest.mark.usefixtures("threads")
def test_the_same_bits_every_time_and_the_weights_of_now() -> None:
    decoder = model()
    members, again = Crew(decoder, 3), Crew(decoder, 3)
    first = step(decoder, members)
    kept = [gradient.clone() for gradient in first[1]]
    other = step(decoder, again)
    assert first[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(kept, other[1], strict=True))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.5)
    assert step(decoder, members)[0] == pytest.approx(step(decoder, None)[0], rel=1e-6)
    assert step(decoder, members)[0] != pytest.approx(first[0], rel=1e-3)


@pytest.mark.usefixtures("threads")
def test_autocast_reaches_the_threads_and_errors_come_back() -> None:
    decoder = model()
    members = Crew(decoder, 2)
    plain = float(members.loss(WINDOWS).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, alone = float(members.loss(WINDOWS).detach()), float(decoder.loss(WINDOWS).detach())
    assert half != plain
    assert half == pytest.approx(alone, rel=1e-3)
    with pytest.raises(IndexError):
        members.loss(torch.full((4, 17), 31))


@pytest.mark.usefixtures("threads")
def test_pulls_of_another_size_leave_no_threads_behind() -> None:
    members = Crew(model(), 3)
    members.loss(WINDOWS)
    before = members.pool
    members.loss(WINDOWS[:2])
    assert members.many == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        before.submit(len, "")


@pytest.mark.usefixtures("threads")
def test_one_thread_needs_no_crew() -> None:
    decoder = model()
    torch.set_num_threads(1)
    assert loss_of(decoder) == decoder.loss


def test_work_too_small_to_share_is_left_to_one() -> None:
    before = torch.get_num_threads()
    decoder = model()
    members = Crew(decoder, 2)
    members.loss(WINDOWS)
    assert (members.many, torch.get_num_threads(), members.twins) == (1, 1, [])
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_steps_on_two_threads_are_the_same_bits_every_time() -> None:
    def trained() -> list[torch.Tensor]:
        torch.set_num_threads(2)
        decoder = model()
        device = torch.device("cpu")
        optimizer = optim.build(decoder, weight_decay=0.1, betas=(0.9, 0.95), device=device)
        ring = Ring(8, 2, device)
        step = TrainStep(decoder, optimizer, ring, grad_clip=1.0, autocast=nullcontext())
        assert isinstance(getattr(step.forward, "__self__", None), Crew)
        for number in range(1, 6):
            step.run(number, torch.stack((WINDOWS, WINDOWS.flip(0))), 1e-2)
        return [parameter.detach() for parameter in decoder.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(), strict=True))
