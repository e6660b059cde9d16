"""The command line that the parts share: which scenarios, short or full, and where the counts go."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.scenario import Row, Scenario, proved, workplace, write_json
from tests.faults.scenarios import scenarios

Sweep = Callable[..., list[Row]]


def part(
    name: str,
    sweep: Sweep,
    what: str,
    *,
    least: tuple[int, int],
    choose: Callable[[Scenario], bool] = lambda scenario: True,
) -> int:
    """Run the part of this name over its scenarios and print its table. least: faults promised in the short and in the full form.

    Options: --short, --json FILE, and names of scenarios (then nothing is promised about the number).
    """
    parser = argparse.ArgumentParser(description=sweep.__doc__)
    parser.add_argument("names", nargs="*", metavar="SCENARIO")
    parser.add_argument("--short", action="store_true", help="the form of `make test`")
    parser.add_argument("--json", type=Path, help="keep the counts in this file")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    known = scenarios(short=asked.short)
    unknown = set(asked.names) - {scenario.name for scenario in known}
    if unknown:
        parser.error(
            f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(s.name for s in known)}"
        )
    began, rows = time.monotonic(), []
    for scenario in known:
        if (asked.names and scenario.name not in asked.names) or not choose(scenario):
            continue
        if scenario.parts and name not in scenario.parts:
            continue
        with workplace() as folder:
            try:
                scenario.warm()
                found = sweep(scenario, folder, short=asked.short)
            except Exception as error:  # the others still have something to prove
                found = [Row(scenario.name, "set-up", bad=[f"{type(error).__name__}: {error}"])]
        for row in found:
            print(f"{time.monotonic() - began:5.0f} s  {row.line()}", file=sys.stderr, flush=True)
        rows += found
    status = proved(rows, 0 if asked.names else least[0 if asked.short else 1], what)
    print(f"{time.monotonic() - began:.0f} s")
    if asked.json:
        write_json(asked.json, rows)
    return status
