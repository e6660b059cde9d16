"""What is written out for the CPU is what the plain modules compute: losses and gradients of the whole model."""

import pytest
import torch
from torch import Tensor

from trainer import model as models
from trainer import passes
from trainer.model import Decoder, Shape

SHAPE = Shape(vocab_size=31, block_size=160, width=48, heads=3, layers=2)


def gradients(time: int, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a model with gains and weights that are no round numbers."""
    decoder = Decoder(SHAPE)
    decoder.initialise(3)
    generator = torch.Generator().manual_seed(time)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    windows = torch.randint(0, 31, (2, time + 1), generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = decoder.loss(windows)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}
    assert len(found) == len(list(decoder.parameters()))
    return loss.detach(), found


@pytest.mark.parametrize("time", [1, 7, 128, 160])
def test_losses_and_gradients_are_those_of_the_plain_modules(
    time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, found = gradients(time)
    monkeypatch.setattr(models, "by_hand", lambda _: False)
    plain_loss, plain = gradients(time)
    assert torch.allclose(loss, plain_loss, rtol=1e-6)
    for name, gradient in plain.items():
        assert float((found[name] - gradient).norm()) <= 3e-6 * float(gradient.norm()), name


@pytest.mark.parametrize("time", [7, 160])
def test_in_bfloat16_they_are_near(time: int) -> None:
    """At a short context, where attention is float32, and at a long one, where it is not."""
    exact_loss, exact = gradients(time)
    loss, found = gradients(time, autocast=True)
    assert loss.dtype == torch.float32
    assert abs(float(loss - exact_loss)) < 0.02 * float(exact_loss)
    for name, gradient in exact.items():
        assert found[name].dtype == torch.float32
        assert float((found[name] - gradient).norm()) <= 0.05 * float(gradient.norm()), name


def test_order_and_its_inverse() -> None:
    order = passes.pairs_first(2, 8)
    assert order.tolist() == [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, *range(16, 24)]
