"""I18: a value in the config that nothing reads, misspelt or hard-coded elsewhere (000, 001)."""

from pathlib import Path
from typing import Any

import pytest

from curriculum import config as configs
from curriculum import config_toml
from curriculum.errors import Exit, FirehoseError
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer import identity, optim
from trainer.doctor import rehearsal
from trainer.doctor.checks import Check


def refusal(action: Any, *given: Any) -> FirehoseError | None:
    try:
        action(*given)
    except FirehoseError as error:
        return error
    return None


def unknown_keys_are_dropped(patch: pytest.MonkeyPatch) -> None:
    def drop(raw: dict[str, Any], struct: Any, *rest: Any) -> None:
        for keys, _ in list(config_toml._unknown(raw, struct, ())):
            table = raw
            for key in keys[:-1]:
                table = table[key]
            del table[keys[-1]]

    patch.setattr(config_toml, "check_keys", drop)


def no_look_at_values(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rehearsal, "values_read", lambda config: Check("values read", True, "", ""))


def no_look_at_the_config(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identity, "refuse_other_config", lambda run, config: None)


@incident(off=unknown_keys_are_dropped)
def test_a_misspelt_key_is_an_error(config: Path) -> str:
    config.write_text(config.read_text().replace("[train]", "[train]\nweight_decy = 0.0"))
    error = refusal(configs.load, config)
    caught(error is not None, "read without a word")
    assert error is not None and error.exit_code is Exit.USAGE
    assert "weight_decy" in error.message and "weight_decay" in str(error)
    return "exit 2 at `config check`"


@incident(off=no_look_at_values)
def test_a_value_hard_coded_in_the_optimizer_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As it was: 0.01, whatever the config says."""
    whole = optim.build
    monkeypatch.setattr(optim, "build", lambda *a, **named: whole(*a, **{**named, "weight_decay": 0.01}))
    monkeypatch.setattr(
        rehearsal, "READ", {key: rehearsal.READ[key] for key in ("train.lr", "train.weight_decay")}
    )
    found = rehearsal.values_read(configs.load(config))
    caught(not found.ok, "every key was taken to be read")
    assert found.value == "no difference by train.weight_decay"
    return "`doctor`, before step 1"


@incident(off=no_look_at_the_config)
def test_a_config_changed_under_a_run_is_refused_by_key(config: Path) -> str:
    go(config, until=10)
    config.write_text(config.read_text().replace("lr = 3e-3", "lr = 1e-3"))
    error = refusal(lambda: go(config, until=20))
    caught(error is not None, "went on as if nothing had changed, with one of the two rates")
    assert error is not None and error.exit_code is Exit.REFUSED and "train.lr" in error.message
    assert len(the_run(config).loss.read_text().splitlines()) <= 12
    return "exit 13 at resume"
