"""Everything that can be wrong with the files of a run, each a finding with a stable id and what to do about it.

Read-only, and complete: a finding does not end the look. What a launch would do is found by the launch's own functions,
`state.settle` and `state.survey`, so that a check cannot disagree with it.
"""

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state import checkpoints, journal
from state.envelope import SealBroken, open_envelope, open_unsealed
from state.findings import Finding, FindingError, finding
from state.repair import base, salvage
from state.repair.examined import Examined, archived, edited_bounds, sealed_before, with_state
from state.repair.row_check import look_at_rows
from state.repair.validate import problems
from state.run_dir import RunDir
from state.settle import settle
from state.store import StateStore, temporaries

DAMAGE = {"F0001", "F0002", "F0008", "F0009", "F0011", "F0013", "F0016"}
SHOWN = 6  # differences that a message lists


def check(run: RunDir, *, read_data: bool = False) -> list[Finding]:
    """The findings of a run, in the order of their ids. read_data: read every token file whole, not only its size.

    Nothing is changed. Of a run that is at work only what is found twice counts, since it writes meanwhile.
    """
    seen = examine(run, read_data=read_data)
    if seen.alive and any(found.severity != "info" for found in seen.findings):
        again = {(found.id, found.arm) for found in examine(run, read_data=False).findings}
        kept = [found for found in seen.findings if (found.id, found.arm) in again or found.id == "F0005"]
        return ordered(kept)
    return ordered(seen.findings)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """By id, in the order found within one; each once."""
    return sorted(dict.fromkeys(findings), key=lambda found: found.id)


def exit_code(findings: Iterable[Finding]) -> Exit:
    """0 where there is nothing above info, 16 for a newer schema, 4 for damage, else 3."""
    grave = [found for found in findings if found.severity != "info"]
    if any(found.id == "F0012" for found in grave):
        return Exit.NEWER_SCHEMA
    if any(found.id in DAMAGE and found.severity == "error" for found in grave):
        return Exit.DAMAGED
    return Exit.FINDINGS if grave else Exit.OK


def check_file(path: Path) -> list[Finding]:
    """The findings of a state file that is no run's: its form, its hashes, and whether what it says is possible."""
    seen = Examined(RunDir(path.parent))
    if path.name == checkpoints.META:
        try:
            seen.state = checkpoints.sound(path.parent)[1]
        except FirehoseError as error:
            seen.note(finding("F0013", error.message), severity="error")
    else:
        _read_state(seen, path)
    envelope = seen.state or seen.unsealed
    if envelope is not None:
        for found in problems(
            envelope.payload, step=envelope.step, config=None, descends=envelope.parent is not None
        ):
            seen.note(found)
    remedy = "nothing here is a run's: firehose state push FILE RUN --accept-edit takes a sound payload"
    return [
        replace(found, fix=remedy if "state repair" in (found.fix or "") else found.fix)
        for found in ordered(seen.findings)
    ]


def examine(run: RunDir, *, read_data: bool = False) -> Examined:
    """Look at everything. A run without data, without a config or without a state is looked at as far as it goes."""
    seen = Examined(run, alive=run.condition(time.time()).alive)
    _leftovers(seen)
    _config(seen)
    _read_state(seen, run.state)
    _versions(seen)
    archived(seen)
    _checkpoints(seen)
    _edited(seen)
    _possible(seen)
    _settle(seen)
    _sources(seen, read_data)
    if seen.settled is not None:
        marks = (seen.settled.payload or {}).get("files", {})
        seen.rows = look_at_rows(
            run, marks if isinstance(marks, dict) else {}, seen.settled.step, live=seen.alive
        )
    for fault in seen.rows:
        if not fault.beyond:
            harmless = "info" if fault.harmless else None
            seen.note(finding("F0016", fault.message), severity=harmless, fix=fault.fix)
    if later := [fault for fault in seen.rows if fault.beyond]:
        files = ", ".join(fault.name for fault in later)
        many = sum(fault.beyond for fault in later)
        what = f"{many} {'row' if many == 1 else 'rows'} of steps after {seen.settled.step if seen.settled else 0}"
        message = f"{what} ({files}) will be moved to the archive by the next launch"
        seen.note(
            finding("F0016", message), severity="info", fix="nothing to do: those steps are trained anew"
        )
    _history(seen)
    return seen


