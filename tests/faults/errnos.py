"""Every file system call failing in every way, once and from then on: `python -m tests.faults.errnos [--short] [SCENARIO...]`.

EINTR is raised where Python would have tried the call again by itself, which is harder than what the kernel does.
"""

import shutil
from pathlib import Path

from curriculum.errors import Exit
from tests.faults.command_line import part
from tests.faults.scenario import Outcome, Row, Scenario, copy, made, run, sound
from tests.faults.shim import CAN_FAIL, LOOKS, Fault

KINDS = ("EIO", "ENOSPC", "EDQUOT", "EINTR", "short", "lying")
SHORT = (("EIO", False), ("lying", False))
FEW = (("EIO", False), ("EIO", True), ("ENOSPC", False), ("ENOSPC", True), ("short", False), ("lying", False))
FULL = tuple((kind, forever) for kind in KINDS for forever in (False, True))


def sweep(scenario: Scenario, folder: Path, *, short: bool) -> list[Row]:
    """Fail call 1, 2, 3 ... until none is left to fail. Reading calls fail too in the full form (EIO, EINTR)."""
    template = made(scenario, folder)
    rows = []
    kinds = SHORT if short else FULL if scenario.looks else FEW
    for kind, forever in kinds:
        row = Row(scenario.name, f"{kind} {'for ever' if forever else 'once'}")
        _sweep(scenario, template, folder / "work", kind, forever, row, looks=scenario.looks and not short)
        rows.append(row)
    if scenario.broken:  # not every error shows every fault
        every = [what for row in rows for what in row.bad]
        return [Row(scenario.name, "every error", sum(row.injected for row in rows), bad=every, broken=True)]
    return rows


def _sweep(
    scenario: Scenario, template: Path, work: Path, kind: str, forever: bool, row: Row, looks: bool
) -> None:
    at = 0
    while True:
        at += 1
        outcome = run(scenario, copy(template, work), Fault(kind, at, forever, looks))
        if outcome.injected:
            row.injected += 1
            row.refused += outcome.error is not None
            told = complaint(outcome, kind, at, looks=looks, forever=forever)
            wrong = told or sound(scenario, work, outcome.acks)
            if wrong:
                row.bad.append(f"{kind} at call {at} ({called(outcome, kind, at, looks)}): {wrong}")
        shutil.rmtree(work)
        if not outcome.injected:
            if outcome.error:
                row.bad.append(f"{kind} at call {at}: {outcome.error}")
            return


def called(outcome: Outcome, kind: str, at: int, looks: bool) -> str:
    """The call that failed (first), and its file."""
    can = [call for call in outcome.calls if call[0] in CAN_FAIL[kind] and (looks or call[0] not in LOOKS)]
    return " ".join(can[at - 1]) if at <= len(can) else "?"


def complaint(outcome: Outcome, kind: str, at: int, *, looks: bool, forever: bool) -> str | None:
    """What is wrong with how an action under a fault told of it; None where it succeeded or spoke as promised."""
    error = outcome.error
    if not outcome.ended:
        return f"died with status {outcome.status}: {error}"
    if error is None:
        return None
    if error["kind"] != "FirehoseError":
        return f"an error without a name: {error}"
    reading = called(outcome, kind, at, looks).split()[0] in LOOKS
    if forever and looks and error["code"] == Exit.DAMAGED:  # what stopped it may be a look, later
        reading = True
    if not reading and error["code"] != Exit.WRITE_FAILED:
        return f"exit code {error['code']}: {error['message']}"
    if not error["path"]:
        return f"no path: {error['message']}"
    if not reading and kind not in ("short", "lying") and kind not in error["message"]:
        return f"{kind} is not in the message: {error['message']}"
    return None


if __name__ == "__main__":
    raise SystemExit(part("errnos", sweep, "errors", least=(300, 4000)))
