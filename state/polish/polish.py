"""A polish before it is done: the draft of a run's config, the plan made from it, and whether a plan still fits its run."""

import hashlib
import re
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from curriculum import config as configs
from curriculum import config_edit
from curriculum.config import Config
from curriculum.eligibility import never_picked
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sha256_file, write_atomic
from state import journal
from state.envelope import Envelope, canonical, new_lineage
from state.process import Process
from state.run_dir import RunDir, no_state, read_object, record_id
from state.store import StateStore

FORMAT, VERSION = "firehose-plan", 1
KINDS = Literal["pivot", "live", "rollback"]
NAME = re.compile(r"(\d{4,})\.plan\.json")


class Pins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan was made from. serial: not compared while the process it was made beside is the run's last one.

    config_file: SHA-256 of the bytes of the run's `config.toml`. config: digest of what the run goes by. transaction:
    number of the last change in the archive. edits: SHA-256 of the operator's edits. process: pid and start, of the
    last one there was. alive: whether it ran.
    """

    lineage: str
    serial: int
    config_file: str | None
    config: str
    transaction: int
    edits: str
    process: list[int] | None
    alive: bool
    halted: bool
    tool: str


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `apply` will do, to the byte. lineage: the one to be begun. config: the new config's text.

    config_file: the file that text is a copy of. target: of a rollback, the transaction that it takes back. disables: the
    arms that get no pull any more, each to be confirmed. sha256: of all of it but this.
    """

    number: int
    kind: KINDS
    run: str
    written_at: str
    pins: Pins
    lineage: str
    config: str
    config_file: str
    target: str | None
    disables: list[str]
    changes: list[dict[str, Any]]
    sha256: str = ""
    format: str = FORMAT
    version: int = VERSION

    @property
    def name(self) -> str:
        """What history and messages call it."""
        return f"{self.number:04}"

    def hash(self) -> str:
        """SHA-256 of all fields but `sha256`."""
        fields = {**msgspec.to_builtins(self), "sha256": ""}
        return hashlib.sha256(canonical(fields)).hexdigest()


# The draft.


def folder(run: RunDir) -> Path:
    """Where a run's draft and plans are."""
    return run.root / "polish"


def draft(run: RunDir) -> Path:
    """The draft: a copy of the run's config, which edits change."""
    return folder(run) / "draft.toml"


def draft_text(run: RunDir) -> str:
    """The draft's text; the run's config where there is no draft. Raises FirehoseError(NOT_FOUND)."""
    for path in (draft(run), run.config):
        try:
            return path.read_bytes().decode()
        except FileNotFoundError:
            continue
    raise FirehoseError(Exit.NOT_FOUND, "the run has no config.toml", path=run.config, next="firehose list")


def save_draft(run: RunDir, text: str) -> None:
    """Make a text the draft, once it is a config that the run may take; its own config again means that there is none.

    Raises FirehoseError as `configs.load` does, and REFUSED for what a polish may not change, the draft being as it was.
    """
    new = check(text, draft(run), origin(run))
    refuse_forbidden(run, config_edit.changes(effective(run), configs.effective(new)))
    if run.config.exists() and run.config.read_bytes().decode() == text:
        discard_draft(run)
        return
    _make_folder(run)
    write_atomic(draft(run), text.encode())


def set_draft(run: RunDir, assignments: list[str]) -> None:
    """Make assignments (`config_edit.settings`) in the draft. Raises FirehoseError, the draft being as it was."""
    text = draft_text(run)
    import tomllib

    sources = list(tomllib.loads(text).get("sources", {}))
    where = draft(run) if draft(run).exists() else run.config
    new = config_edit.edit(text, config_edit.settings(assignments, sources, where), where)
    try:
        save_draft(run, new)
    except FirehoseError as error:  # the line it names is of a text that is not kept
        if error.path and error.path.startswith(f"{draft(run)}:"):
            own = [one for one in assignments if error.arm and error.arm in one.split("=")[0].split(".")]
            error.path = f"as set by {' '.join(own or assignments)}"
        raise


def discard_draft(run: RunDir) -> bool:
    """Remove the draft; whether there was one."""
    found = draft(run).exists()
    with failing_writes(draft(run)):
        draft(run).unlink(missing_ok=True)
    return found


def origin(run: RunDir) -> Path:
    """The file that the run's config is a copy of: relative paths start from its folder."""
    return configs.original_of(run.config.absolute()) or run.config.absolute()


