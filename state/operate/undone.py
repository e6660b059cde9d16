"""`state restore --undo`: every file that a change replaced put back, how to make it again, and where there is none."""

from pathlib import Path
from typing import Any

from curriculum.console import wrapped
from curriculum.errors import Exit, FirehoseError
from state import journal
from state.operate import target, versions
from state.operate.change import locked
from state.run_dir import RunDir
from state.store import utc_now


def words(first: str | None, second: str | None, runs_dir: Path) -> tuple[str | None, int | None]:
    """Run and number of a change among the words beside --undo, which may stand in either order."""
    if first is None or second is None:
        if first is not None and first.isdigit() and target.found(first, runs_dir) is None:
            return None, int(first)
        return first, None
    if second.isdigit():
        return first, int(second)
    if first.isdigit():
        return second, int(first)
    raise FirehoseError(
        Exit.USAGE, f"{second!r} is not the number of a change", next=f"firehose state history {first}"
    )


def undo(run: RunDir, number: int | None, *, dry: bool) -> dict[str, Any]:
    """Undo a change, the last by default; the body of `state restore --undo --json`. dry: only say what would be done.

    Raises FirehoseError as `journal.undo` does; without a number it names the last change and what takes that back.
    """
    redo = None
    try:
        if dry:
            tx = journal.undoing(run, number, now=utc_now())
            operations, what = [*tx.keeps, *tx.operations], tx.what
        else:
            with locked(run):
                entry = journal.undo(run, number, now=utc_now())
            operations, what = entry.operations, entry.what
            redo = f"firehose state restore {run.called()} --undo {entry.number}"
    except FirehoseError as error:
        if number is None and error.exit_code in (Exit.NOT_FOUND, Exit.REFUSED):
            versions.point_back(run, error)
        raise
    done = [journal.describe(operation) for operation in operations]
    return {"run": run.name, "dry_run": dry, "what": what, "done": done, "redo": redo}


def screen(body: dict[str, Any]) -> list[str]:
    """The same as lines of at most 80 columns."""
    lines = [f"{'would ' if body['dry_run'] else ''}{body['what']}", *(f"  {line}" for line in body["done"])]
    if body["redo"] is not None:
        lines.append(f"redo: {body['redo']}")
    return wrapped("\n".join(lines)).splitlines()
