"""Faults while recovering from faults: `python -m tests.faults.compound [--short] [SCENARIO...]`.

Start states are what crashes left: kills at sampled calls, and sampled states of a power cut. From each, the recovery that
the next command does is itself killed at every call, and made to fail at every call; then it must still recover.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.command_line import part
from tests.faults.errnos import called, complaint
from tests.faults.scenario import Row, Scenario, copy, made, run, sound
from tests.faults.shim import Fault
from tests.faults.trace import materialise, states

STARTS = {True: (2, 1), False: (8, 12)}  # of each scenario: killed, and cut from power
EVERY = {True: 3, False: 5}  # errors are put into the recovery from every n-th of them
FAULTS = {
    True: (("kill", False), ("EIO", False)),
    False: (
        ("kill", False),
        ("EIO", False),
        ("EIO", True),
        ("ENOSPC", True),
        ("lying", False),
        ("short", False),
    ),
}


def sweep(scenario: Scenario, folder: Path, *, short: bool) -> list[Row]:
    """Every start state under every fault at every call of the recovery."""
    recover = scenario.recover
    assert recover is not None
    rows = {
        fault: Row(scenario.name, f"{fault[0]}{' for ever' if fault[1] else ''} in recovery")
        for fault in FAULTS[short]
    }
    template = made(scenario, folder)
    count = 0
    for start, acks in starts(scenario, template, folder, *STARTS[short]):
        count += 1
        recovering = replace(
            scenario,
            act=lambda root, _: recover(root),
            check=lambda root, _, acks=acks: scenario.check(root, acks),
        )
        for (kind, forever), row in rows.items():
            if kind != "kill" and count % EVERY[short]:
                continue
            _sweep(recovering, start, folder / "work", kind, forever, row)
        shutil.rmtree(start)
    for row in rows.values():
        row.note = f"from {count} states"
    return list(rows.values())


def starts(
    scenario: Scenario, template: Path, folder: Path, kills: int, cut: int
) -> Iterator[tuple[Path, list[Any]]]:
    """Folders that crashes left, each with what had been acknowledged."""
    draw, start = random.Random(1), folder / "start"
    recorded = run(scenario, copy(template, folder / "recorded"), record=True)
    shutil.rmtree(folder / "recorded")
    assert recorded.trace is not None, recorded
    changes = [
        call
        for call in recorded.calls
        if call[0] not in ("look", "stat", "lstat", "read", "pread", "listdir")
    ]
    for at in sorted(draw.sample(range(1, len(changes) + 1), min(kills, len(changes)))):
        outcome = run(scenario, copy(template, start), Fault("kill", at))
        yield start, outcome.acks
    every = list(states(recorded.trace, cuts=1, bound=100))
    for tree, acks in draw.sample(every, min(cut, len(every))):
        start.mkdir()
        materialise(tree, start)
        yield start, acks


def _sweep(scenario: Scenario, start: Path, work: Path, kind: str, forever: bool, row: Row) -> None:
    at = 0
    while True:
        at += 1
        outcome = run(scenario, copy(start, work), Fault(kind, at, forever))
        wrong = sound(scenario, work, [])
        shutil.rmtree(work)
        done = outcome.ended if kind == "kill" else not outcome.injected
        if not done:
            row.injected += 1
            row.refused += outcome.error is not None
            if kind != "kill":
                wrong = complaint(outcome, kind, at, looks=False, forever=forever) or wrong
        elif outcome.error:
            wrong = wrong or str(outcome.error)
        if wrong:
            where = "" if kind == "kill" else f" ({called(outcome, kind, at, looks=False)})"
            row.bad.append(f"{kind} at call {at} of the recovery{where}: {wrong}")
        if done:
            return


if __name__ == "__main__":
    raise SystemExit(
        part(
            "compound",
            sweep,
            "faults while recovering",
            least=(150, 4000),
            choose=lambda scenario: scenario.recover is not None,
        )
    )
