"""`firehose polish`: change the caps, floors and sources of a run in mid-run, by plan and apply."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from curriculum.console import command, emit_json, say
from curriculum.errors import Exit, FirehoseError
from state.cli import RUNS, Json, RunName, RunsDir, Timeout, choose
from state.run_dir import RunDir

polish_app = typer.Typer(no_args_is_help=True, help="Change a run's caps, floors and sources in mid-run.")

Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="PLAN", help="Where to save the plan; beside the run by default."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
RunOption = Annotated[
    str | None, typer.Option("--run", metavar="RUN", help="Name of the run; not needed where there is one.")
]


@polish_app.command("edit")
@command("polish-plan/1")
def edit_command(
    run: RunName = None, *, out: Out = None, runs_dir: RunsDir = RUNS, json: Json = False
) -> int:
    """Open a draft of the run's config in $VISUAL or $EDITOR, then plan it; the run itself is not touched."""
    from state.polish import editor, polish

    chosen = choose(run, runs_dir)
    text = polish.draft_text(chosen)
    made = editor.edit(text, lambda text: polish.save_draft(chosen, text), os.environ)
    if made == text:
        say("nothing was changed")
        return Exit.OK
    return _plan(chosen, None, out, live=False, json=json, exit_code=False, dry_run=False)


@polish_app.command("set")
@command("polish-plan/1")
def set_command(
    assignments: Annotated[
        list[str],
        typer.Argument(metavar="ARM.KEY=VALUE...", help="chat.cap=0.3 chat.floor=off repo.exclude=on"),
    ],
    *,
    run: RunOption = None,
    out: Out = None,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Change keys of the draft, then plan it; the run itself is not touched. off: the key's default."""
    from state.polish import polish

    chosen = choose(run, runs_dir)
    polish.set_draft(chosen, assignments)
    return _plan(chosen, None, out, live=False, json=json, exit_code=False, dry_run=False)


@polish_app.command("plan")
@command("polish-plan/1")
def plan_command(
    run: RunName = None,
    *,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Plan this config; the draft by default.")
    ] = None,
    out: Out = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 3 where there is a change.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Plan to have the run take new bounds without a stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and save none.")] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Show what a new config would do to a run, and save that as a plan for `polish apply`."""
    return _plan(
        choose(run, runs_dir), config, out, live=live, json=json, exit_code=exit_code, dry_run=dry_run
    )


def _plan(
    run: RunDir,
    file: Path | None,
    out: Path | None,
    *,
    live: bool,
    json: bool,
    exit_code: bool,
    dry_run: bool,
) -> int:
    from curriculum import config as configs
    from curriculum.config_toml import read_text
    from state.polish import adopt, outlook, polish

    if file is None:
        text, shown, original = polish.draft_text(run), polish.draft(run), polish.origin(run)
        shown = shown if shown.exists() else run.config
    else:
        text, shown = read_text(file), file
        if file.resolve() in (run.config.resolve(), polish.draft(run).resolve()):
            original = polish.origin(run)
        else:
            text, original = adopt.adopted(run, text, configs.original_of(file.absolute()) or file.absolute())
    body, plan = outlook.prepare(run, text, shown, original, live=live, now=time.time())
    return _show(run, body, plan, out, json=json, exit_code=exit_code, dry_run=dry_run)


def _show(
    run: RunDir,
    body: dict[str, Any],
    plan: Any,
    out: Path | None,
    *,
    json: bool,
    exit_code: bool,
    dry_run: bool,
) -> int:
    from state.polish import polish
    from state.polish import view as polish_view

    saved = None
    if plan is not None and not dry_run:
        saved = polish.standing(run, plan) if out is None else None
        body["saved"] = saved is None
        saved = saved or polish.save(run, plan, out)
    body["plan"] = None if saved is None else str(saved)
    if json:
        emit_json("polish-plan/1", body)
    else:
        print("\n".join(polish_view.plan(body, body["plan"])))
    return Exit.FINDINGS if exit_code and plan is not None else Exit.OK


@polish_app.command("apply")
@command("polish-apply/1")
def apply_command(
    plan: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="A plan file; the run's newest by default.")
    ] = None,
    *,
    run: RunOption = None,
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Leave the run stopped afterwards.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do all of it in the background.")] = False,
    timeout: Timeout = 600.0,
    confirm: Annotated[
        list[str] | None,
        typer.Option("--confirm", metavar="ARM", help="Yes, no pull for this source any more."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm all that the plan disables.")] = False,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Apply a saved plan: stop at the boundary, archive, put the new state in place, resume."""
    from state import spawn
    from state.polish import apply, polish
    from state.polish import view as polish_view

    path, chosen = _find_plan(plan, run, runs_dir)
    found = polish.load(path)
    confirmed = confirm or []
    if dry_run:
        polish.refuse_stale(chosen, found, path, time.time())
        apply.confirm(found, path, confirmed, yes=yes)
        outcome: dict[str, Any] = {"run": chosen.name, "kind": found.kind, "outcome": "not applied"}
        say(f"would apply {path}; it fits the run as it is")
        if found.kind != "live":
            say("the run then stays stopped" if no_resume else polish_view.RESUMES)
    elif no_wait:
        polish.refuse_stale(chosen, found, path, time.time())
        apply.confirm(found, path, confirmed, yes=yes)
        flags = [f"--confirm={name}" for name in confirmed] + ["--yes"] * yes + ["--no-resume"] * no_resume
        arguments = ["polish", "apply", str(path.absolute()), "--run", str(chosen.root.absolute()), *flags]
        started = spawn.detached(
            chosen.root, [*arguments, f"--timeout={timeout}"], log=apply.APPLY_LOG, wait=0.0
        )
        outcome = {"run": chosen.name, "kind": found.kind, "outcome": "begun", "pid": started.pid}
        say(f"goes on as pid {started.pid}, messages in {started.log}; firehose polish status {chosen.root}")
    else:
        outcome = apply.apply(
            chosen, found, path, confirmed=confirmed, yes=yes, resume=not no_resume, timeout=timeout, say=say
        )
    if json:
        emit_json("polish-apply/1", outcome)
    elif outcome["outcome"] == "applied":
        print(f"applied {path.name} at step {outcome['step']}; firehose status {chosen.root}")


def _find_plan(given: str | None, run: str | None, runs_dir: Path) -> tuple[Path, RunDir]:
    """The plan file, and the run it is of: by its place, by name, or the only one."""
    from state.polish import polish

    if given is None:
        chosen = choose(run, runs_dir)
        saved = polish.plans(chosen)
        if not saved:
            raise FirehoseError(
                Exit.NOT_FOUND,
                f"the run {chosen.name!r} has no saved plan",
                path=polish.folder(chosen),
                next=f"firehose polish plan {chosen.root}",
            )
        polish.refuse_older_than_draft(chosen, saved[-1])
        return saved[-1], chosen
    path = Path(given)
    if run is None:
        beside = RunDir(path.absolute().parent.parent)
        name = polish.load(path).run
        return path, beside if beside.exists() else choose(name, runs_dir)
    return path, choose(run, runs_dir)


@polish_app.command("status")
@command("polish-status/1")
def status_command(run: RunName = None, *, runs_dir: RunsDir = RUNS, json: Json = False) -> None:
    """Show draft, saved plans and whether they still fit, what is unfinished, and the last pivot."""
    from state.polish import generations
    from state.polish import view as polish_view

    body = generations.status(choose(run, runs_dir), time.time())
    if json:
        emit_json("polish-status/1", body)
    else:
        print("\n".join(polish_view.status(body)))


@polish_app.command("cancel")
@command("polish-cancel/1")
def cancel_command(
    run: RunName = None,
    *,
    draft: Annotated[bool, typer.Option("--draft", help="Discard the draft instead.")] = False,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Withdraw a polish that still waits for its boundary; the run then goes on. --draft: discard the draft."""
    from state.polish import apply, generations, polish

    chosen = choose(run, runs_dir)
    if draft:
        there = polish.draft(chosen).exists() if dry_run else generations.discard(chosen)
        message = (
            "there is no draft" if not there else "would discard the draft" if dry_run else "draft discarded"
        )
    elif dry_run:
        message = (
            "would withdraw what waits: "
            + str(bool(generations.status(chosen, time.time())["waiting"])).lower()
        )
    else:
        apply.cancel(chosen, time.time())
        message = "withdrawn: the run writes a checkpoint at its boundary and goes on"
    if json:
        emit_json("polish-cancel/1", {"run": chosen.name, "message": message})
    else:
        print(message)


@polish_app.command("history")
@command("polish-history/1")
def history_command(run: RunName = None, *, runs_dir: RunsDir = RUNS, json: Json = False) -> None:
    """List the generations of a run: where each pivot was, and what it changed."""
    from state.polish import generations
    from state.polish import view as polish_view

    chosen = choose(run, runs_dir)
    rows = generations.history(chosen)
    if json:
        emit_json("polish-history/1", {"run": chosen.name, "generations": rows})
    else:
        print("\n".join(polish_view.history(rows)))


@polish_app.command("rollback")
@command("polish-plan/1")
def rollback_command(
    run: RunName = None,
    *,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="N", help="The generation to go back to; the last but this.", min=0),
    ] = None,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Take only the config back; no training is given up.")
    ] = False,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and save none.")] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Plan to go back to what a pivot replaced; `polish apply` then does it."""
    from state.polish import generations

    chosen = choose(run, runs_dir)
    body, plan = generations.rollback(chosen, to, keep_weights=keep_weights, now=time.time())
    return _show(chosen, body, plan, out, json=json, exit_code=False, dry_run=dry_run)
