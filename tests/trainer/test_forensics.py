"""Forensics: a trained model is found healthy, and every check fails on a model broken in the way it is there for."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from curriculum.errors import Exit
from curriculum.files import sha256_file
from state import checkpoints
from state.status import status
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run
from trainer import inspect_cli
from trainer.forensics import LIMITS, Evidence, Examiner, Report
from trainer.model import Decoder, Shape
from trainer.snapshot import Tensors
from trainer.step import TrainStep

DEEP = ("layers = 2", "layers = 3"), ("grad_accum = 4", "grad_accum = 2")
Break = Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], None]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three layers, trained to its end."""
    path = tiny.make(tmp_path_factory.mktemp("forensics"), *DEEP).path
    assert go(path)["exit"] == Exit.OK
    return path


@pytest.fixture(scope="module")
def trained(config: Path) -> Evidence:
    return at(config, 60)


def at(config: Path, step: int) -> Evidence:
    return inspect_cli.evidence_of(checkpoints.locate(the_run(config).checkpoints / f"step_{step}"))


def examiner(quick: bool, shape: Shape) -> Examiner:
    return Examiner(shape, 3, quick=quick)


@pytest.fixture(scope="module")
def shape(config: Path) -> Shape:
    return msgspec.convert(checkpoints.locate(the_run(config).root).meta["shape"], Shape)


def broken(evidence: Evidence, change: Break) -> Evidence:
    """A copy of what was found, changed."""
    model, memory = (
        {name: tensor.clone() for name, tensor in group.items()}
        for group in (evidence.tensors.model, evidence.tensors.optimizer)
    )
    change(model, memory)
    return replace(evidence, tensors=Tensors(model, memory))


def failing(report: Report) -> set[str]:
    return {check.name for check in report.failing}


