"""A pull shared among threads: the loss and gradients of one, the same bits every time, weights that stay shared."""

import pytest
import torch

from trainer.crew import Crew, loss_of
from trainer.model import Decoder, Shape

WINDOWS = torch.randint(0, 31, (5, 17), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def threads() -> None:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def model(tied: bool = True) -> Decoder:
    decoder = Decoder(Shape(31, 16, 32, 4, 2, tied))
    decoder.initialise(4)
    return decoder


def step(decoder: Decoder, crew: Crew | None) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of two pulls, the second on top of the first."""
    decoder.zero_grad()
    loss = decoder.loss if crew is None else crew.loss
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
    crew = Crew(decoder, many)
    for _ in range(3):
        shared, all_of_them = step(decoder, crew)
        assert shared == pytest.approx(alone, rel=1e-6)
        assert len(one) == len(all_of_them)
        for a, b in zip(one, all_of_them, strict=True):
            assert float((a - b).norm()) <= 3e-6 * float(a.norm())


@pytest.mark.usefixtures("threads")
def test_the_same_bits_every_time_and_the_weights_of_now() -> None:
    decoder = model()
    crew, again = Crew(decoder, 3), Crew(decoder, 3)
    first = step(decoder, crew)
    kept = [gradient.clone() for gradient in first[1]]
    other = step(decoder, again)
    assert first[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(kept, other[1], strict=True))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.5)
    assert step(decoder, crew)[0] == pytest.approx(step(decoder, None)[0], rel=1e-6)
    assert step(decoder, crew)[0] != pytest.approx(first[0], rel=1e-3)


@pytest.mark.usefixtures("threads")
def test_autocast_reaches_the_threads_and_errors_come_back() -> None:
    decoder = model()
    crew = Crew(decoder, 2)
    plain = float(crew.loss(WINDOWS).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, alone = float(crew.loss(WINDOWS).detach()), float(decoder.loss(WINDOWS).detach())
    assert half != plain
    assert half == pytest.approx(alone, rel=1e-3)
    with pytest.raises(IndexError):
        crew.loss(torch.full((4, 17), 31))


@pytest.mark.usefixtures("threads")
def test_one_thread_needs_no_crew() -> None:
    decoder = model()
    torch.set_num_threads(1)
    assert loss_of(decoder) == decoder.loss
