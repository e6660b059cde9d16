"""What a run is doing, from its files alone: the object of `status --json` (DESIGN 9.1) and the screen made from it."""

import re
import textwrap
import time
from collections.abc import Iterable
from typing import Any

from curriculum.errors import FirehoseError
from state import passed
from state.envelope import Envelope
from state.findings import Finding
from state.run_dir import RunDir, read_object
from state.store import StateStore

ARM_KEYS = (
    *("name", "eligible", "why_not", "weight", "cap", "floor", "share", "share_low", "share_high", "pulls"),
    *("tokens", "epochs", "coverage", "mean_reward", "index", "loss_ema", "flags"),
)
STALE_AFTER = 60.0  # seconds without a word from a living process that are worth a note


def status(run: RunDir, now: float) -> tuple[dict[str, Any], list[str]]:
    """The fields of DESIGN 9.1, null where they are not known, and notes for the person: what could not be read.

    The live file is the source while the run speaks. After that it counts only as far as the state bears it out: of
    another lineage, or of a later step, it tells of what was undone or lost, and the state speaks for itself.
    now: seconds since 1970.
    """
    notes: list[str] = []
    condition = run.condition(now)
    live = run.read_live() or {}
    envelope = _state(run, notes)
    payload = envelope.payload if envelope else {}
    age = condition.heartbeat_age
    speaking = condition.alive and age is not None
    if condition.alive and (age or 0.0) > STALE_AFTER:
        notes.append(f"no word from the run for {duration(age)}")
    if not speaking and envelope is not None and not _borne_out(live, envelope):
        live = _stored(payload, live if live.get("lineage", envelope.lineage) == envelope.lineage else {})
    if not speaking:
        live = {
            **live,
            "steps_per_s": None,
            "mfu": None,
            "eta_s": None,
            "budget": None,
            **({"step": envelope.step} if envelope else {}),
        }
    gate = live.get("gate") or {}
    halted = bool(gate.get("halted") if speaking else payload.get("halt"))
    total = live.get("steps_total") or _configured_steps(run)
    state = condition.state
    if halted and state in ("crashed", "stopped"):
        state = "halted"
    elif envelope is not None and (
        (state == "finished" and envelope.step < (total or 0)) or (state == "halted" and not halted)
    ):
        state = "stopped"  # a change since took it back, or began it anew
    arms = [{key: arm.get(key) for key in ARM_KEYS} for arm in live.get("arms") or _stored_arms(payload)]
    for arm in arms:
        arm["flags"] = arm["flags"] or []
    body = {
        "run": run.name,
        "state": state,
        **{
            key: live.get(key)
            for key in ("step", "steps_total", "steps_per_s", "mfu", "eta_s", "loss", "loss_ema")
        },
        "budget": live.get("budget") or [],
        "groups": live.get("groups") or [],
        "checkpoint_step": live.get("checkpoint_step") or _newest_checkpoint(run),
        "lineage": envelope.lineage if envelope else None,
        "serial": envelope.serial if envelope else None,
        "gate": {"last_score": gate.get("last_score"), "streak": gate.get("streak"), "halted": halted},
        "alarms": [*(live.get("alarms") or []), *passed.alarms(run)],
        "arms": arms,
    }
    body["steps_total"] = total
    return body, notes


def _borne_out(live: dict[str, Any], state: Envelope) -> bool:
    """Whether what a process said last is of the state's lineage, and of no later step. Old live files name no lineage."""
    return (live.get("lineage", state.lineage) == state.lineage) and (live.get("step") or 0) <= state.step


