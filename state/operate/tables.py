"""What `state list` and `state show` print: the arms of a state, one a line, and everything of one of them."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from curriculum.console import wrapped
from curriculum.errors import Exit, FirehoseError
from state.envelope import Envelope
from state.status import count, number, short, table

WIDTH = 80


def arms(
    payload: dict[str, Any], pattern: str | None = None, zombies: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Every arm, live ones first, by name: the rows of `state list --json`. pattern: a glob over names.

    `{name, id, status, why, step, cap, floor, min_share, max_share, share, pulls, windows, epochs, mean_reward}`;
    status is live, asleep, zombie, aside or removed, why that of the last three, step of the last two, share of the pulls
    since the last restart of shares, windows those served. zombies: name to why the next launch puts that arm aside.
    """
    live = payload.get("bandit", {}).get("arms", {})
    served = sum(record["served"] for record in live.values())
    rows = [
        _row(name, live[name], "live" if live[name]["eligible"] else "asleep", served)
        for name in sorted(live)
    ]
    for row in rows:
        if why := (zombies or {}).get(row["name"]):
            row |= {"status": "zombie", "why": why}
    for name, top in sorted(payload.get("pruned", {}).items()):
        entry = top
        while entry is not None:
            status = "removed" if entry.get("removed") else "aside"
            own = {"status": status, "why": entry["reason"], "step": entry["step"], "share": None}
            rows.append({**_row(name, entry["record"], status, 0), **own})
            entry = entry.get("earlier")
    return [row for row in rows if pattern is None or fnmatchcase(row["name"], pattern)]


def _row(name: str, record: dict[str, Any], status: str, served: int) -> dict[str, Any]:
    windows = record["windows"]
    return {
        "name": name,
        "id": record["id"],
        "status": status,
        "why": None,
        "step": None,
        **{key: record[key] for key in ("cap", "floor", "min_share", "max_share")},
        "share": record["served"] / served if served else 0.0,
        "pulls": record["pulls"],
        "windows": record["cursor"],
        "epochs": record["cursor"] / windows if windows else 0.0,
        "mean_reward": record["mean"],
    }


def listed(rows: list[dict[str, Any]], run: str | None = None) -> list[str]:
    """`state list` as lines of at most 80 columns. run: what a command is told to find the run of the state."""
    live = [row for row in rows if row["step"] is None]
    aside = [row for row in rows if row["step"] is not None]
    lines: list[str] = []
    if live:
        header = ["arm", "status", "cap", "floor", "share", "pulls", "windows", "epochs", "reward"]
        lines += table(header, [_cells(row) for row in live])
    dead = [row for row in live if row["why"]]
    for row in dead:
        lines += wrapped(f"{row['name']}: the next launch puts it aside: {row['why']}").splitlines()
    if dead:
        lines.append(f"next: firehose state check {run or 'RUN'}")
    if aside:
        cells = [
            [
                short(row["name"], 24),
                row["status"],
                number(row["step"], ",d"),
                count(row["pulls"]),
                count(row["windows"]),
            ]
            for row in aside
        ]
        head = ["put aside", "status", "at step", "pulls", "windows"]
        room = WIDTH - 2 - max(map(len, table(head, cells)))
        told = table(head, cells)
        whys = ["why", *(short(row["why"], room) for row in aside)]
        width = max(map(len, told))
        lines += [""] * bool(lines) + [f"{line:{width}}  {why}" for line, why in zip(told, whys, strict=True)]
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        short(row["name"], 24),
        row["status"],
        number(row["cap"], ".3g"),
        number(row["floor"], ".3g"),
        number(row["share"], ".1%"),
        count(row["pulls"]),
        count(row["windows"]),
        number(row["epochs"], ".2f"),
        number(row["mean_reward"], ".3f"),
    ]


def head(envelope: Envelope, version: int) -> dict[str, Any]:
    """The body of `state show --json` without an arm: what the state is of, and its totals. version: of the file."""
    payload = envelope.payload
    live = payload.get("bandit", {}).get("arms", {})
    tickets = payload.get("bandit", {}).get("tickets", [])
    parent = envelope.parent
    return {
        "lineage": envelope.lineage,
        "parent": None
        if parent is None
        else {"lineage": parent.lineage, "serial": parent.serial, "step": parent.step},
        "serial": envelope.serial,
        "step": envelope.step,
        "written_at": envelope.written_at,
        "version": version,
        "config_sha256": envelope.config_sha256,
        "payload_sha256": envelope.payload_sha256,
        "checkpoint": payload.get("checkpoint"),
        "halt": payload.get("halt"),
        "arms": len(live),
        "aside": len(payload.get("pruned", {})),
        "pulls": sum(record["pulls"] for record in live.values()),
        "windows": sum(record["cursor"] for record in live.values()),
        "trained_tickets": sum(ticket["step"] <= envelope.step for ticket in tickets),
        "untrained_tickets": sum(ticket["step"] > envelope.step for ticket in tickets),
        "edits": [edit["what"] for edit in payload.get("edits", [])],
        "pending": [edit["what"] for edit in payload.get("edited", [])],
    }


def headed(body: dict[str, Any]) -> list[str]:
    """`state show` without an arm, for a person."""
    parent, halt = body["parent"], body["halt"]
    began = (
        "none" if parent is None else f"{parent['lineage']} serial {parent['serial']} step {parent['step']:,}"
    )
    rows = [
        ("lineage", body["lineage"]),
        ("parent", began),
        ("serial", f"{body['serial']:,}, written {body['written_at']}, file version {body['version']}"),
        ("step", f"{body['step']:,}; newest checkpoint it knows of: {number(body['checkpoint'], ',')}"),
        ("config", f"sha256 {body['config_sha256'][:16]}…"),
        ("halt", "none" if halt is None else f"step {halt['step']:,}: {halt['reason']}"),
        ("arms", f"{body['arms']} in the bandit, {body['aside']} put aside"),
        ("pulls", f"{body['pulls']:,} of {body['windows']:,} windows, those on the way included"),
        (
            "on the way",
            f"{body['trained_tickets']} pulls not credited yet, {body['untrained_tickets']} not trained yet",
        ),
    ]
    rows += [("edit", what) for what in body["edits"]]
    rows += [("pending", f"{what}: taken up by the next launch") for what in body["pending"]]
    return _rows(rows)


