"""Recorded and replayed steps against plain ones: the same bits, and what would be frozen in a recording is seen."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from curriculum.config import Train
from curriculum.errors import FirehoseError
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run
from tests.trainer.tape import Tape
from trainer import cuda, optim
from trainer import model as models
from trainer.align import Alignment
from trainer.graph import WARM_UP, CudaRecorder, Replay, Work, static
from trainer.model import Decoder, Shape
from trainer.ring import Ring, StepResult
from trainer.step import TrainStep

SHAPE = Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2)
CPU = torch.device("cpu")
STEPS = 9


@pytest.fixture(autouse=True)
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's plain operations, and no threads' twins: what is recorded on CUDA."""
    monkeypatch.setattr(models, "by_hand", lambda x: False)


class Text:
    """Two batches of three windows a probe."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def batch(self, number: int) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(1000 + number)
        return [torch.randint(0, 64, (3, 17), generator=draw).to(self.device) for _ in range(2)]


def pulls(seed: int) -> torch.Tensor:
    return torch.randint(0, 64, (2, 4, 17), generator=torch.Generator().manual_seed(seed))


def build(device: torch.device = CPU) -> TrainStep:
    """A step with a probe every three steps, its learning rate in a tensor."""
    model = Decoder(SHAPE)
    model.initialise(1)
    model.to(device)
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=device)
    static(optimizer, device)
    text: Any = Text(device)
    align = Alignment(model, text, every=3, autocast=nullcontext())
    ring = Ring(16, 2, device)
    return TrainStep(model, optimizer, ring, grad_clip=0.5, autocast=nullcontext(), align=align)


def train(step: TrainStep) -> list[StepResult]:
    for number in range(1, STEPS + 1):
        step.run(number, pulls(number).to(step.row.device), lr=1e-2 / number)
    return [step.ring.read(number) for number in range(1, STEPS + 1)]


def same_weights(one: TrainStep, other: TrainStep) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters, other.parameters, strict=True))


def never(why: str) -> None:
    raise AssertionError(why)


def test_replayed_steps_are_the_plain_ones_bit_for_bit() -> None:
    plain, replayed = build(), build()
    tape = Tape()
    replayed.runner = Replay(replayed.update, tape, never)
    assert train(plain) == train(replayed)
    assert same_weights(plain, replayed)
    assert tape.replays == STEPS - WARM_UP
    assert plain.align is not None and replayed.align is not None
    assert torch.equal(plain.align.goal, replayed.align.goal)


def test_a_skipped_step_is_skipped_in_a_replay_as_well() -> None:
    replayed = build()
    replayed.runner = Replay(replayed.update, Tape(), never)
    train(replayed)
    with torch.no_grad():
        replayed.model.norm.weight[0] = float("nan")
    moment = replayed.optimizer.state[replayed.model.head.weight]["exp_avg"].clone()
    replayed.run(STEPS + 1, pulls(1), lr=1e-2)
    assert replayed.ring.read(STEPS + 1).skipped
    assert torch.equal(moment, replayed.optimizer.state[replayed.model.head.weight]["exp_avg"])


def test_a_number_of_pythons_would_be_frozen() -> None:
    """The tape can tell: with the learning rate as a number, replays go on with that of the recorded step."""
    plain, replayed = build(), build()
    for step in (plain, replayed):
        for group in step.optimizer.param_groups:
            group["lr"] = 0.0
    replayed.runner = Replay(replayed.update, Tape(), never)
    assert train(plain) != train(replayed)


class Refusing(Tape):
    """Fails half-way, like a recording that meets what it may not record: some of the step was done in Python."""

    def __init__(self, step: TrainStep) -> None:
        super().__init__()
        self.step = step

    def record(self, work: Work) -> Work:
        assert self.step.align is not None
        self.step.model.loss(pulls(77)[0]).backward()
        self.step.align.cosine()
        raise RuntimeError(
            "operation not permitted when stream is capturing\nCUDA kernel errors might be ..."
        )


def test_where_recording_fails_steps_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, refused, insisted = build(), build(), build()
    for step in (refused, insisted):
        monkeypatch.setattr(cuda, "CudaRecorder", lambda device, step=step: Refusing(step))
        monkeypatch.setattr(cuda, "static", lambda optimizer, device: None)
        said: list[str] = []
        train_config = Train(cuda_graph="auto" if step is refused else "on")
        cuda.record(step, train_config, torch.device("cuda", 0), alone=True, say=said.append)
        assert said == ["CUDA: the step is as it is and recorded as one graph; kernels that add in any order"]
        if step is insisted:
            with pytest.raises(FirehoseError, match="could not be recorded"):
                train(step)
            continue
        assert train(plain) == train(step)
        assert same_weights(plain, step)
        why = "a step could not be recorded: operation not permitted when stream is capturing"
        assert said[1:] == [f"{why}; steps run without a CUDA graph"]


def test_only_small_models_alone_on_cuda_are_recorded_unasked() -> None:
    step = build()
    plain, said = step.runner, []
    for train_config, device, alone in (
        (Train(), CPU, True),
        (Train(), torch.device("cuda", 0), False),
        (Train(cuda_graph="off", deterministic=True), torch.device("cuda", 0), True),
    ):
        cuda.record(step, train_config, device, alone=alone, say=said.append)
        assert step.runner == plain
    assert said[-1] == "CUDA: the step is as it is and launched kernel by kernel; the same bits each time"
    with pytest.raises(FirehoseError, match="for a single process on CUDA"):
        cuda.record(step, Train(cuda_graph="on"), CPU, alone=True, say=said.append)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_cuda_graph_gives_the_numbers_of_plain_steps() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    plain, replayed = build(device), build(device)
    replay = Replay(replayed.update, CudaRecorder(device), never)
    replayed.runner = replay
    for one, other in zip(train(plain), train(replayed), strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
        assert one.signals == pytest.approx(other.signals, abs=1e-3)
        assert one.norm == pytest.approx(other.norm, rel=1e-3)
    assert replay.recorded.replay is not None
    for a, b in zip(plain.parameters, replayed.parameters, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_run_is_the_same_run_when_its_steps_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Picks, losses and weights of a run with probes, boundaries and a checkpoint, byte for byte."""
    tapes: list[Tape] = []

    def record(step: TrainStep, *rest: object, **named: object) -> None:
        for group in step.optimizer.param_groups:
            group["lr"] = torch.zeros((), dtype=torch.float64)  # as exact as the number it stands for
        tapes.append(Tape())
        step.runner = Replay(step.update, tapes[-1], never)

    made = {}
    for name in ("plain", "replayed"):
        if name == "replayed":
            monkeypatch.setattr(cuda, "record", record)
        config = tiny.make(tmp_path / name, *tiny.QUICK, ("checkpoint_every = 20", "checkpoint_every = 10"))
        go(config.path, until=20)
        root = the_run(config.path).root
        files = [root / "tiny.loss.json", root / "tiny.pulls.json", *sorted(root.rglob("*.safetensors"))]
        made[name] = {file.relative_to(root): file.read_bytes() for file in files}
    assert made["plain"] == made["replayed"]
    assert len(made["plain"]) == 2 + 2 * 2
    assert [tape.replays for tape in tapes] == [20 - WARM_UP]
