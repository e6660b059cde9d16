"""Which state a repair goes on from, the best first: what was sealed before what was mended, the newest before the older."""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from curriculum.errors import Exit, FirehoseError
from state import envelope
from state.envelope import Envelope
from state.repair import salvage
from state.repair.examined import Examined, edited_bounds, is_bound, known, sealed_before
from state.repair.validate import problems
from state.run_dir import RunDir
from state.settle import Settled, settle

FAR = 1000  # serials beyond the newest known one that a damaged header is believed


@dataclass(slots=True)
class Base:
    """What a repair goes on from. state: in place of the state file's, None where the checkpoint's copy alone is left.

    settled: what a launch makes of it. mended: whether some of it is from another state than the rest. done: a sentence
    for each thing decided; given_up: for each that is lost by it.
    """

    state: Envelope | None
    settled: Settled
    mended: bool = False
    done: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)


def choose(seen: Examined, *, accept_edit: bool = False) -> Base:
    """The best state there is. Raises FirehoseError(REFUSED) for an edit that cannot be accepted."""
    base = _best(seen, accept_edit)
    payload = seen.loose.payload if seen.loose and seen.state is None else None
    edits = payload.get("edits") if payload else None
    held = (base.settled.payload or {}).get("edits", [])
    for edit in edits if isinstance(edits, list) else []:
        if edit not in held and isinstance(edit, dict) and not accept_edit:
            base.given_up.append(f"an operator's edit is given up: {edit.get('what')}")
    return base


def _best(seen: Examined, accept_edit: bool) -> Base:
    copied = seen.sound[-1][1] if seen.sound else None
    if seen.state is not None:
        return _settled(seen, seen.state, copied)
    if accept_edit:
        done = ["the edit by hand is accepted"]
        if bounds := edited_bounds(seen):
            done.append(f"left out: {', '.join(bounds)}; {bounds_remedy(seen.run, bounds)}")
        return _settled(seen, accepted(seen), copied, done=done, mended=True)
    name = seen.run.state.name
    if (same := _same_serial(seen)) is not None:
        told = f"go on from serial {same.serial} of step {same.step}, the very commit that {name} was, as it was sealed"
        return _settled(seen, same, copied, done=[told])
    if seen.differs == ("header",) and (whole := _reheaded(seen)) is not None:
        return _settled(seen, whole, copied, done=[f"keep the payload of {name}, which its hash vouches for"])
    if seen.loose is not None and not seen.loose.lost and (found := _mended(seen)) is not None:
        state, done = found
        done.append("the rest of the file passes every check, but its hash cannot vouch for it")
        return _settled(seen, state, copied, done=[f"{name}: {one}" for one in done], mended=True)
    kept = sorted(
        [*seen.versions, *seen.archived], key=lambda pair: (pair[1].serial, pair[0].stem.isdecimal())
    )
    for path, version in reversed(kept):
        if copied is not None and (version.step, version.serial) < (copied.step, copied.serial):
            break  # the checkpoint has a newer one
        if not _sound(seen, version.payload, version.step, version.parent is not None):
            continue
        kept_as = path.relative_to(seen.run.root)
        told = f"go on from serial {version.serial} of step {version.step}, kept as {kept_as}"
        with contextlib.suppress(FirehoseError):  # of another story than the weights
            return Base(version, settle(version, copied, run=seen.run.name), done=[told])
    if copied is not None:
        told = f"go on from serial {copied.serial}, the copy in checkpoints/step_{copied.step}"
        return _settled(seen, None, copied, done=[told])
    if seen.versions:
        version = seen.versions[-1][1]
        return _settled(
            seen, version, None, done=[f"go on from serial {version.serial} of step {version.step}"]
        )
    if seen.loose is not None and (found := _mended(seen)) is not None:
        state, done = found
        return _settled(seen, state, None, done=[f"{name}: {one}" for one in done], mended=True)
    return Base(
        None, Settled("fresh", None, 0, None, 0), done=["no state is left: the next launch begins at step 0"]
    )


