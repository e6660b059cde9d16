"""What a state command is pointed at: a run by its name or folder, a state file by its path, a version by its serial."""

import json
from dataclasses import dataclass
from pathlib import Path

from curriculum.errors import Exit, FirehoseError
from state import run_dir
from state.cli import choose
from state.envelope import Envelope, SealBroken, open_envelope, open_plain, open_unsealed
from state.run_dir import RunDir, no_state
from state.status import passed_over
from state.store import StateStore

CHECKPOINT = "checkpoint"
META = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Target:
    """A run with its state, or (run is None) a state file that is no run's current one, only to be read."""

    run: RunDir | None
    path: Path

    @property
    def name(self) -> str:
        """For messages and titles."""
        return self.run.name if self.run else self.path.name

    def called(self) -> str:
        """What a command is told to find it."""
        return self.run.called() if self.run else str(self.path)

    def read(self) -> tuple[Envelope, list[str]]:
        """The state, and what had to be passed over to read it, a sentence each. Raises FirehoseError."""
        if self.run is None:
            return read_file(self.path), []
        try:
            envelope, findings = StateStore(self.run.state).read()
        except FirehoseError as error:
            if error.exit_code is Exit.DAMAGED:
                error.next = f"firehose state check {self.run.called()}"
            raise
        if envelope is None:
            raise no_state(self.run)
        return envelope, passed_over(self.run, envelope, findings)

    def writable(self) -> RunDir:
        """The run, for a command that changes its state. Raises FirehoseError(USAGE) for a file."""
        if self.run is None:
            raise FirehoseError(
                Exit.USAGE,
                f"{self.path.name} is a file, not a run: only the state of a run can be changed",
                path=self.path,
                next="firehose state push FILE RUN makes a file a run's state",
            )
        return self.run


def broken_seal(run: RunDir) -> Envelope | None:
    """What the run's state file holds where it was changed since it was sealed and can still be read; else None."""
    try:
        read_file(run.state)
    except SealBroken:
        try:
            return open_unsealed(read_bytes(run.state), run.state)[0]
        except FirehoseError:
            return None
    except FirehoseError:
        return None
    return None


def sealed_copy(run: RunDir, serial: int) -> tuple[Envelope, str] | None:
    """The sealed state of a serial beside the run's state file, and its label: a kept version, or a checkpoint's copy."""
    from state.checkpoints import folders

    paths = [
        (path, f"serial {serial}") for number, path in StateStore(run.state).versions() if number == serial
    ]
    paths += [
        (path / META, f"{CHECKPOINT}:{path.name.removeprefix('step_')}")
        for path in reversed(folders(run.checkpoints))
    ]
    for path, label in paths:
        try:
            found = read_file(path)
        except FirehoseError:
            continue
        if found.serial == serial:
            return found, label
    return None


def resolve(where: str | None, runs_root: Path) -> Target:
    """The target of that name or path; without one the only run there is, or the only one alive. Raises FirehoseError."""
    if where is None:
        run = choose(None, runs_root)
        return Target(run, run.state)
    path = Path(where)
    if path.is_dir() and (path / META).is_file():
        return Target(None, path / META)
    if path.is_file():
        owner = RunDir(path.parent)
        return Target(owner if owner.state.name == path.name else None, path)
    if path.suffix == ".json":
        raise FirehoseError(
            Exit.NOT_FOUND, f"there is no file {where}", path=path, next="firehose state history RUN"
        )
    run = run_dir.find(where, runs_root)
    return Target(run, run.state)


def found(where: str | None, runs_root: Path) -> Target | None:
    """`resolve`, or None where nothing has that name."""
    try:
        return resolve(where, runs_root)
    except FirehoseError as error:
        if error.exit_code in (Exit.NOT_FOUND, Exit.USAGE):
            return None
        raise


def read_file(path: Path) -> Envelope:
    """The state in a file: a state file, or the `checkpoint.json` of a checkpoint. Raises FirehoseError."""
    data = read_bytes(path)
    if path.name == META:
        try:
            return open_plain(json.loads(data)["state"], path)
        except (ValueError, KeyError, TypeError) as error:
            raise FirehoseError(
                Exit.DAMAGED,
                f"{META} cannot be read: {error!r}",
                path=path,
                next="firehose state check RUN tells what is damaged",
            ) from None
    return open_envelope(data, path)


def read_unsealed(path: Path) -> tuple[Envelope, str]:
    """As `read_file`, but a file that was edited by hand is read too, and its label says so."""
    try:
        return read_file(path), path.name
    except SealBroken:
        return open_unsealed(read_bytes(path), path)[0], f"{path.name} (edited since it was sealed)"


def file_version(path: Path) -> int:
    """The version that a sound state file is written in."""
    body = json.loads(read_bytes(path))
    found: int = (body["state"] if path.name == META else body)["version"]
    return found


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises FirehoseError: NOT_FOUND, or DAMAGED where the system cannot read it."""
    try:
        return path.read_bytes()
    except OSError as error:
        code = Exit.NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.DAMAGED
        raise FirehoseError(
            code, f"cannot read {path.name}: {error.strerror}", path=path, next=f"ls -l {path.parent}"
        ) from None


def version(run: RunDir, reference: str) -> tuple[Envelope, str]:
    """A state of a run by reference, and its label: a serial, `checkpoint` or `checkpoint:STEP`, `current`, `previous`.

    Raises FirehoseError(NOT_FOUND) naming what there is.
    """
    store = StateStore(run.state)
    if reference.partition(":")[0] == CHECKPOINT:
        path = _checkpoint(run, reference)
        return read_file(path / META), f"checkpoint:{path.name.removeprefix('step_')}"
    if reference == "current" and (edited := broken_seal(run)) is not None:
        return edited, f"serial {edited.serial} (edited since it was sealed)"
    current, _ = Target(run, run.state).read()
    if reference in ("current", str(current.serial)):
        return current, f"serial {current.serial}"
    kept = [(serial, path) for serial, path in store.versions() if serial != current.serial]
    if reference == "previous" and kept:
        reference = str(kept[-1][0])
    for serial, path in kept:
        if reference == str(serial):
            return read_file(path), f"serial {serial}"
    known = ", ".join(str(serial) for serial, _ in [*kept, (current.serial, None)])
    raise FirehoseError(
        Exit.NOT_FOUND,
        f"the run {run.name!r} keeps no version {reference}; it has {known}",
        path=store.folder,
        next=f"firehose state history {run.called()}",
    )


def _checkpoint(run: RunDir, reference: str) -> Path:
    from state.checkpoints import folders

    there = folders(run.checkpoints)
    step = reference.partition(":")[2]
    for path in reversed(there):
        if not step or path.name == f"step_{step}":
            return path
    steps = ", ".join(path.name.removeprefix("step_") for path in there) or "none"
    raise FirehoseError(
        Exit.NOT_FOUND,
        f"the run {run.name!r} has no checkpoint {step or ''}; there are {steps}".replace("  ", " "),
        path=run.checkpoints,
        next=f"firehose state history {run.called()}",
    )
