"""What a launch would go on from, looked at without changing anything: state, newest sound checkpoint, settled between.

The launch acts on it; checks, plans and repairs look through the same function, so that they cannot disagree with it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from curriculum.errors import Exit, FirehoseError
from state import checkpoints
from state.checkpoints import Checkpoint
from state.envelope import Envelope
from state.findings import Finding
from state.run_dir import RunDir
from state.settle import Settled, settle
from state.store import StateStore


@dataclass(slots=True)
class Look:
    """A run's story as its files tell it.

    state: the newest valid one, None where there never was one. findings: what was passed over to read it. checkpoint,
    copy: the newest sound checkpoint and the state in it. damaged: newer checkpoints that are not what was written, and
    why. settled: what to resume from.
    """

    state: Envelope | None
    findings: list[Finding]
    checkpoint: Checkpoint | None
    copy: Envelope | None
    settled: Settled
    damaged: list[tuple[Path, FirehoseError]] = field(default_factory=list)

    @property
    def weights(self) -> Checkpoint | None:
        """The checkpoint whose weights belong to what is resumed; None where the run begins at step 0."""
        return self.checkpoint if self.settled.payload is not None else None

    @property
    def pivoted(self) -> bool:
        """Whether the state began a lineage on this checkpoint's weights, and has no checkpoint of its own yet."""
        return self.copy is not None and self.settled.lineage != self.copy.lineage

    def other_config(self, digest: str) -> bool:
        """Whether the state began under another config than its weights' checkpoint: its goal may be another one."""
        return self.pivoted and self.copy is not None and self.copy.config_sha256 != digest


def look(run: RunDir, store: StateStore, *, deep: bool = True) -> Look:
    """Read state and checkpoints and settle between them. deep: compare every byte of the newest checkpoint.

    Raises FirehoseError as `StateStore.read`, `newest_sound` and `settle` do.
    """
    state, findings = store.read()
    found, copy, damaged = newest_sound(run, state, deep=deep)
    return Look(state, findings, found, copy, settle(state, copy, run=run.name), damaged)


def newest_sound(
    run: RunDir, state: Envelope | None, *, deep: bool = True
) -> tuple[Checkpoint | None, Envelope | None, list[tuple[Path, FirehoseError]]]:
    """The newest checkpoint that is what was written, the state in it, and the newer ones that are not.

    Raises FirehoseError(DAMAGED) where there was a checkpoint and no sound one is left.
    """
    damaged: list[tuple[Path, FirehoseError]] = []
    for path in reversed(checkpoints.folders(run.checkpoints)):
        try:
            found, copy = checkpoints.sound(path, deep=deep)
        except FirehoseError as error:
            if error.exit_code is not Exit.DAMAGED:
                raise
            damaged.append((path, error))
            continue
        return found, copy, damaged
    last = state.payload.get("checkpoint") if state else None
    if damaged or last is not None:
        what = f": {damaged[0][1].message}" if damaged else f"; the last one was of step {last}"
        raise FirehoseError(
            Exit.DAMAGED,
            f"no sound checkpoint of this run is left{what}",
            path=run.checkpoints,
            next=f"bring a copy of checkpoints/step_N back; or begin anew: firehose run {run.config} --name OTHER",
        )
    return None, None, []