def _stored(payload: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """What the state says in the words of a live file. live: the one of its lineage, whose alarms still hold."""
    loop = payload.get("loop") or {}
    sample = loop.get("last_sample") or {}
    return {
        "loss_ema": loop.get("loss_ema"),
        "gate": {"last_score": sample.get("score"), "streak": sample.get("streak")},
        "alarms": live.get("alarms"),
        "arms": list(_stored_arms(payload)),
    }


def _state(run: RunDir, notes: list[str]) -> Envelope | None:
    try:
        envelope, findings = StateStore(run.state).read()
    except FirehoseError as error:
        notes.append(
            f"the state cannot be read: {error.message}\n  next:     firehose state check {run.called()}"
        )
        return None
    if envelope is not None:
        notes += passed_over(run, envelope, findings)
    return envelope


def passed_over(run: RunDir, used: Envelope, findings: list[Finding]) -> list[str]:
    """What to say where the state shown is not the one in the file: why, which it is, and the next command."""
    if not findings:
        return []
    return [
        *map(str, findings),
        f"shown is serial {used.serial} of step {used.step:,}, the newest sound one, and not what is in that file",
        f"  next:     firehose state check {run.called()}",
    ]


def _stored_arms(payload: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """What the state itself says of the arms, where no live file that counts does."""
    records = payload.get("bandit", {}).get("arms", {})
    served = sum(record["served"] for record in records.values())
    for name, record in records.items():
        epochs = record["cursor"] / record["windows"] if record["windows"] else 0.0
        yield {
            **record,
            "name": name,
            "share": record["served"] / max(1, served),
            "epochs": epochs,
            "coverage": min(1.0, epochs),
            "mean_reward": record["mean"],
        }


def _configured_steps(run: RunDir) -> int | None:
    config = (read_object(run.effective) or {}).get("config", {})
    steps: int | None = config.get("train", {}).get("steps")
    return steps


def _newest_checkpoint(run: RunDir) -> int | None:
    if not run.checkpoints.is_dir():
        return None
    names = (re.fullmatch(r"step_(\d+)", path.name) for path in run.checkpoints.iterdir())
    return max((int(match[1]) for match in names if match), default=None)


def duration(seconds: float | None) -> str:
    """Seconds for a person, two units.

    >>> duration(75), duration(100_000), duration(None)
    ('1m15s', '1d03h', '-')
    """
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def number(value: float | None, form: str) -> str:
    """A number in a format, or a dash."""
    return "-" if value is None else format(value, form)


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table, columns apart by two spaces, the first left-aligned, the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]


def short(name: str, width: int) -> str:
    """A name cut to a width, the cut shown.

    >>> short("gutenberg-fiction", 10)
    'gutenberg…'
    """
    return name if len(name) <= width else name[: width - 1] + "…"


def screen(body: dict[str, Any], now: float) -> list[str]:
    """The status as lines of at most 80 columns."""
    gate, eta = body["gate"], body["eta_s"]
    end = "" if eta is None else time.strftime(" (%a %d %b %H:%M)", time.localtime(now + eta))
    halted = "  HALTED" if gate["halted"] else ""
    share = "" if body["mfu"] is None else f" (MFU {body['mfu']:.1%})"
    lines = [
        f"{short(body['run'], 30)}  {body['state']}  step {number(body['step'], ',')} of "
        f"{number(body['steps_total'], ',')}",
        f"  speed       {number(body['steps_per_s'], '.3g')} steps/s{share}, {duration(eta)} left{end}",
        *_left(body["budget"]),
        f"  loss        {number(body['loss'], '.4f')} (average {number(body['loss_ema'], '.4f')})",
        *_updates(body["groups"]),
        f"  checkpoint  step {number(body['checkpoint_step'], ',')}",
        f"  state       serial {number(body['serial'], 'd')}, lineage {(body['lineage'] or '-')[:8]}",
        f"  gate        last score {number(gate['last_score'], '.1f')}, {number(gate['streak'], 'd')} low in a row"
        + halted,
        f"  alarms      {len(body['alarms']) or 'none'}",
    ]
    lines += [f"    {short(str(alarm), 74)}" for alarm in body["alarms"]]
    if body["arms"]:
        header = ["source", "share", "low", "high", "cap", "floor", "pulls", "epochs", "reward", "loss"]
        rows = [
            _arm_row(arm) for arm in sorted(body["arms"], key=lambda arm: (-(arm["share"] or 0), arm["name"]))
        ]
        lines += ["", *table(header, rows)]
        lines += [
            f"  {short(arm['name'], 20)}: {short(arm['why_not'], 55)}"
            for arm in body["arms"]
            if arm["why_not"]
        ]
    return lines


def _left(budget: list[dict[str, Any]]) -> list[str]:
    """What remains to be paid, where anything but time was asked for."""
    left = budget[-1] if budget else {"hours": None, "kwh": None, "cost": None}
    if left["kwh"] is None and left["cost"] is None:
        return []
    said = [
        f"{left[key]:,.2f}{unit}"
        for key, unit in (("hours", " h"), ("kwh", " kWh"), ("cost", " cost"))
        if left[key] is not None
    ]
    return [f"  budget      {', '.join(said)} left"]


def _updates(groups: list[dict[str, Any]]) -> list[str]:
    """How far the last step that was looked at moved each group of parameters, for its size."""
    said = (
        f"{group['name']} {number(group['ratio'], '.1e')}"
        + (f" TOO {group['out'].upper()}" if group.get("out") else "")
        for group in groups
    )
    whole = ", ".join(part.replace(" ", "\xa0") for part in said)  # a line ends between groups
    lines = textwrap.wrap(whole, 80, initial_indent="  updates     ", subsequent_indent=" " * 14)
    return [line.replace("\xa0", " ") for line in lines]


def _arm_row(arm: dict[str, Any]) -> list[str]:
    return [
        short(arm["name"], 16),
        number(arm["share"], ".1%"),
        number(arm["share_low"], ".0%"),
        number(arm["share_high"], ".0%"),
        number(arm["cap"], ".3g"),
        number(arm["floor"], ".3g"),
        count(arm["pulls"]),
        number(arm["epochs"], ".1f"),
        number(arm["mean_reward"], ".2f"),
        number(arm["loss_ema"], ".2f"),
    ]


def count(value: float | None) -> str:
    """A count in at most five characters.

    >>> count(None), count(812), count(99_999), count(1_234_567), count(6.5e9)
    ('-', '812', '99999', '1.23M', '6.5G')
    """
    if value is None:
        return "-"
    for limit, scale, unit in ((1e5, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if value < limit:
            return f"{value / scale:.3g}{unit}" if unit else f"{value:.0f}"
    return f"{value:.0e}"
