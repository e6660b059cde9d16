"""State files that a launch passed over, for they are not what was sealed: edited by hand, or damaged.

An older version is used instead (`state.store`), so what the file said is not in the run: it is kept beside the versions
as `damaged-HASH.json`, and stays an alarm of the run until it is moved away.
"""

from dataclasses import replace
from pathlib import Path

from curriculum.errors import FirehoseError
from state.envelope import SealBroken, open_envelope
from state.findings import Finding
from state.run_dir import RunDir
from state.store import damaged_name

BROKEN = "F0002"


def broken(run: RunDir, findings: list[Finding]) -> bool:
    """Whether the state file itself is among what was passed over for its broken seal."""
    return any(_is_state(run, found) for found in findings)


def before_launch(run: RunDir, findings: list[Finding]) -> list[Finding]:
    """What was passed over, with what to do about it before a launch puts it aside."""
    fix = f"firehose state check {run.root} says what differs"
    if _differs(run.state) == ("payload",):
        fix += f"; firehose state repair {run.root} --accept-edit takes an edit by hand"
    return [replace(found, fix=fix) if _is_state(run, found) else found for found in findings]


def at_launch(run: RunDir, findings: list[Finding]) -> list[Finding]:
    """What was passed over, with what to do about it after a launch; to be asked before the launch commits."""
    if not broken(run, findings):
        return findings
    kept = kept_as(run)
    fix = (
        f"it is kept as {kept}, and what it says is not in the run; firehose state diff {kept} --run {run.root} shows "
        f"it, and firehose state check {run.root} says how the run is now"
    )
    if _differs(run.state) == ("payload",):
        fix += (
            f"; to make an edit again: firehose stop {run.root}, firehose state pull {run.root} -o FILE, edit FILE, "
            f"firehose state push FILE {run.root} --accept-edit; before a launch it is firehose state repair {run.root} "
            "--accept-edit"
        )
    return [replace(found, fix=fix) if _is_state(run, found) else found for found in findings]


def kept_as(run: RunDir) -> Path:
    """Where the next commit keeps the state file that is there now, if that is damaged."""
    return run.versions / damaged_name(run.state)


def alarms(run: RunDir) -> list[str]:
    """One sentence for every kept file that was passed over for its broken seal."""
    kept = sorted(run.versions.glob("damaged-*.json")) if run.versions.is_dir() else []
    return [f"an edited or damaged state was not used: {path.name}" for path in kept if _differs(path)]


def _is_state(run: RunDir, found: Finding) -> bool:
    return found.id == BROKEN and found.message.startswith(f"{run.state}:")


def _differs(path: Path) -> tuple[str, ...]:
    """What of a file is not what was sealed; () for one that is sound, or damaged in another way."""
    try:
        open_envelope(path.read_bytes(), path)
    except SealBroken as error:
        return error.differs
    except (OSError, FirehoseError):
        pass
    return ()
