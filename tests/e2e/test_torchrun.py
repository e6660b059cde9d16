"""Several ranks train one run: the same picks, the same losses, and every way to end it leaves a run that resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from curriculum.errors import Exit
from state.rows import read_rows
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import tiny

ROOT = Path(__file__).parents[2]
SMALL = (
    *tiny.QUICK,
    ("micro_batch = 2", "micro_batch = 4"),
    ("[train]\n", "[train]\nkeep_checkpoints = 9\n"),
)
LONG = (
    *SMALL,
    ("steps = 60", "steps = 200"),
    ("boundary_every = 10", "boundary_every = 50"),
    ("sample_every = 10", "sample_every = 100"),
    ("checkpoint_every = 20", "checkpoint_every = 200"),
    ("heldout_every = 20", "heldout_every = 100"),
)
SHORT = (*SMALL, ("steps = 60", "steps = 40"))
BACK = (
    *SHORT,
    ("checkpoint_every = 20", "checkpoint_every = 10"),
    ("[gate]", '[gate]\non_halt = "rollback"\nconsecutive = 1'),
)
FSDP = ("threads = 1", 'threads = 1\nparallel = "fsdp"')
CLOSE = 1e-4  # nats; the acceptance's bound for fp32

# Name of a job: edits of the tiny config, and the job.
JOBS: dict[str, tuple[tuple[tuple[str, str], ...], dict[str, Any]]] = {
    "one": (LONG, {}),
    "two": (LONG, {"size": 2}),
    "told-one": (LONG, {"told": True}),
    "told-two": (LONG, {"told": True, "size": 2}),
    "told-four": (LONG, {"told": True, "size": 4}),
    "straight": (SHORT, {"size": 2}),
    "cut": (SHORT, {"size": 2, "die": "*:15"}),
    "cut again": (SHORT, {"size": 2, "die": "*:33"}),
    "cut on": (SHORT, {"size": 2}),
    "lost": (SHORT, {"size": 2, "die": "1:25"}),
    "lost first": (SHORT, {"size": 2, "die": "0:35"}),
    "lost on": (SHORT, {"size": 2}),
    "four-straight": (SHORT, {"size": 4}),
    "four": (SHORT, {"size": 4, "until": 20}),
    "four on": (SHORT, {"size": 4}),
    "fewer": (SHORT, {"size": 2, "until": 20}),
    "fewer on": (SHORT, {}),
    "asked": (SHORT, {"size": 2, "steer": "1:13:SIGUSR1"}),
    "stopped": (SHORT, {"size": 2, "steer": "1:13:SIGTERM"}),
    "liar": (SHORT, {"size": 2, "lie": "1:15"}),
    "bounds": (SHORT, {"size": 2, "bounds": "13:floor = 0.3:floor = 0.9"}),
    "shards": ((*SHORT, FSDP), {"size": 2, "until": 20}),
    "shards on": ((*SHORT, FSDP), {"size": 2}),
    "gathered": ((*SHORT, FSDP), {"size": 2, "until": 20}),
    "gathered on": (SHORT, {}),
    "back": (BACK, {"size": 2, "collapse": "20:1"}),
    "stays": (BACK, {"size": 2, "collapse": "20:9"}),
    "uneven": (SHORT, {"size": 3}),
    "heldout-one": ((*SHORT, ("probe_every = 7", 'probe_every = 7\nreward = "heldout"')), {}),
    "heldout-two": ((*SHORT, ("probe_every = 7", 'probe_every = 7\nreward = "heldout"')), {"size": 2}),
}


class Ran:
    """What came of the jobs: codes, what was said and picks by the job's name; the folders of the runs."""

    def __init__(self, runs: Path, found: dict[str, dict[str, Any]]) -> None:
        self.runs, self.found = runs, found

    def codes(self, job: str) -> list[int]:
        codes: list[int] = self.found[job]["codes"]
        return codes

    def said(self, job: str) -> str:
        said: str = self.found[job]["said"]
        return said

    def run(self, name: str) -> RunDir:
        return RunDir(self.runs / name)

    def losses(self, name: str) -> list[float]:
        rows = read_rows(self.run(name).loss)
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        return [row[1] for row in rows]

    def arms(self, name: str) -> list[list[int]]:
        return [[pull[0] for pull in row["pulls"]] for row in read_rows(self.run(name).pulls)]

    def far(self, one: str, other: str) -> float:
        """Largest difference of two runs' losses, which must be of the same steps."""
        return max(abs(a - b) for a, b in zip(self.losses(one), self.losses(other), strict=True))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All jobs, one after the other in forks of one process: what is dear is to load torch."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny.make(folder, *SHORT)
    jobs = []
    for name, (edits, job) in JOBS.items():
        config = tiny.write_config(folder, *edits)
        config = config.rename(folder / f"{len(jobs)}.toml")
        config.write_text(f'name = "tiny"\n{config.read_text()}')
        run = name.removesuffix(" on").removesuffix(" again").removesuffix(" first")
        jobs.append({"config": str(config), "runs": str(folder / "runs"), "name": run, **job})
    command = [sys.executable, "-m", "tests.e2e.ranks", json.dumps(jobs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Ran(folder / "runs", dict(zip(JOBS, json.loads(done.stdout), strict=True)))


@pytest.mark.parametrize("job", [name for name, (_, job) in JOBS.items() if "die" not in job])
def test_all_ranks_pick_the_same_and_end_alike(ran: Ran, job: str) -> None:
    assert len(set(ran.codes(job))) == 1, ran.said(job)
    first, *others = ran.found[job]["picks"]
    assert first or job == "uneven", ran.said(job)
    assert all(other == first for other in others)


def test_a_told_stream_of_losses_makes_the_same_picks_on_any_number_of_ranks(ran: Ran) -> None:
    # What is told is not what the weights do: that they stand still is an alarm, and it too is the same on all ranks.
    assert ran.codes("told-four") == [Exit.ALARMS] * 4, ran.said("told-four")
    one = ran.found["told-one"]["picks"][0]
    assert len(one) == 400 and len({arm for _, arm, _ in one}) == 3
    for ranks in ("two", "four"):
        assert ran.found[f"told-{ranks}"]["picks"][0] == one
        for file in ("loss", "pulls"):
            ours, theirs = (getattr(ran.run(f"told-{name}"), file).read_bytes() for name in (ranks, "one"))
            assert ours == theirs, "the average of what the ranks measure is what one would have measured"


def test_live_losses_agree_over_200_steps(ran: Ran) -> None:
    assert len(ran.losses("one")) == 200 and ran.losses("one")[-1] < ran.losses("one")[0] - 1
    assert ran.arms("one") == ran.arms("two")
    assert 0 < ran.far("one", "two") < CLOSE, "they are added in another order"
    pulls = [read_rows(ran.run(name).pulls) for name in ("one", "two")]
    for ours, theirs in zip(*pulls, strict=True):
        assert ours["norm"] == pytest.approx(theirs["norm"], abs=CLOSE)
        for (_, *own), (_, *other) in zip(ours["pulls"], theirs["pulls"], strict=True):
            assert own == pytest.approx(other, abs=10 * CLOSE), "loss and cosine of a pull"
    heldout = [read_rows(ran.run(name).root / f"{name}.heldout.json") for name in ("one", "two")]
    for ours, theirs in zip(*heldout, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=CLOSE) and len(ours["loss"]) == 3


def test_the_goals_loss_is_that_of_one_rank(ran: Ran) -> None:
    goals = [
        [row["goal"] for row in read_rows(ran.run(name).pulls) if "goal" in row]
        for name in ("heldout-one", "heldout-two")
    ]
    assert len(goals[0]) == 6
    assert goals[1] == pytest.approx(goals[0], abs=CLOSE)


def same_files(ran: Ran, name: str, other: str) -> None:
    """Rows, tensors and state of two runs' ends, bit for bit."""
    for suffix in ("loss", "pulls", "samples", "heldout"):
        ours, theirs = (ran.run(run).root / f"{run}.{suffix}.json" for run in (name, other))
        assert ours.read_bytes() == theirs.read_bytes(), suffix
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(ran.run(run).checkpoints / "step_40" / file) for run in (name, other))
        assert ours.keys() == theirs.keys()
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours), file
    states = [StateStore(ran.run(run).state).read()[0] for run in (name, other)]
    for part in ("bandit", "reward", "gate", "loop", "files"):
        one, two = (state.payload[part] for state in states if state)
        assert one == two, part


