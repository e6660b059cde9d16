"""The two displays: a panel on a terminal, plain lines elsewhere; both into run.log."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from trainer.display import Arm, LiveDisplay, PlainDisplay, Progress, open_display, step_line


def arm(name: str, share: float, why_not: str | None = None) -> Arm:
    return Arm(
        name=name,
        eligible=why_not is None,
        why_not=why_not,
        weight=1.0,
        cap=1.3,
        floor=0.2,
        share=share,
        share_low=0.1,
        share_high=0.8,
        pulls=120,
        tokens=61_440,
        epochs=0.5,
        coverage=0.5,
        mean_reward=0.6,
        index=None,
        loss_ema=3.21,
    )


PROGRESS = Progress(
    step=300,
    steps_total=600,
    loss=3.5,
    loss_ema=3.6,
    norm=0.9,
    lr=1e-3,
    ms_per_step=250.0,
    tokens_per_s=8_192.0,
    eta_s=75.0,
    arms=(arm("chat", 0.7), arm("docs", 0.3), arm("late", 0.0, "not in the warm-up set until step 401")),
)
UNKNOWN = Progress(
    step=0,
    steps_total=600,
    loss=None,
    loss_ema=None,
    norm=None,
    lr=0.0,
    ms_per_step=None,
    tokens_per_s=None,
    eta_s=None,
)


def test_the_line_of_a_step() -> None:
    line = step_line(PROGRESS)
    for part in (
        "300/600",
        "loss 3.5000",
        "norm 0.90",
        "250 ms",
        "8,192 tok/s",
        "eta 1m15s",
        "chat 70% docs 30%",
    ):
        assert part in line
    assert "late" not in line
    assert "loss - " in step_line(UNKNOWN)


def test_plain_lines_only_at_milestones(tmp_path: Path) -> None:
    log, stream = (tmp_path / "run.log").open("w"), io.StringIO()
    display = PlainDisplay(log, stream)
    display.progress(PROGRESS, milestone=False)
    assert stream.getvalue() == ""
    display.progress(PROGRESS, milestone=True)
    display.note("sample 300")
    display.close()
    assert stream.getvalue() == (tmp_path / "run.log").read_text()
    assert stream.getvalue().splitlines()[1] == "sample 300"


def test_the_panel_shows_shares_bounds_and_the_last_sample(tmp_path: Path) -> None:
    log = (tmp_path / "run.log").open("w")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    display = LiveDisplay(log, console)
    for progress in (UNKNOWN, PROGRESS):
        display.progress(progress, milestone=True)
    display.note("sample    300 | score  91.0 pass | > What is rain? | < Water from clouds.")
    display.close()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("chat", "70.0%", "10%-80%", "8,192 tok/s", "eta 1m15s", "Water from clouds."):
        assert part in shown
    assert "eta 1m15s" in (tmp_path / "run.log").read_text()


def test_no_terminal_means_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = open_display(tmp_path / "run.log")
    assert isinstance(display, PlainDisplay)
    display.close()


def test_a_panel_shows_the_largest_shares_of_more_sources_than_fit(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100, height=20, force_terminal=True)
    display = LiveDisplay((tmp_path / "run.log").open("w"), console)
    arms = [arm(f"s{number:03d}", number / 4950) for number in range(100)]
    shown = Console(file=io.StringIO(), width=100)
    shown.print(display._panel(replace(PROGRESS, arms=arms)))
    display.close()
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert [f"s{number:03d}" in text for number in range(100)] == [False] * 85 + [True] * 15
    assert "and 85 more" in text
    assert len(text.splitlines()) <= 20
