"""`firehose state check` and `firehose state repair`: what is wrong with a run's files, and putting it right."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit, FirehoseError
from state.cli import RUNS, Json, RunsDir
from state.findings import Finding
from state.operate import target

if TYPE_CHECKING:
    from state.repair.repair import Plan

app = typer.Typer()
INDENT = " " * 9  # of the second line of a finding
UNDER = INDENT[2:]  # of what begins two columns in

Where = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|PATH]", help="Name or folder of a run, or a state file; not needed for the only run."
    ),
]
RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Name of a run; not needed where there is one.")
]


@app.command("check", epilog="Example: firehose state check demo --read-data")
@command("state-check/1")
def check_command(
    where: Where = None,
    *,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read every token file whole, not only its size.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Find everything that is wrong with a run's files, and say what to do about each; nothing is changed.

    Exit 0: nothing, or only what the next launch clears by itself. 3: warnings or errors. 4: damage. 16: newer schema.
    """
    from state.repair import check

    chosen = target.resolve(where, runs_dir)
    if chosen.run is None:
        findings = check.check_file(chosen.path)
    else:
        if chosen.run.condition(time.time()).alive:
            say(f"{chosen.run.name} is running: what it changes meanwhile is looked at twice")
        findings = check.check(chosen.run, read_data=read_data)
    code = check.exit_code(findings)
    if json:
        body = {"target": chosen.name, "findings": [found.as_dict() for found in findings]}
        emit_json("state-check/1", body)
        return code
    for found in findings:
        print(told(found))
    counts = {
        kind: sum(found.severity == kind for found in findings) for kind in ("error", "warning", "info")
    }
    plural = {"error": "errors", "warning": "warnings", "info": "infos"}
    summary = ", ".join(
        f"{count} {kind if count == 1 else plural[kind]}" for kind, count in counts.items() if count
    )
    say(f"{chosen.name}: {summary or 'nothing found'}")
    return code


def told(found: Finding) -> str:
    """A finding as the terminal shows it."""
    lines = [_headed(found)]
    if found.fix:
        lines.append(wrapped(f"  next:  {found.fix}", indent=UNDER))
    return "\n".join(lines)


def _headed(found: Finding) -> str:
    """Severity, id and message; the title only of what is wrong, since it names the worst of its kind."""
    what = f"{found.id} {found.message}" if found.severity == "info" else str(found)
    return wrapped(f"{found.severity:7}  {what}", indent=INDENT)


@app.command("repair", epilog="Example: firehose state repair demo --dry-run")
@command("state-repair/1")
def repair_command(
    where: RunName = None,
    *,
    only: Annotated[
        str,
        typer.Option("--only", metavar="IDS", help="Findings to repair, as in F0003,F0015; the rest stays."),
    ] = "",
    accept_edit: Annotated[
        bool,
        typer.Option("--accept-edit", help="Take a state edited by hand, if a launch could go on from it."),
    ] = False,
    discard_newer: Annotated[
        bool, typer.Option("--discard-newer", help="Put a state of a newer firehose into the archive.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print what would be done, and change nothing.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Repair what `state check` finds: prints what it will do, does that and nothing else, and can be undone.

    Exit 0: done, or nothing to do. 3: something is left that no repair of these files clears.
    """
    from state.lock import RunLock
    from state.repair import repair

    run = target.resolve(where, runs_dir).writable()
    ids = repair.select(only)
    lock = RunLock(run.lock)
    if not dry_run:
        try:
            lock.acquire()
        except FirehoseError as error:
            if error.exit_code is Exit.LOCKED:
                error.next = f"firehose stop {run.root}"
            raise
    try:
        made = repair.plan(run, only=ids, accept_edit=accept_edit, discard_newer=discard_newer)
        if not json:
            show(made, dry_run)
        entry = None if dry_run else repair.apply(made)
    finally:
        lock.release()
    if json:
        undo = None if entry is None else f"firehose state restore {run.root} --undo {entry.number}"
        emit_json("state-repair/1", {**made.as_dict(), "dry_run": dry_run, "undo": undo})
    elif entry is not None:
        say(f"done; what was replaced is in archive/{entry.name}/before")
        say(f"to undo it: firehose state restore {run.root} --undo {entry.number}")
        if made.finish is not None:
            say(f"next: firehose state check {run.root}")
    return Exit.FINDINGS if made.left else Exit.OK


def show(made: "Plan", dry_run: bool) -> None:
    """Print a plan: what was found, what will be done about it, what is left."""
    above = [found for found in made.findings if found.severity != "info" or found.id == "F0015"]
    for found in above:
        print(_headed(found))
    for action in made.actions:
        print(wrapped(f"  {'would' if dry_run else 'will'}: {action.what}", indent=UNDER))
    if not made.actions:
        print("nothing to do")
    for found in made.left:
        print(wrapped(f"left:    {found.id}: {found.fix}", indent=INDENT))