def one(envelope: Envelope, name: str, zombies: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The body of `state show ARM --json`. zombies: as `arms` takes them. Raises FirehoseError(NOT_FOUND) with the nearest name."""
    payload = envelope.payload
    bandit, pruned = payload.get("bandit", {}), payload.get("pruned", {})
    row = next((row for row in arms(payload, zombies=zombies) if row["name"] == name), None)
    if row is None:
        import difflib

        known = sorted({*bandit.get("arms", {}), *pruned})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known[:8]) or 'none'}"
        next_ = "firehose state list"
        raise FirehoseError(
            Exit.NOT_FOUND, f"there is no arm {name!r} in the state{hint}", arm=name, next=next_
        )
    entry = pruned.get(name) if row["step"] is not None else None
    record = entry["record"] if entry else bandit["arms"][name]
    tickets = [ticket for ticket in bandit.get("tickets", []) if ticket["arm"] == record["id"]]
    return {
        **row,
        "data_windows": record["windows"],
        "data_sha256": entry["data"] if entry else payload.get("data", {}).get(name),
        "record": record,
        "reward": entry["reward"] if entry else payload.get("reward", {}).get(str(record["id"])),
        "tickets": tickets,
        "trained_tickets": sum(ticket["step"] <= envelope.step for ticket in tickets),
        "untrained_tickets": sum(ticket["step"] > envelope.step for ticket in tickets),
        "earlier": sum(1 for other in arms(payload) if other["name"] == name) - 1,
    }


# Of a record, what `show` prints with a unit: (field, label, how).
FIELDS: list[tuple[str, str, Callable[[Any], str]]] = [
    ("weight", "weight", lambda v: f"{v:.6g} (1.0 is an arm in focus)"),
    ("served", "served", lambda v: f"{v:,} pulls since the last restart of shares"),
    ("offered", "offered", lambda v: f"{v:,} pulls of all arms since, while it was awake"),
    ("credit", "credit", lambda v: f"{round(v, 3) + 0.0:+.3f} pulls: above 0 owed to it, below ahead"),
    ("weight_sum", "sums", lambda v: f"weights {v:.6g}"),
    ("reward_sum", "", lambda v: f"rewards {v:.6g}, each times its weight"),
    ("difference_sum", "", lambda v: f"squared differences of rewards {v:.6g}"),
    ("difference_weight", "", lambda v: f"their weights {v:.6g}"),
    ("last_reward", "last reward", lambda v: "none yet" if v is None else f"{v:.6g}"),
    ("recent_mean", "recent mean", lambda v: "none yet" if v is None else f"{v:.6g}"),
    ("penalty_trace", "penalty trace", lambda v: f"{v:.6g}"),
    ("score", "score", lambda v: f"{v:.6g}"),
    ("share_floor", "share floor", lambda v: f"{v:.2%} of the pulls, in force"),
    ("share_cap", "share cap", lambda v: f"{v:.2%} of the pulls, in force"),
    ("owed", "owed", lambda v: f"{v:.6g} pulls by past spans"),
    ("allowed", "allowed", lambda v: f"{v:.6g} pulls by past spans"),
]


def shown(body: dict[str, Any], config: str | None) -> list[str]:
    """`state show ARM` for a person. config: what the run's config says of the source, where there is one."""
    status = body["status"]
    if body["step"] is not None:
        status += f", put aside at step {body['step']:,}: {body['why']}"
    elif body["why"]:
        status += f": the next launch puts it aside: {body['why']}"
    if body["earlier"] > 0:
        status += f"; {body['earlier']} more of this name put aside"
    mean = body["mean_reward"]
    rows = [
        ("arm", body["name"]),
        ("id", str(body["id"])),
        ("status", status),
        ("config", config or "not known: there is no run, or no config, beside it"),
        ("weight bounds", f"floor {body['floor']:g} to cap {body['cap']:g}"),
        ("share bounds", f"{body['min_share']:.1%} to {body['max_share']:.1%} of the pulls"),
        ("pulls", f"{body['pulls']:,}, those on the way included"),
        ("windows served", f"{body['windows']:,} of {body['data_windows']:,} ({body['epochs']:.3f} epochs)"),
        (
            "on the way",
            f"{body['trained_tickets']} not credited yet, {body['untrained_tickets']} not trained yet",
        ),
        ("mean reward", "none yet" if mean is None else f"{mean:.6g} of 1"),
        ("data", f"sha256 {body['data_sha256'][:32]}…" if body["data_sha256"] else "not known"),
    ]
    if body["share"] is not None:
        rows.insert(6, ("share served", f"{body['share']:.2%} of the pulls since the last restart of shares"))
    record = body["record"]
    rows += [(label, how(record[key])) for key, label, how in FIELDS if key in record]
    if body["reward"] is not None:
        told = ", ".join(f"{key} {value:.6g}" for key, value in sorted(body["reward"].items()))
        rows.append(("reward's record", told))
    return _rows(rows)


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(label) for label, _ in rows)
    text = "\n".join(
        f"{label:{width}}  {value}" if label else f"{'':{width}}  {value}" for label, value in rows
    )
    return wrapped(text, indent=" " * (width + 2), width=WIDTH).splitlines()
