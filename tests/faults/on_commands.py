"""Scenarios of the program's own commands, each called through its command line on a small run, in this process."""

import atexit
import contextlib
import functools
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer

from curriculum.errors import FirehoseError
from state import journal
from state.lock import RunLock
from state.run_dir import RunDir
from state.store import StateStore
from tests.faults.on_runs import change, on_run, trained
from tests.faults.scenario import Scenario
from tests.state import state_runs


def invoke(*words: str) -> None:
    """Run a command of the program. Raises the error that it tells, read from its own `--json`."""
    import json

    from trainer.cli import app

    out, sys.stdout = sys.stdout, io.StringIO()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            status = typer.main.get_command(app).main([*words, "--json"], "firehose", standalone_mode=False)
        said = sys.stdout.getvalue()
    finally:
        sys.stdout = out
    if status:
        told = json.loads(said)["error"]
        raise FirehoseError(told["code"], told["message"], path=told["path"], next=told["next"])


def filled(words: tuple[str, ...], folder: Path) -> list[str]:
    """A command's words with the folder and the run's put in."""
    return [word.format(folder=folder, run=folder / "runs/demo") for word in words]


def command(
    *words: str, prepare: Callable[[Path], None] = lambda folder: None, short: bool = False
) -> Scenario:
    """A command on a run with a state and a checkpoint that has its copy; `{run}` in its words is the run's folder."""

    def make(folder: Path) -> None:
        state_runs.make_run(folder)
        prepare(folder)

    def act(folder: Path, acknowledge: Callable[[object], None]) -> None:
        invoke(*filled(words, folder))
        acknowledge("done")

    name = " ".join(
        word.replace("{run}/", "").replace("{run}", "RUN").replace("{folder}/", "") for word in words
    )
    return on_run(name, make, act, "runs/demo", short=short, warm=imports)


def imports() -> None:
    """What the commands import when they run; a fork would do it anew each time."""
    from trainer.cli import mount

    mount()


def done_before(*words: str) -> Callable[[Path], None]:
    """A run on which another command was done before."""
    return lambda folder: (imports(), invoke(*filled(words, folder)))[1]


def changed(folder: Path) -> None:
    """A run with a transaction to undo."""
    run = RunDir(folder / "runs/demo")
    (run.checkpoints / "step_10").mkdir()
    (run.checkpoints / "step_10/model").write_text("weights")
    change(run, "step_10")


def of_version_1(folder: Path) -> None:
    """A state file as the first version wrote it: no hash over its header."""
    import json

    run = RunDir(folder / "runs/demo")
    body = json.loads(run.state.read_text())
    del body["header_sha256"]
    run.state.write_text(json.dumps({**body, "version": 1}))


# A pivot of a stopped run, and the way back.


