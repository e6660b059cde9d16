"""Every check of the model is passed by the model as it is, and failed, it and it alone where that is so, by a broken one."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from curriculum.config import Train
from tests.fixtures.broken import (
    BACKWARD,
    DRAWN,
    FORWARD,
    Broken,
    decoder,
    loops_over_tokens,
    loud_head,
    pairs_channels_wrongly,
    rotates_queries_alone,
    scaled_by_other_weights,
    sees_the_future,
    shifted,
    token_before_the_inputs_only,
    turns_by_one_frequency,
    windows,
    without_norm,
    without_residual,
    without_rotation,
    without_rotation_on_a_cpu,
)
from trainer import optim
from trainer.doctor import against
from trainer.doctor import model as checks
from trainer.doctor.checks import Check
from trainer.model import Decoder
from trainer.ring import Ring
from trainer.step import TrainStep


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a machine that is busy, threads that wait for each other take seconds for what is done in milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examine(model: Decoder) -> dict[str, Check]:
    text = windows()
    with torch.no_grad():
        measured = model.loss(text).item()
    found = [check(model) for check in checks.MODEL_CHECKS]
    found += [check(model, text) for check in checks.WINDOW_CHECKS]
    found += [checks.labels(model, text, measured)]
    return {check.name: check for check in found}


BROKEN: dict[str, tuple[Broken, str, str]] = {
    "no residual": (without_residual, "residual stream", "instead of being added"),
    "no norm": (without_norm, "norms", "norm is missing"),
    "no rotation": (without_rotation, "rotary positions", "not rotated"),
    "no rotation on a CPU": (without_rotation_on_a_cpu, "rotary positions", "not rotated"),
    "queries alone rotated": (rotates_queries_alone, "rotary positions", "scores of equal distances differ"),
    "channels paired wrongly": (
        pairs_channels_wrongly,
        "rotary positions",
        "scores of equal distances differ",
    ),
    "one frequency": (turns_by_one_frequency, "rotary positions", "by one frequency"),
    "labels shifted by 0": (shifted(0), "labels", "shifted by 0"),
    "labels shifted by 2": (shifted(2), "labels", "shifted by 2"),
    "token before the inputs": (token_before_the_inputs_only, "labels", "a token put before the inputs"),
    "the future is seen": (sees_the_future, "causality", "leaks the future"),
    "scale of other weights": (
        scaled_by_other_weights,
        "variance through depth",
        "other than its own weights",
    ),
    "loop over tokens": (loops_over_tokens, "calls a forward pass", "loops over tokens"),
    "loud head": (loud_head, "loss at start", "head's scale"),
}


def test_the_model_as_it_is_passes_every_check() -> None:
    assert [check for check in examine(decoder()).values() if not check.ok] == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_fails_the_check_that_names_what_is_broken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, check, words = BROKEN[name]
    breaks(monkeypatch)
    found = examine(decoder())[check]
    assert not found.ok and words in found.message, found


def test_a_check_leaves_the_model_as_it_was() -> None:
    model = decoder()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    examine(model)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_a_parameter_that_no_step_moves_is_named() -> None:
    model = decoder()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "blocks.1.up.weight":
                weight.add_(1e-3)
    found = checks.reached(before, model)
    assert not found.ok and "blocks.1.up.weight" in found.value


def test_the_model_as_it_is_is_the_one_written_out() -> None:
    model = decoder()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    found = [against.forward_pass(model, windows()[:1, :-1]), against.initial_weights(model)]
    assert [check for check in found if not check.ok] == []
    assert found[0].value < 1e-4
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize("name", FORWARD)
def test_a_forward_pass_unlike_the_one_written_out_is_told_by_where_it_begins(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, where = FORWARD[name]
    breaks(monkeypatch)
    found = against.forward_pass(decoder(), windows()[:1, :-1])
    assert not found.ok and f"first at blocks.0.{where}," in found.message, found


def test_a_leak_is_told_from_its_first_position_on(monkeypatch: pytest.MonkeyPatch) -> None:
    FORWARD["a window of half"][0](monkeypatch)
    found = against.forward_pass(decoder(), windows()[:1, :-1])
    assert "from position 17 on" in found.message
    monkeypatch.undo()
    FORWARD["a leak in the first quarter"][0](monkeypatch)
    assert not checks.causality(decoder(), windows()).ok


@pytest.mark.parametrize("name", DRAWN)
def test_weights_drawn_by_another_rule_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, words = DRAWN[name]
    breaks(monkeypatch)
    found = against.initial_weights(decoder())
    assert not found.ok and words in found.message, found


def a_step(build: Callable[..., Any] = optim.build) -> dict[str, Check]:
    """One step of three pulls, and a second, that the optimizer's memory shows in."""
    model, train = decoder(), Train(grad_accum=3, steps=10)
    optimizer = build(
        model, weight_decay=train.weight_decay, betas=(train.beta1, train.beta2), device=torch.device("cpu")
    )
    ring = Ring(4, train.grad_accum, torch.device("cpu"))
    step = TrainStep(model, optimizer, ring, grad_clip=1.0, autocast=nullcontext())
    parts: Any = SimpleNamespace(model=model, train_step=step, optimizer=optimizer)
    config: Any = SimpleNamespace(train=train)
    text = torch.randint(0, model.shape.vocab_size, (6, 33), generator=torch.Generator().manual_seed(6))
    found = [*against.one_step(config, parts, text), *against.one_step(config, parts, text.flip(0))]
    return {check.name: check for check in found if not check.ok}


def test_a_step_as_it_is_is_the_one_written_out() -> None:
    assert a_step() == {}


@pytest.mark.parametrize("name", BACKWARD)
def test_a_backward_pass_unlike_the_one_written_out_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, words = BACKWARD[name]
    breaks(monkeypatch)
    found = a_step()["gradients"]
    assert words in found.message, found


def with_decay(model: Decoder, *, weight_decay: float, **more: Any) -> Any:
    """Norms decay, the last block's matrix does not."""
    made = optim.build(model, weight_decay=weight_decay, **more)
    for group in made.param_groups:
        group["weight_decay"] = weight_decay
    last = made.param_groups[0]["params"].pop()
    made.add_param_group({**made.param_groups[0], "params": [last], "weight_decay": 0.0})
    return made


def with_other_betas(model: Decoder, *, betas: tuple[float, float], **more: Any) -> Any:
    return optim.build(model, betas=(betas[0], 0.999), **more)


def test_an_optimizer_of_another_formula_is_named() -> None:
    found = a_step(with_decay)
    assert list(found) == ["one step"] and "decays by" in found["one step"].message
    assert found["one step"].value == "8 of 20 weights move otherwise"
    assert list(a_step(with_other_betas)) == ["one step"]


def test_a_step_of_the_last_pull_alone_and_one_that_is_not_clipped_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner = TrainStep.update

    def last_alone(self: TrainStep, pulls: torch.Tensor) -> None:
        inner(self, pulls[-1:].expand_as(pulls))

    def unclipped(self: TrainStep, pulls: torch.Tensor) -> None:
        self.grad_clip = 1e9
        inner(self, pulls)

    monkeypatch.setattr(TrainStep, "update", last_alone)
    assert "loss is not" in a_step()["gradients"].message
    monkeypatch.setattr(TrainStep, "update", unclipped)
    assert "are not clipped" in a_step()["one step"].message
