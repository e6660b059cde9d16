"""`firehose state`: look at the state of a run, compare it, edit it, take it out, put it back, undo."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit, FirehoseError
from state.cli import RUNS, Json, RunsDir
from state.operate import target
from state.operate.target import Target
from state.repair import cli as check_cli

if TYPE_CHECKING:
    from state.operate.change import Change

state_app = typer.Typer(no_args_is_help=True, help="Inspect, check, edit and undo the state of a run.")
state_app.add_typer(check_cli.app)

TargetName = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|PATH]", help="Name or folder of a run, or a state file; not needed for the only run."
    ),
]
RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Name of a run; not needed where there is one.")
]
RunOption = Annotated[str | None, typer.Option("--run", help="Name or folder of the run.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Print what would be done, and change nothing.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Do it where it is refused without this; docs/state.md says when.")
]


def example(text: str) -> dict[str, Any]:
    """The last paragraph of a command's help."""
    return {"epilog": f"Example: {text}"}


def opened(chosen: Target) -> Any:
    """The state of a target; what had to be passed over to read it is said."""
    envelope, notes = chosen.read()
    for note in notes:
        say(wrapped(note))
    return envelope


def doomed(chosen: Target, envelope: Any) -> dict[str, str]:
    """The arms that the next launch puts aside, and why; of a file alone nothing is known."""
    from state.operate.wanted import zombies

    return zombies(chosen.run, envelope.payload) if chosen.run else {}


def show_lines(lines: list[str]) -> None:
    """Print a screen."""
    if lines:
        print("\n".join(lines))


@state_app.command("list", **example("firehose state list demo 'web-*'"))
@command("state-list/1")
def list_command(
    where: TargetName = None,
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="Names to list: * and ? match.")
    ] = None,
    *,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """List the arms of a state, one a line: those in the bandit, then those put aside and why."""
    from state.operate import tables

    if (
        where is not None
        and pattern is None
        and target.found(where, runs_dir) is None
        and set(where) & set("*?[")
    ):
        where, pattern = None, where
    chosen = target.resolve(where, runs_dir)
    envelope = opened(chosen)
    rows = tables.arms(envelope.payload, pattern, doomed(chosen, envelope))
    if json:
        emit_json(
            "state-list/1",
            {"target": chosen.name, "serial": envelope.serial, "step": envelope.step, "arms": rows},
        )
        return
    if not rows:
        say("no arms" if pattern is None else f"no arm matches {pattern}")
    show_lines(tables.listed(rows, chosen.called()))


