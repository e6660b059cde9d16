"""Every check of the model is passed by the model as it is, and failed, it and it alone where that is so, by a broken one."""

import pytest
import torch

from tests.fixtures.broken import (
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
from trainer.doctor import model as checks
from trainer.doctor.checks import Check
from trainer.model import Decoder


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
