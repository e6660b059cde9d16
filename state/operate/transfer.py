"""A state as a whole, out of a run and into it: an older version again, or a file from elsewhere, each a new serial."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum.errors import Exit, FirehoseError
from state import edits
from state.envelope import VERSION, Envelope, open_envelope, open_unsealed
from state.migrate import changes
from state.operate import diff, outcome, target
from state.operate.change import Change, Session, changing
from state.operate.target import Target
from state.operate.usable import usable
from state.operate.wanted import configured
from state.reconcile import BOUNDS
from state.run_dir import RunDir, no_state
from state.store import utc_now

SHOWN = 6  # differences of an edited file that its refusal lists


def pull(chosen: Target) -> tuple[bytes, Envelope]:
    """The sealed bytes of a state, checked. Raises FirehoseError: NOT_FOUND, DAMAGED, NEWER_SCHEMA."""
    if chosen.run is not None and not chosen.path.exists():
        raise no_state(chosen.run)
    try:
        data = target.read_bytes(chosen.path)
        return data, open_envelope(data, chosen.path)
    except FirehoseError as error:
        error.next = error.next or f"firehose state check {chosen.called()}"
        raise


def restore(
    run: RunDir, serial: int, *, force: bool = False, dry: bool = False, now: Callable[[], str] = utc_now
) -> Change:
    """Make the payload of an older version current again, as a new serial.

    Raises FirehoseError: NOT_FOUND; REFUSED for another lineage (unless forced) and for a state that a launch would not
    go on from; DAMAGED where the version itself is.
    """
    with changing(run, dry=dry, now=now, sound=False) as session:
        current = session.current
        found, _ = target.version(run, str(serial))
        if found.lineage != current.lineage and not force:
            raise outcome.other_lineage(run, found, current)
        if found.serial == current.serial and session.sound:
            return session.nothing(f"serial {serial} is the current one")
        return _replace(session, found, {"serial": serial})


def push(
    run: RunDir,
    data: bytes,
    path: Path,
    *,
    force: bool = False,
    accept_edit: bool = False,
    dry: bool = False,
    now: Callable[[], str] = utc_now,
) -> Change:
    """Make a file's state the run's, as a new serial. path: where the bytes are from, for messages.

    Raises FirehoseError: DAMAGED, NEWER_SCHEMA; REFUSED for another lineage or a serial that is not newer (unless
    forced), for an edit by hand that is not accepted, for a payload that a launch could not take up, and for a state
    that a launch would not go on from.
    """
    try:
        pushed, differs = open_unsealed(data, path)
    except FirehoseError as error:
        error.next = (
            error.next or f"bring a whole copy; firehose state history {run.called()} lists those of the run"
        )
        raise
    if "header" in differs:
        raise FirehoseError(
            Exit.DAMAGED,
            "F0002 hash mismatch: a field beside the payload is not what was written",
            path=path,
            next="pull it again, and change nothing outside the payload",
        )
    with changing(run, dry=dry, now=now, sound=False) as session:
        current = session.current
        if pushed.lineage != current.lineage and not force:
            raise FirehoseError(
                Exit.REFUSED,
                f"the file is of lineage {pushed.lineage}, the run of {current.lineage}: they are of different stories",
                path=path,
                next=f"firehose state show {run.called()}; --force takes its payload nevertheless",
            )
        if differs:
            return _accept(session, pushed, path, accepted=accept_edit, force=force)
        if pushed.payload == current.payload and session.sound:
            return session.nothing(f"it is what serial {current.serial} of {run.name} holds")
        if pushed.serial <= current.serial and not force:
            raise FirehoseError(
                Exit.REFUSED,
                f"the file is of serial {pushed.serial}, and the run's state of serial {current.serial} is newer",
                path=path,
                next=f"firehose state restore {run.called()} --serial {pushed.serial}; or add --force",
            )
        return _replace(session, pushed, {"pushed": pushed.serial})


def migrate(run: RunDir, *, dry: bool = False, now: Callable[[], str] = utc_now) -> Change:
    """Write the state in the newest version, as a new serial; nothing where it is current already."""
    with changing(run, dry=dry, now=now) as session:
        version = target.file_version(run.state)
        if version == VERSION:
            return session.nothing(f"{run.state.name} is of version {VERSION}, the newest")
        current = session.current
        done = [f"version {version} -> {VERSION}", *changes(version, VERSION)]
        return session.finish(current.payload, done, like=current, step=current.step, same=True)


def _replace(session: Session, found: Envelope, args: dict[str, Any]) -> Change:
    """Make another payload current: in its own lineage where the weights are of it too, else in the run's."""
    current, copied = session.current, session.copied
    payload = copy.deepcopy(found.payload)
    made = edits.edit("restore", session.serial, args)
    edits.apply(payload, made, found.step)
    usable(session.run, payload)
    own = copied is not None and copied.lineage == found.lineage
    done = [f"{made['what']}: step {current.step:,} -> {found.step:,}"]
    like = found if own else current
    return session.finish(payload, done, like=like, step=found.step)


def _accept(session: Session, pushed: Envelope, path: Path, *, accepted: bool, force: bool) -> Change:
    """Take an edit by hand: what differs from the version that was pulled, made on the current state."""
    run, current = session.run, session.current
    if pushed.serial != current.serial and not force:
        raise FirehoseError(
            Exit.REFUSED,
            f"the file was pulled at serial {pushed.serial} and edited; the run's state is of serial {current.serial}",
            path=path,
            next=f"pull it again, edit it again, and push; or add --force to make the edit on serial {current.serial}",
        )
    try:
        base, _ = target.version(run, str(pushed.serial))
    except FirehoseError as error:
        error.message = f"what was edited cannot be told: {error.message}"
        raise
    changed = diff.changes(base.payload, pushed.payload)
    if not changed:
        return session.nothing(f"the file's payload is that of serial {base.serial}")
    if not accepted:
        told = [
            f"{'.'.join(map(str, where))} {diff.plain(old)} -> {diff.plain(new)}"
            for where, old, new in diff.walk(base.payload, pushed.payload)
        ]
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise FirehoseError(
            Exit.REFUSED,
            f"the file was edited by hand since it was sealed: {'; '.join(told[:SHOWN])}{more}",
            path=path,
            next=f"firehose state push {path} {run.called()} --accept-edit; firehose state diff {pushed.serial} {path} "
            "shows all of it",
        )
    payload = copy.deepcopy(current.payload)
    made = edits.edit("set", session.serial, {"changes": changed, "step": current.step})
    done = edits.apply(payload, made, current.step)
    usable(run, payload)
    change = session.finish(payload, done, like=current, step=current.step)
    bounds = [c["path"] for c in changed if c["path"][:2] == ["bandit", "arms"] and c["path"][-1] in BOUNDS]
    for name in dict.fromkeys(path[2] for path in bounds):
        if (says := configured(run, name)) is not None:
            change.launch.append(f"{says[1]}: a launch takes its bounds from there")
    return change
