"""What a person sees of a running run: a live panel on a terminal, plain lines anywhere else, both into run.log."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from curriculum.files import failing_writes
from state.status import duration, number

if TYPE_CHECKING:
    from rich.console import Console, Group


PANEL_LINES = (
    5  # of the panel beside its sources: head, bar, names of the columns, what was left out, and one to spare
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One source as shown, by the names of `status --json` (DESIGN 9.1). Shares in [0, 1], loss in nats a token."""

    name: str
    eligible: bool
    why_not: str | None
    weight: float
    cap: float
    floor: float
    share: float
    share_low: float
    share_high: float
    pulls: int
    tokens: int
    epochs: float
    coverage: float
    mean_reward: float
    index: float | None
    loss_ema: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the flags that alarms will raise."""
        return {**{name: getattr(self, name) for name in _SHOWN}, "flags": []}


_SHOWN = tuple(shown.name for shown in fields(Arm))


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the run. loss in nats a token, eta in seconds, None where not known yet."""

    step: int
    steps_total: int
    loss: float | None
    loss_ema: float | None
    norm: float | None
    lr: float
    ms_per_step: float | None
    tokens_per_s: float | None
    eta_s: float | None
    arms: Sequence[Arm] = field(default_factory=tuple)
    mfu: float | None = None  # share of the device's peak in [0, 1], where that is known (`trainer.peak`)

    @property
    def speed(self) -> str:
        """Tokens a second, and what share of the device that is where its peak is known."""
        share = "" if self.mfu is None else f" (MFU {self.mfu:.1%})"
        return f"{number(self.tokens_per_s, ',.0f')} tok/s{share}"


def step_line(p: Progress) -> str:
    """The one line of a step: loss, norm, rate, time, speed, what is left, and the largest shares."""
    largest = sorted((a for a in p.arms if a.share > 0), key=lambda a: -a.share)[:4]
    shares = " ".join(f"{a.name} {a.share:.0%}" for a in largest)
    return (
        f"step {p.step:>6}/{p.steps_total} | loss {number(p.loss, '.4f')} (ema {number(p.loss_ema, '.4f')}) | "
        f"norm {number(p.norm, '.2f')} | lr {p.lr:.2e} | {number(p.ms_per_step, '.0f')} ms | "
        f"{p.speed} | eta {duration(p.eta_s)} | {shares}"
    )


def write_line(target: TextIO, text: str) -> None:
    """Write a line if it can be written: a closed terminal or a full disk must not end a run."""
    with contextlib.suppress(OSError, ValueError):
        target.write(text + "\n")
        target.flush()


def close_log(log: TextIO) -> None:
    """Close the log; what a full disk left in its buffer is given up."""
    with contextlib.suppress(OSError):
        log.close()


class Display(Protocol):
    """Takes progress and notes; must be closed."""

    def progress(self, p: Progress, *, milestone: bool) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Nothing: of a rank whose words are those of rank 0, and of a rehearsal."""

    def progress(self, p: Progress, *, milestone: bool) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class PlainDisplay:
    """Lines on a stream that is no terminal: one a boundary (`milestone`), and every note."""

    def __init__(self, log: TextIO, stream: TextIO) -> None:
        self.log, self.stream = log, stream

    def progress(self, p: Progress, *, milestone: bool) -> None:
        if milestone:
            self.note(step_line(p))

    def note(self, text: str) -> None:
        for target in (self.log, self.stream):
            write_line(target, text)

    def close(self) -> None:
        close_log(self.log)


class LiveDisplay:
    """A panel that redraws in place: progress bar, arms against their bounds, last sample; notes scroll above it."""

    def __init__(self, log: TextIO, console: "Console") -> None:
        from rich.live import Live

        self.log = log
        # The panel goes when the run ends, so that the last words, and the command they name, stand last.
        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.live.start()

    def progress(self, p: Progress, *, milestone: bool) -> None:
        if milestone:
            write_line(self.log, step_line(p))
        with contextlib.suppress(OSError):
            self.live.update(self._panel(p))

    def note(self, text: str) -> None:
        write_line(self.log, text)
        with contextlib.suppress(OSError):
            self.live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.live.stop()
        close_log(self.log)

    def _panel(self, p: Progress) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        head = Text(
            f"step {p.step:,}/{p.steps_total:,}   loss {number(p.loss_ema, '.3f')}   "
            f"{p.speed}   eta {duration(p.eta_s)}   lr {p.lr:.1e}"
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("source", "share", "", "allowed", "pulls", "loss"):
            table.add_column(column, justify="left" if column in ("source", "") else "right")
        room = max(1, self.live.console.height - PANEL_LINES)
        arms = p.arms if len(p.arms) <= room else sorted(p.arms, key=lambda arm: -arm.share)[:room]
        for arm in arms:
            table.add_row(
                arm.name,
                f"{arm.share:.1%}",
                _bar(arm),
                f"{arm.share_low:.0%}-{arm.share_high:.0%}",
                f"{arm.pulls:,}",
                number(arm.loss_ema, ".3f"),
                style="" if arm.eligible else "dim",
            )
        done = 60 * p.step // max(1, p.steps_total)
        left_out = len(p.arms) - len(arms)
        rest = [Text(f"and {left_out:,} more: firehose status shows all", style="dim")] if left_out else []
        return Group(head, Text("━" * done + "─" * (60 - done)), table, *rest)


def _bar(arm: Arm, width: int = 20) -> str:
    """The share as a bar, with the ends of its allowed interval marked."""
    cells = ["━" if (i + 0.5) / width <= arm.share else " " for i in range(width)]
    for edge in (arm.share_low, arm.share_high):
        cells[min(width - 1, int(edge * width))] = "│"
    return "".join(cells)


def open_display(log_path: Path) -> Display:
    """The display for this process's stderr."""
    with failing_writes(log_path):
        log = log_path.open("a", encoding="utf-8")
    if not sys.stderr.isatty():
        return PlainDisplay(log, sys.stderr)
    from rich.console import Console

    return LiveDisplay(log, Console(stderr=True))