def _leftovers(seen: Examined) -> None:
    run = seen.run
    if run.journal.exists():
        try:
            entry = journal.unfinished(run)
            what = entry.what if entry else "what it was is not known"
            fix = f"firehose state repair {run.root} finishes it, as the next launch would"
            seen.note(
                finding("F0015", f"a change was begun and cut short: {what}"), severity="warning", fix=fix
            )
        except FirehoseError as error:
            seen.note(finding("F0015", error.message), severity="error", fix=error.next, beyond=True)
    folders = [folder for folder in (run.root, run.archive) if folder.is_dir()]
    seen.leftovers += [*temporaries(*folders), *journal.leftovers(run)]
    if not seen.alive and run.checkpoints.is_dir():
        seen.leftovers += sorted(run.checkpoints.glob("step_*.tmp-*"))
    for path in seen.leftovers:
        name = path.relative_to(run.root)
        fix = f"nothing to do: the next launch removes it; firehose state repair {run.root} puts it into the archive"
        seen.note(finding("F0015", f"{name}, left by a writer that died"), fix=fix)


def _config(seen: Examined) -> None:
    from state.story import read_config

    run = seen.run
    seen.rootless = run.config.exists() and configs.original_of(run.config) is None
    if seen.rootless:
        there = run.effective.exists()
        message = (
            f"{run.effective.name} {'cannot be read' if there else 'is missing'}: the data is not looked at"
        )
        fix = "nothing to do: firehose run CONFIG, with the file that the run began with, writes it again"
        seen.note(
            finding("F0001", message), severity="warning" if there else "info", fix=None if there else fix
        )
    try:
        seen.config = configs.load(run.config)
    except FirehoseError as error:
        id = "F0010" if error.exit_code is Exit.REFUSED else "F0001"
        where = f"{error.path}: " if error.path else ""
        fix = f"edit {run.config}: {error.next}" if error.next else f"edit {run.config}"
        if id == "F0001":
            fix = f"bring {run.config} back: firehose config check {run.config}"
        found = finding(id, f"{where}{error.message}", arm=error.arm, fix=fix)
        seen.note(
            found, severity="error" if run.config.exists() or run.effective.exists() else "info", beyond=True
        )
        with contextlib.suppress(FirehoseError):
            base = (configs.original_of(run.config) or run.config).parent
            seen.config = msgspec.structs.replace(read_config(run), base=base)


def _read_state(seen: Examined, path: Path) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        seen.note(finding("F0001", f"{path.name}: the disk cannot read it: {error.strerror}"))
        return
    try:
        seen.state = open_envelope(data, path)
    except SealBroken as error:
        seen.unsealed, seen.differs = open_unsealed(data, path)
        seen.loose = salvage.read(data)
        seen.note(replace(error.finding, message=f"{path.name}: {error.finding.message}"))
    except FindingError as error:
        seen.newer_schema = error.exit_code is Exit.NEWER_SCHEMA
        fix = error.finding.fix
        if seen.newer_schema:
            fix = f"upgrade firehose; or firehose state repair {seen.run.root} --discard-newer"
        where = f"{error.finding.arm}: " if error.finding.arm else ""
        message = f"{path.name}: {where}{error.finding.message}"
        seen.loose = None if seen.newer_schema else salvage.read(data)
        seen.note(replace(error.finding, message=message, fix=fix), beyond=seen.newer_schema)


def _versions(seen: Examined) -> None:
    run = seen.run
    for _, path in StateStore(run.state).versions():
        try:
            seen.versions.append((path, open_envelope(path.read_bytes(), path)))
        except FileNotFoundError:
            continue  # a run at work removed it
        except (OSError, FirehoseError) as error:
            id = error.finding.id if isinstance(error, FindingError) else "F0001"
            what = error.message if isinstance(error, FirehoseError) else str(error)
            seen.bad_versions.append(path)
            message = f"the version kept as {path.relative_to(run.root)}: {what.removeprefix(id + ' ')}"
            newer = id == "F0012"
            if newer:
                seen.newer_versions.append(path)
            seen.note(finding(id, message), severity="warning", beyond=newer)
    there = seen.versions or run.versions.is_dir()
    if not run.state.exists() and (there or checkpoints.folders(run.checkpoints)):
        seen.note(finding("F0001", f"{run.state.name} is missing"))


