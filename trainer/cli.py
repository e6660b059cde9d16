"""The command line: this file holds the commands that train or sample and mounts the rest; torch is imported late."""

import contextlib
import io
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.console import command, emit_json, say
from curriculum.errors import Exit, FirehoseError
from state import spawn
from state.cli import RUNS, Json, RunsDir, choose, plain
from state.cli import app as run_commands

if TYPE_CHECKING:
    from state.polish.fork import Fork
    from trainer.world import World

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Train a language model from many text sources; a bandit picks the source of every micro-batch.",
)
app.add_typer(run_commands)

Name = Annotated[str | None, typer.Option("--name", help="Name of the run; the config's own by default.")]


@app.command("run")
@command("run/1")
def run_command(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="The run's TOML file; may be left out with --from."),
    ] = None,
    *,
    name: Name = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Fork: go on from a run's checkpoint (a run or a step_N folder) with a fresh bandit, as --name.",
        ),
    ] = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on where the run stopped; must: only that; never: only a new run.")
    ] = "auto",
    until: Annotated[
        int | None, typer.Option(help="Stop after this step, resumable (exit 75).", min=1)
    ] = None,
    clear_halt: Annotated[
        bool, typer.Option("--clear-halt", help="Go on although the gate halted the run.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background, out of this terminal.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check config, data and bounds, say what would run, and stop.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Train as CONFIG says: a new run, or an old one from its last checkpoint on."""
    from trainer.signals import Flags

    flags = Flags().install() if not (detach or dry_run) else Flags()  # before torch: SIGUSR1 kills otherwise
    if resume not in ("auto", "must", "never"):
        raise FirehoseError(Exit.USAGE, f"--resume {resume} is none of auto, must, never")
    from trainer import runner

    with _world() as world:
        if world is not None and not world.first:
            try:
                from trainer import sitting

                return sitting.follow(world, flags)
            finally:
                flags.retire()
        if world is not None and detach:
            raise FirehoseError(
                Exit.USAGE,
                "torchrun itself runs in the foreground: --detach is for one process",
                next="nohup torchrun --nproc-per-node N -m trainer run CONFIG &",
            )
        forked = None if source is None else _fork(source, config, name, runs_dir, resume)
        if forked is not None and not dry_run:
            from state.polish import fork

            config, name, resume = fork.build(forked).config, None, "must"
            say(f"made {forked.run.root}: {forked.parent.name} at step {forked.new.step} with a fresh bandit")
        if forked is not None and dry_run:
            plan = runner.plan_of(forked.config, forked.run, runs_dir)
        elif config is not None:
            plan = runner.plan(config, name=name, runs_dir=runs_dir, resume=resume)  # type: ignore[arg-type]
        else:
            raise FirehoseError(
                Exit.USAGE,
                "say what to run: a CONFIG, or --from CHECKPOINT --name OTHER",
                next="firehose run --help",
            )
        if dry_run:
            summary = runner.describe(plan)
            if forked is not None:
                summary |= forked.summary()
            if json:
                emit_json("run/1", {"dry_run": True, **summary})
            else:
                print("\n".join(runner.table(plan, summary)))
            if world is not None:
                world.announce(None)
            return Exit.OK
        if detach:
            runner.preflight(plan)
            again = [argument for argument in sys.argv[1:] if argument != "--detach"]
            if forked is not None:
                again = [
                    "run",
                    str(config),
                    *(["--until", str(until)] if until else []),
                    *(["--json"] if json else []),
                ]
            return _detach(plan.run.root, again, json)
        try:
            outcome = runner.train(plan, flags=flags, until=until, clear_halt=clear_halt, world=world)
        finally:
            flags.retire()
        if json:
            with contextlib.suppress(
                BrokenPipeError
            ):  # the exit code says how the run ended, whoever listens
                emit_json("run/1", outcome)
        return int(outcome["exit"])


def _world() -> "contextlib.AbstractContextManager[World | None]":
    """The processes that torchrun started for this run, of which this is one; None where there are no others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return contextlib.nullcontext()
    from trainer.world import World

    return World.join()


def _fork(source: str, config: Path | None, name: str | None, runs_dir: Path, resume: str) -> "Fork":
    """The fork that was asked for, looked at. Raises FirehoseError."""
    from state.polish import fork
    from trainer import runner

    if name is None or resume == "must" or not runner.RUN_NAME.fullmatch(name):
        raise FirehoseError(
            Exit.USAGE,
            "--from begins another run: it needs a --name that a run can have, and nothing to resume",
            next=f"firehose run --from {source} --name OTHER",
        )
    return fork.plan(source, config, name, runs_dir)


def _detach(root: Path, arguments: list[str], json: bool) -> int:
    """Start a command as a process of its own."""
    started = spawn.detached(root, arguments)
    if started.code is not None:
        (sys.stdout if json else sys.stderr).write(started.said)
        return started.code
    if json:
        emit_json("run/1", {"run": root.name, "pid": started.pid, "log": str(started.log)})
    for line in findings_in(started.said):
        say(line)
    say(f"started as pid {started.pid}; firehose status {root} shows it, {started.log} its messages")
    return Exit.OK


def findings_in(said: str) -> list[str]:
    """The lines of what a launch said that are findings, with what to do about them.

    >>> findings_in("warning: old\\nF0004 missing data: 'web' has none\\n  next:     build it\\nmodel: 2 parameters")
    ["F0004 missing data: 'web' has none", '  next:     build it']
    """
    found: list[str] = []
    inside = False
    for line in said.splitlines():
        inside = re.match(r"F\d{4} ", line) is not None or (inside and line.startswith("  next:"))
        if inside:
            found.append(line)
    return found


@app.command("sample")
@command("sample/1")
def sample_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    prompt: Annotated[str, typer.Argument(help="What the user says.")],
    *,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.8,
    tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 120,
    seed: Annotated[int, typer.Option(help="Another seed gives another answer.")] = 0,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> None:
    """Ask a run's newest checkpoint, through its own chat template; shows the answer and its coherence score."""
    from trainer import runner

    body = runner.ask(
        choose(run, runs_dir), prompt, temperature=temperature, max_new_tokens=tokens, seed=seed
    )
    if json:
        emit_json("sample/1", body)
    else:
        print(plain(body["text"]))
        say(f"step {body['step']}, score {body['score']:.1f}, loss {body['loss']:.3f}")


@app.command("demo")
@command("demo/1")
def demo_command(
    *,
    folder: Annotated[
        Path, typer.Option("--dir", help="Folder to make; where it exists, the next free number is added.")
    ] = Path("demo"),
    steps: Annotated[int | None, typer.Option(help="Steps to train; 600 by default.", min=200)] = None,
    json: Json = False,
) -> int:
    """Show it all in minutes: harvest text from this machine, build, train, stop, prune a zombie arm, resume, report."""
    from trainer.signals import Flags

    flags = Flags().install()
    from trainer import demo

    try:
        found = demo.demo(folder, steps=steps, flags=flags)
    finally:
        flags.retire()
    if json:
        emit_json("demo/1", found)
    elif "arms" in found:
        print("\n".join(demo.lines(found)))
    return int(found["exit"])


def mount(command: str | None = None) -> None:
    """Mount the commands of the packages below; they import what they need when they run.

    command: the one that is meant, where that is known; `state` comes alone, since the others import numpy.
    """
    from state.operate.cli import state_app

    app.add_typer(state_app, name="state", help="Inspect, check, edit and undo the state of a run.")
    if command == "state":
        return
    from curriculum import config_cli, data_cli, gate_cli, simulate_cli
    from state.polish import cli as polish_cli
    from trainer import doctor_cli, inspect_cli

    app.add_typer(data_cli.app, name="data", help="Build and list token files.")
    app.add_typer(config_cli.app, name="config", help="Check a config, print its schema.")
    app.add_typer(gate_cli.app, name="gate", help="Score texts as the coherence gate does.")
    app.add_typer(simulate_cli.app)
    app.add_typer(inspect_cli.app)
    app.add_typer(polish_cli.polish_app, name="polish")
    app.add_typer(doctor_cli.app)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model writes what no terminal's encoding may hold
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:] == ["--version"]:
        print(f"firehose {metadata.version('firehose')}")
        return
    quick = {found.name for found in run_commands.registered_commands}
    if len(sys.argv) < 2 or sys.argv[1] not in quick:  # monitors must not wait for imports they do not need
        mount(sys.argv[1] if len(sys.argv) > 1 else None)
    app()