@functools.cache
def planned() -> Path:
    """A folder with the published run in small, stopped at step 60, and its polish planned; made once in a process."""
    from state.polish import outlook, polish
    from tests.fixtures import unlit, v3

    folder = Path(tempfile.mkdtemp(prefix="firehose-faults-polish-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run = unlit.stopped(v3.make(folder), folder / "runs/demo", 60)
    text = (folder / v3.POLISH).read_text()
    _, plan = outlook.prepare(
        run, text, folder / v3.POLISH, folder / v3.POLISH, live=False, now=1_800_000_000.0
    )
    assert plan is not None
    polish.save(run, plan, None)
    return folder


def polish(name: str, *words: str, before: tuple[tuple[str, ...], ...] = ()) -> Scenario:
    """A command on the planned run, after others."""

    def make(folder: Path) -> None:
        shutil.copytree(planned(), folder, dirs_exist_ok=True)
        for earlier in before:
            invoke(*filled(earlier, folder))

    def act(folder: Path, acknowledge: Callable[[object], None]) -> None:
        invoke(*filled(words, folder))
        acknowledge("done")

    def warm() -> None:
        imports()
        planned()

    return on_run(name, make, act, "runs/demo", warm=warm)


# The way back from a halt of the gate.


@functools.cache
def halted() -> Path:
    """A folder with the published run in small, halted by the gate at step 60; its sample of step 40 had passed."""
    from curriculum import config as configs
    from tests.fixtures import unlit, v3

    folder = Path(tempfile.mkdtemp(prefix="firehose-faults-halted-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = v3.make(folder).path
    path.write_text(path.read_text().replace("[gate]", '[gate]\non_halt = "rollback"'))
    config = configs.load(path)
    run = unlit.stopped(config, folder / "runs/demo", 40)
    state, _ = StateStore(run.state).read()
    assert state is not None
    payload = state.payload
    name = next(iter(payload["bandit"]["arms"]))
    unlit.commit(run, config, payload, 60, lineage=unlit.LINEAGE)
    halt = {"step": 60, "reason": "5 samples in a row", "blame": {name: 0.5}}
    loop = {**payload["loop"], "passing_checkpoint": 40}
    StateStore(run.state).commit(
        {**payload, "halt": halt, "loop": loop}, step=60, config_sha256=configs.digest(config)
    )
    return folder


def come_back() -> Scenario:
    """What a launch does first with a run that the gate has halted, where its config says so."""

    def make(folder: Path) -> None:
        shutil.copytree(halted(), folder, dirs_exist_ok=True)

    def act(folder: Path, acknowledge: Callable[[object], None]) -> None:
        from curriculum import config as configs
        from trainer import comeback

        run = RunDir(folder / "runs/demo")
        with RunLock(run.lock):
            journal.redo(run)
            comeback.come_back(run, configs.load(run.config), lambda message: None)
        acknowledge("done")

    def warm() -> None:
        imports()
        halted()

    return on_run("gate: back from a halt", make, act, "runs/demo", warm=warm)


# Repairs of a run that was trained a little.


def repaired(name: str, file: str, damage: Callable[[bytes], bytes], *options: str) -> Scenario:
    """A repair of one damaged file; what of it is in the run's folder goes by `firehose state repair`."""
    words = ("state", "repair", "{folder}/runs/tiny", *options)

    def make(folder: Path) -> None:
        shutil.copytree(trained(), folder, dirs_exist_ok=True)
        path = folder / "runs/tiny" / file
        path.write_bytes(damage(path.read_bytes()))

    def act(folder: Path, acknowledge: Callable[[object], None]) -> None:
        invoke(*filled(words, folder))
        acknowledge("done")

    def warm() -> None:
        imports()
        trained()

    return on_run(name, make, act, "runs/tiny", warm=warm, damaged=True)


APPLY = ("polish", "apply", "--run", "{run}", "--yes", "--no-resume")
COMMANDS = [
    command("state", "rm", "code", "--run", "{run}", short=True),
    command("state", "mv", "code", "crawl", "{run}"),
    command(
        "state", "restore", "code", "{run}", prepare=done_before("state", "rm", "code", "--run", "{run}")
    ),
    command(
        *("state", "restore", "{run}", "--serial", "1"),
        prepare=done_before("state", "rm", "code", "--run", "{run}"),
    ),
    command("state", "restore", "{run}", "--undo", prepare=changed),
    command("state", "pull", "{run}", "--force", "-o", "{run}/kept.json"),
    command(
        *("state", "push", "{folder}/kept.json", "{run}", "--force"),
        prepare=lambda folder: (
            done_before("state", "pull", "{run}", "-o", "{folder}/kept.json")(folder),
            done_before("state", "rm", "code", "--run", "{run}")(folder),
        )[0],
    ),
    command("state", "migrate", "{run}", prepare=of_version_1),
    repaired("state repair, state cut", "tiny.state.json", lambda data: data[: len(data) // 2]),
    repaired("state repair, rows cut", "tiny.loss.json", lambda data: data[:100]),
    repaired(
        "state repair --accept-edit",
        "tiny.state.json",
        lambda data: data.replace(b'"skipped_in_a_row": 0', b'"skipped_in_a_row": 1'),
        "--accept-edit",
    ),
    come_back(),
    polish("polish apply (stopped run)", *APPLY),
    polish("polish rollback, applied", *APPLY, before=(APPLY, ("polish", "rollback", "{run}"))),
]
