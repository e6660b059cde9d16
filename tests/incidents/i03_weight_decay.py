"""I03: no weight decay at all (002 F3), or a hard-coded one whatever the user set (000)."""

from pathlib import Path

import msgspec
import pytest
import torch

from curriculum import config as configs
from curriculum import config_rules
from state import checkpoints
from tests.fixtures.runs import go, log, the_run
from tests.incidents.switch import caught, incident
from trainer import checkpoint, optim
from trainer.model import Decoder, Shape

DECAY, STEPS = 5.0, 10


def unsaid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(config_rules, "warnings", lambda config: [])


def hard_coded(patch: pytest.MonkeyPatch) -> None:
    whole = optim.build
    patch.setattr(optim, "build", lambda *given, **named: whole(*given, **{**named, "weight_decay": 0.01}))


def fine_tuning_decays(patch: pytest.MonkeyPatch) -> None:
    whole = configs.load

    def load(path: Path) -> configs.Config:
        read = whole(path)
        return msgspec.structs.replace(read, train=msgspec.structs.replace(read.train, weight_decay=0.01))

    patch.setattr(configs, "load", load)


def set_key(config: Path, line: str) -> None:
    config.write_text(config.read_text().replace("[train]", f"[train]\n{line}"))


@incident(off=unsaid)
def test_no_decay_from_scratch_is_warned_about(config: Path) -> str:
    set_key(config, "weight_decay = 0.0")
    read = configs.load(config)
    assert read.train.weight_decay == 0.0
    caught(any(line.startswith("I03: ") for line in config_rules.warnings(read)), "no warning")
    return "at `config check`"


@incident(off=hard_coded)
def test_the_decay_of_the_config_is_the_one_that_acts(config: Path) -> str:
    """Large enough to be seen in ten steps: each multiplies matrices by 1 - rate * decay."""
    set_key(config, f"weight_decay = {DECAY}")
    go(config, until=STEPS)
    newest = checkpoints.locate(the_run(config).root)
    first = Decoder(msgspec.convert(newest.meta["shape"], Shape))
    first.initialise(3)
    # The norms' gains do not decay and begin at 1; of a matrix the part along its first draw does.
    weight = checkpoint.tensors(newest, checkpoints.MODEL)["blocks.0.up.weight"]
    drawn = first.blocks[0].up.weight.detach()
    kept = float((weight * drawn).sum() / drawn.square().sum())
    rates = [
        optim.learning_rate(s, peak=3e-3, floor=6e-5, warmup_steps=10, steps=60) for s in range(1, STEPS + 1)
    ]
    left = float(torch.tensor([1 - rate * DECAY for rate in rates]).prod())
    assert f"weight decay {DECAY:g}, from scratch (set by the config; the default is 0.01)" in log(config)
    caught(abs(kept - left) < 0.03, f"{kept:.3f} of the first draw is left where the decay leaves {left:.3f}")
    return "printed at launch, and seen in the weights by step 10"


@incident(off=fine_tuning_decays)
def test_fine_tuning_does_not_decay_by_default(config: Path) -> str:
    assert configs.load(config).train.weight_decay == 0.01
    set_key(config, 'init_from = "runs/other"')
    caught(configs.load(config).train.weight_decay == 0.0, "what was learned is pulled towards zero")
    return "0 where `init_from` is set"
