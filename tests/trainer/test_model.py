"""The model's properties: shapes, causality, relative positions, loss at the start, label alignment."""

import math

import torch

from trainer.model import Decoder, Shape, rotary_table, rotate

SHAPE = Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2)


def model(seed: int = 1, shape: Shape = SHAPE) -> Decoder:
    decoder = Decoder(shape)
    decoder.initialise(seed)
    return decoder


def tokens(seed: int, time: int = 16) -> torch.Tensor:
    return torch.randint(0, 64, (2, time), generator=torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = model(7)
    torch.randn(5)
    second, other = model(7), model(8)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_a_later_token_changes_no_earlier_logit() -> None:
    decoder, x = model(), tokens(0)
    changed = x.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 64
    before, after = decoder(x), decoder(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_attention_depends_on_relative_positions_only() -> None:
    cos, sin = rotary_table(16, 8)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def dot(i: int, j: int) -> float:
        left = rotate(q, cos[i : i + 1], sin[i : i + 1])
        right = rotate(k, cos[j : j + 1], sin[j : j + 1])
        return float((left * right).sum())

    assert math.isclose(dot(5, 2), dot(12, 9), abs_tol=1e-5)
    assert not math.isclose(dot(5, 2), dot(5, 3), abs_tol=1e-3)


def test_loss_at_the_start_is_near_ln_v() -> None:
    windows = torch.randint(0, 64, (8, 17), generator=torch.Generator().manual_seed(5))
    assert abs(float(model().loss(windows).detach()) - math.log(64)) < 0.5


def test_each_token_predicts_the_next_one() -> None:
    """Trained on a counter 0, 1, 2, ... the model must say i + 1 after i."""
    decoder = model()
    windows = (torch.arange(17)[None] + torch.arange(8)[:, None]) % 64
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = decoder.loss(windows)
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        said = decoder(windows[:, :-1]).argmax(-1)
    assert torch.equal(said, windows[:, 1:])


def test_a_tied_head_counts_once() -> None:
    untied = Decoder(Shape(64, 16, 32, 4, 2, tied=False))
    assert untied.parameter_count() - model().parameter_count() == 64 * 32
