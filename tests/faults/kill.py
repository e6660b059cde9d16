"""SIGKILL before every file system call of every action: `python -m tests.faults.kill [--short] [SCENARIO...]`."""

import shutil
from pathlib import Path

from tests.faults.command_line import part
from tests.faults.scenario import Row, Scenario, copy, made, run, sound
from tests.faults.shim import Fault


def sweep(scenario: Scenario, folder: Path, *, short: bool) -> list[Row]:
    """Kill at call 1, 2, 3 ... until the action ends by itself. In the short form calls that only read are left out."""
    row = Row(scenario.name, "kill", broken=scenario.broken)
    template = made(scenario, folder)
    work = folder / "work"
    at = 1 - scenario.stride
    while True:
        at += scenario.stride
        outcome = run(scenario, copy(template, work), Fault("kill", at, looks=scenario.looks and not short))
        if outcome.error:
            row.bad.append(f"at call {at}: {outcome.error}")
        if wrong := sound(scenario, work, outcome.acks):
            row.bad.append(f"killed before call {at}: {wrong}")
        shutil.rmtree(work)
        if outcome.ended or outcome.error:
            return [row]
        row.injected += 1


if __name__ == "__main__":
    raise SystemExit(part("kill", sweep, "kills", least=(150, 1200)))
