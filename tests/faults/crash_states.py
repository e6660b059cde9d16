"""Every state that a power cut may legally leave, looked at: `python -m tests.faults.crash_states [--short] [SCENARIO...]`.

What counts as legal is in `tests.faults.trace`.
"""

import shutil
from pathlib import Path

from tests.faults.command_line import part
from tests.faults.scenario import Row, Scenario, made, run, sound
from tests.faults.trace import materialise, states

BOUND = 100, 5000  # combinations looked at for one moment of a trace, short and full
CUTS = 1, 7


def sweep(scenario: Scenario, folder: Path, *, short: bool) -> list[Row]:
    """Record the action once, enumerate, make each state a folder again, and check that."""
    row = Row(scenario.name, "power cut, enumerated", broken=bool(scenario.broken))
    template = made(scenario, folder)
    outcome = run(scenario, template, record=True)
    if outcome.error or outcome.trace is None:
        raise RuntimeError(f"{scenario.name} could not be recorded: {outcome}")
    work = folder / "work"
    for tree, acks in states(
        outcome.trace, cuts=CUTS[not short and scenario.looks], bound=BOUND[not short and scenario.looks]
    ):
        work.mkdir()
        materialise(tree, work)
        row.injected += 1
        if wrong := sound(scenario, work, acks):
            row.bad.append(f"after {acks}: {wrong}; found {' '.join(sorted(tree))}")
        shutil.rmtree(work)
    return [row]


if __name__ == "__main__":
    raise SystemExit(part("crash_states", sweep, "states", least=(400, 10_000)))
