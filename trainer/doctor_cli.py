"""`firehose doctor`: is this config fit to be run?"""

from pathlib import Path
from typing import Annotated

import typer

from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit
from state.cli import RUNS, Json, RunsDir

app = typer.Typer()


@app.command("doctor")
@command("doctor/1")
def doctor_command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The run's TOML file; its data must be built.")
    ],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes longest.")] = False,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Look for what makes a run worthless before it runs: the harness first, then eight real steps, then the model.

    Nothing of any run is touched. Exit code 3 where a check fails.
    """
    from curriculum import config as configs
    from trainer.doctor.checks import lines
    from trainer.doctor.examine import examine

    found = examine(configs.load(config), runs_dir, quick=quick, say=say)
    failing = sum(not check.ok for check in found)
    if json:
        emit_json("doctor/1", {"checks": [check.as_dict() for check in found], "failing": failing})
    else:
        for line in lines(found):
            print(wrapped(line, indent="      "))
        say(f"{failing} of {len(found)} checks fail" if failing else f"all {len(found)} checks pass")
    return Exit.FINDINGS if failing else Exit.OK