def test_killed_twice_and_resumed_bit_for_bit(ran: Ran) -> None:
    assert [ran.codes(job) for job in ("cut", "cut again", "cut on")] == [[-9, -9], [-9, -9], [0, 0]]
    same_files(ran, "cut", "straight")


def test_four_ranks_resume_bit_for_bit(ran: Ran) -> None:
    """With more than two ranks the order of a sum shows: it must not depend on what was trained before."""
    assert [ran.codes(job) for job in ("four", "four on")] == [[75] * 4, [0] * 4]
    same_files(ran, "four", "four-straight")
    assert ran.far("four", "straight") < CLOSE


def test_one_rank_killed_ends_the_others_and_the_run_resumes(ran: Ran) -> None:
    assert ran.codes("lost") == [Exit.UNEXPECTED, -9]
    assert ran.codes("lost first") == [-9, Exit.UNEXPECTED]
    for job, gone in (("lost", 1), ("lost first", 0)):
        assert ran.said(job).count(f"rank {gone} of 2 is gone") == 1, ran.said(job)
        assert "Traceback" not in ran.said(job)
    same_files(ran, "lost", "straight")


def test_a_checkpoint_resumes_on_another_number_of_ranks(ran: Ran) -> None:
    assert ran.codes("fewer on") == [0]
    assert "resume is not bit-exact: ranks 2 -> 1" in ran.said("fewer on")
    events = ran.run("fewer").events()
    assert [event["platform"]["ranks"] for event in events if "platform" in event] == [2, 1]
    assert ran.arms("fewer") == ran.arms("straight")
    assert ran.far("fewer", "straight") < CLOSE


