"""An audit fork: a second run that goes on from a checkpoint of another, with a bandit of its own.

It has the weights, the optimizer, the place in every source and the rows up to the checkpoint's step; what was learned
about the sources begins anew, under the parent's config or another one. The parent is only read, and not needed
afterwards.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from curriculum import config as configs
from curriculum import config_edit
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.files import NO_LINKS, failing_writes, sync_folder, write_atomic
from curriculum.sources import open_corpus
from state import checkpoints, effective, journal, recover
from state.checkpoints import Checkpoint
from state.envelope import Envelope, Parent, make, new_lineage, seal
from state.findings import FindingError, finding
from state.journal import Transaction
from state.polish import pivot, polish
from state.process import left_behind
from state.rows import EMPTY, TAIL, Mark
from state.run_dir import RunDir
from state.store import utc_now

ROWS = ("loss", "pulls", "heldout")  # what is carried over; samples are the new bandit's own
STAGED = ".fork-"


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that can be made. original: the file that the config's text is a copy of. new: its first state."""

    run: RunDir
    parent: RunDir
    checkpoint: Checkpoint
    copy: Envelope
    config: Config
    text: str
    original: Path
    changes: list[config_edit.Change]
    new: pivot.Fresh

    def summary(self) -> dict[str, Any]:
        """What it is, by the names of `--json`."""
        return {
            "from": str(self.checkpoint.path),
            "parent": {"run": self.parent.name, **msgspec.to_builtins(self.ancestor)},
            "changes": [change.as_dict() for change in self.changes],
        }

    @property
    def ancestor(self) -> Parent:
        """What its state descends from."""
        return Parent(self.copy.lineage, self.copy.serial, self.copy.step)


def plan(where: str, config: Path | None, name: str, runs_dir: Path) -> Fork:
    """Look at everything a fork needs, making nothing. where: a checkpoint's folder, or a run for its newest one.

    config: the file to go on with, the parent run's own by default. Raises FirehoseError: NOT_FOUND; DAMAGED; REFUSED
    where the run exists, or the config changes what a run keeps for life.
    """
    checkpoint, copy, parent = find(where, runs_dir)
    run = RunDir(runs_dir / name)
    if run.root.exists():
        raise FirehoseError(
            Exit.REFUSED,
            f"the run {name!r} exists already",
            path=run.root,
            next=f"firehose run {run.config} goes on with it; for another fork give another --name",
        )
    source = (config or parent.config).absolute()
    original = configs.original_of(source) if source.name == "config.toml" else None
    loaded = configs.load(source)
    changes = config_edit.changes(polish.effective(parent), configs.effective(loaded))
    if keys := config_edit.refused(changes):
        raise FirehoseError(
            Exit.REFUSED,
            f"a fork keeps these of its parent: {', '.join(keys)}",
            path=source,
            next="take them back, or begin another run on these weights: firehose run CONFIG --name OTHER with "
            f"train.init_from = '{checkpoint.path}'",
        )
    pivot.refuse_finished(parent, loaded, copy.step)
    corpus = open_corpus(loaded)
    pivot.refuse_other_tokens(corpus, checkpoint)
    new = pivot.fresh(loaded, corpus, copy.payload, copy.step, copy.step)
    new.payload["protected"] = []  # nothing goes back to it: the parent is there for that
    new.payload["loop"]["passing_checkpoint"] = None
    return Fork(run, parent, checkpoint, copy, loaded, source.read_text(), original or source, changes, new)


def find(where: str, runs_dir: Path) -> tuple[Checkpoint, Envelope, RunDir]:
    """The checkpoint, every byte of it checked, the state in it, and its run."""
    for root in (runs_dir / where, Path(where)):
        if (parent := RunDir(root)).exists():
            checkpoint, copy, _ = recover.newest_sound(parent, None)
            if checkpoint is None or copy is None:
                break
            return checkpoint, copy, parent
    else:
        path = Path(where)
        if path.is_dir() and checkpoints.NAME.fullmatch(path.resolve().name):
            parent = RunDir(path.resolve().parent.parent)
            if parent.root.name == journal.BEFORE and parent.root.parents[1].name == "archive":
                raise FirehoseError(
                    Exit.REFUSED,
                    "a run has given this checkpoint up, and its rows are no longer with it",
                    path=path,
                    next=f"begin another run on its weights: firehose run CONFIG --name OTHER with train.init_from = '{path}'",
                )
            if parent.exists():
                return (*checkpoints.sound(path), parent)
    raise FirehoseError(
        Exit.NOT_FOUND,
        f"there is no checkpoint of a run at {where!r}: expected a run, or a checkpoints/step_N folder in one",
        path=where,
        next="firehose list",
    )


