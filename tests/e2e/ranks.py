"""Runs a config as several ranks, again and again, in forks of one process that has torch loaded already.

`python -m tests.e2e.ranks JOBS`, JOBS a JSON list; each job is a table:
config, runs, name: of the run. size: ranks (default 1). until: last step. die: `RANK:STEP` (`*` for all ranks) kills
itself with SIGKILL as it dispatches the step. steer: a signal's name, `RANK:STEP:SIGNAL`, sent by that rank to itself.
bounds: `STEP:OLD:NEW` asks for another config then, with OLD replaced. collapse: `STEP:TIMES`, the model
speaks garbage at that step, until the run has gone back for it so often. told: losses come from a table and nothing is trained. lie: `RANK:STEP` picks something else there.
Prints a JSON list: of each job the exit codes (rank by rank), what was said (stderr of all ranks), and every rank's picks.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch._dynamo  # the first step of an optimizer would import it, in every fork
import torch.distributed as dist
import torch.distributed.fsdp  # likewise

from bandit.hashing import mix64
from bandit.ledger import Ticket
from curriculum.errors import FirehoseError
from curriculum.gate.judge import Judge
from state.process import read_process
from state.requests import Request
from state.run_dir import RunDir, record_id
from trainer import launch, loop, runner, sampling, sitting  # noqa: F401  imported once, before the forks
from trainer.sampling import Drawn
from trainer.signals import Flags
from trainer.step import TrainStep
from trainer.world import World

Job = dict[str, Any]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def told_run(self: TrainStep, step: int, pulls: torch.Tensor, lr: float) -> None:
    """In the place of a step: losses from a table, each rank's being off by what the others' make up for."""
    row, count, world = self.ring.row(step), len(pulls), self.shared.world
    off = (world.rank - (world.size - 1) / 2) / 8
    row[:count] = torch.tensor([3.0 + mix64(step, micro) % 64 / 64 + off for micro in range(count)])
    row[count : 2 * count] = torch.tensor([mix64(step, micro, 1) % 128 / 64 - 1 for micro in range(count)])
    row[2 * count + 1 : 2 * count + 3] = torch.tensor([1.0, 0.0])
    world.mean_(row)
    self.ring.publish(step)


def prepare(job: Job, rank: int, picks: list[list[int]]) -> None:
    """Have this process do what the job says, at its moment."""
    if job.get("told"):
        TrainStep.run = told_run  # type: ignore[method-assign]
    run, issue = TrainStep.run, loop.Loop.issue
    die, steer, lie, bounds = (str(job.get(key, "")).split(":") for key in ("die", "steer", "lie", "bounds"))

    def watched_run(self: TrainStep, step: int, *rest: Any) -> None:
        if die[0] in ("*", str(rank)) and step == int(die[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        if steer[0] == str(rank) and step == int(steer[1]):
            os.kill(os.getpid(), getattr(signal, steer[2]))
        if rank == 0 and bounds[0] == str(step):
            ask(RunDir(Path(job["runs"]) / job["name"]), *bounds[1:])
        run(self, step, *rest)

    def watched_issue(self: loop.Loop, step: int) -> None:
        issue(self, step)
        tickets: list[Ticket] = self.tickets.get(step, [])
        if lie[0] == str(rank) and step == int(lie[1]):
            self.picked.update(b"something else")
        picks.extend([step, ticket.arm, ticket.window] for ticket in tickets)

    TrainStep.run, loop.Loop.issue = watched_run, watched_issue  # type: ignore[method-assign]
    if "collapse" in job:
        collapse(job)


def collapse(job: Job) -> None:
    """Have the model speak garbage, for which one source is to blame."""
    step, times = (int(part) for part in job["collapse"].split(":"))
    run = RunDir(Path(job["runs"]) / job["name"])

    def generate(*given: Any, key: tuple[int, int], **named: Any) -> Drawn:
        bad = key[1] == step and len(list(run.archive.glob("*-halt-rollback"))) < times
        text = (
            "region region region region"
            if bad
            else "It rained all day, so we stayed in and read an old book."
        )
        return Drawn(text, [1, 2, 3], 2.0)

    sampling.generate = generate
    Judge.blame = lambda self: {"gamma": 0.5}  # type: ignore[method-assign]


def ask(run: RunDir, old: str, new: str) -> None:
    """Ask this process for another config, as `firehose polish apply --live` does."""
    text, state = run.config.read_text(), json.loads(run.state.read_text())
    process = read_process(json.loads(run.process.read_text()))
    assert old in text and process is not None
    body = {"config": text.replace(old, new), "base": state["config_sha256"], "plan": "0001"}
    asked = Request(id="asked", kind="bounds", target=record_id(process), time=0.0, **body)
    run.request.write_bytes(msgspec.json.encode(asked))
    os.kill(os.getpid(), signal.SIGUSR1)


def work(job: Job, picks: list[list[int]]) -> int:
    """What the command does, short of its command line."""
    flags = Flags().install()
    with World.join() as world:
        prepare(job, world.rank, picks)
        if not world.first:
            return sitting.follow(world, flags)
        plan = runner.plan(Path(job["config"]), name=job["name"], runs_dir=Path(job["runs"]), resume="auto")
        return int(runner.train(plan, flags=flags, until=job.get("until"), world=world)["exit"])


def child(job: Job, rank: int, port: int, folder: Path) -> int:
    """Start one rank; its pid."""
    pid = os.fork()
    if pid:
        return pid
    size = job.get("size", 1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is the parent's, as under torchrun
    os.dup2(os.open(folder / "said", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    picks: list[list[int]] = []
    code = 99
    try:
        code = work(job, picks)
    except FirehoseError as error:
        print(f"error: {error}", file=sys.stderr)
        code = int(error.exit_code)
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        (folder / f"picks{rank}").write_text(json.dumps(picks))
        sys.stderr.flush()
        os._exit(code)


def attempt(job: Job) -> dict[str, Any]:
    size = job.get("size", 1)
    with tempfile.TemporaryDirectory() as made:
        folder, port = Path(made), free_port()
        pids = [child(job, rank, port, folder) for rank in range(size)]
        store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        del store
        said = (folder / "said").read_text()
        files = [folder / f"picks{rank}" for rank in range(size)]
        return {
            "codes": codes,
            "said": said,
            "picks": [json.loads(f.read_text()) for f in files if f.exists()],
        }


if __name__ == "__main__":
    print(json.dumps([attempt(job) for job in json.loads(sys.argv[1])]))
