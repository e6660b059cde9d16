"""Commits written by a thread while the loop trains on: the same files as without it, and no error lost."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit, FirehoseError
from state import checkpoints
from state.rows import read_rows
from state.run_dir import RunDir
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state
from trainer import checkpoint
from trainer.committer import Committer
from trainer.record import Record
from trainer.step import TrainStep

UNTIL = 45
ROWS = ("loss", "pulls", "samples", "heldout")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("commits"), *tiny.QUICK).path


@pytest.fixture
def fresh(config: Path) -> Path:
    """The config, and no run of it yet."""
    shutil.rmtree(the_run(config).root, ignore_errors=True)
    return config


def by_the_loop_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Committer, "hand", lambda self, job: job())


def files(run: RunDir) -> dict[str, Any]:
    """What a run came to: every byte of rows and tensors, and the states but for what no two runs share."""
    found: dict[str, Any] = {name: (run.root / f"{run.name}.{name}.json").read_bytes() for name in ROWS}
    for one in checkpoints.complete(run.checkpoints):
        for path in one.path.glob("*.safetensors"):
            found[f"{one.step} {path.name}"] = path.read_bytes()
        meta = {key: value for key, value in one.meta.items() if key != "state"}
        found[f"{one.step} meta"] = {**meta, "state": one.meta["state"]["payload"]}
    found["serials"] = [int(path.stem) for path in sorted(run.versions.glob("*.json"))]
    return found


def slowly(
    patch: pytest.MonkeyPatch, step: int, until: int, look: Callable[[Record], None] = lambda record: None
) -> None:
    """Hold the writing of a step's checkpoint until the loop has come to a later step, which looks at the record."""
    reached, records = threading.Event(), []
    save, run, commit = checkpoint.save, TrainStep.run, Record.commit

    def waiting_save(folder: Path, at: int, **rest: Any) -> Path:
        assert at != step or reached.wait(60), "the loop waited for the disk"
        return save(folder, at, **rest)

    def telling_run(self: TrainStep, at: int, *rest: Any) -> None:
        run(self, at, *rest)
        if at == until:
            try:
                look(records[-1])
            finally:
                reached.set()

    def known_commit(self: Record, *rest: Any) -> None:
        records.append(self)
        commit(self, *rest)

    patch.setattr(checkpoint, "save", waiting_save)
    patch.setattr(TrainStep, "run", telling_run)
    patch.setattr(Record, "commit", known_commit)


def test_the_thread_writes_what_the_loop_would_have_written(fresh: Path) -> None:
    """The slowest disk there can be: step 20's checkpoint is begun when step 29 has been trained."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        slowly(patch, 20, 29, lambda record: seen.append((record.checkpoint_step, record.store.lineage)))
        assert go(fresh, until=UNTIL)["exit"] == Exit.STOPPED
    run = the_run(fresh)
    beside = files(run)
    heldout = {row["step"]: row["loss"] for row in read_rows(run.root / "tiny.heldout.json")}
    for one in checkpoints.complete(run.checkpoints):
        goal = [heldout[one.step][name] for name in ("alpha", "beta")] if one.step in heldout else []
        assert one.heldout_loss == (sum(goal) / 2 if goal else None)
    lineage = the_state(fresh).lineage
    assert seen == [(None, lineage)], "a checkpoint was spoken of before it was there"
    assert {"20 meta", "40 meta", "45 model.safetensors", "45 optimizer.safetensors"} <= beside.keys()
    shutil.rmtree(run.root)
    with pytest.MonkeyPatch.context() as patch:
        by_the_loop_itself(patch)
        assert go(fresh, until=UNTIL)["exit"] == Exit.STOPPED
    assert beside == files(the_run(fresh))


def test_a_full_disk_in_mid_run_ends_it_with_what_was_durable(fresh: Path) -> None:
    def full(tensors: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(FirehoseError, match="checkpoint of step 20: No space left") as caught:
            go(fresh, until=UNTIL)
    assert caught.value.exit_code is Exit.WRITE_FAILED
    run = the_run(fresh)
    assert json.loads(run.process.read_text())["end"]["exit_code"] == Exit.WRITE_FAILED
    assert the_state(fresh).step == 10
    assert not list(run.checkpoints.iterdir())
    assert go(fresh, until=UNTIL)["exit"] == Exit.STOPPED
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, UNTIL + 1))


def test_a_run_that_fails_leaves_its_last_commit_durable_and_says_where_it_could_not(fresh: Path) -> None:
    class Crash(Exception):
        pass

    def crash(record: Record) -> None:
        assert record.committer.job is not None
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        slowly(patch, 20, 21, crash)
        with pytest.raises(Crash):
            go(fresh, until=UNTIL)
    assert the_state(fresh).payload["checkpoint"] == 20

    compared, sha256 = [], checkpoints.sha256_file

    def counted(path: Path) -> str:
        compared.append(path.name)
        return sha256(path)

    def broken(self: Record, job: Any) -> None:
        raise FirehoseError(Exit.WRITE_FAILED, "the disk is gone")

    with pytest.MonkeyPatch.context() as patch:
        slowly(patch, 30, 31, crash)
        patch.setattr(Record, "_write", broken)
        patch.setattr(checkpoints, "sha256_file", counted)
        with pytest.raises(Crash):
            go(fresh, until=UNTIL)
    assert sorted(compared) == ["model.safetensors", "optimizer.safetensors"], "a launch reads each once"
    assert "the last commit was not written: the disk is gone" in log(fresh)
