"""The commands that look at runs and ask things of them: status, list, samples, explain, checkpoint, stop."""

import textwrap
import time
from pathlib import Path
from typing import Annotated

import typer

from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit, FirehoseError
from state import requests, run_dir, status
from state.run_dir import RunDir

app = typer.Typer(no_args_is_help=True)

RunName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Name of a run; not needed where there is one.")
]
RunsDir = Annotated[Path, typer.Option(envvar="FIREHOSE_RUNS", help="Folder of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the run.", min=0)]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Ask, and do not wait for the answer.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be asked of which process, and do not ask.")
]
RUNS = Path("runs")


def choose(name: str | None, runs_root: Path) -> RunDir:
    """The named run; without a name the only run there is, or the only one alive. Raises FirehoseError."""
    if name is not None:
        return run_dir.find(name, runs_root)
    runs = run_dir.list_runs(runs_root)
    alive = [run for run in runs if run.condition(time.time()).alive]
    for only in (runs, alive):
        if len(only) == 1:
            return only[0]
    if not runs:
        raise FirehoseError(
            Exit.NOT_FOUND,
            "there are no runs here",
            path=runs_root,
            next="firehose run CONFIG, or --runs-dir",
        )
    names = ", ".join(run.name for run in alive or runs)
    raise FirehoseError(
        Exit.USAGE, f"which run? {names}", path=runs_root, next=f"firehose status {runs[0].name}"
    )


@app.command("status")
@command("status/1")
def status_command(run: RunName = None, *, runs_dir: RunsDir = RUNS, json: Json = False) -> None:
    """Show what a run is doing: state, step, speed, loss, gate, and every source's share against its bounds."""
    now = time.time()
    body, notes = status.status(choose(run, runs_dir), now)
    for note in notes:
        say(wrapped(note))
    if json:
        emit_json("status/1", body)
    else:
        print("\n".join(status.screen(body, now)))


@app.command("list")
@command("list/1")
def list_command(*, runs_dir: RunsDir = RUNS, json: Json = False) -> None:
    """List the runs: state, step, loss, time left."""
    now = time.time()
    bodies = [status.status(run, now)[0] for run in run_dir.list_runs(runs_dir)]
    keys = ("run", "state", "step", "steps_total", "loss", "eta_s", "checkpoint_step")
    if json:
        emit_json("list/1", {"runs": [{key: body[key] for key in keys} for body in bodies]})
        return
    if not bodies:
        say(f"no runs in {runs_dir}")
        return
    rows = [
        [
            status.short(body["run"], 28),
            body["state"],
            status.count(body["step"]),
            status.count(body["steps_total"]),
            status.number(body["loss"], ".4f"),
            status.duration(body["eta_s"]),
        ]
        for body in bodies
    ]
    print("\n".join(status.table(["run", "state", "step", "of", "loss", "left"], rows)))


@app.command("samples")
@command("samples/1")
def samples_command(
    run: RunName = None,
    *,
    limit: Annotated[int, typer.Option(help="Show the newest N; 0 shows all.", min=0)] = 10,
    min_score: Annotated[
        float, typer.Option(help="Leave out samples that score lower.", min=0, max=100)
    ] = 0.0,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Show what a run wrote at its sampling steps, oldest of them first, each with its score and verdict."""
    from state.rows import read_rows

    chosen = choose(run, runs_dir)
    rows = [row for row in read_rows(chosen.samples) if (row.get("score") or 0.0) >= min_score]
    rows = rows[-limit:] if limit else rows
    if json:
        emit_json("samples/1", {"run": chosen.name, "samples": rows})
        return
    if not rows:
        say("no samples yet" if min_score == 0 else f"no sample scores {min_score:g} or more")
    for row in rows:
        score = status.number(row.get("score"), ".1f")
        verdict = row.get("verdict") or {}
        words = [verdict.get("kind"), verdict.get("reason")]
        print(f"step {row['step']:,}  score {score}  {': '.join(word for word in words if word)}".rstrip())
        for mark, text in ((">", row.get("prompt")), ("<", row.get("text"))):
            print(
                textwrap.fill(
                    f"{mark} {plain(text or '')}", 78, initial_indent="  ", subsequent_indent="    "
                )
            )


@app.command("explain")
@command("explain/1")
def explain_command(
    run: RunName = None,
    *,
    step: Annotated[
        int | None, typer.Option(help="The step to explain; the last committed one by default.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make every pick of the run again and count those that agree.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Show why the bandit picked the sources of a step, replayed from the run's own files."""
    if verify and step is not None:
        raise FirehoseError(
            Exit.USAGE, "--verify looks at every step, --step at one", next="leave one of the two out"
        )
    from state import explain, story

    chosen = choose(run, runs_dir)
    told = story.read(chosen)
    body = explain.verify(told) if verify else explain.explain(told, step)
    for note in told.notes:
        say(note)
    if json:
        emit_json("explain/1", body)
    else:
        print("\n".join(explain.verified(body) if verify else explain.screen(body)))
    if verify:
        return Exit.FINDINGS if body["missing"] else Exit.OK
    if step is None and not json:
        say(f"that was the last step; --step N explains another, {body['first_step']} to {body['last_step']}")
    return Exit.OK


def plain(text: str) -> str:
    """Text that a model wrote, safe for a terminal: what cannot be printed is shown as a dot.

    >>> plain("a\\x1b[31m b\\n c")
    'a·[31m b c'
    """
    return " ".join("".join(char if char.isprintable() or char.isspace() else "·" for char in text).split())


@app.command("checkpoint")
@command("checkpoint/1")
def checkpoint_command(
    run: RunName = None,
    *,
    no_wait: NoWait = False,
    timeout: Timeout = 600.0,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Ask a run to write a checkpoint at its next boundary and to go on."""
    _ask(choose(run, runs_dir), "checkpoint", no_wait, timeout, dry_run, json)


@app.command("stop")
@command("stop/1")
def stop_command(
    run: RunName = None,
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Stop after the step it is in, not at a boundary.")
    ] = False,
    no_wait: NoWait = False,
    timeout: Timeout = 600.0,
    dry_run: DryRun = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Ask a run to write a checkpoint at its next boundary and to stop; it can be resumed from there."""
    _ask(choose(run, runs_dir), "stop-now" if now else "stop", no_wait, timeout, dry_run, json)


def _ask(run: RunDir, kind: requests.Kind, no_wait: bool, timeout: float, dry_run: bool, json: bool) -> None:
    began = time.time()
    if dry_run:
        process = requests.signalable(run, kind, began)
        outcome, message = "not asked", f"would ask {process.describe()}"
    else:
        request = requests.send(run, kind, now=began)
        if no_wait:
            outcome, message = "asked", f"asked; firehose status {run.name} shows what comes of it"
        else:
            if not json:
                say(f"asked {run.name} to {'checkpoint' if kind == 'checkpoint' else 'stop'}; waiting")
            message = requests.wait(run, request, timeout=timeout)
            outcome = "served"
    if json:
        emit_json(f"{kind.partition('-')[0]}/1", {"run": run.name, "outcome": outcome, "message": message})
    else:
        print(message)