def build(fork: Fork) -> RunDir:
    """Make the run's folder: staged beside its place, and there whole or not at all. Raises FirehoseError."""
    runs = fork.run.root.parent
    with failing_writes(fork.run.root):
        runs.mkdir(parents=True, exist_ok=True)
        sweep(runs)
        stage = runs / f"{STAGED}{os.getpid()}-{os.urandom(4).hex()}"
        try:
            staged = RunDir(stage / fork.run.name)
            staged.create()
            _copy_checkpoint(fork, staged)
            _copy_rows(fork, staged)
            _write_identity(fork, staged)
            _write_state(fork, staged)
            for folder in (stage, *(path for path in stage.rglob("*") if path.is_dir())):
                sync_folder(folder)
            staged.root.rename(fork.run.root)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    with failing_writes(fork.run.root, "the run is made, but a power cut could still undo that"):
        sync_folder(runs)
    return fork.run


def sweep(runs: Path) -> None:
    """Remove what forks that died left in a folder of runs."""
    for path in runs.glob(f"{STAGED}*"):
        pid = path.name.removeprefix(STAGED).partition("-")[0]
        if pid.isdecimal() and left_behind(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _copy_checkpoint(fork: Fork, staged: RunDir) -> None:
    """By hard link: no file of a checkpoint is ever changed in place."""
    folder = staged.checkpoints / fork.checkpoint.path.name
    folder.mkdir()
    for name in (checkpoints.MODEL, checkpoints.OPTIMIZER, checkpoints.META):
        source = fork.checkpoint.path / name
        try:
            (folder / name).hardlink_to(source)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            shutil.copyfile(source, folder / name)
            descriptor = os.open(folder / name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _copy_rows(fork: Fork, staged: RunDir) -> None:
    """The rows up to the checkpoint's step, which must be what was committed."""
    for name in ROWS:
        mark = Mark(**fork.copy.payload.get("files", {}).get(name, EMPTY.as_dict()))
        source = fork.parent.root / f"{fork.parent.name}.{name}.json"
        data = b"["
        if mark != EMPTY:
            with source.open("rb") as file:
                data = file.read(mark.bytes)
        if hashlib.sha256(data).hexdigest() != mark.sha256:
            what = f"{source.name} is not what was committed, in its first {mark.rows} rows"
            raise FindingError(
                Exit.DAMAGED, finding("F0016", what, fix="bring a copy of it back"), path=source
            )
        write_atomic(staged.root / f"{staged.name}.{name}.json", data + TAIL)


def _write_identity(fork: Fork, staged: RunDir) -> None:
    write_atomic(staged.config, fork.text.encode())
    body = effective.first(fork.config, fork.original, fork.run.root, None)
    write_atomic(staged.effective, body)
    folder = fork.parent.root / "tokenizer"
    (staged.root / "tokenizer").mkdir()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        write_atomic(staged.root / "tokenizer" / path.name, path.read_bytes())


def _write_state(fork: Fork, staged: RunDir) -> None:
    now, lineage = utc_now(), new_lineage()
    first = make(
        fork.new.payload,
        lineage=lineage,
        serial=1,
        step=fork.new.step,
        written_at=now,
        config_sha256=configs.digest(fork.config),
        parent=fork.ancestor,
        path=staged.state,
    )
    tx = Transaction(staged, "fork", f"fork of {fork.parent.name} at step {fork.new.step}", now=now)
    tx.put(staged.state, seal(first))
    for event in fork.new.result.events:
        if event["event"] != "bounds":  # the changes below say it
            tx.record(event)
    tx.record({"event": "fork", "step": fork.new.step, "lineage": lineage, **fork.summary()})
    tx.commit()