def check(text: str, shown: Path, original: Path) -> Config:
    """A config's text through the one validator; errors name `shown`. Raises FirehoseError as `configs.load` does."""
    with tempfile.TemporaryDirectory() as made:
        copy = Path(made) / "text.toml"
        copy.write_bytes(text.encode())
        try:
            config = configs.load(copy, original=original)
        except FirehoseError as error:
            error.path = error.path and error.path.replace(str(copy), str(shown))
            error.next = error.next and error.next.replace(str(copy), str(shown))
            raise
    return msgspec.structs.replace(config, path=shown)


def _make_folder(run: RunDir) -> None:
    with failing_writes(folder(run)):
        folder(run).mkdir(exist_ok=True)


# Plans.


def pins(run: RunDir, state: Envelope, now: float) -> Pins:
    """The run as it is now, for a plan to be held against."""
    condition = run.condition(now)
    return Pins(
        lineage=state.lineage,
        serial=state.serial,
        config_file=sha256_file(run.config) if run.config.exists() else None,
        config=str((read_object(run.effective) or {}).get("sha256")),
        transaction=max((entry.number for entry in journal.entries(run)), default=0),
        edits=hashlib.sha256(canonical(state.payload.get("edits", []))).hexdigest(),
        process=record_id(condition.process) if condition.process else None,
        alive=condition.alive,
        halted=bool(state.payload.get("halt")),
        tool=tool(),
    )


def tool() -> str:
    """Name and version of this program."""
    try:
        return f"firehose {metadata.version('firehose')}"
    except metadata.PackageNotFoundError:
        return "firehose"


def current_state(run: RunDir) -> Envelope:
    """The run's newest state. Raises FirehoseError."""
    envelope, _ = StateStore(run.state).read()
    if envelope is None:
        raise no_state(run)
    return envelope


def effective(run: RunDir) -> dict[str, Any]:
    """The config that the run goes by, effective form. Raises FirehoseError(DAMAGED)."""
    from state.story import read_config

    return configs.effective(read_config(run))


def disabled(old: Config, new: Config) -> list[str]:
    """The sources that could be picked at some step, and can no longer."""
    return [
        name
        for name in old.sources
        if never_picked(old, name) is None
        and (name not in new.sources or never_picked(new, name) is not None)
    ]


def refuse_forbidden(run: RunDir, found: list[config_edit.Change]) -> None:
    """Raise FirehoseError(REFUSED), naming every key, for changes that a polish may not make."""
    keys = config_edit.refused(found)
    if keys:
        raise FirehoseError(
            Exit.REFUSED,
            f"a run keeps these for life: {', '.join(keys)}",
            path=run.config,
            next=f"leave them as they are, or begin another run on its weights: train.init_from = {run.name!r} in "
            "another config",
        )


def refuse_more_than_bounds(run: RunDir, found: list[config_edit.Change], disables: list[str]) -> None:
    """Raise FirehoseError(REFUSED) where a change cannot be taken by a run as it runs."""
    bounds = [change for change in found if change.arm is not None and change.field in config_edit.BOUNDS]
    others = [change.key for change in found if change not in bounds]
    freed = [
        f"{change.key} {change.old:g} -> {change.new:g}"
        for change in bounds
        if change.field in ("cap", "max_share") and (change.old == 0) != (change.new == 0)
    ]
    if "curriculum.goal_sources" in others:
        others[others.index("curriculum.goal_sources")] += " (the floors decide it where it is not set)"
    why = [*others, *freed, *(f"{name} is disabled" for name in disables if not freed)]
    if why:
        raise FirehoseError(
            Exit.REFUSED,
            f"a running run takes new bounds of the sources it has, and this is more: {', '.join(why)}",
            path=run.config,
            next="leave --live out: a pivot takes all of it",
        )


def make(
    run: RunDir,
    state: Envelope,
    text: str,
    config_file: Path,
    *,
    kind: KINDS,
    changes: list[config_edit.Change],
    disables: list[str],
    now: float,
    target: str | None = None,
) -> Plan:
    """A plan, pinned to the run as it is; not written yet."""
    numbers = [int(match[1]) for path in plans(run) if (match := NAME.fullmatch(path.name))]
    plan = Plan(
        number=1 + max(numbers, default=0),
        kind=kind,
        run=run.name,
        written_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        pins=pins(run, state, now),
        lineage=new_lineage(),
        config=text,
        config_file=str(config_file),
        target=target,
        disables=disables,
        changes=[change.as_dict() for change in changes],
    )
    return msgspec.structs.replace(plan, sha256=plan.hash())


def plans(run: RunDir) -> list[Path]:
    """The saved plans of a run, oldest first."""
    found = folder(run).glob("*.plan.json") if folder(run).is_dir() else ()
    return sorted(path for path in found if NAME.fullmatch(path.name))