def _settled(
    seen: Examined,
    state: Envelope | None,
    copied: Envelope | None,
    *,
    done: list[str] | None = None,
    mended: bool = False,
) -> Base:
    """Settle as a launch would; where that is refused, the newest checkpoint's copy is taken (F0014)."""
    base = Base(state, Settled("fresh", None, 0, None, 0), mended, list(done or []))
    try:
        base.settled = settle(state, copied, run=seen.run.name)
    except FirehoseError:
        if copied is None:
            raise
        if (begun := _begun(seen, state, copied)) is not None:
            return begun
        base.settled, base.state = settle(None, copied, run=seen.run.name), None
        if state is not None:
            base.given_up.append(
                f"the state of lineage {state.lineage}, serial {state.serial}, step {state.step} is given up for the "
                f"copy in checkpoints/step_{copied.step}, of lineage {copied.lineage}, serial {copied.serial}"
            )
            edits = [edit["what"] for edit in state.payload.get("edits", [])]
            base.given_up += [f"an operator's edit is given up: {what}" for what in edits]
    return base


def _begun(seen: Examined, state: Envelope | None, copied: Envelope) -> Base | None:
    """The state that a pivot began the same lineage with on this checkpoint's weights, where its own checkpoints are lost."""
    for path, first in reversed(seen.archived):
        if state is None or first.lineage != state.lineage or first.serial >= state.serial:
            continue
        with contextlib.suppress(FirehoseError):
            settled = settle(first, copied, run=seen.run.name)
            kept_as = path.relative_to(seen.run.root)
            told = f"go on from serial {first.serial} of step {first.step}, with which the pivot began, in {kept_as}"
            base = Base(first, settled, done=[told])
            base.given_up.append(
                f"steps {first.step + 1} to {state.step} are given up: no checkpoint of theirs is left"
            )
            base.given_up += [
                f"an operator's edit is given up: {edit['what']}" for edit in state.payload.get("edits", [])
            ]
            return base
    return None


def top_serial(seen: Examined) -> int:
    """The highest serial that may be in use."""
    found = [one.serial for one in known(seen)]
    found += [int(path.stem) for path in seen.bad_versions if path.stem.isdecimal()]
    found += [
        one.serial for one in (seen.state, seen.unsealed) if one is not None and "header" not in seen.differs
    ]
    highest = max(found, default=0)
    if seen.state is None:
        told = seen.loose.header("serial", int) if seen.loose else None
        highest = told if told is not None and highest < told <= highest + FAR else highest + 1
    return highest


def accepted(seen: Examined) -> Envelope:
    """The file as it was edited by hand, its changes noted as an operator's edit. Raises FirehoseError(REFUSED).

    Bounds are left out: a launch takes the config's, whatever the state says.
    """
    edited, run = seen.unsealed, seen.run
    if edited is None or seen.differs != ("payload",):
        raise FirehoseError(
            Exit.REFUSED,
            "there is no edit by hand to accept: only a payload that differs from its hash is one",
            path=run.state,
            next=f"firehose state check {run.root}",
        )
    from state import edits
    from state.operate import diff

    base = sealed_before(seen)
    if base is None:
        raise FirehoseError(
            Exit.REFUSED,
            f"what was edited cannot be told from what was trained: no sealed copy of step {edited.step} is left",
            path=run.state,
            next=f"firehose state repair {run.root} goes back to what was sealed; the edited file is kept",
        )
    payload = copy.deepcopy(base.payload)
    serial = top_serial(seen) + 1
    changes = [one for one in diff.changes(base.payload, edited.payload) if not is_bound(one["path"])]
    bounds = edited_bounds(seen)
    if bounds and not changes:
        raise FirehoseError(
            Exit.REFUSED,
            f"the edit is of bounds alone, and they come from the config: {', '.join(bounds)}",
            path=run.state,
            arm=next(iter(bounds)).rpartition(".")[0],
            next=f"{bounds_remedy(run, bounds)}; firehose state repair {run.root} goes back to what was sealed",
        )
    made = edits.edit("set", serial, {"changes": changes, "step": edited.step})
    edits.apply(payload, made, edited.step)
    wrong = problems(payload, step=edited.step, config=seen.config, descends=edited.parent is not None)
    if wrong:
        raise FirehoseError(
            Exit.REFUSED,
            f"a launch could not go on from the edited state: {'; '.join(str(one) for one in wrong[:3])}",
            path=run.state,
            arm=wrong[0].arm,
            next=f"correct the file, or firehose state repair {run.root} to go back to what was sealed",
        )
    return _made(payload, edited, edited.lineage, edited.serial, edited.step)