def of(part: str, factor: float) -> Break:
    """Multiply every tensor whose name has this part."""

    def change(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
        for name in model:
            if part in name:
                model[name].mul_(factor)

    return change


def alike(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    model["embedding.weight"][:] = model["embedding.weight"][7]


def crushed(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    """Every token's norm in a narrow band, directions as they were: what document 000 saw."""
    norms = model["embedding.weight"].norm(dim=1, keepdim=True)
    model["embedding.weight"].mul_(norms.mean() / norms)


def deaf(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    """Attention brings nothing from anywhere: each word is drawn as if the one before it were all there is."""
    for name, weight in model.items():
        if name.endswith("qkv.weight"):
            weight[2 * len(weight) // 3 :] = 0.0


def sparse(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    """Nearly all weights of a middle layer gone, a few large ones left, so that its RMS is what it was."""
    weight = model["blocks.1.up.weight"]
    rms = weight.square().mean().sqrt()
    weight.zero_().view(-1)[::50] = rms * 50**0.5


def frozen(_: dict[str, torch.Tensor], memory: dict[str, torch.Tensor]) -> None:
    memory["blocks.1.mlp_norm.weight/exp_avg_sq"].zero_()


def nan(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    model["blocks.2.down.weight"][3, 3] = float("nan")


def restless(_: dict[str, torch.Tensor], memory: dict[str, torch.Tensor]) -> None:
    memory["blocks.0.up.weight/exp_avg"].mul_(1e4)


def matrices(factor: float) -> Break:
    def change(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
        for weight in model.values():
            if weight.dim() >= 2:
                weight.mul_(factor)

    return change


def half_of(part: str, axis: int) -> Break:
    """Zero the first half of the rows (axis 0) or columns of every such matrix."""

    def change(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
        for name, weight in model.items():
            if name.endswith(part):
                weight.narrow(axis, 0, weight.shape[axis] // 2).zero_()

    return change


def every_other(part: str, axis: int) -> Break:
    def change(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
        for name, weight in model.items():
            if name.endswith(part):
                weight.index_fill_(axis, torch.arange(0, weight.shape[axis], 2), 0.0)

    return change


def queries(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    """Every position attends to all before it alike."""
    for name, weight in model.items():
        if name.endswith("qkv.weight"):
            weight[: len(weight) // 3] = 0.0


def flat(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    """Queries, keys and values of rank one, each as large as it was."""
    for name, weight in model.items():
        if name.endswith("qkv.weight"):
            signs = torch.ones(len(weight), 1)
            signs[::3] = -1.0
            weight.copy_(signs * weight.norm(dim=1, keepdim=True) * weight[:1] / weight[:1].norm())


def of_last_norm(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    model["norm.weight"].mul_(0.01)


def shared(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    embedding = model["embedding.weight"]
    embedding[: 9 * len(embedding) // 10] = embedding[0].clone()


def loud(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
    model["embedding.weight"][::20].mul_(50)


WAYS: dict[str, tuple[Break, set[str]]] = {
    "all weights scaled by 0.01": (of("", 0.01), {"scale", "meaningful", "contribution", "prefix"}),
    "shrunk 6.6 times": (of("weight", 1 / 6.6), {"scale", "meaningful"}),
    "a middle layer zeroed": (of("blocks.1.", 0.0), {"scale", "meaningful", "contribution"}),
    "a middle layer's attention without input": (of("blocks.1.attention_norm", 0.0), {"contribution"}),
    "a middle layer's MLP without input": (of("blocks.1.mlp_norm", 0.0), {"contribution"}),
    "a middle layer nearly empty": (sparse, {"meaningful"}),
    "constant embeddings": (alike, {"embedding_spread", "embedding_alike", "prefix"}),
    "embeddings of one length": (crushed, {"embedding_spread"}),
    "the prefix ignored": (deaf, {"prefix"}),
    "a frozen group": (frozen, {"frozen"}),
    "a value that is no number": (nan, {"not_finite"}),
    "a step that rewrites the weights": (restless, {"update"}),
    "all matrices x1000": (matrices(1000.0), {"scale_most"}),
    "one matrix x100": (of("blocks.0.up", 100.0), {"scale_most"}),
    "half of the heads": (half_of("attention.out.weight", 1), {"dead_heads", "dead_channels"}),
    "half of each head": (every_other("attention.out.weight", 1), {"dead_channels"}),
    "half of the neurons, by what they take": (half_of("up.weight", 0), {"dead_channels"}),
    "half of the neurons, by what they give": (half_of("down.weight", 1), {"dead_channels"}),
    "queries of zero": (queries, {"dead_heads", "dead_channels", "rank"}),
    "attention of one direction": (flat, {"rank"}),
    "the last norm x0.01": (of_last_norm, {"final_norm"}),
    "one embedding for 90 % of the tokens": (shared, {"embedding_shared"}),
    "5 % of the tokens x50": (loud, {"embedding_loud"}),
}


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
def test_a_trained_model_is_healthy_and_each_way_to_break_it_is_caught(
    quick: bool, trained: Evidence, shape: Shape
) -> None:
    look = examiner(quick, shape)
    report = look.examine(trained)
    assert (report.verdict, failing(report)) == ("healthy", set())
    assert {check.name for check in report.checks} == LIMITS.keys() - {"against"}
    for what, (change, least) in WAYS.items():
        report = look.examine(broken(trained, change))
        assert report.verdict == "failing" and least <= failing(report), what
    assert set.union(*(least for _, least in WAYS.values())) == LIMITS.keys() - {
        "against"
    }  # every check is proved
    assert look.examine(trained).verdict == "healthy", "something was remembered"


def test_every_checkpoint_of_a_run_is_looked_at_and_says_so(config: Path, trained: Evidence) -> None:
    for one in checkpoints.complete(the_run(config).checkpoints):
        assert one.meta["forensics"]["verdict"] == "healthy", one.meta["forensics"]
    assert trained.lr is not None and 0 < trained.lr < 3e-3


@pytest.mark.parametrize("tied", [True, False])
def test_a_fresh_model_is_sound_but_for_what_no_step_has_changed(tied: bool) -> None:
    shape = Shape(300, 16, 48, 2, 3, tied)
    model = Decoder(shape)
    model.initialise(7)
    fresh = Evidence(0, Tensors({name: weight.detach() for name, weight in model.named_parameters()}, {}))
    for quick in (True, False):
        report = Examiner(shape, 7, quick=quick).examine(fresh)
        assert failing(report) == {"frozen"}
        assert report.tokens["spread"] == pytest.approx(report.tokens["spread_fresh"], rel=0.15)
        assert all(layer["scale"] == 1.0 for layer in report.layers)


def test_a_group_that_the_optimizer_forgot_is_found_by_its_first_draw(config: Path, shape: Shape) -> None:
    """Its moments say that it had gradients; its weights are those of step 0."""
    first = Decoder(shape)
    first.initialise(3)

    def forgotten(model: dict[str, torch.Tensor], _: dict[str, torch.Tensor]) -> None:
        model["blocks.1.down.weight"].copy_(first.blocks[1].down.weight.detach())

    report = examiner(False, shape).examine(broken(at(config, 60), forgotten))
    assert failing(report) == {"frozen"}
    assert next(check.where for check in report.checks if check.name == "frozen") == "blocks.1.down.weight"


def test_a_sibling_shows_what_shrank_and_what_stood_still(
    config: Path, trained: Evidence, shape: Shape
) -> None:
    look, earlier = examiner(False, shape), at(config, 40)
    report = look.examine(trained, earlier)
    assert report.verdict == "healthy" and all(layer["against"] > 0.9 for layer in report.layers)
    shrunk = look.examine(broken(trained, of("blocks.1.up", 0.4)), earlier)
    assert "against" in failing(shrunk) and shrunk.layers[1]["against"] < 0.5 < shrunk.layers[0]["against"]
    same = look.examine(replace(earlier, step=60), earlier)
    assert failing(same) == {"frozen"}


# The command.


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(inspect_cli.app, [str(argument) for argument in arguments])


def damage(config: Path, folder: Path) -> Path:
    """A copy of the newest checkpoint whose middle layer is gone, its hashes made to fit."""
    path = shutil.copytree(the_run(config).checkpoints / "step_60", folder / "step_60")
    model = load_file(path / checkpoints.MODEL)
    of("blocks.1.", 0.0)(model, {})
    save_file(model, path / checkpoints.MODEL)
    meta = json.loads((path / checkpoints.META).read_text())
    meta["files"][checkpoints.MODEL]["sha256"] = sha256_file(path / checkpoints.MODEL)
    (path / checkpoints.META).write_text(json.dumps(meta))
    return path


def test_the_command_reads_well_and_its_exit_status_is_the_verdict(config: Path, tmp_path: Path) -> None:
    run = the_run(config)
    healthy = inspect(run.root, "--against", run.checkpoints / "step_40")
    assert healthy.exit_code == Exit.OK, healthy.output
    assert max(map(len, healthy.stdout.splitlines())) <= 80
    assert "healthy" in healthy.stderr and "FAILS" not in healthy.stdout
    path = damage(config, tmp_path)
    told = inspect(path)
    assert told.exit_code == Exit.FINDINGS
    assert "failing" in told.stderr and "blocks.1." in told.stdout and "layer 1 attention" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 80
    body = json.loads(inspect(path, "--json", "--against", run.root).stdout)
    assert {"schema", "verdict", "checks", "layers", "tokens"} <= body.keys()
    assert body["schema"] == "inspect/1" and body["verdict"] == "failing"
    wrong = {check["name"] for check in body["checks"] if not check["ok"]}
    assert {"scale", "meaningful", "contribution", "against"} <= wrong
    assert all({"name", "value", "limit", "ok"} <= check.keys() for check in body["checks"])
    assert [layer["layer"] for layer in body["layers"]] == [0, 1, 2]
    by_name = inspect("tiny", "--runs-dir", run.root.parent, "--json")
    assert by_name.exit_code == Exit.OK and json.loads(by_name.stdout)["step"] == 60


def test_the_command_draws(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = inspect(the_run(config).root, "--plot", tmp_path / "look.png")
    assert drawn.exit_code == Exit.OK, drawn.output
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_looked_at_is_refused(config: Path, tmp_path: Path) -> None:
    run = the_run(config)
    assert inspect(tmp_path).exit_code == Exit.NOT_FOUND
    assert inspect(run.root, "--plot", tmp_path / "look.doc").exit_code == Exit.USAGE
    path = shutil.copytree(run.checkpoints / "step_60", tmp_path / "step_60")
    weights = path / checkpoints.MODEL
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert inspect(path).exit_code == Exit.DAMAGED
    other = tiny.make(tmp_path / "other", *tiny.QUICK).path
    assert go(other, until=10)["exit"] == Exit.STOPPED
    assert inspect(run.root, "--against", the_run(other).root).exit_code == Exit.REFUSED


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    meta = json.loads((path / checkpoints.META).read_text())
    change(meta)
    (path / checkpoints.META).write_text(json.dumps(meta))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut short": (lambda path: os.truncate(path / checkpoints.MODEL, 999), checkpoints.MODEL),
    "no weights": (lambda path: (path / checkpoints.MODEL).unlink(), checkpoints.MODEL),
    "no moments": (lambda path: (path / checkpoints.OPTIMIZER).unlink(), checkpoints.OPTIMIZER),
    "no JSON": (lambda path: (path / checkpoints.META).write_text('{"format"'), checkpoints.META),
    "other JSON": (lambda path: (path / checkpoints.META).write_text("[3]"), checkpoints.META),
    "an absent file": (lambda path: (path / checkpoints.META).unlink(), checkpoints.META),
    "no files": (lambda path: edited(path, lambda meta: meta.update(files={})), checkpoints.META),
    "another width": (
        lambda path: edited(path, lambda meta: meta["shape"].update(width=64)),
        checkpoints.META,
    ),
    "no width": (lambda path: edited(path, lambda meta: meta["shape"].pop("width")), checkpoints.META),
    "no heads": (lambda path: edited(path, lambda meta: meta["shape"].update(heads=0)), checkpoints.META),
    "more layers": (lambda path: edited(path, lambda meta: meta["shape"].update(layers=9)), checkpoints.META),
    "no shape": (lambda path: edited(path, lambda meta: meta.pop("shape")), checkpoints.META),
    "a seed in words": (lambda path: edited(path, lambda meta: meta.update(seed="x")), checkpoints.META),
    "one beta": (lambda path: edited(path, lambda meta: meta.update(betas=[0.9])), checkpoints.META),
    "a rate in words": (lambda path: edited(path, lambda meta: meta.update(lr="x")), checkpoints.META),
    "a version in words": (
        lambda path: edited(path, lambda meta: meta.update(version="x")),
        checkpoints.META,
    ),
}


@pytest.mark.parametrize("what", HARM)
def test_a_damaged_checkpoint_is_named_with_its_file(config: Path, tmp_path: Path, what: str) -> None:
    harm, file = HARM[what]
    path = shutil.copytree(the_run(config).checkpoints / "step_60", tmp_path / "step_60")
    harm(path)
    told = inspect(path, "--json")
    assert told.exit_code == Exit.DAMAGED
    error = json.loads(told.stdout)["error"]
    assert error["path"] == str(path / file) and file in error["message"] and error["next"]


def test_a_newest_checkpoint_that_is_damaged_is_not_passed_over_in_silence(
    config: Path, tmp_path: Path
) -> None:
    shutil.copytree(the_run(config).checkpoints, tmp_path / "checkpoints")
    os.truncate(tmp_path / "checkpoints" / "step_60" / checkpoints.MODEL, 999)
    told = inspect(tmp_path)
    assert told.exit_code == Exit.OK
    assert f"step_60 is damaged: {checkpoints.MODEL} has 999 bytes" in told.stderr
    named = json.loads(inspect(tmp_path / "checkpoints" / "step_60", "--json").stdout)["error"]
    assert named["next"] == f"firehose inspect {tmp_path / 'checkpoints' / 'step_40'}, which is complete"


# In a run.


def test_a_layer_that_dies_in_a_run_is_an_alarm_until_a_checkpoint_is_sound_again(tmp_path: Path) -> None:
    config = tiny.make(tmp_path, *DEEP).path
    train = TrainStep.run

    def dies(self: TrainStep, step: int, *rest: Any) -> None:
        train(self, step, *rest)
        if step >= 35:
            with torch.no_grad():
                for weight in self.model.blocks[1].parameters():
                    weight.zero_()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "run", dies)
        assert go(config, until=50)["exit"] == Exit.STOPPED
    run = the_run(config)
    told = "forensics of the checkpoint of step 40: scale, meaningful, contribution"
    assert told in log(config) and f"firehose inspect {run.checkpoints / 'step_40'}" in log(config)
    assert "forensics of the checkpoint of step 20" not in log(config)
    events = [event for event in run.events() if event["event"] == "forensics"]
    assert [event["step"] for event in events] == [40, 50]
    assert {"scale", "contribution"} <= {check["name"] for check in events[0]["failing"]}
    (alarm,) = status(run, 0.0)[0]["alarms"]
    assert "of step 50" in alarm

    def again(self: TrainStep, step: int, *rest: Any) -> None:
        train(self, step, *rest)
        if step == 51:
            self.model.initialise(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "run", dies)
        ended = go(config)  # a launch knows the alarm from the checkpoint
    assert ended["exit"] == Exit.ALARMS
    assert run.condition(0.0).state == "finished"
    assert json.loads(run.process.read_text())["end"]["exit_code"] == Exit.ALARMS
    assert go(config)["exit"] == Exit.ALARMS
    shutil.rmtree(run.checkpoints / "step_60")
    run.state.unlink()
    shutil.rmtree(run.versions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "run", again)
        assert go(config)["exit"] == Exit.OK
