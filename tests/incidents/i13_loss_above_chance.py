"""I13: twelve trials trained at a loss of 22.3, where a uniform guess has 10.4 (003)."""

import math
from pathlib import Path

import pytest

from curriculum.errors import Exit, FirehoseError
from tests.fixtures.broken import loud_head
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer.doctor import first
from trainer.doctor import model as checks
from trainer.doctor.checks import Check
from trainer.model import Decoder


def no_look_at_the_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "loss_at_start", lambda model, windows: Check("loss at start", True, 0.0, ""))


@incident(off=no_look_at_the_loss)
def test_a_run_from_scratch_that_starts_above_chance_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    loud_head(monkeypatch)
    try:
        done = go(config, until=10)
    except FirehoseError as error:
        assert error.exit_code is Exit.REFUSED and "loss at start" in error.message
        assert str(error.next).startswith("firehose doctor ")
        assert not the_run(config).loss.exists() and not the_run(config).state.exists()
        return "exit 13 at launch, before step 1"
    assert done["loss_ema"] > math.log(400) + checks.START_NATS, "and it trains all the same"
    caught(False, f"trained at a loss of {done['loss_ema']:.1f}")
    return ""


def test_the_look_changes_no_bit_of_a_run(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Decoder] = []
    look = first.look
    monkeypatch.setattr(first, "look", lambda *given: asked.append(given[-1]) or look(*given))  # type: ignore[func-returns-value]
    go(config, until=10)
    looked = the_run(config).loss.read_bytes(), the_run(config).pulls.read_bytes()
    again = config.with_name("again.toml")
    again.write_text(config.read_text().replace("[data]", '[data]\ndir = "data/tiny"'))
    monkeypatch.setattr(first, "look", lambda *given: None)
    go(again, until=10)
    run = the_run(config).root.parent / "again"
    assert len(asked) == 1
    assert looked == ((run / "again.loss.json").read_bytes(), (run / "again.pulls.json").read_bytes())
    monkeypatch.setattr(first, "look", lambda *given: asked.append(given[-1]))
    go(config, until=20)
    assert len(asked) == 1, "a resume is not asked again"
