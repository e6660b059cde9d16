"""A change of a run's state by command: under the run's lock, one new serial, the version before it kept.

What a launch would make of the changed state is worked out first, by `state.settle`; where it would refuse, or not use
it, so does the command, with nothing changed.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum.console import wrapped
from curriculum.errors import Exit, FirehoseError
from curriculum.files import write_atomic
from state import edits, envelope, recover
from state.envelope import Envelope
from state.lock import RunLock
from state.operate import outcome
from state.operate.wanted import config_says
from state.run_dir import RunDir, no_state
from state.settle import Settled, settle
from state.store import StateStore, utc_now

ERRORED = "errored.state.json"


@dataclass(slots=True)
class Change:
    """What a command did to a state, or (dry) would have done.

    before: the state it found. after: the new one, or the same where nothing was to be done. done: a sentence each.
    launch: what the next launch makes of it, in words; settled: what it goes on from.
    """

    run: RunDir
    before: Envelope
    after: Envelope
    done: list[str]
    launch: list[str] = field(default_factory=list)
    settled: Settled | None = None
    dry: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The body of the command's `--json`."""
        return {
            "run": self.run.name,
            "dry_run": self.dry,
            "serial": {"old": self.before.serial, "new": self.after.serial},
            "step": self.after.step,
            "done": self.done,
            "launch": self.launch,
        }

    def lines(self) -> list[str]:
        """The same for a person, at most 80 columns wide."""
        told = [*self.done, *self.launch]
        if self.after is not self.before:
            serials = f"serial {self.before.serial} -> {self.after.serial} of {self.run.name}, step {self.after.step:,}"
            told.append(f"would write {serials}; nothing is changed" if self.dry else f"wrote {serials}")
            here = (self.before.lineage, self.before.step) == (self.after.lineage, self.after.step)
            if not self.dry and here:  # a launch would not go on from a state of another step
                told.append(f"undo: firehose state restore {self.run.called()} --serial {self.before.serial}")
        return wrapped("\n".join(told), indent="    ").splitlines()


@dataclass(slots=True)
class Session:
    """One change at work. current: the newest valid state. copied: the state in the newest complete checkpoint.

    serial: of the state to be written, above all that the run ever used. sound: whether the state file itself is valid.
    """

    run: RunDir
    store: StateStore
    current: Envelope
    copied: Envelope | None
    serial: int
    sound: bool
    dry: bool
    now: Callable[[], str]

    def nothing(self, why: str) -> Change:
        """The change that is none."""
        return Change(self.run, self.current, self.current, [f"nothing to do: {why}"], dry=self.dry)

    def finish(
        self, payload: dict[str, Any], done: list[str], *, like: Envelope, step: int, same: bool = False
    ) -> Change:
        """Write a payload of a step as the run's state, in the lineage of `like`. same: it means what the state did.

        Raises FirehoseError: REFUSED where a launch would refuse it, or not use it; WRITE_FAILED.
        """
        after = envelope.make(
            payload,
            lineage=like.lineage,
            serial=self.serial,
            step=step,
            written_at=self.now(),
            config_sha256=self.current.config_sha256,
            parent=like.parent,
            path=self.run.state,
        )
        change = Change(self.run, self.current, after, done, dry=self.dry)
        if not same:
            change.settled = outcome.would(self.run, after, self.copied)
            change.launch.append(outcome.told(change.settled, after))
        if not self.dry:
            self._write(after)
        return change

    def _write(self, after: Envelope) -> None:
        """Make a state current. Where that fails its bytes are kept beside, and the error says how to go on with them."""
        try:
            self.store.write(after)
        except FirehoseError as error:
            if error.exit_code is not Exit.WRITE_FAILED or error.changed != "nothing":
                raise
            for folder in dict.fromkeys((self.run.root, Path.cwd())):
                kept = folder / ERRORED
                try:
                    write_atomic(kept, envelope.seal(after))
                except FirehoseError:
                    continue
                raise FirehoseError(
                    Exit.WRITE_FAILED,
                    f"{error.message}; what was to be written is in {kept}",
                    path=self.run.state,
                    changed=f"nothing but {kept.name}",
                    next=f"make room or fix the folder's rights, then: firehose state push {kept} {self.run.called()}",
                ) from error
            raise


@contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """The run's lock, with an unfinished transaction completed. Raises FirehoseError(LOCKED) naming the holder."""
    from state import journal

    lock = RunLock(run.lock)
    try:
        lock.acquire()
    except FirehoseError as error:
        if error.exit_code is Exit.LOCKED:
            error.next = f"firehose stop {run.called()}"
        raise
    try:
        journal.redo(run)
        yield
    finally:
        lock.release()


@contextmanager
def changing(
    run: RunDir, *, dry: bool, now: Callable[[], str] = utc_now, sound: bool = True
) -> Iterator[Session]:
    """What a change needs. A dry one only reads, without the lock. sound: whether a damaged state file is refused.

    Raises FirehoseError: LOCKED, NOT_FOUND, DAMAGED, NEWER_SCHEMA.
    """
    if not dry:
        with locked(run):
            yield _session(run, False, now, sound)
    else:
        yield _session(run, True, now, sound)


def _session(run: RunDir, dry: bool, now: Callable[[], str], sound: bool) -> Session:
    store = StateStore(run.state, now=now)
    current, findings = store.read()
    if findings and sound:
        raise FirehoseError(
            Exit.DAMAGED,
            f"the state file is damaged: {findings[0].message}",
            path=run.state,
            next=f"firehose state repair {run.called()} --dry-run",
        )
    if current is None:
        raise no_state(run)
    _, copied, _ = recover.newest_sound(run, current, deep=False)
    store.reserve(max(current.serial, copied.serial if copied else 0))
    serial = store.prepare({}, step=current.step, config_sha256=current.config_sha256).serial
    return Session(run, store, current, copied, serial, not findings, dry, now)


def edit(
    run: RunDir,
    wanted: Sequence[tuple[str, dict[str, Any]]],
    *,
    dry: bool = False,
    now: Callable[[], str] = utc_now,
) -> Change:
    """Make edits, (op, args) each as `state.edits` lists them, all or none of them.

    Raises FirehoseError: NOT_FOUND, REFUSED, LOCKED, DAMAGED, WRITE_FAILED; nothing is changed by any of them.
    """
    with changing(run, dry=dry, now=now) as session:
        base, done = session.current, []
        found = session.copied
        if found is not None and found.lineage == base.lineage and found.step > base.step:
            settle(base, found, run=run.name)  # refuses where an edit would be lost
            done.append(f"the state is behind the checkpoint of step {found.step:,}, whose copy is taken")
            base = found
        payload = copy.deepcopy(base.payload)
        for op, args in wanted:
            done += edits.apply(payload, edits.edit(op, session.serial, args), base.step)
        change = session.finish(payload, done, like=base, step=base.step)
        settled = change.settled
        assert settled is not None  # an edit is never the same
        change.launch += config_says(run, wanted, settled.payload, settled.step)
    return change
