"""Which of two stories a resume believes: the state file, or the copy of it in the checkpoint (DESIGN 7.4).

Weights exist only at checkpoints, so a payload can be used only at the step of one. The state file is the place where
operators edit, so what they changed is kept: as it is where both speak of the same step, applied again to the
checkpoint's copy where the state had gone on, and never dropped silently.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from curriculum.errors import Exit, FirehoseError
from state.envelope import Envelope
from state.findings import FindingError, finding


@dataclass(frozen=True, slots=True)
class Settled:
    """What to resume from.

    source: where the payload is from; "fresh" means that there is none and the run starts at step 0. lineage: the one
    to go on with, None for a new one. serial: the highest of the two, to be given to `StateStore.reserve`.
    messages: for the person at the terminal and the history, in order.
    """

    source: Literal["fresh", "state", "checkpoint"]
    payload: dict[str, Any] | None
    step: int
    lineage: str | None
    serial: int
    messages: list[str] = field(default_factory=list)


def edits_since(state: Envelope, checkpoint: Envelope | None) -> list[dict[str, Any]]:
    """The operator's edits that the state has and the checkpoint's copy has not, oldest first."""
    known = [] if checkpoint is None else checkpoint.payload.get("edits", [])
    return [edit for edit in state.payload.get("edits", []) if edit not in known]


def settle(state: Envelope | None, checkpoint: Envelope | None, *, run: str) -> Settled:
    """Choose by rule. checkpoint: the envelope stored in the newest complete checkpoint, or None where there is none.

    Raises FirehoseError(REFUSED) where every choice would lose something: edits in a state older than the checkpoint,
    a state of another lineage (F0014).
    """
    if state is None:
        if checkpoint is None:
            return Settled("fresh", None, 0, None, 0)
        message = f"there is no state file: the checkpoint's copy of step {checkpoint.step} is used"
        return _from_checkpoint(checkpoint, checkpoint, [], [message])
    if checkpoint is None:
        return _without_checkpoint(state, run)
    if state.lineage != checkpoint.lineage:
        return _pivoted(state, checkpoint, run)

    edits = edits_since(state, checkpoint)
    if state.step == checkpoint.step:
        return Settled("state", state.payload, state.step, state.lineage, state.serial, _told("kept", edits))
    if state.step < checkpoint.step:
        if edits:
            raise FirehoseError(
                Exit.REFUSED,
                f"the state is of step {state.step}, older than the checkpoint of step {checkpoint.step}, and was "
                f"edited since: {'; '.join(edit['what'] for edit in edits)}",
                next=f"to go on without the edits, move {run}.state.json away; to keep them, begin another run "
                f"with init_from = 'checkpoints/step_{state.step}' of this one under [train]",
            )
        message = (
            f"the state is of step {state.step}; the checkpoint's copy of step {checkpoint.step} is used"
        )
        return _from_checkpoint(checkpoint, state, [], [message])
    message = (
        f"steps {checkpoint.step + 1} to {state.step} have no weights and are trained again, to the same bits"
    )
    return _from_checkpoint(checkpoint, state, edits, [message])


def _told(verb: str, edits: list[dict[str, Any]]) -> list[str]:
    return [f"an operator's edit is {verb}: {edit['what']}" for edit in edits]


def _from_checkpoint(
    checkpoint: Envelope, newest: Envelope, edits: list[dict[str, Any]], messages: list[str]
) -> Settled:
    payload = copy.deepcopy(checkpoint.payload)
    if edits:
        from state.edits import apply  # here: numpy takes 0.1 s, paid only by states with edits
    for edit in edits:
        try:
            apply(payload, edit, checkpoint.step)
        except FirehoseError as error:
            raise FirehoseError(
                Exit.REFUSED,
                f"the edit {edit['what']!r} cannot be made again on the checkpoint of step {checkpoint.step}: "
                f"{error.message}",
                arm=error.arm,
                next="to go on without the edits, move the state file away",
            ) from None
    serial = max(checkpoint.serial, newest.serial)
    return Settled(
        "checkpoint",
        payload,
        checkpoint.step,
        checkpoint.lineage,
        serial,
        [*messages, *_told("made again", edits)],
    )


def _without_checkpoint(state: Envelope, run: str) -> Settled:
    if state.step == 0:
        return Settled("state", state.payload, 0, state.lineage, state.serial)
    if state.parent is not None:
        raise _conflict(
            f"the state's first checkpoint is that of its parent, step {state.parent.step}, and it is not there",
            run,
        )
    if edits := edits_since(state, None):
        raise FirehoseError(
            Exit.REFUSED,
            f"there is no checkpoint yet, and the state was edited: {'; '.join(edit['what'] for edit in edits)}",
            next="move the state file away to start again at step 0, and put the edits into the config",
        )
    message = f"there is no checkpoint yet: steps 1 to {state.step} are trained again, to the same bits"
    return Settled("fresh", None, 0, state.lineage, state.serial, [message])


def _pivoted(state: Envelope, checkpoint: Envelope, run: str) -> Settled:
    parent = state.parent
    if parent is None or (parent.lineage, parent.step) != (checkpoint.lineage, checkpoint.step):
        raise _conflict(
            f"the state is of lineage {state.lineage}, step {state.step}; the checkpoint of lineage "
            f"{checkpoint.lineage}, step {checkpoint.step}, is not the one it began from",
            run,
        )
    if state.step != checkpoint.step:
        raise _conflict(
            f"the state began from the checkpoint of step {checkpoint.step} and has gone on to step {state.step} "
            "without a checkpoint of its own",
            run,
        )
    message = f"the state of step {state.step} follows lineage {checkpoint.lineage} on its weights"
    return Settled("state", state.payload, state.step, state.lineage, state.serial, [message])


def _conflict(message: str, run: str) -> FindingError:
    fix = f"bring back the state or the checkpoint that belongs with the other; kept states: {run}.state.json.d/"
    return FindingError(Exit.REFUSED, finding("F0014", message, fix=fix))