def bounds_remedy(run: RunDir, bounds: Mapping[str, Any]) -> str:
    """How to have the bounds that an edit by hand set; empty where it set none that a config could."""
    numbers = {key: value for key, value in bounds.items() if type(value) in (int, float) and isfinite(value)}
    if not numbers:
        return ""
    settings = " ".join(f"{key}={value:g}" for key, value in numbers.items())
    return f"bounds come from the config: firehose polish set {settings} --run {run.root}"


def _same_serial(seen: Examined) -> Envelope | None:
    """The sealed copy of the very commit that the damaged file was."""
    serial, lineage = None, None
    if seen.unsealed is not None and "header" not in seen.differs:
        serial, lineage = seen.unsealed.serial, seen.unsealed.lineage
    elif seen.loose is not None:
        serial, lineage = seen.loose.header("serial", int), seen.loose.header("lineage", str)
    for one in known(seen):
        same = (one.serial, one.lineage) == (serial, lineage)
        if same and _sound(seen, one.payload, one.step, one.parent is not None):
            return one
    return None


def _reheaded(seen: Examined) -> Envelope | None:
    """The file's payload, which its hash vouches for, with a header that can be believed."""
    damaged = seen.unsealed
    donors = known(seen)
    if damaged is None or not donors or damaged.lineage != donors[0].lineage:
        return None
    if not _sound(seen, damaged.payload, damaged.step, damaged.parent is not None):
        return None
    return _made(damaged.payload, damaged, donors[0].lineage, top_serial(seen), damaged.step)


def _mended(seen: Examined) -> tuple[Envelope, list[str]] | None:
    """The damaged file with its bad arms made whole, where that gives a state that is possible; and what was done."""
    loose = seen.loose
    payload = copy.deepcopy(loose.payload) if loose else None
    if loose is None or payload is None or seen.config is None:
        return None
    lineage, step = loose.header("lineage", str), loose.header("step", int)
    try:
        bad = salvage.bad_arms(payload) or any(key != "shared" for key in payload["reward"])
        if not bad or step is None or lineage is None:
            return None
        donors = [one for one in known(seen) if one.lineage == lineage]
        if known(seen) and not donors:
            return None
        done = salvage.mend(payload, [one.payload for one in donors], seen.config.train.micro_batch)
        if not done and not loose.lost:
            return None
        if not _sound(seen, payload, step, bool(loose.body.get("parent"))):
            return None
        like = donors[0] if donors else None
        return _made(payload, like, lineage, top_serial(seen), step), done
    except (KeyError, TypeError, AttributeError, ValueError, FirehoseError):
        return None  # what is left does not make a state


def _sound(seen: Examined, payload: dict[str, Any], step: int, descends: bool) -> bool:
    wrong = problems(payload, step=step, config=seen.config, descends=descends)
    return all(one.id == "F0010" for one in wrong)


def _made(payload: dict[str, Any], like: Envelope | None, lineage: str, serial: int, step: int) -> Envelope:
    return envelope.make(
        payload,
        lineage=lineage,
        serial=max(1, serial),
        step=step,
        written_at=like.written_at if like else "",
        config_sha256=like.config_sha256 if like else envelope.NO_DIGEST,
        parent=like.parent if like else None,
    )