def standing(run: RunDir, plan: Plan) -> Path | None:
    """A saved plan that would do the same, and still fits the run as it was looked at for this one."""
    for path in reversed(plans(run)):
        try:
            saved = load(path)
        except FirehoseError:
            continue
        same = ("kind", "config", "config_file", "target", "disables", "changes")
        alike = all(getattr(saved, key) == getattr(plan, key) for key in same)
        if alike and stale(run, saved, plan.pins) is None:
            return path
    return None


def save(run: RunDir, plan: Plan, path: Path | None) -> Path:
    """Write a plan, beside the run unless told otherwise. Raises FirehoseError(WRITE_FAILED)."""
    if path is None:
        _make_folder(run)
        path = folder(run) / f"{plan.name}.plan.json"
    write_atomic(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    return path


def load(path: Path) -> Plan:
    """Read a plan file. Raises FirehoseError: NOT_FOUND, REFUSED where it was edited, NEWER_SCHEMA."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FirehoseError(
            Exit.NOT_FOUND, f"there is no plan: {error.strerror}", path=path, next="firehose polish plan RUN"
        ) from None
    try:
        version = msgspec.json.decode(data)["version"]
        if version > VERSION:
            raise FirehoseError(
                Exit.NEWER_SCHEMA, f"the plan is of version {version}", path=path, next="upgrade firehose"
            )
        plan = msgspec.json.decode(data, type=Plan)
        sound = plan.format == FORMAT and plan.sha256 == plan.hash()
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise FirehoseError(
            Exit.REFUSED,
            "the plan is not what was saved: a plan cannot be edited",
            path=path,
            next="change the draft (firehose polish set ARM.cap=0.3) and plan again: firehose polish plan RUN",
        )
    return plan


def why_stale(run: RunDir, plan: Plan, now: float) -> str | None:
    """What has changed since a plan was made, in words, or None where it still fits."""
    return stale(run, plan, pins(run, current_state(run), now))


def stale(run: RunDir, plan: Plan, found: Pins) -> str | None:
    """As `why_stale`, for pins already looked at."""
    made = plan.pins
    checks: list[tuple[bool, Callable[[], str]]] = [
        (plan.run == run.name, lambda: f"it is a plan of the run {plan.run!r}, not of {run.name!r}"),
        (
            made.lineage == found.lineage,
            lambda: f"the state's lineage is {found.lineage[:8]}, no longer {made.lineage[:8]}",
        ),
        (
            made.transaction == found.transaction,
            lambda: f"the run was changed: change {found.transaction:04} is in its archive",
        ),
        (made.edits == found.edits, lambda: "the state was edited by an operator"),
        (made.config_file == found.config_file, lambda: f"{run.config.name} was changed"),
        (made.config == found.config, lambda: "the run goes by another config"),
        (
            made.process == found.process,
            lambda: (
                f"the run has another process: {_process(found.process)}, no longer {_process(made.process)}"
            ),
        ),
        (
            made.alive or made.serial == found.serial,
            lambda: f"the state's serial moved {made.serial} -> {found.serial}",
        ),
        (made.halted or not found.halted, lambda: "the gate halted the run"),
        (made.tool == found.tool, lambda: f"it was made by {made.tool}, and this is {found.tool}"),
    ]
    return next((why() for holds, why in checks if not holds), None)


def _process(process: list[int] | None) -> str:
    return f"pid {process[0]}" if process else "none"


def refuse_stale(run: RunDir, plan: Plan, path: Path, now: float) -> None:
    """Raise FirehoseError(STALE_PLAN) where a plan no longer fits its run."""
    why = why_stale(run, plan, now)
    if why is not None:
        again = "polish rollback" if plan.kind == "rollback" else "polish plan"
        raise FirehoseError(
            Exit.STALE_PLAN,
            f"the plan is stale: {why}; nothing was changed",
            path=path,
            next=f"firehose {again} {run.root}",
        )


def refuse_older_than_draft(run: RunDir, path: Path) -> None:
    """Raise FirehoseError(STALE_PLAN) where a plan that nobody named is not that of the draft there is."""
    plan = load(path)
    if plan.kind != "rollback" and draft(run).exists() and draft(run).read_bytes().decode() != plan.config:
        raise FirehoseError(
            Exit.STALE_PLAN,
            "the run's newest plan is not of the draft as it is now; nothing was changed",
            path=draft(run),
            next=f"firehose polish plan {run.root}; or name the plan: firehose polish apply {path}",
        )


def running(run: RunDir, now: float) -> Process | None:
    """The run's process, where it runs."""
    condition = run.condition(now)
    return condition.process if condition.alive else None