def test_what_one_rank_hears_all_do_at_the_same_step(ran: Ran) -> None:
    assert ran.codes("asked") == ran.codes("stopped") == [Exit.STOPPED] * 2
    assert len(ran.losses("asked")) == 20, "SIGUSR1 waits for the boundary"
    # Heard in step 13, written into the row of step 14, which is credited four steps later.
    assert len(ran.losses("stopped")) == 18, "a stop waits until every rank knows"
    assert ran.run("stopped").condition(time.time()).state == "stopped"


def test_ranks_that_disagree_end_before_anything_is_kept(ran: Ran) -> None:
    assert ran.codes("liar") == [Exit.UNEXPECTED] * 2
    assert ran.said("liar").count("disagree on the picks up to step 20: 1 of 2 differ from rank 0") == 1
    assert len(ran.losses("liar")) == 10, "the last commit"


def test_new_bounds_are_taken_by_all_ranks(ran: Ran) -> None:
    (event,) = [event for event in ran.run("bounds").events() if event["event"] == "live"]
    assert event["step"] == 20 and event["changes"]["beta"]["new"]["floor"] == 0.9
    assert ran.arms("bounds")[:20] == ran.arms("straight")[:20]
    assert ran.arms("bounds") != ran.arms("straight")


def test_all_ranks_go_back_from_a_halt(ran: Ran) -> None:
    assert ran.codes("back") == [Exit.ALARMS] * 2, ran.said("back")
    (event,) = [event for event in ran.run("back").events() if event["event"] == "halt-rollback"]
    assert (event["step"], event["halt"]["step"]) == (10, 20)
    assert ran.arms("back")[:10] == ran.arms("straight")[:10]
    assert len(ran.losses("back")) == 40 and ran.arms("back") != ran.arms("straight")
    assert ran.codes("stays") == [Exit.HALTED] * 2
    assert "gone back 3 times already" in ran.said("stays")