def _checkpoints(seen: Examined) -> None:
    run = seen.run
    for path in checkpoints.folders(run.checkpoints):
        try:
            found, copy = checkpoints.sound(path)
            if path.name != f"step_{found.step}" or copy.step != found.step:
                raise FirehoseError(
                    Exit.DAMAGED, f"{path.name} holds step {found.step}, its state {copy.step}"
                )
        except FirehoseError as error:
            if seen.alive and not path.exists():
                continue  # retention took it meanwhile
            newer = error.exit_code is Exit.NEWER_SCHEMA
            message = f"{path.relative_to(run.root)}: {error.message}"
            seen.note(finding("F0013", message), fix=error.next if newer else None, beyond=newer)
            if newer:
                continue
            whole = with_state(seen, path)
            if whole is None:
                seen.damaged.append(path)
            else:
                seen.hollow.append(path)
                seen.sound.append(whole)
            continue
        seen.sound.append((found, copy))


def _edited(seen: Examined) -> None:
    """Say what an edit by hand changed."""
    from state.operate import diff

    before = sealed_before(seen) if seen.differs == ("payload",) else None
    if before is None or seen.unsealed is None:
        return
    told = [
        f"{'.'.join(map(str, where))} {diff.plain(None if old is diff.ABSENT else old)} -> "
        f"{diff.plain(None if new is diff.ABSENT else new)}"
        for where, old, new in diff.walk(before.payload, seen.unsealed.payload)
    ]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    remedy = _edit_remedy(seen, before.serial)
    for at, found in enumerate(seen.findings):
        if found.id == "F0002" and found.message.startswith(seen.run.state.name):
            message = f"{found.message}; against serial {before.serial}: {'; '.join(told[:SHOWN])}{more}"
            seen.findings[at] = replace(found, message=message, fix=remedy)


def _edit_remedy(seen: Examined, serial: int) -> str:
    """What to do about an edit by hand: `--accept-edit` only where that would take it, bounds by the config."""
    back = f"firehose state repair {seen.run.root} goes back to serial {serial}"
    bounds = edited_bounds(seen)
    polish = base.bounds_remedy(seen.run, bounds)
    try:
        base.accepted(seen)
    except FirehoseError:
        return f"{polish}; {back}" if polish else back
    if polish:
        return f"{back}; with --accept-edit it takes the edit but for the bounds; {polish}"
    return f"{back}; with --accept-edit it takes the edit"


def _possible(seen: Examined) -> None:
    """Whether what the state says is possible, and agrees with the checkpoint's copy of the same serial."""
    envelope, payload = seen.state or seen.unsealed, None
    if envelope is not None:
        payload, step, descends = envelope.payload, envelope.step, envelope.parent is not None
    elif seen.loose is not None and seen.loose.payload is not None:
        payload, step = seen.loose.payload, seen.loose.header("step", int) or 0
        descends = bool(seen.loose.body.get("parent"))
    if payload is not None:
        found = problems(payload, step=step, config=seen.config, descends=descends)
        if seen.loose is not None and (seen.loose.lost or seen.loose.doubled):
            found = []  # what is torn or doubled is one finding; what it brings about are not others
        if any(one.id == "F0008" for one in found):  # every one, by arm and field: the reader named the first
            seen.findings = [one for one in seen.findings if one.id != "F0008"]
        for one in found:
            seen.note(replace(one, message=f"{seen.run.state.name}: {one.message}"))
        if seen.state is not None and any(one.severity == "error" and one.id != "F0010" for one in found):
            seen.unsealed, seen.state = seen.state, None
    state = seen.state
    for checkpoint, copied in seen.sound:
        if state is None or (copied.lineage, copied.serial) != (state.lineage, state.serial):
            continue
        if copied.payload != state.payload or copied.step != state.step:
            where = checkpoint.path.relative_to(seen.run.root)
            seen.note(
                finding(
                    "F0013", f"{where}: its copy of serial {state.serial} is not the state of that serial"
                )
            )
            seen.split = True
            seen.stated.append(seen.findings[-1])


