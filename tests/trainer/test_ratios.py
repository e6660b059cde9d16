"""Learning rates by group of parameters, and how far steps move each group: measured, told, an alarm out of range."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from curriculum import config as configs
from curriculum.config import LrScale
from curriculum.errors import Exit, FirehoseError
from state.run_dir import read_object
from state.status import screen, status
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run
from trainer import optim
from trainer.graph import static
from trainer.model import Decoder, Shape
from trainer.parallel import Whole
from trainer.ratios import Ratios
from trainer.ring import Ring
from trainer.step import TrainStep

CPU = torch.device("cpu")


def build(scales: LrScale, tied: bool = True) -> TrainStep:
    model = Decoder(Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2, tied=tied))
    model.initialise(1)
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=CPU, scales=scales)
    return TrainStep(model, optimizer, Ring(8, 2, CPU), grad_clip=1.0, autocast=nullcontext())


def pulls(seed: int) -> torch.Tensor:
    return torch.randint(0, 64, (2, 4, 17), generator=torch.Generator().manual_seed(seed))


def by_hand(step: TrainStep, before: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Of each group: the sum of squares of what it moved by, and that of its weights."""
    sums: dict[str, list[float]] = {}
    for name, weight in step.shared.named.items():
        of = sums.setdefault(optim.group_of(name, weight), [0.0, 0.0])
        of[0] += float((weight.detach() - before[name]).double().square().sum())
        of[1] += float(before[name].double().square().sum())
    return sums


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_every_group_moves_by_its_own_rate(tied: bool, recorded: bool) -> None:
    """Adam's first step has the size of the rate; so has the rate that lies on the device, where steps are recorded."""
    scales = LrScale(embedding=0.5, attention=0.25, mlp=2.0, norms=4.0, head=1.0 if tied else 0.125)
    even, scaled = build(LrScale(), tied), build(scales, tied)
    moved = []
    for step in (even, scaled):
        for group in step.optimizer.param_groups:
            group["weight_decay"] = 0.0
        if recorded:
            static(step.optimizer, CPU)
            for group in step.optimizer.param_groups:
                group["capturable"] = False  # of CUDA
        before = {name: weight.detach().clone() for name, weight in step.shared.named.items()}
        step.run(1, pulls(1), lr=1e-3)
        moved.append({name: w.detach() - before[name] for name, w in step.shared.named.items()})
    for name, weight in scaled.shared.named.items():
        scale = getattr(scales, optim.group_of(name, weight))
        assert torch.allclose(moved[1][name], scale * moved[0][name], atol=2e-7), name


def test_scales_of_one_are_two_groups_as_ever_and_every_bit_the_same() -> None:
    even = build(LrScale())
    split = build(LrScale())
    names = [optim.group_of(name, p) for name, p in split.shared.named.items()]
    assert sorted(set(names)) == ["attention", "embedding", "mlp", "norms"]
    assert [(len(g["params"]), g["scale"]) for g in even.optimizer.param_groups] == [(9, 1.0), (5, 1.0)]
    by_name = [
        {"params": [p], "weight_decay": 0.1 if p.dim() > 1 else 0.0, "scale": 1.0}
        for p in split.shared.named.values()
    ]
    split.optimizer = torch.optim.AdamW(by_name, lr=0.0, betas=(0.9, 0.95), fused=True)
    for step in (1, 2, 3):
        for each in (even, split):
            each.run(step, pulls(step), lr=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(even.parameters, split.parameters, strict=True))


def test_state_of_an_even_optimizer_goes_on_under_other_scales() -> None:
    even, scaled = build(LrScale()), build(LrScale(mlp=3.0))
    even.run(1, pulls(1), lr=1e-2)
    optim.load_state(
        scaled.optimizer, scaled.shared.named, optim.state_tensors(even.optimizer, even.shared.named)
    )
    scaled.run(2, pulls(2), lr=1e-2)
    assert {float(memory["step"]) for memory in scaled.optimizer.state.values()} == {2.0}


def test_the_ratio_is_what_the_step_did_to_the_weights() -> None:
    step = build(LrScale(mlp=3.0))
    for group in step.optimizer.param_groups:
        group["weight_decay"] = 0.0
    step.run(1, pulls(1), lr=1e-4)
    before = {name: weight.detach().clone() for name, weight in step.shared.named.items()}
    step.run(2, pulls(2), lr=1e-4)
    ratios = Ratios(Whole(step.model), step.optimizer, peak=1.0)
    ratios.measure(2, 1e-4)
    found = {group.name: group for group in ratios.found}
    for name, (moved, size) in by_hand(step, before).items():
        assert found[name].ratio == pytest.approx((moved / size) ** 0.5, rel=1e-2), name
    assert (found["mlp"].lr, found["attention"].lr) == (pytest.approx(3e-4), 1e-4)


def test_a_group_out_of_range_twice_is_an_alarm_and_only_past_a_tenth_of_the_peak() -> None:
    step = build(LrScale(mlp=1e-6))
    step.run(1, pulls(1), lr=1e-2)
    ratios = Ratios(Whole(step.model), step.optimizer, peak=1e-3)
    for _ in range(3):
        assert ratios.measure(100, 1e-4) == []
        assert {group.out for group in ratios.found} == {None}, "not judged yet"
    assert ratios.measure(200, 5e-4) == []
    assert {group.name: group.out for group in ratios.found}["mlp"] == "low"
    (said,) = ratios.measure(300, 5e-4)
    assert "update of mlp" in said
    assert "train.lr_scale.mlp is too low" in said
    assert (ratios.measure(400, 5e-4), len(ratios.alarms)) == ([], 1)


def test_a_run_with_a_backbone_that_stands_still_ends_with_an_alarm(tmp_path: Path) -> None:
    """I19: the loss falls, since the embedding learns; the rate of the rest is too low for it."""
    config = tiny.make(
        tmp_path, *tiny.QUICK, ("lr = 3e-3", "lr = 3e-3\nlr_scale = { attention = 1e-5, mlp = 1e-5 }")
    ).path
    assert go(config)["exit"] == Exit.ALARMS
    run = the_run(config)
    assert "ALARM update of attention" in log(config)
    assert "weight decay 0.01, from scratch (the default)" in log(config)
    body, _ = status(run, 0.0)
    assert re.findall(r"(\w+) \S+ TOO LOW", "\n".join(screen(body, 0.0))) == ["attention", "mlp"]
    assert [group["name"] for group in body["groups"]] == ["embedding", "norms", "attention", "mlp"]
    assert len([alarm for alarm in body["alarms"] if alarm.startswith("update of ")]) == 2
    told = [event for event in run.events() if event["event"] == "update-ratio"]
    assert {event["step"] for event in told} == {20}
    assert (read_object(run.effective) or {})["config"]["train"]["lr_scale"]["mlp"] == 1e-5


@pytest.mark.parametrize(
    ("value", "said", "code"),
    [
        ("{ backbone = 2.0 }", "backbone", Exit.USAGE),
        ("{ mlp = 0.0 }", "mlp", Exit.USAGE),
        ("{ head = 2.0 }", "would not be read", Exit.REFUSED),
    ],
)
def test_a_scale_that_means_nothing_is_refused(tmp_path: Path, value: str, said: str, code: Exit) -> None:
    path = tiny.write_config(tmp_path, ("lr = 3e-3", f"lr = 3e-3\nlr_scale = {value}"))
    with pytest.raises(FirehoseError, match=said) as error:
        configs.load(path)
    assert error.value.exit_code == code