def test_shards_train_as_copies_do_and_their_checkpoint_needs_none(ran: Ran) -> None:
    assert ran.codes("shards on") == [0, 0], ran.said("shards on")
    assert "parallel=fsdp" in ran.said("shards")
    assert ran.arms("shards") == ran.arms("straight")
    assert ran.far("shards", "straight") < CLOSE
    assert ran.codes("gathered on") == [0], ran.said("gathered on")
    assert ran.far("gathered", "straight") < CLOSE
    for one, other in zip(*(read_rows(ran.run(n).pulls) for n in ("shards", "straight")), strict=True):
        for (_, *own), (_, *theirs) in zip(one["pulls"], other["pulls"], strict=True):
            assert own == pytest.approx(theirs, abs=10 * CLOSE), "loss and cosine of a pull"
    files = [
        load_file(ran.run(name).checkpoints / "step_40/optimizer.safetensors")
        for name in ("shards", "straight")
    ]
    assert {key: tensor.shape for key, tensor in files[0].items()} == {
        key: tensor.shape for key, tensor in files[1].items()
    }


def test_rows_that_cannot_be_dealt_evenly_are_refused(ran: Ran) -> None:
    assert ran.codes("uneven") == [Exit.REFUSED] * 3
    assert ran.said("uneven").count("cannot be dealt evenly to 3 ranks") == 1
    assert "one of 1, 2, 4" in ran.said("uneven")
    assert not ran.run("uneven").exists()


# Under torchrun itself.


class Torchrun:
    """A run under torchrun with two ranks. agent: the process that was started."""

    def __init__(self, config: Path, runs: Path) -> None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command = [*torchrun, "-m", "trainer", "run", str(config), "--runs-dir", str(runs)]
        self.run = RunDir(runs / "tiny")
        before = (self.run.read_live() or {}).get("time", 0)
        self.agent = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        self.wait(lambda: (self.run.read_live() or {}).get("time", 0) > before)
        self.first: int = json.loads(self.run.process.read_text())["pid"]
        (self.other,) = set(self.workers()) - {self.first}

    def workers(self) -> list[int]:
        found = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split()
        return [pid for pid in map(int, found) if b"trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def wait(self, condition: Callable[[], bool], limit: float = 120.0) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert self.agent.poll() is None, self.agent.stderr.read() if self.agent.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> str:
        """Wait for the agent's end; what was said."""
        said: str = self.agent.communicate(timeout=60)[1]
        return said


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[[], Torchrun]]:
    endless = ("steps = 60", "steps = 100000"), ("checkpoint_every = 20", "checkpoint_every = 1000")
    config = tiny.make(tmp_path, *SMALL, *endless).path
    started: list[Torchrun] = []

    def start() -> Torchrun:
        started.append(Torchrun(config, tmp_path / "runs"))
        return started[-1]

    yield start
    for one in started:
        if one.agent.poll() is None:
            one.agent.terminate()
        one.agent.communicate()


def test_signals_and_a_kill_under_torchrun(torchrun: Callable[[], Torchrun]) -> None:
    """A checkpoint asked for, SIGUSR1 to the second rank, SIGKILL of it, SIGTERM to the agent; each time it resumes."""
    one = torchrun()
    command = [sys.executable, "-m", "trainer", "checkpoint", "tiny", "--json"]
    command += ["--runs-dir", str(one.run.root.parent)]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    kept = int(json.loads(asked.stdout)["message"].rsplit(" ", 1)[1])
    assert (one.run.checkpoints / f"step_{kept}/checkpoint.json").exists()
    os.kill(one.other, signal.SIGUSR1)
    said = one.end()
    process = json.loads(one.run.process.read_text())
    assert process["end"]["exit_code"] == Exit.STOPPED, said
    stopped: int = process["end"]["step"]
    assert stopped % 10 == 0 and stopped > kept

    again = torchrun()
    os.kill(again.other, signal.SIGKILL)
    said = again.end()
    assert f"resumes after step {stopped}" in said
    assert said.count("rank 1 of 2 is gone") == 1 and "next:     run the same command again" in said
    assert again.run.condition(time.time()).state == "crashed"

    last = torchrun()
    last.agent.send_signal(signal.SIGTERM)
    said = last.end()
    end = json.loads(last.run.process.read_text())["end"]
    assert end["how"] == "stopped" and end["step"] > stopped, said
    assert (last.run.checkpoints / f"step_{end['step']}/checkpoint.json").exists()
    assert [row[0] for row in read_rows(last.run.loss)] == list(range(1, end["step"] + 1))
