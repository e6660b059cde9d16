"""Row files held against their marks, and what can be saved of a damaged one: every whole row, and those that others tell."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from state.rows import EMPTY, HEAD, TAIL, Mark, encode_row
from state.run_dir import RunDir

ROW_FILES = ("loss", "pulls", "samples", "heldout")


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong with a row file. harmless: the next launch clears it, and nothing that was committed is touched.

    beyond: of rows after the last committed one that are all there is to it, how many.
    """

    name: str
    message: str
    harmless: bool
    fix: str | None = None
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """A row file made whole: its bytes, its mark, and what was done and lost, a sentence each."""

    name: str
    data: bytes
    mark: Mark
    done: list[str]


def look_at_rows(run: RunDir, marks: Mapping[str, Any], step: int, *, live: bool) -> list[RowFault]:
    """Hold the row files against the marks of the state that a launch would resume from.

    live: the run is at work, so that bytes beyond a mark are its own.
    """
    found = []
    for name in ROW_FILES:
        path = run.root / f"{run.name}.{name}.json"
        mark = _mark(marks.get(name))
        if mark is None:
            continue  # told as a finding about the state
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if mark != EMPTY:
                found.append(RowFault(name, f"{path.name} is missing, and had {mark.rows} rows", False))
            continue
        except OSError as error:
            found.append(RowFault(name, f"{path.name}: the disk cannot read it: {error.strerror}", False))
            continue
        if mark == EMPTY and not data:
            continue
        if len(data) < mark.bytes:
            what = f"{path.name} is {mark.bytes - len(data)} bytes shorter than what was committed"
            found.append(RowFault(name, what, False))
        elif hashlib.sha256(data[: mark.bytes]).hexdigest() != mark.sha256:
            what = f"{path.name} differs from what was committed, in its first {mark.bytes} bytes"
            found.append(RowFault(name, what, False))
        elif (rest := data[mark.bytes :]) != TAIL and not live:
            fix = "nothing to do: the next launch moves them to the archive"
            what = f"{path.name} has {len(rest)} bytes beyond row {mark.rows}, of steps after {step}"
            beyond = max(1, rest.removesuffix(TAIL).count(b"\n"))
            if TAIL.startswith(rest):
                what, fix = f"{path.name} lacks its last bracket", "nothing to do: the next launch closes it"
                beyond = 0
            found.append(RowFault(name, what, True, fix, beyond))
    return found


def _mark(plain: Any) -> Mark | None:
    if plain is None:
        return EMPTY
    try:
        return Mark(**plain)
    except TypeError:
        return None


def save_rows(run: RunDir, name: str, marks: Mapping[str, Any], step: int) -> Saved:
    """The rows of a damaged file up to a step: those that are whole, and those that the other files still tell.

    A loss is the mean of its step's pulls, so the loss file can be made again from that of the pulls; rows that a crash
    once sent to the archive are the same rows, bit for bit.
    """
    mark = _mark(marks.get(name)) or EMPTY
    own = rows_of(run.root / f"{run.name}.{name}.json", name)
    found = {at: row for at, row in own.items() if at <= step}
    kept, done = len(found), []
    told = _losses(run, step) if name == "loss" else {}
    sound = name == "loss" and not any(
        fault.name == "pulls" for fault in look_at_rows(run, marks, step, live=True)
    )
    wrong = [at for at, row in told.items() if sound and found.get(at) not in (None, row)]
    if wrong:
        found |= {at: told[at] for at in wrong}
        done.append(f"not what the pulls say and made again from them, loss of steps {_spans(wrong)}")
    added = [at for at in told if at not in found]
    found |= {at: told[at] for at in added}
    if added:
        done.append(f"made again from the pulls, loss of steps {_spans(added)}")
    archived: dict[int, bytes] = {}
    for path in sorted(run.archive.glob(f"{run.name}.{name}.after-*.json")):
        archived |= {at: row for at, row in rows_of(path, name).items() if at <= step and at not in found}
    if archived and len(found) < mark.rows:
        found |= archived
        done.append(f"taken from the archive, {name} of steps {_spans(list(archived))}")
    text = [found[at] for at in sorted(found)]
    body = HEAD + b"".join((b",\n" if number else b"\n") + row for number, row in enumerate(text))
    new = Mark(len(body), len(text), hashlib.sha256(body).hexdigest())
    if new == mark:
        done.insert(0, f"{name}: whole again, byte for byte as committed")
    else:
        done.insert(0, f"{name}: {kept} rows kept of {mark.rows}")
        every = set(range(1, step + 1)) if name in ("loss", "pulls") else set()
        if lost := sorted(every - found.keys()):
            done.append(f"lost for good, {name} of steps {_spans(lost)}")
        elif not every and new.rows < mark.rows:
            done.append(f"lost for good, {mark.rows - new.rows} rows of {name}")
        elif new.rows >= mark.rows:
            done.append("its bytes are not those that were committed; which row differs cannot be told")
    return Saved(name, body + TAIL, new, done)


def rows_of(path: Any, name: str) -> dict[int, bytes]:
    """Step to row, as bytes, of every line of a row file that is a whole row of its kind; the first of a step counts."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    found: dict[int, bytes] = {}
    for line in data.removeprefix(HEAD).split(b"\n"):
        text = line.removesuffix(b",")
        try:
            row = json.loads(text)
            at = row[0] if name == "loss" else row["step"]
            whole = encode_row(row) == text and type(at) is int and at > 0
        except (ValueError, KeyError, TypeError, IndexError):
            continue
        if whole and (name != "loss" or len(row) == 2):
            found.setdefault(at, text)
    return found


def _losses(run: RunDir, step: int) -> dict[int, bytes]:
    """The rows of the loss file that the pulls tell, by step; a step that lost pulls with an arm tells nothing."""
    told = {}
    rows = {
        at: [pull[1] for pull in json.loads(text)["pulls"]]
        for at, text in rows_of(run.pulls, "pulls").items()
    }
    most = max(map(len, rows.values()), default=0)
    for at, pulls in rows.items():
        if at <= step and len(pulls) == most > 0:
            loss = None if None in pulls else sum(pulls) / len(pulls)
            told[at] = encode_row([at, loss])
    return told


def _spans(steps: list[int]) -> str:
    """Steps as spans.

    >>> _spans([1, 2, 3, 7])
    '1-3, 7'
    """
    spans: list[list[int]] = []
    for step in sorted(steps):
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