@state_app.command("show", **example("firehose state show web demo"))
@command("state-show/1")
def show_command(
    arm: Annotated[
        str | None, typer.Argument(metavar="[ARM]", help="An arm; without one the state as a whole is shown.")
    ] = None,
    where: TargetName = None,
    *,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Show everything the state holds of one arm; without ARM, what the state is of and its totals."""
    from state.operate import tables
    from state.operate.wanted import configured

    if arm is not None and where is None and (meant := target.found(arm, runs_dir)) is not None:
        own = target.found(None, runs_dir)
        if own is not None and any(row["name"] == arm for row in tables.arms(own.read()[0].payload)):
            raise FirehoseError(
                Exit.USAGE,
                f"{arm!r} is an arm of {own.name} and {meant.name!r} a run",
                next=f"firehose state show {arm} {own.name}, or firehose state show {meant.path}",
            )
        arm, where = None, arm
    chosen = target.resolve(where, runs_dir)
    envelope = opened(chosen)
    if arm is None:
        body = tables.head(envelope, target.file_version(chosen.path))
        lines = tables.headed(body)
    else:
        body = tables.one(envelope, arm, doomed(chosen, envelope))
        says = configured(chosen.run, arm) if chosen.run else None
        body["config"] = None if says is None else {"wanted": says[0], "why": says[1]}
        lines = tables.shown(body, says[1] if says else None)
    if json:
        emit_json("state-show/1", {"target": chosen.name, **body})
    else:
        show_lines(lines)


@state_app.command("diff", **example("firehose state diff 12 checkpoint:2000 --run demo"))
@command("state-diff/1")
def diff_command(
    a: Annotated[
        str, typer.Argument(metavar="[A]", help="Serial, previous, current, checkpoint[:STEP], or a file.")
    ] = "",
    b: Annotated[
        str, typer.Argument(metavar="[B]", help="What to compare A with; the current state by default.")
    ] = "",
    *,
    run: RunOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every counter too, not only what changed by decision.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 3 where they differ in anything.")
    ] = False,
    against_config: Annotated[
        bool, typer.Option("--against-config", help="What the next launch would change for config and data.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Compare two states of a run: by default the version before the current one with the current one."""
    from state.operate import diff, sides

    if a and not b and run is None and _is_run(a, runs_dir):
        a, run = "", a
    if against_config:
        if a or b:
            raise FirehoseError(
                Exit.USAGE, "--against-config compares the state of a run", next="leave A and B out"
            )
        from state.operate import against

        body = against.against_config(target.resolve(run, runs_dir).writable())
        lines = against.screen(body)
    else:
        chosen = None if Path(a).is_file() and Path(b).is_file() else target.resolve(run, runs_dir)
        ((old, first), (new, second)), notes = sides.of(a, b, chosen)
        for note in notes:
            say(wrapped(note))
        body = {"a": first, "b": second, **diff.compare(old, new)}
        lines = diff.screen(body, whole=everything)
        if not json:
            say(f"{first} against {second}" + ("" if body["changes"] else ": no difference"))
    if json:
        emit_json("state-diff/1", body)
    else:
        show_lines(lines)
    return Exit.FINDINGS if exit_code and body["changes"] else Exit.OK


def _is_run(word: str, runs_dir: Path) -> bool:
    """Whether a word of the command line names a run rather than a version or a file."""
    if (
        word.isdigit()
        or word.partition(":")[0] in ("previous", "current", "checkpoint")
        or Path(word).is_file()
    ):
        return False
    meant = target.found(word, runs_dir)
    return meant is not None and meant.run is not None


@state_app.command("rm", **example("firehose state rm old-web --dry-run --run demo"))
@command("state-rm/1")
def rm_command(
    names: Annotated[list[str], typer.Argument(metavar="ARM...", help="The arms to take out, at least one.")],
    *,
    run: RunOption = None,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Take arms out of the bandit; their records are put aside, and `state restore ARM` brings them back."""
    from state.operate import change

    wanted = [("rm", {"arm": name}) for name in dict.fromkeys(names)]
    try:
        made = change.edit(_run(run, runs_dir), wanted, dry=dry_run)
    except FirehoseError as error:
        runs = [name for name in names if _is_run(name, runs_dir)] if run is None else []
        if not runs or (error.arm or runs[0]) not in runs:
            raise
        arms = [name for name in names if name != runs[0]]
        raise FirehoseError(
            Exit.USAGE,
            f"{runs[0]} is a run and no arm",
            next=f"firehose state rm {' '.join(arms) or 'ARM'} --run {runs[0]}",
        ) from None
    _finish("state-rm/1", made, json)


@state_app.command("mv", **example("firehose state mv web crawl demo"))
@command("state-mv/1")
def mv_command(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The arm.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its name in the config from now on.")],
    where: RunName = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Put an arm NEW without a pull aside for it.")
    ] = False,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Rename an arm, as after its source was renamed in the config; its id and all it learned stay."""
    from state.operate import change

    wanted = [("mv", {"old": old, "new": new, "force": force})]
    _finish("state-mv/1", change.edit(_run(where, runs_dir), wanted, dry=dry_run), json)


@state_app.command("restore", **example("firehose state restore web demo"))
@command("state-restore/1")
def restore_command(
    first: Annotated[
        str | None,
        typer.Argument(metavar="[ARM|RUN]", help="The arm to bring back; with --serial or --undo the run."),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|NUMBER]", help="The run; with --undo the number of the change, in either order."
        ),
    ] = None,
    *,
    serial: Annotated[
        int | None, typer.Option("--serial", help="Make this version current again.", min=1)
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put back every file that a change replaced: the last, or NUMBER.")
    ] = False,
    force: Force = False,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Bring back an arm that was put aside, a version of the state (--serial), or all files of a change (--undo)."""
    from state.operate import change, transfer, undone

    if undo:
        if serial is not None:
            raise FirehoseError(
                Exit.USAGE, "--serial and --undo are two ways back", next="leave one of the two out"
            )
        where, number = undone.words(first, second, runs_dir)
        body = undone.undo(_run(where, runs_dir), number, dry=dry_run)
        if json:
            emit_json("state-restore/1", body)
        else:
            show_lines(undone.screen(body))
    elif serial is not None:
        if second is not None:
            raise FirehoseError(
                Exit.USAGE,
                "--serial brings back a whole state, not one arm",
                next=f"firehose state restore {second} --serial {serial}",
            )
        made = transfer.restore(_run(first, runs_dir), serial, force=force, dry=dry_run)
        _finish("state-restore/1", made, json)
    elif first is None:
        raise FirehoseError(
            Exit.USAGE,
            "restore what? an arm, --serial N, or --undo",
            next="firehose state history shows what there is",
        )
    else:
        wanted = [("restore", {"arm": first, "force": force})]
        _finish("state-restore/1", change.edit(_run(second, runs_dir), wanted, dry=dry_run), json)


@state_app.command("history", **example("firehose state history demo"))
@command("state-history/1")
def history_command(where: RunName = None, *, runs_dir: RunsDir = RUNS, json: Json = False) -> None:
    """List the versions kept of a state and the changes in the archive, and how to undo them."""
    from state.operate import versions

    body = versions.history(_run(where, runs_dir))
    if json:
        emit_json("state-history/1", body)
    else:
        show_lines(versions.screen(body))


@state_app.command("pull", **example("firehose state pull demo -o demo.state.json"))
@command("state-pull/1")
def pull_command(
    where: TargetName = None,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to; - is the terminal.")
    ] = "-",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Print the sealed state of a run, checked, to be kept or edited; `state push` takes it back."""
    from curriculum.files import write_atomic
    from state.operate import transfer

    chosen = target.resolve(where, runs_dir)
    if json and output == "-":
        raise FirehoseError(
            Exit.USAGE, "--json and the state itself would both go to the terminal", next="add -o FILE"
        )
    if output != "-" and Path(output).exists() and not force:
        raise FirehoseError(Exit.USAGE, f"{output} exists", path=output, next="another name, or --force")
    data, envelope = transfer.pull(chosen)
    if output == "-":
        sys.stdout.write(data.decode())
        return
    write_atomic(Path(output), data)
    body = {
        "target": chosen.name,
        "serial": envelope.serial,
        "step": envelope.step,
        "lineage": envelope.lineage,
    }
    if json:
        emit_json("state-pull/1", {**body, "file": output, "bytes": len(data)})
    else:
        say(f"serial {envelope.serial} of {chosen.name}, step {envelope.step:,}, is in {output}")


@state_app.command("push", **example("firehose state push demo.state.json demo --dry-run"))
@command("state-push/1")
def push_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="A state file; - reads the terminal's input.")
    ],
    where: RunName = None,
    *,
    force: Force = False,
    accept_edit: Annotated[
        bool, typer.Option("--accept-edit", help="Take a file that was edited by hand after it was pulled.")
    ] = False,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Make a file the state of a run, as a new serial; another lineage or an older serial is refused."""
    from state.operate import transfer

    run = _run(where, runs_dir)
    data = sys.stdin.buffer.read() if file == "-" else target.read_bytes(Path(file))
    made = transfer.push(run, data, Path(file), force=force, accept_edit=accept_edit, dry=dry_run)
    _finish("state-push/1", made, json)


@state_app.command("migrate", **example("firehose state migrate demo --dry-run"))
@command("state-migrate/1")
def migrate_command(
    where: RunName = None, *, dry_run: DryRun = False, runs_dir: RunsDir = RUNS, json: Json = False
) -> None:
    """Write the state in the newest file version, as a new serial; older versions are read without this, too."""
    from state.operate import transfer

    _finish("state-migrate/1", transfer.migrate(_run(where, runs_dir), dry=dry_run), json)


def _run(where: str | None, runs_dir: Path) -> Any:
    return target.resolve(where, runs_dir).writable()


def _finish(schema: str, made: "Change", json: bool) -> None:
    if json:
        emit_json(schema, made.as_dict())
    else:
        show_lines(made.lines())
