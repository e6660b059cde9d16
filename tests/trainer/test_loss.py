"""The chunked cross-entropy: the plain one's value and gradients, in every chunking, and never all logits at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.loss import PAD, chunked, cross_entropy

TOKENS, WIDTH, VOCABULARY = 300, 32, 1001


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=draw).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw).requires_grad_()
    return hidden, weight, torch.randint(0, VOCABULARY, (TOKENS,), generator=draw)


def results(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Loss and both gradients of a third of the loss, as gradient accumulation asks for them."""
    hidden, weight, targets = inputs()
    value = loss(hidden, weight, targets)
    return [value.detach(), *torch.autograd.grad(value / 3, [hidden, weight])]


@pytest.mark.parametrize("tokens", [1, 7, 128, 150, 299, 300, 10_000])
def test_value_and_gradients_are_those_of_the_plain_loss(tokens: int) -> None:
    plain = results(cross_entropy)
    ours = results(lambda h, w, t: chunked(h, w, t, logits=tokens * VOCABULARY))
    for one, other in zip(plain, ours, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    hidden, weight, targets = inputs()
    with torch.no_grad():
        assert torch.allclose(chunked(hidden, weight, targets, logits=tokens * VOCABULARY), plain[0])


def test_the_same_bits_every_time() -> None:
    first, again = (results(lambda h, w, t: chunked(h, w, t, logits=64 * VOCABULARY)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_head_alone_gets_its_gradient() -> None:
    """As an alignment's probe asks: nothing flows back to the hidden states."""
    hidden, weight, targets = inputs()
    hidden = hidden.detach()
    plain = torch.autograd.grad(cross_entropy(hidden, weight, targets), weight)[0]
    ours = torch.autograd.grad(chunked(hidden, weight, targets, logits=64 * VOCABULARY), weight)[0]
    assert torch.allclose(plain, ours, rtol=1e-5, atol=1e-8)


def test_in_bf16_as_near_to_fp32_as_the_plain_loss_is() -> None:
    def cast(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        def with_autocast(*parts: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return loss(*parts)

        return results(with_autocast)

    exact = results(cross_entropy)
    plain, ours = cast(cross_entropy), cast(lambda h, w, t: chunked(h, w, t, logits=64 * VOCABULARY))
    for right, one, other in zip(exact, plain, ours, strict=True):
        assert other.dtype == torch.float32
        off, allowed = (other - right).norm() / right.norm(), (one - right).norm() / right.norm()
        assert 0 < off < 1.5 * allowed < 0.02


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_the_logits_of_all_tokens_are_never_there_at_once() -> None:
    with Largest() as plain:
        results(cross_entropy)
    assert plain.elements == TOKENS * VOCABULARY
    padded = -(-VOCABULARY // PAD) * PAD
    with Largest() as ours:
        results(lambda h, w, t: chunked(h, w, t, logits=50 * VOCABULARY))
    assert ours.elements <= 50 * padded
    hidden, weight, targets = inputs()
    with Largest() as ours, torch.no_grad():
        chunked(hidden, weight, targets, logits=50 * VOCABULARY)
    assert ours.elements <= 50 * padded


def test_it_can_be_traced_whole() -> None:
    """As torch.compile has to: no break in the graph, the same gradients."""
    traced = torch.compile(
        lambda h, w, t: chunked(h, w, t, logits=150 * VOCABULARY),
        backend="eager",
        fullgraph=True,
        dynamic=False,
    )
    for one, other in zip(results(cross_entropy), results(traced), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_cuda_it_is_the_plain_loss_too(dtype: torch.dtype) -> None:
    hidden, weight, targets = (part.detach().cuda() for part in inputs())
    hidden.requires_grad_()
    weight.requires_grad_()
    exact = results(cross_entropy)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        loss = cross_entropy(hidden, weight, targets)
    found = [loss.detach(), *torch.autograd.grad(loss / 3, [hidden, weight])]
    for right, ours in zip(exact, found, strict=True):
        assert (ours.cpu() - right).norm() / right.norm() < (1e-3 if dtype == torch.float32 else 0.02)
