"""The tables of bench/bandit.py, from its results: plain text in Markdown, each with what was asked and whether it holds."""

import math
import os
import platform
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from bandit_problems import PROBLEMS

OURS = "firehose"
DEFAULT, ARGMAX = "focus-ucb", "ucb"  # the two policies that were promised something
ASKED_OF_BEST = 1.25
DELAYS = (0, 8)

Line = dict[str, Any]


def header(lines: list[Line]) -> str:
    """Machine and versions."""
    versions = sorted(
        {
            f"{line['library']} {line['version']} (numpy {line['numpy']})"
            for line in lines
            if "version" in line
        }
    )
    machine = f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return "; ".join(filter(None, [machine, ", ".join(versions)]))


def processor() -> str:
    """Name of the processor, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def speed_table(lines: list[Line]) -> str:
    """Microseconds of a pick and its credit, median of the blocks (least-most), and the ratios that were asked for."""
    cells: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for line in lines:
        if line["kind"] == "speed":
            cells[label(line)][line["arms"]] = line["times"]
    if not cells:
        return ""
    counts = sorted({count for row in cells.values() for count in row})
    rows = [["pick and credit, us", *(f"K = {count:,}" for count in counts)]]
    rows += [[name, *(spread(times.get(count)) for count in counts)] for name, times in cells.items()]
    return table(rows) + "\n\n" + "\n".join(speed_claims(cells, counts))


def turns(one: list[float], other: list[float]) -> float:
    """Median over the rounds of how many times longer one took than the other, which ran seconds before or after.

    >>> turns([2.0, 30.0, 4.0], [1.0, 10.0, 2.0])
    2.0
    """
    return median(own / rival for own, rival in zip(one, other, strict=False))


def speed_claims(us: dict[str, dict[int, list[float]]], counts: list[int]) -> list[str]:
    """One line for each ratio that was asked for and could be measured."""
    claims = []
    mixture, argmax = us.get(f"{OURS} {DEFAULT}", {}), us.get(f"{OURS} {ARGMAX}", {})
    peers = {name: row for name, row in us.items() if not name.startswith(OURS) and "UCB1" in name}
    for count in counts:
        rivals = {name: row[count] for name, row in peers.items() if count in row}
        if not rivals:
            continue
        fastest = min(rivals, key=lambda name: median(rivals[name]))
        for name, own, most in (
            (DEFAULT, mixture, 1.0),
            (ARGMAX, argmax, 1.0 if count <= 256 else 1.2),
        ):
            if count in own:
                share = turns(own[count], rivals[fastest])
                claims.append(claim(f"K = {count:,}: {name} / {fastest}", share, share <= most, f"<= {most}"))
    for rival, count, least in (("MABWiser", 16, 6.0), ("river", 10_000, 50.0)):
        for name, row in peers.items():
            for own_name, own in ((DEFAULT, mixture), (ARGMAX, argmax)):
                if name.startswith(rival) and name.endswith("UCB1") and count in row and count in own:
                    times = turns(row[count], own[count])
                    claims.append(
                        claim(f"K = {count:,}: {name} / {own_name}", times, times >= least, f">= {least:g}")
                    )
    return claims


def state_table(lines: list[Line]) -> str:
    """Milliseconds and bytes of the state at the largest number of arms."""
    states = {label(line): (line["arms"], line["state"]) for line in lines if line["kind"] == "state"}
    if not states:
        return ""
    rows = [["state", "K", "milliseconds", "bytes"]]
    for name, (arms, state) in states.items():
        times = ", ".join(f"{key} {value:.2f}" for key, value in state.items() if "bytes" not in key)
        sizes = ", ".join(
            f"{key.removesuffix(' bytes')} {value:,}" for key, value in state.items() if "bytes" in key
        )
        rows.append([name, f"{arms:,}", times, sizes])
    asked = []
    for name, (_, state) in states.items():
        for key, most in (("msgpack", 1.0), ("envelope", 5.0)):
            if key in state:
                asked.append(claim(f"{name}: {key}, ms", state[key], state[key] < most, f"< {most:g}"))
    return table(rows) + "\n\n" + "\n".join(asked[:2])


def safety_table(lines: list[Line]) -> str:
    """How many updates each policy survived at each loss, and what it said; a state that is not finite is marked."""
    cells: dict[str, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        if line["kind"] == "safety":
            cells[f"{line['library']} {line['row']}"][line["loss"]] = line
    if not cells:
        return ""
    losses = list(dict.fromkeys(loss for row in cells.values() for loss in row))
    rows = [["updates at a loss of", *losses]]
    for name, row in cells.items():
        rows.append([name, *(survival(row[loss]) if loss in row else "-" for loss in losses)])
    return table(rows) + "\n\nAn exclamation mark: the state holds a number that is not finite."


def survival(line: Line) -> str:
    """
    >>> survival({"updates": 7, "ending": "ValueError: no", "finite": False})
    '7, ValueError !'
    """
    ending = f", {line['ending'].partition(':')[0]}" if line["ending"] else ""
    return f"{line['updates']:,}{ending}{'' if line['finite'] else ' !'}"


def regret_table(lines: list[Line], ranked_us: float) -> str:
    """Pseudo-regret, mean and standard error; ranks among the rows in no grey that cost at most `ranked_us` a round."""
    runs: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    told = {}
    for line in lines:
        if line["kind"] == "regret":
            column = f"{line['problem']}/{line['delay']}"
            runs[label(line)][column].append(line)
            told[label(line)] = line["told"]
    if not runs:
        return ""
    columns = [
        f"{problem}/{delay}"
        for problem in PROBLEMS
        for delay in DELAYS
        if any(f"{problem}/{delay}" in row for row in runs.values())
    ]
    means = {
        name: {column: fmean(run["regret"] for run in row[column]) for column in row}
        for name, row in runs.items()
    }
    cost = {
        name: median(fmean(run["us"] for run in row[column]) for column in row) for name, row in runs.items()
    }
    ranked = [
        name
        for name, row in means.items()
        if not told[name] and cost[name] <= ranked_us and all(column in row for column in columns)
    ]
    rank = mean_ranks({name: means[name] for name in ranked}, columns)
    order = sorted(runs, key=lambda name: (told[name], name not in rank, rank.get(name, 0.0), name))
    rows = [["problem/delay", "rank", "us", *columns]]
    for name in order:
        shown = f"*{name}*" if told[name] else name
        cells = [estimate([run["regret"] for run in runs[name].get(column, [])]) for column in columns]
        rows.append([shown, f"{rank[name]:.1f}" if name in rank else "-", f"{cost[name]:.0f}", *cells])
    text = table(rows) + (
        "\n\nMean +- standard error (n where it is not the most). In italics: told the horizon, the changes or the noise."
        f"\nRank: mean over the columns, among rows told nothing that cost at most {ranked_us:g} us (median of the"
        " columns, processor time).\nMABWiser's first picks are made by this harness, one of each arm."
    )
    return text + "\n\n" + "\n".join(regret_claims(means, ranked, columns, rank))


def regret_claims(
    means: dict[str, dict[str, float]], ranked: list[str], columns: list[str], rank: dict[str, float]
) -> list[str]:
    """The place of our argmax among the ranked, and its ratio to the best peer of each column.

    A mixture stands in the table for information: it feeds half of its arms at any time, by intent.
    """
    peers = [name for name in ranked if not name.startswith(OURS)]
    own = [name for name in ranked if name == f"{OURS} {ARGMAX}"]
    if not peers:
        return []
    claims = []
    for name in own:
        place = 1 + sum(rank[peer] < rank[name] for peer in peers)
        claims.append(claim(f"{name}: place among the peers by mean rank", place, place == 1, "= 1"))
        for column in columns:
            best = min(peers, key=lambda peer: means[peer][column])
            share = means[name][column] / means[best][column]
            claims.append(
                claim(f"{name}, {column} / {best}", share, share <= ASKED_OF_BEST, f"<= {ASKED_OF_BEST}")
            )
    return claims


def mean_ranks(means: dict[str, dict[str, float]], columns: list[str]) -> dict[str, float]:
    """Mean over the columns of each row's place in it, 1 for the least regret; equal ones share their places' mean.

    >>> mean_ranks({"a": {"x": 1.0, "y": 5.0}, "b": {"x": 2.0, "y": 5.0}}, ["x", "y"])
    {'a': 1.25, 'b': 1.75}
    """
    return {
        name: fmean(
            1
            + sum(other[column] < row[column] for other in means.values())
            + (sum(other[column] == row[column] for other in means.values()) - 1) / 2
            for column in columns
        )
        for name, row in means.items()
    }


def label(line: Line) -> str:
    """Name of a row: library, its version where two were run, policy."""
    version = f" {line['version']}" if line["library"] == "SMPyBandits" else ""
    return f"{line['library']}{version} {line['row']}"


def claim(what: str, value: float, holds: bool, asked: str) -> str:
    """
    >>> claim("ours / theirs", 0.5, True, "<= 1")
    'yes  ours / theirs: 0.50 (asked: <= 1)'
    """
    return f"{'yes' if holds else 'NO '}  {what}: {value:.2f} (asked: {asked})"


def spread(times: list[float] | None) -> str:
    """
    >>> spread([3.0, 1.0, 20.0]), spread(None)
    ('3.0 (1.0-20.0)', '-')
    """
    if not times:
        return "-"
    return f"{median(times):,.1f} ({min(times):,.1f}-{max(times):,.1f})"


def estimate(values: list[float]) -> str:
    """Mean, standard error and number of runs.

    >>> estimate([1.0, 3.0]), estimate([4.0]), estimate([])
    ('2 ± 1 (2)', '4 (1)', '-')
    """
    if not values:
        return "-"
    mean = f"{fmean(values):.0f}"
    if len(values) == 1:
        return f"{mean} (1)"
    return f"{mean} ± {stdev(values) / math.sqrt(len(values)):.0f} ({len(values)})"


def table(rows: list[list[str]]) -> str:
    """A Markdown table, columns padded; the first row is the head.

    >>> print(table([["a", "b"], ["long", "1"]]))
    | a    | b |
    |------|---|
    | long | 1 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])
