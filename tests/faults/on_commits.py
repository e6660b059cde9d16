"""Scenario of a run's commits as the loop hands them to the thread that writes them. In the full form only: torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from state import checkpoints
from state.checkpoints import Keep
from state.rows import Mark, RowFile, encode_row, read_rows
from state.run_dir import RunDir
from state.store import StateStore, sweep_temporaries
from tests.faults.on_checkpoints import through_python, with_torch
from tests.faults.on_files import CONFIG_SHA, no_temporaries
from tests.faults.scenario import Acknowledge, Scenario

if TYPE_CHECKING:
    from trainer.record import Record

STEPS = (10, 20, 30)
WITHOUT_CHECKPOINT = 20


def the_run(root: Path) -> RunDir:
    return RunDir(root / "run")


def the_store(root: Path) -> StateStore:
    return StateStore(the_run(root).state, now=lambda: "2026-01-02T03:04:05Z")


def begin(root: Path) -> None:
    the_run(root).create()
    the_store(root).create({"files": {}, "checkpoint": None}, config_sha256=CONFIG_SHA)


def opened(root: Path) -> tuple["Record", int]:
    """The record and the step to go on after: that of the state, or of a checkpoint that came before its state."""
    import torch

    from trainer.record import ROW_FILES, Record

    run, store = the_run(root), the_store(root)
    checkpoints.sweep(run.checkpoints)
    sweep_temporaries(run.root, run.archive)
    current, findings = store.read()
    assert current is not None and not findings, f"passed over: {findings}"
    newest = [checkpoints.sound(one.path) for one in checkpoints.complete(run.checkpoints)][-1:]
    for _, copy in newest:
        store.reserve(copy.serial)
        if copy.step > current.step:
            current = store.commit(copy.payload, step=copy.step, config_sha256=CONFIG_SHA)
    run.record_once(current.payload.get("events", []))
    rows = {name: RowFile(run.root / f"run.{name}.json") for name in ROW_FILES}
    for name, file in rows.items():
        mark = current.payload["files"].get(name)
        file.open(Mark(**mark) if mark else None, run.archive, f"serial-{current.serial}")
    record = Record(
        run,
        store,
        rows,
        config_sha256=CONFIG_SHA,
        standing={},
        meta={},
        keep=Keep(last=1),
        goal=(),
        checkpoint_step=current.payload["checkpoint"],
        device=torch.device("cpu"),
    )
    return record, current.step


def commit(root: Path, acknowledge: Acknowledge) -> None:
    """What is left to commit, one handed over as soon as the one before is durable, which is acknowledged."""
    import torch

    from trainer.record import Position
    from trainer.snapshot import Tensors

    through_python()
    record, done = opened(root)
    weight = torch.zeros(16, 16)
    try:
        for step in (step for step in STEPS if step > done):
            record.held["loss"].append(encode_row([step, 0.5]))
            record.decided("passed", step)
            weight.fill_(step)
            tensors = (
                None if step == WITHOUT_CHECKPOINT else Tensors({"weight": weight}, {"weight/m": weight})
            )
            record.join()
            acknowledge(done)
            record.commit(Position(step), {"text": "x" * 200}, tensors)
            done = step
            weight.fill_(-1)  # the loop goes on
        record.join()
        acknowledge(done)
    finally:
        record.close()


def holds(root: Path, acks: list[Any]) -> None:
    """Sound, no older than acknowledged; and gone on with, it ends as if nothing had happened."""
    from trainer import checkpoint

    run = the_run(root)
    record, done = opened(root)
    record.close()
    assert done >= max([0, *acks]), f"step {done} after {acks}"
    kept = checkpoints.complete(run.checkpoints)
    assert done < STEPS[0] or kept, "the checkpoint is gone"
    commit(root, lambda step: None)
    assert [row[0] for row in read_rows(run.loss)] == list(STEPS)
    found = checkpoints.complete(run.checkpoints)[-1]  # older ones go with the next
    for name, key in ((checkpoints.MODEL, "weight"), (checkpoints.OPTIMIZER, "weight/m")):
        assert checkpoint.tensors(found, name)[key].unique().tolist() == [STEPS[-1]]
    last, findings = the_store(root).read()
    assert last is not None and not findings and (last.step, last.payload["checkpoint"]) == (30, 30)
    assert {event["step"] for event in run.events()} >= {STEPS[-1]}
    no_temporaries(run.root, run.versions, run.checkpoints)


COMMITS = [Scenario("commits: by a thread", begin, commit, holds, short=False, looks=False, warm=with_torch)]
