"""The doctor on a whole run: nothing to say of a sound one, and the right words for each part broken on purpose."""

import copy
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bandit.scheduler import Scheduler
from curriculum import config as configs
from curriculum.config import Config
from curriculum.gate.coherence import score
from curriculum.tokens.corpus import Corpus
from trainer import checkup, cli, launch, optim, sampling
from trainer.checkup import Checkup
from trainer.doctor import against, checks, harness, rehearsal, traces
from trainer.doctor.checks import Check
from trainer.doctor.examine import examine
from trainer.doctor.rehearsal import Rehearsed
from trainer.feed import Feed
from trainer.loop import Loop
from trainer.model import Decoder
from trainer.sampling import Writing
from trainer.signals import Flags
from trainer.snapshot import Tensors

Breaks = Callable[[Path, pytest.MonkeyPatch], None]


def failing(config: Path, *, quick: bool = True) -> dict[str, Check]:
    found = examine(configs.load(config), config.parent / "runs", quick=quick)
    return {check.name: check for check in found if not check.ok}


def test_a_sound_run_passes_every_check_and_nothing_is_left_of_it(config: Path) -> None:
    assert failing(config, quick=False) == {}
    assert not (config.parent / "runs").exists()


def truncated(config: Path, patch: pytest.MonkeyPatch) -> None:
    file = config.parent / "data/tiny/beta.btok"
    file.write_bytes(file.read_bytes()[:-100])


def short_of_documents(config: Path, patch: pytest.MonkeyPatch) -> None:
    text = config.read_text()
    config.write_text(
        text.replace('path = "text/beta.jsonl"', 'path = "text/beta.jsonl"\nexpect_documents = 560000')
    )


def other_template(config: Path, patch: pytest.MonkeyPatch) -> None:
    """Token files of `Human: ` documents, with this product's template beside them."""
    for file in (config.parent / "text").glob("*.jsonl"):
        file.write_text(file.read_text().replace("> tell", "Human: tell").replace("\\n< ", "\\nAssistant: "))
    from curriculum.text.build import build, plan_for

    build(plan_for(configs.load(config)))


def template_of_another_tokenizer(config: Path, patch: pytest.MonkeyPatch) -> None:
    from curriculum.text.tokenizer import Tokenizer

    patch.setattr(Tokenizer, "prompt", lambda self, text: self.encode(text))


def unheard(config: Path, patch: pytest.MonkeyPatch) -> None:
    def install(self: Flags) -> Flags:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        return self

    patch.setattr(Flags, "install", install)


def full(config: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(harness.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))