def _settle(seen: Examined) -> None:
    """What a launch would resume from; every reason why it would refuse is a finding."""
    run = seen.run
    seen.newest = seen.state
    if seen.newest is None and not seen.newer_schema and seen.versions:
        seen.newest = seen.versions[-1][1]
    checkpoint, copied = seen.sound[-1] if seen.sound else (None, None)
    named = seen.newest.payload.get("checkpoint") if seen.newest else None
    if checkpoint is None and (seen.damaged or named is not None):
        last = f"step {named}" if named is not None else seen.damaged[-1].name
        message = f"no sound checkpoint of this run is left; the last one is {last}"
        fix = (
            f"bring a copy of checkpoints/step_N back; or begin anew: firehose run {run.config} --name OTHER"
        )
        seen.note(finding("F0013", message), severity="error", fix=fix, beyond=True)
        return
    # An older one may have been retired between a newer one and the commit that names that.
    newer = named is not None and checkpoint is not None and named > checkpoint.step
    if newer and checkpoint and not seen.alive and not (run.checkpoints / f"step_{named}").exists():
        seen.gone = True
        message = f"checkpoints/step_{named}, which the state names, is missing; step {checkpoint.step} is the newest"
        seen.note(finding("F0013", message))
        seen.stated.append(seen.findings[-1])
    if seen.newer_schema:
        return
    try:
        seen.settled = settle(seen.newest, copied, run=run.name)
    except FirehoseError as error:
        message = error.finding.message if isinstance(error, FindingError) else error.message
        seen.note(finding("F0014", message), beyond=checkpoint is None)


def _sources(seen: Examined, read_data: bool) -> None:
    """State against config against data, by the function that the launch uses, on a copy."""
    from curriculum.sources import open_corpus
    from state.survey import reconciled

    config, run = seen.config, seen.run
    if config is None or seen.rootless:
        return
    try:
        corpus = open_corpus(config)
    except FirehoseError as error:
        seen.note(finding("F0004", error.message, fix=error.next), beyond=True)
        return
    for name in corpus.sources:
        if name not in config.sources:
            continue
        try:
            if read_data:
                corpus.check(name, expect_documents=config.sources[name].expect_documents)
            else:
                corpus.check_headers(name)
        except FirehoseError as error:
            found = finding("F0005", f"{name!r}: {error.message}", arm=name, fix=error.next)
            seen.note(found, severity="error", beyond=True)
    seen.corpus = corpus
    payload = seen.settled.payload if seen.settled else None
    if payload is None or seen.settled is None:
        return
    try:
        seen.reconciled = reconciled(config, corpus, payload, step=seen.settled.step, read_data=False)
    except FirehoseError as error:
        seen.note(
            finding("F0004", error.message, arm=error.arm, fix=error.next), severity="error", beyond=True
        )
        return
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        seen.note(finding("F0009", f"the state cannot be held against the config: {error!r}"), beyond=True)
        return
    repair = f"nothing to do: the next launch does it; or firehose state repair {run.root}"
    for found in seen.reconciled.findings:
        aside = found.id == "F0004"
        known = aside and found.arm in payload["pruned"]
        # A source whose absence a launch has taken note of already is no news.
        lasting = aside and not known and found.arm not in payload["bandit"]["arms"]
        told = replace(found, message=ahead(found.message))
        if found.id == "F0007" and seen.alive:  # changed under it: it takes them up by itself
            seen.note(told, severity="info", fix="nothing to do: the run takes them up at its next boundary")
            continue
        seen.note(
            told, severity="info" if known else None, fix=found.fix if aside else repair, beyond=lasting
        )


def ahead(message: str) -> str:
    """A sentence of the launch about what it did, as one about what it will do."""
    for past, future in (
        (" was put aside: ", " will be put aside: "),
        (" is back with its record;", " will be back with its record;"),
        (" is new and joins with ", " is new and will join with "),
        (" takes the config's bounds: ", " will take the config's bounds: "),
        (" windows served count from 0 again", " windows served will count from 0 again"),
    ):
        if past in message:
            return message.replace(past, future, 1)
    return message


def _history(seen: Examined) -> None:
    run = seen.run
    try:
        *lines, _ = run.history.read_bytes().split(b"\n")
    except OSError:
        return
    for number, line in enumerate(lines, start=1):
        try:
            if not isinstance(json.loads(line), dict):
                raise ValueError("no object")
        except ValueError as error:
            seen.bad_history.append(number)
            message = f"{run.history.name}:{number}: a line of the history is not JSON: {error}"
            seen.note(finding("F0001", message), severity="warning")
