"""The training step: same update as the plain recipe, clipping, skipping, the ring, the learning rate."""

from contextlib import nullcontext

import pytest
import torch

from trainer import optim
from trainer.model import Decoder, Shape
from trainer.ring import Ring, StepResult
from trainer.step import TrainStep

SHAPE = Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2)
CPU = torch.device("cpu")


def build(grad_clip: float = 1.0) -> tuple[Decoder, TrainStep]:
    model = Decoder(SHAPE)
    model.initialise(1)
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=CPU)
    return model, TrainStep(model, optimizer, Ring(8, 2, CPU), grad_clip=grad_clip, autocast=nullcontext())


def pulls(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (2, 4, 17), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grad_clip", [1e-3, 1e3])
def test_equals_the_plain_recipe(grad_clip: float) -> None:
    """Clipping by gradient scale inside the fused optimizer against clip_grad_norm_ and an unfused AdamW."""
    model, step = build(grad_clip)
    plain = Decoder(SHAPE)
    plain.initialise(1)
    matrices = [p for p in plain.parameters() if p.dim() >= 2]
    gains = [p for p in plain.parameters() if p.dim() < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.95),
        fused=False,
    )
    for number in range(1, 4):
        step.run(number, pulls(number), lr=1e-2)
        reference.zero_grad()
        for windows in pulls(number):
            (plain.loss(windows) / 2).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), grad_clip)
        reference.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)


def test_a_non_finite_step_changes_nothing_and_says_so() -> None:
    model, step = build()
    step.run(1, pulls(), lr=1e-2)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    moment = step.optimizer.state[model.embedding.weight]["exp_avg"].clone()
    step.run(2, pulls(), lr=1e-2)
    result = step.ring.read(2)
    assert result.skipped
    assert result.losses[0] != result.losses[0]
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(7.0), new.detach().nan_to_num(7.0))
    assert torch.equal(moment, step.optimizer.state[model.embedding.weight]["exp_avg"])
    assert float(step.optimizer.state[model.embedding.weight]["step"]) == 1.0


def test_the_ring_never_gives_an_old_value_for_a_new_step() -> None:
    ring = Ring(4, 2, CPU)
    assert ring.row(1)[2:5].isnan().all()
    ring.row(1)[:] = torch.tensor([1.0, 2.0, 0.25, float("nan"), 7.0, 0.5, 0.0, 0.0, 0.5])
    assert ring.read(1) == StepResult([1.0, 2.0], 0.5, False, signals=[0.25, None], goal=7.0, request=True)
    assert ring.read(1).loss == 1.5
    with pytest.raises(LookupError, match="step 5"):
        ring.read(5)
    assert ring.row(5)[2:5].isnan().all(), "nothing of step 1 is taken for a measurement"
    with pytest.raises(LookupError, match="step 1"):
        ring.read(1)


def test_optimizer_state_survives_a_round_trip_by_name() -> None:
    model, step = build()
    step.run(1, pulls(1), lr=1e-2)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: t.clone() for name, t in optim.state_tensors(step.optimizer, step.shared.named).items()}
    step.run(2, pulls(2), lr=1e-2)

    other, again = build()
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(weights[name])
    optim.load_state(again.optimizer, again.shared.named, moments)
    again.run(2, pulls(2), lr=1e-2)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_learning_rate_ramps_then_falls() -> None:
    rate = {s: optim.learning_rate(s, peak=1.0, floor=0.1, warmup_steps=10, steps=100) for s in range(1, 101)}
    assert rate[1] == pytest.approx(0.1, rel=1e-3)
    assert max(rate, key=rate.__getitem__) in range(9, 12)
    assert 0.1 < rate[100] < 0.11
    assert optim.learning_rate(1, peak=1.0, floor=0.1, warmup_steps=0, steps=100) == 1.0


def test_decay_falls_on_matrices_only() -> None:
    model, step = build()
    decayed, spared = step.optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert all(p.dim() == 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
