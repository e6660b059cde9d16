"""Every check of the model is passed by the model as it is, and failed, it and it alone where that is so, by a broken one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import model as models
from trainer import passes
from trainer.doctor import model as checks
from trainer.doctor.checks import Check
from trainer.model import Attention, Block, Decoder, Shape

SHAPE = Shape(vocab_size=400, block_size=32, width=64, heads=4, layers=3)
Broken = Callable[[pytest.MonkeyPatch], None]


def decoder() -> Decoder:
    made = Decoder(SHAPE)
    made.initialise(3)
    return made


def windows() -> Tensor:
    return torch.randint(
        0, SHAPE.vocab_size, (2, SHAPE.block_size + 1), generator=torch.Generator().manual_seed(5)
    )


def examine(model: Decoder) -> dict[str, Check]:
    text = windows()
    with torch.no_grad():
        measured = model.loss(text).item()
    found = [check(model) for check in checks.MODEL_CHECKS]
    found += [check(model, text) for check in checks.WINDOW_CHECKS]
    found += [checks.labels(model, text, measured)]
    return {check.name: check for check in found}


def without_residual(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Block, x: Tensor, *rest: Any) -> Tensor:
        x = self.attention(self.attention_norm(x), *rest)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))

    patch.setattr(Block, "forward", forward)


def without_norm(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Block, x: Tensor, *rest: Any) -> Tensor:
        x = x + self.attention(x, *rest)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))

    patch.setattr(Block, "forward", forward)


def without_rotation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(models, "by_hand", lambda x: False)
    patch.setattr(models, "rotate", lambda x, *table: x)


def without_rotation_on_a_cpu(patch: pytest.MonkeyPatch) -> None:
    inner = passes.rotate

    def rotate(qkv: Tensor, turn: Tensor, back: Tensor, *rest: Any) -> Any:
        return inner(qkv, torch.ones_like(turn), torch.ones_like(back), *rest)

    patch.setattr(passes, "rotate", rotate)


def rotates_queries_alone(patch: pytest.MonkeyPatch) -> None:
    inner, calls = models.rotate, []

    def rotate(x: Tensor, *table: Any) -> Tensor:
        calls.append(1)
        return inner(x, *table) if len(calls) % 2 else x

    patch.setattr(models, "by_hand", lambda x: False)
    patch.setattr(models, "rotate", rotate)


def pairs_channels_wrongly(patch: pytest.MonkeyPatch) -> None:
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # neighbours turned by the halves' angles
        even, odd = x[..., 0::2], x[..., 1::2]
        other = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x * torch.cat((cos, cos), -1) + other * torch.cat((sin, sin), -1)

    patch.setattr(models, "by_hand", lambda x: False)
    patch.setattr(models, "rotate", rotate)


def turns_by_one_frequency(patch: pytest.MonkeyPatch) -> None:
    inner = models.rotary_table

    def table(positions: int, head_width: int) -> tuple[Tensor, Tensor]:
        cos, sin = inner(positions, head_width)
        return cos[:, :1].expand_as(cos).contiguous(), sin[:, :1].expand_as(sin).contiguous()

    patch.setattr(models, "rotary_table", table)


def shifted(by: int) -> Broken:
    def apply(patch: pytest.MonkeyPatch) -> None:
        def loss(self: Decoder, text: Tensor) -> Tensor:
            logits, target = self(text[:, :-1]), torch.roll(text, -by, dims=1)[:, :-1]
            keep = text.shape[1] - max(by, 1)
            return F.cross_entropy(logits[:, :keep].flatten(0, 1), target[:, :keep].flatten())

        patch.setattr(Decoder, "loss", loss)

    return apply


def token_before_the_inputs_only(patch: pytest.MonkeyPatch) -> None:
    def loss(self: Decoder, text: Tensor) -> Tensor:
        inputs = torch.cat((torch.zeros_like(text[:, :1]), text[:, :-2]), dim=1)
        padded = torch.cat((text[:, 1:-1], torch.zeros_like(text[:, :1])), dim=1)
        return F.cross_entropy(self(inputs).flatten(0, 1), padded.flatten())

    patch.setattr(Decoder, "loss", loss)


def sees_the_future(patch: pytest.MonkeyPatch) -> None:
    inner = F.scaled_dot_product_attention

    def leaky(*given: Any, is_causal: bool = False, **more: Any) -> Tensor:
        return inner(*given, **more)

    patch.setattr(F, "scaled_dot_product_attention", leaky)


def scaled_by_other_weights(patch: pytest.MonkeyPatch) -> None:
    inner = Attention.forward

    def forward(self: Attention, *given: Any) -> Tensor:
        return inner(self, *given) / self.qkv.weight.std()

    patch.setattr(Attention, "forward", forward)


def loops_over_tokens(patch: pytest.MonkeyPatch) -> None:
    inner = Decoder.hidden

    def hidden(self: Decoder, tokens: Tensor, *rest: Any) -> Tensor:
        tokens = torch.cat([tokens[:, at : at + 1] for at in range(tokens.shape[1])], dim=1)
        return inner(self, tokens, *rest)

    patch.setattr(Decoder, "hidden", hidden)


def loud_head(patch: pytest.MonkeyPatch) -> None:
    inner = Decoder.initialise

    def initialise(self: Decoder, seed: int) -> None:
        inner(self, seed)
        with torch.no_grad():
            self.head.weight.mul_(30)

    patch.setattr(Decoder, "initialise", initialise)


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
