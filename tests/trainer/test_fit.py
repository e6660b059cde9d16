"""The trial before the first step: what does not fit is refused by name, with the largest part of a pull that does."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import pytest
import torch
from torch import Tensor

from curriculum.config import Train
from curriculum.errors import Exit, FirehoseError
from trainer import cuda, fit, optim
from trainer.model import Decoder, Shape
from trainer.step import Loss

SHAPE = Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2)
CPU = torch.device("cpu")


def network() -> tuple[Decoder, torch.optim.AdamW]:
    model = Decoder(SHAPE)
    model.initialise(1)
    return model, optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=CPU)


def small_device(room: int, tried: list[int]) -> Callable[[int], None]:
    """A trial on a device with room for so many windows."""

    def trial(rows: int) -> None:
        tried.append(rows)
        if rows > room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows} GiB.")

    return trial


def test_what_fits_is_tried_once_and_nothing_is_said() -> None:
    tried: list[int] = []
    fit.check(small_device(64, tried), Train(micro_batch=64), 64, "card")
    assert tried == [64]


@pytest.mark.parametrize(
    ("rows", "room", "tries", "micro_batch", "grad_accum"),
    [(64, 20, [64, 32, 16], 16, 16), (12, 5, [12, 6, 4], 4, 12), (7, 6, [7, 1], 1, 28)],
)
def test_a_pull_that_does_not_fit_names_what_does(
    rows: int, room: int, tries: list[int], micro_batch: int, grad_accum: int
) -> None:
    tried: list[int] = []
    with pytest.raises(FirehoseError) as refused:
        fit.check(small_device(room, tried), Train(micro_batch=rows, grad_accum=4), rows, "card")
    assert tried == tries
    assert refused.value.exit_code == Exit.REFUSED
    assert f"micro_batch = {rows}" in refused.value.message
    assert f"micro_batch = {micro_batch} and grad_accum = {grad_accum} " in str(refused.value.next)
    assert micro_batch * grad_accum == rows * 4, "as many tokens a step"


def test_of_several_processes_each_tries_its_part_and_the_whole_is_named() -> None:
    with pytest.raises(FirehoseError) as refused:
        fit.check(small_device(8, []), Train(micro_batch=64, grad_accum=1), 16, "card")
    assert "micro_batch = 32 and grad_accum = 2 " in str(refused.value.next)


def test_where_nothing_fits_it_says_so() -> None:
    with pytest.raises(FirehoseError, match="not even a pull of one window"):
        fit.check(small_device(0, []), Train(micro_batch=4), 4, "card")


def test_a_trial_leaves_nothing_behind() -> None:
    model, optimizer = network()
    before = [parameter.clone() for parameter in model.parameters()]
    seen: list[bool] = []

    def forward(windows: Tensor) -> Tensor:
        seen.append(any(parameter.grad is not None for parameter in model.parameters()))
        return model.loss(windows)

    trial = fit.Trial(model, optimizer, CPU, nullcontext(), passes=2)
    trial.run(forward, 3)
    assert seen == [False, True], "the second pass holds gradients and activations at once"

    def starved(windows: Tensor) -> Tensor:
        model.loss(windows).backward()
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        trial.run(starved, 3)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_compiler_that_fails_is_told_of_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(loss: object, **how: object) -> Callable[[Tensor], Tensor]:
        def fails(windows: Tensor) -> Tensor:
            raise RuntimeError("no compiler here\nand much more")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    model, optimizer = network()
    trial = fit.Trial(model, optimizer, CPU, nullcontext(), passes=1)
    said: list[str] = []

    def tried(compile: Literal["auto", "on"]) -> Loss:
        return cuda.compiled(model.loss, lambda loss: trial.run(loss, 2), Train(compile=compile), said.append)

    assert tried("auto") == model.loss
    assert said == ["torch.compile failed: no compiler here; steps run without it"]
    with pytest.raises(FirehoseError, match="no compiler here"):
        tried("on")
    loss = cuda.forward(model, optimizer, Train(), CPU, nullcontext(), 2, said.append)
    assert loss == model.loss, "on the CPU, auto does not compile"
    assert len(said) == 1


def test_only_a_long_run_is_compiled_unasked() -> None:
    with torch.device("meta"):
        model = Decoder(Shape(vocab_size=50_257, block_size=1024, width=768, heads=12, layers=12))
    assert cuda.pays(model, Train(steps=10_000, micro_batch=64))
    assert not cuda.pays(model, Train(steps=100, micro_batch=8, grad_accum=1))


def test_the_loss_can_be_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No break in the graph, which `fullgraph` refuses; the same gradients (traced alone, for speed)."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda loss, **how: compiled(loss, **how, backend="eager"))
    model, optimizer = network()
    loss = cuda.forward(model, optimizer, Train(compile="on"), CPU, nullcontext(), 4, lambda _: None)
    assert loss != model.loss
    windows = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    plain = torch.autograd.grad(model.loss(windows), list(model.parameters()))
    for one, other in zip(plain, torch.autograd.grad(loss(windows), list(model.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_pull_that_is_too_large_is_refused_before_the_first_step() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    shape = Shape(vocab_size=1024, block_size=1024, width=256, heads=4, layers=2)
    model = Decoder(shape).to(device)
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=device)
    train = Train(micro_batch=2**22, grad_accum=1, compile="off")
    with pytest.raises(FirehoseError, match="does not fit the memory of") as refused:
        cuda.forward(model, optimizer, train, device, nullcontext(), train.micro_batch, lambda _: None)
    assert "set micro_batch = " in str(refused.value.next)
    cuda.forward(model, optimizer, Train(micro_batch=2, compile="on"), device, nullcontext(), 2, print)