def no_links(config: Path, patch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(28, "No space left on device", str(config))

    patch.setattr(harness, "second_name", refuse)


def gate_detached(config: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Checkup, "sample", lambda self, step: False)


def gate_with_other_numbers(config: Path, patch: pytest.MonkeyPatch) -> None:
    def build(*given: Any, **named: Any) -> Any:
        parts = inner(*given, **named)
        parts.gate.threshold = 1.0
        return parts

    inner = launch.launch
    patch.setattr("trainer.doctor.rehearsal.launch", build)


def feed_off_by_one(config: Path, patch: pytest.MonkeyPatch) -> None:
    inner = Corpus.fill

    def fill(self: Corpus, out: Any, name: str, arm_id: int, first_window: int) -> None:
        inner(self, out, name, arm_id, first_window + 1)

    patch.setattr(Corpus, "fill", fill)


def token_before_the_inputs(config: Path, patch: pytest.MonkeyPatch) -> None:
    """As the loop trains, not as the model is asked: a BOS before the inputs, labels as they were."""
    inner = Decoder.loss

    def loss(self: Decoder, windows: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return inner(self, windows)
        inputs = torch.cat((torch.zeros_like(windows[:, :1]), windows[:, :-2]), dim=1)
        return torch.nn.functional.cross_entropy(self(inputs).flatten(0, 1), windows[:, 1:].flatten())

    patch.setattr(Decoder, "loss", loss)


def frozen_group(config: Path, patch: pytest.MonkeyPatch) -> None:
    inner = optim.build

    def build(*given: Any, **named: Any) -> Any:
        made = inner(*given, **named)
        made.param_groups[1]["params"] = []  # the norms' gains
        return made

    patch.setattr(optim, "build", build)


def no_checkpoint(config: Path, patch: pytest.MonkeyPatch) -> None:
    from state import checkpoints

    patch.setattr(checkpoints, "complete", lambda folder: [])


BROKEN: dict[str, tuple[Breaks, str, str]] = {
    "truncated data": (truncated, "data of beta", "its header describes"),
    "50,000 of 560,000 samples": (short_of_documents, "data of beta", "the config expects 560,000"),
    "data in another template": (other_template, "template", "another mark"),
    "prompts without their template": (template_of_another_tokenizer, "template", "do not belong together"),
    "signals unheard": (unheard, "signal handler", "would not reach the run"),
    "full disk": (full, "disk", "free some space"),
    "file system without links": (no_links, "file system", "--runs-dir"),
    "gate detached": (gate_detached, "gate attached", "samples are drawn that the gate never sees"),
    "gate of other numbers": (gate_with_other_numbers, "gate attached", "by the numbers of [gate]"),
    "feed one window off": (feed_off_by_one, "windows", "other tokens than the file holds"),
    "token before the inputs": (token_before_the_inputs, "labels", "a token put before the inputs"),
    "frozen group": (frozen_group, "every parameter moves", "the optimizer does not hold them"),
    "no checkpoint": (no_checkpoint, "checkpoint", "where one was due"),
}
FULL = {"50,000 of 560,000 samples"}


def other_windows(take: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]) -> Breaks:
    """A feed that hands over what `take` makes of a step's pulls and of those it kept."""

    def breaks(config: Path, patch: pytest.MonkeyPatch) -> None:
        inner, kept = Feed.take, dict[str, torch.Tensor]()
        patch.setattr(Feed, "take", lambda self, step: take(kept, inner(self, step).clone()))

    return breaks


def half_the_horizon(config: Path, patch: pytest.MonkeyPatch) -> None:
    inner = optim.learning_rate
    patch.setattr(
        optim, "learning_rate", lambda step, *, steps, **more: inner(step, steps=steps // 2, **more)
    )


def no_warm_up(config: Path, patch: pytest.MonkeyPatch) -> None:
    """In the optimizer alone: the loop's own number, which is written down, is the right one."""
    inner = optim.set_rate
    patch.setattr(optim, "set_rate", lambda optimizer, lr: inner(optimizer, 3e-3 if lr else 0.0))


def held_out_of_training(config: Path, patch: pytest.MonkeyPatch) -> None:
    def heldout(self: Corpus, name: str, count: int) -> Any:
        out = np.empty((count, self.block_size + 1), dtype=np.int64)
        self.fill(out, name, 1, 0)
        return out

    patch.setattr(Corpus, "heldout", heldout)


def saved(change: Callable[[Tensors], Tensors]) -> Breaks:
    def breaks(config: Path, patch: pytest.MonkeyPatch) -> None:
        inner = Loop.tensors
        patch.setattr(Loop, "tensors", lambda self: change(inner(self)))

    return breaks


def scores_of_another_text(config: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        checkup, "score", lambda text: score("A fine day by the sea, and the ships went out to fish.")
    )


def halt_not_heard(config: Path, patch: pytest.MonkeyPatch) -> None:
    inner = Checkup.halts

    def halts(self: Checkup, step: int, lr: float) -> bool:
        inner(self, step, lr)
        self.at.halt = None
        return False

    patch.setattr(Checkup, "halts", halts)


def credits_of_one_half(config: Path, patch: pytest.MonkeyPatch) -> None:
    inner = Scheduler.credit
    patch.setattr(Scheduler, "credit", lambda self, ticket, reward: inner(self, ticket, 0.5))


def penalties_of_nothing(config: Path, patch: pytest.MonkeyPatch) -> None:
    inner = Scheduler.penalize
    patch.setattr(Scheduler, "penalize", lambda self, step, shortfall: inner(self, step, 0.0))


Ask = Callable[[Config, Rehearsed], Check]
LEFT: dict[str, tuple[Breaks, Ask, str]] = {
    "a pull fed twice": (
        other_windows(lambda kept, pulls: pulls[:1].expand_as(pulls)),
        traces.fed,
        "first at step 1, pull 2, of",
    ),
    "step 1 for ever": (
        other_windows(lambda kept, pulls: kept.setdefault("first", pulls)),
        traces.fed,
        "first at step 2, pull 1, of",
    ),
    "half the horizon": (half_the_horizon, lambda c, d: traces.rates(c, c, d), "another horizon"),
    "no warm-up": (no_warm_up, lambda c, d: traces.rates(c, c, d), "another horizon, ramp or floor"),
    "held out of training": (held_out_of_training, lambda c, d: traces.heldout(d), "measured on other text"),
    "first weights saved": (
        saved(lambda all: Tensors({k: v.detach() * 0 + 0.01 for k, v in all.model.items()}, all.optimizer)),
        traces.comes_back,
        "go on from another model",
    ),
    "no moments saved": (
        saved(lambda all: Tensors(all.model, {})),
        traces.comes_back,
        "or another optimizer",
    ),
    "scores of another text": (scores_of_another_text, rehearsal.gate, "not the score of the sample's text"),
}
HALTED: dict[str, tuple[Breaks, Ask, str]] = {
    "halt not heard": (halt_not_heard, lambda c, d: traces.halts(d), "it would train on"),
    "credits of one half": (credits_of_one_half, traces.credited, "rewards do not reach the bandit"),
    "penalties of nothing": (penalties_of_nothing, traces.credited, "low samples cost the sources nothing"),
}


@pytest.mark.parametrize("name", [*LEFT, *HALTED])
def test_a_loop_that_is_broken_is_found_by_what_it_leaves(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose rehearsal, unbroken, leaves nothing to say: that is the first test."""
    breaks, ask, words = (LEFT | HALTED)[name]
    breaks(config, monkeypatch)
    own = configs.load(config)
    own = rehearsal.halting(own) if name in HALTED else rehearsal.short(own)
    with rehearsal.rehearse(own, uneven=name in HALTED) as done:
        found = ask(own, done)
    assert not found.ok and words in found.message, found


def no_cache(patch: pytest.MonkeyPatch) -> None:
    inner = Writing.forward

    def forward(self: Writing, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(tokens) == 1:
            self.kept.zero_()
        return inner(self, tokens, *rest)

    patch.setattr(Writing, "forward", forward)


def later_positions(patch: pytest.MonkeyPatch) -> None:
    inner = Writing.forward

    def forward(self: Writing, tokens: torch.Tensor, positions: torch.Tensor, *rest: Any) -> torch.Tensor:
        turned = self.cos, self.sin
        if len(tokens) == 1:
            self.cos, self.sin = self.cos.roll(1, 0), self.sin.roll(1, 0)
        try:
            return inner(self, tokens, positions, *rest)
        finally:
            self.cos, self.sin = turned

    patch.setattr(Writing, "forward", forward)


def without(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Sampling by a model one of whose sub-layers is silent."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        inner = sampling.generate

        def generate(sampler: sampling.Sampler, *given: Any, **named: Any) -> Any:
            other = copy.deepcopy(sampler.model)
            with torch.no_grad():
                other.blocks[-1].get_submodule(name).weight.zero_()  # type: ignore[operator]
            return inner(sampling.Sampler.on_device(other), *given, **named)

        patch.setattr(sampling, "generate", generate)

    return breaks


def another_prompt(patch: pytest.MonkeyPatch) -> None:
    inner = Writing.begin
    patch.setattr(
        Writing, "begin", lambda self, prompt, *rest, **more: inner(self, [1] * len(prompt), *rest, **more)
    )


def the_likeliest(patch: pytest.MonkeyPatch) -> None:
    inner = Writing.choose

    def choose(self: Writing) -> None:
        self.temperature.fill_(1e-3)
        inner(self)

    patch.setattr(Writing, "choose", choose)


def test_sampling_unlike_training_is_found(config: Path) -> None:
    own = configs.load(config)
    with rehearsal.rehearse(rehearsal.short(own)) as done:
        before = [weight.detach().clone() for weight in done.parts.model.parameters()]
        assert against.sampling(own, done.parts).ok
        assert all(map(torch.equal, before, done.parts.model.parameters())), "weights are as they were"
        for breaks in (
            no_cache,
            later_positions,
            another_prompt,
            the_likeliest,
            without("attention.out"),
            without("down"),
            lambda patch: patch.setattr(Writing, "turn", lambda self, x, *table: x),
        ):
            with pytest.MonkeyPatch.context() as patch:
                breaks(patch)
                assert not against.sampling(own, done.parts).ok, breaks


@pytest.mark.parametrize("name", BROKEN)
def test_a_part_that_is_broken_is_found_and_named(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, check, words = BROKEN[name]
    breaks(config, monkeypatch)
    found = failing(config, quick=name not in FULL)
    assert check in found and words in found[check].message, found


def test_a_value_that_is_not_read_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I18, as it was: the decay hard-coded in the optimizer, whatever the config says; here the moments' rates too."""
    inner = optim.build

    def build(*given: Any, **named: Any) -> Any:
        return inner(*given, **{**named, "weight_decay": 0.01, "betas": (0.9, 0.95)})

    monkeypatch.setattr(optim, "build", build)
    found = failing(config, quick=False)
    assert list(found) == ["values read"]
    assert found["values read"].value == "no difference by train.weight_decay, train.beta1, train.beta2"


def test_what_is_broken_before_the_rehearsal_is_all_that_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncated(config, monkeypatch)
    assert list(failing(config)) == ["data of beta", "rehearsal"]


def test_the_command_prints_a_line_a_check_and_says_3_where_one_fails(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.mount()
    arguments = ["doctor", str(config), "--quick", "--runs-dir", str(config.parent / "runs")]
    good = CliRunner().invoke(cli.app, arguments)
    assert (good.exit_code, "FAIL" in good.stdout) == (0, False)
    assert all(len(line) <= 80 for line in good.stdout.splitlines())
    gate_detached(config, monkeypatch)
    bad = CliRunner().invoke(cli.app, [*arguments, "--json"])
    body = json.loads(bad.stdout)
    assert (bad.exit_code, body["schema"], body["failing"]) == (3, "doctor/1", 2)
    assert set(body["checks"][0]) == {"name", "ok", "value", "expected", "message"}


def test_lines_say_what_a_failure_means() -> None:
    found = checks.lines([Check("gate attached", False, "no", "yes", "it is not wired")])
    assert found == ["FAIL  gate attached  no, expected yes", "      it is not wired"]
