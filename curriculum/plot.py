"""Plots of shares: rows of small bars for a terminal, and a picture by matplotlib, which is loaded only for it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes

BLOCKS = " ▁▂▃▄▅▆▇█"
PLAIN = " .:-=+*%#@"  # the higher the share, the more ink, where the terminal knows no blocks
KINDS = (".png", ".svg", ".pdf")
COLOURS = 20  # that can be told apart
LABEL = 0.033  # height of a name beside the stack, as a share of it


@dataclass(frozen=True, slots=True)
class Series:
    """One source: its share in each stretch of steps, in [0, 1]; its share of them all; what its bounds imply.

    why_not: why it may not be picked; None where it may.
    """

    name: str
    history: Sequence[float]
    share: float
    low: float
    high: float
    why_not: str | None = None


def sparkline(values: Sequence[float], top: float, *, blocks: bool) -> str:
    """One character a value: blank for 0, else its height in [0, top].

    >>> sparkline([0.0, 0.1, 0.5, 1.0], 1.0, blocks=True)
    ' ▁▄█'
    >>> sparkline([0.0, 0.1, 0.5, 1.0], 1.0, blocks=False)
    ' .=@'
    """
    levels = BLOCKS if blocks else PLAIN
    steps = len(levels) - 1
    return "".join(
        levels[0] if value <= 0.0 else levels[min(steps, max(1, round(steps * value / top)))]
        for value in values
    )


def terminal(series: Sequence[Series], name_width: int, *, blocks: bool) -> list[str]:
    """A row a source, all to one scale: name, share over the steps, share of all of them."""
    top = max((value for each in series for value in each.history), default=0.0) or 1.0
    edge = "│" if blocks else "|"
    return [
        f"{each.name:{name_width}.{name_width}s} {edge}{sparkline(each.history, top, blocks=blocks)}{edge}"
        f" {each.share:6.1%}"
        for each in series
    ]


def check_picture(path: Path) -> None:
    """Raise FirehoseError, before any work is done, where a picture could not be made."""
    if path.suffix.lower() not in KINDS:
        raise FirehoseError(
            Exit.USAGE, f"a picture ends with one of {', '.join(KINDS)}", path=path, next="--plot shares.png"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise FirehoseError(
            Exit.USAGE,
            "a picture needs matplotlib, which is not installed",
            path=path,
            next="pip install 'firehose[plot]'",
        )


def picture(path: Path, series: Sequence[Series], ends: Sequence[int], title: str) -> None:
    """Write shares over steps, stacked, beside each source's share within the interval that its bounds imply.

    series: largest first, those without a history last. ends: last step of each stretch.
    """
    check_picture(path)
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(13, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    over, within = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = [colormaps["tab20"](number % COLOURS) for number in range(len(series))]
    _stack(over, [each for each in series if each.history], ends, colours)
    _intervals(within, series, colours)
    for axis in (over.yaxis, within.xaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    with failing_writes(path):
        figure.savefig(path)


def _stack(axes: Any, series: Sequence[Series], ends: Sequence[int], colours: Sequence[Any]) -> None:
    edges = [0, *ends]
    below = [0.0] * len(ends)
    middles = []
    for each, colour in zip(series, colours, strict=False):
        above = [low + share for low, share in zip(below, each.history, strict=True)]
        # A flat step for each stretch: what is drawn is the share of exactly those steps.
        lower, upper = [*below, below[-1]], [*above, above[-1]]
        axes.fill_between(edges, lower, upper, step="post", color=colour, edgecolor="white", linewidth=0.4)
        middles.append((below[-1] + above[-1]) / 2)
        below = above
    for each, height in zip(series, _apart(middles), strict=True):
        axes.annotate(each.name, (edges[-1], height), (4, 0), textcoords="offset points", va="center")
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1), xlabel="step", title="share of the pulls over the steps")
    axes.spines[["top", "right"]].set_visible(False)


def _apart(heights: Sequence[float]) -> list[float]:
    """Rising heights moved as little as a pass up and one down need for names not to touch, where there is room."""
    gap = min(LABEL, 1.0 / max(1, len(heights)))
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    top = 1.0 - gap / 2
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], top)
        top = moved[at] - gap
    return moved


def _intervals(axes: Any, series: Sequence[Series], colours: Sequence[Any]) -> None:
    rows = list(range(len(series)))
    axes.barh(
        rows,
        [each.high - each.low for each in series],
        left=[each.low for each in series],
        height=0.5,
        color="0.88",
        label="what its bounds allow",
    )
    axes.scatter(
        [each.share for each in series if each.why_not is None],
        [row for row, each in zip(rows, series, strict=True) if each.why_not is None],
        c=[colour for colour, each in zip(colours, series, strict=True) if each.why_not is None],
        s=60,
        edgecolor="black",
        linewidth=0.6,
        zorder=3,
        label="predicted",
    )
    for row, each in enumerate(series):
        said = f"{each.share:.1%}" if each.why_not is None else each.why_not
        right = max(each.high, each.share)
        axes.annotate(said, (right, row), (8, 0), textcoords="offset points", va="center")
    axes.set_yticks(rows, [each.name for each in series])
    axes.invert_yaxis()
    axes.set(xlim=(0, max([1.15 * each.high for each in series] + [0.05])), title="share within its bounds")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
