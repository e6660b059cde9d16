"""The budget: a projection by phase, from a pace given or measured, and a judgement between phases that can halt."""

from pathlib import Path

import pytest

from curriculum import budget
from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state.rows import read_rows
from state.status import screen, status
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state
from trainer import runner
from trainer.loop import Loop

PRICED = "[budget]\nseconds_per_step = 10\nwatts = 130\nprice_per_kwh = 0.3\nprice_per_hour = 0.5\n"


def with_budget(text: str) -> tuple[str, str]:
    return "[gate]", f"{text}[gate]"


def test_steps_hours_kwh_and_cost_of_every_phase(tmp_path: Path) -> None:
    config = configs.load(tiny.write_config(tmp_path, with_budget(PRICED), ("steps = 60", "steps = 730")))
    warm, full, left = budget.projection(config, 370)
    assert [row["phase"] for row in (warm, full, left)] == ["warm-up", "full", "remains"]
    assert [row["steps"] for row in (warm, full, left)] == [10, 720, 360]
    assert full["tokens"] == 720 * 4 * 2 * 32
    assert (full["hours"], full["kwh"]) == (2.0, pytest.approx(0.26))
    assert full["cost"] == pytest.approx(2.0 * 0.5 + 0.26 * 0.3)
    assert budget.projection(config, 370, seconds_per_step=5.0)[2]["hours"] == 0.5, "the run's own pace first"
    bare = configs.load(tiny.write_config(tmp_path))
    assert {budget.projection(bare, 0)[2][key] for key in ("hours", "kwh", "cost")} == {None}
    assert budget.projection(bare, 0, 5.0)[2]["kwh"] is None


def test_dry_run_start_and_status_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.make(tmp_path, *tiny.QUICK, with_budget(PRICED)).path
    plan = runner.plan(config, name=None, runs_dir=tmp_path / "runs", resume="auto")
    summary = runner.describe(plan)
    assert summary["budget"][2]["hours"] == pytest.approx(1 / 6)
    assert "phase    steps  tokens  hours   kWh  cost" in runner.table(plan, summary)
    seen: list[list[str]] = []
    show = Loop.show

    def watched(self: Loop, step: int, **named: object) -> None:
        show(self, step, **named)  # type: ignore[arg-type]
        body, _ = status(the_run(config), 0.0)
        seen.append([line for line in screen(body, 0.0) if line.startswith("  budget")])
        assert body["budget"] == [] or body["budget"][2]["steps"] == 60 - step

    monkeypatch.setattr(Loop, "show", watched)
    go(config, until=20)
    assert "remains     60" in log(config)
    assert any(lines and "kWh" in lines[0] and lines[0].endswith("left") for lines in seen)


def test_a_warm_up_that_learnt_too_little_halts_and_stays_halted(tmp_path: Path) -> None:
    """The evaluation comes at the first boundary after the phase's last step, though no held-out loss is due there."""
    config = tiny.make(
        tmp_path,
        *tiny.QUICK,
        ("curriculum_warmup_steps = 10", "curriculum_warmup_steps = 13"),
        ("heldout_every = 20", "heldout_every = 60"),
        with_budget("[budget]\nmax_heldout_loss = 1.0\n"),
    ).path
    outcome = go(config)
    assert (outcome["exit"], outcome["step"]) == (Exit.HALTED, 20)
    assert [row["step"] for row in read_rows(the_run(config).root / "tiny.heldout.json")] == [20]
    assert "HALTED by the evaluation between phases at step 20: at the end of the warm-up phase" in log(
        config
    )
    assert the_state(config).payload["halt"]["by"] == "the evaluation between phases"
    with pytest.raises(
        FirehoseError, match=r"between phases halted this run at step 20.*max_heldout_loss is 1"
    ) as no:
        go(config)
    assert no.value.exit_code is Exit.REFUSED
    assert go(config, clear_halt=True)["exit"] in (Exit.OK, Exit.ALARMS)
    assert [event["event"] for event in the_run(config).events()][:4] == [
        "launch",
        "halt",
        "resume",
        "clear-halt",
    ]


def test_one_that_learnt_enough_goes_on_unless_its_last_sample_is_low(tmp_path: Path) -> None:
    config = configs.load(tiny.write_config(tmp_path, with_budget("[budget]\nmax_heldout_loss = 4.0\n")))
    passing, low = {"kind": "pass", "score": 80.0, "step": 10}, {"kind": "low", "score": 12.0, "step": 10}
    losses = {"alpha": 3.5, "beta": 3.7, "gamma": 9.0}  # gamma is no part of the goal
    assert budget.failing(config, losses, passing) == (None, pytest.approx(3.6))
    assert budget.failing(config, losses, None)[0] is None
    assert "the last sample is low: 12.0" in str(budget.failing(config, losses, low)[0])
    assert "4.1000" in str(budget.failing(config, {"alpha": 4.1}, passing)[0])
    assert budget.failing(config, {}, passing)[0] is not None, "what cannot be measured does not pass"
    assert [step for step in range(10, 61, 10) if budget.judged(config, step)] == [10]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[budget]\nprice_per_kwh = 0.3\n", "needs the power"),
        ("[budget]\nwatts = -1\n", "watts"),
        ("[budget]\nmax_heldout_loss = 4.0\n", "would never be looked at"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tiny.write_config(
        tmp_path, with_budget(text), ("curriculum_warmup_steps = 10", "curriculum_warmup_steps = 0")
    )
    with pytest.raises(FirehoseError, match=said):
        configs.load(path)
