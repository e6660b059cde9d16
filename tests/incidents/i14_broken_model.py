"""I14: six bugs in one model: no residual, no norm, wrong RoPE, shifted labels, scale of other weights, token loops (003)."""

from pathlib import Path

import pytest
import torch

from curriculum.errors import Exit, FirehoseError
from tests.fixtures import broken
from tests.fixtures.broken import Broken, decoder, windows
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer.doctor import model as checks
from trainer.doctor.checks import Check
from trainer.model import Decoder

BUGS: dict[str, tuple[Broken, str]] = {
    "missing residual": (broken.without_residual, "residual"),
    "missing norm": (broken.without_norm, "norms"),
    "one RoPE frequency": (broken.turns_by_one_frequency, "rotary"),
    "scale of other weights": (broken.scaled_by_other_weights, "depth"),
    "token before the inputs": (broken.token_before_the_inputs_only, "labels"),
    "loop over tokens": (broken.loops_over_tokens, "calls"),
}


def no_check(patch: pytest.MonkeyPatch) -> None:
    for name in (*(name for _, name in BUGS.values()), "causality"):
        patch.setattr(checks, name, lambda *given, name=name: Check(name, True, 0.0, ""))


def ask(name: str, model: Decoder) -> Check:
    """One check of the doctor's, by the name of its function."""
    found = getattr(checks, name)
    if name == "labels":
        return found(model, windows(), model.loss(windows()).item())  # type: ignore[no-any-return]
    return found(model, windows()) if name == "depth" else found(model)  # type: ignore[no-any-return]


@pytest.mark.parametrize("bug", BUGS)
@incident(off=no_check)
def test_each_of_the_six_is_found_and_named(bug: str, monkeypatch: pytest.MonkeyPatch) -> str:
    breaks, name = BUGS[bug]
    sound = decoder()
    assert ask(name, sound).ok
    before = sound(windows()[:, :-1]), sound.loss(windows())
    breaks(monkeypatch)
    ill = decoder()
    if name != "calls":  # the same numbers, slowly
        after = ill(windows()[:, :-1]), ill.loss(windows())
        assert not all(map(torch.equal, before, after)), "it computes something else"
    found = ask(name, ill)
    caught(not found.ok, f"{bug} passed")
    return "`doctor`, before step 1"


@pytest.mark.parametrize("bug", ["token before the inputs", "labels shifted by 2", "the future is seen"])
@incident(off=no_check)
def test_a_run_from_scratch_asks_before_its_first_step(
    bug: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    breaks = {
        "token before the inputs": broken.token_before_the_inputs_only,
        "labels shifted by 2": broken.shifted(2),
        "the future is seen": broken.sees_the_future,
    }[bug]
    breaks(monkeypatch)
    try:
        assert go(config, until=10)["step"] == 10
    except FirehoseError as error:
        assert error.exit_code is Exit.REFUSED and "not sound before step 1" in error.message
        assert not the_run(config).loss.exists()
        return "exit 13 at launch"
    caught(False, f"{bug}: trained")
    return ""
