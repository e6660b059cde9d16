"""What is left of a damaged state file: read as far as it goes, and made whole, arm by arm, from a sound copy.

A state file is written with a line for every value, so that damage to some lines leaves the others to be read. One bad
field costs its arm no more than what hangs on it: counts and learning are two groups, and each is kept or replaced whole.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curriculum.eligibility import BOUNDS
from state.repair.validate import COUNTS, LEARNED, NULLABLE, PARTS, faults

ITEM = re.compile(r'"((?:[^"\\]|\\.)*)": (.*)')
INDENT = 2
OPENERS: dict[str, type] = {"{": dict, "[": list}


@dataclass(slots=True)
class Loose:
    """A state file's body as far as it could be read. lost: lines that say nothing; doubled: keys that stand twice."""

    body: dict[str, Any]
    lost: list[int] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    @property
    def payload(self) -> dict[str, Any] | None:
        """The payload, where there is one with an object for each of its parts."""
        payload = self.body.get("payload")
        if not isinstance(payload, dict) or not all(isinstance(payload.get(part), dict) for part in PARTS):
            return None
        return payload

    def header(self, key: str, kind: type) -> Any:
        """A field beside the payload, or None where it is not of its kind."""
        value = self.body.get(key)
        return value if type(value) is kind else None


def read(data: bytes) -> Loose | None:
    """Whatever can be read of a state file; None where nothing can. Of keys that stand twice the last counts, as ever."""
    doubled: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        doubled.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return dict(items)

    try:
        body = json.loads(data.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        body, lost = _from_lines(data.decode(errors="replace"))
        return Loose(body, lost) if body else None
    return Loose(body, doubled=doubled) if isinstance(body, dict) else None


def _from_lines(text: str) -> tuple[dict[str, Any], list[int]]:
    """The values of every sound line, each in the object or list that its indentation says."""
    root: dict[str, Any] = {}
    stack: list[Any] = [root]
    lost = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.lstrip(" ")
        depth, odd = divmod(len(line) - len(stripped), INDENT)
        if depth == 0:
            if stripped not in ("{", "}", ""):
                lost.append(number)
            continue
        if odd or depth > len(stack):
            lost.append(number)
            continue
        if stripped.rstrip(",") in ("}", "]"):
            del stack[depth:]
            continue
        del stack[depth:]
        if not _add(stack, stripped.removesuffix(",")):
            lost.append(number)
    return root, lost


def _add(stack: list[Any], text: str) -> bool:
    """Put what a line says into the innermost container; a line that opens one makes that the innermost."""
    parent, key = stack[-1], None
    try:
        if isinstance(parent, dict):
            match = ITEM.fullmatch(text)
            if match is None:
                return False
            key, text = json.loads(f'"{match[1]}"', strict=False), match[2]
        value = OPENERS[text]() if text in OPENERS else json.loads(text)
    except (ValueError, RecursionError):
        return False
    if text in OPENERS:
        stack.append(value)
    if key is None:
        parent.append(value)
    else:
        parent[key] = value
    return True


def bad_arms(payload: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Arm to its fields that cannot be read, of the arms that have any."""
    arms = payload["bandit"].get("arms")
    if not isinstance(arms, dict):
        return {}
    return {name: bad for name, record in arms.items() if (bad := faults(record))}


def mend(payload: dict[str, Any], donors: Sequence[Mapping[str, Any]], window: int) -> list[str]:
    """Make bad arms whole, in place; what was done, a sentence an arm.

    donors: payloads of sound states of the same lineage, the best first. window: windows a pull serves. An arm that no
    donor has goes on with what is sound of its counts, and learns anew.
    """
    done = []
    arms, rewards = payload["bandit"]["arms"], payload["reward"]
    for name, bad in bad_arms(payload).items():
        record = arms[name] if isinstance(arms[name], dict) else {}
        donor = next((one for one in donors if name in one["bandit"]["arms"]), None)
        from_donor = copy.deepcopy(donor["bandit"]["arms"][name]) if donor else None
        new = _made(record, bad, from_donor, next(iter(arms.values())) if len(arms) > 1 else None)
        if new is None:
            del arms[name]
            payload["data"].pop(name, None)
            done.append(f"{name}: nothing of its record is left; it joins anew")
            continue
        same = donor is not None and donor["bandit"].get("origin") == payload["bandit"].get("origin")
        learned = "" in bad or any(key in bad for key in LEARNED)
        if learned and not same:
            new |= {key: None if key in ("last_reward", "mean") else 0.0 for key in LEARNED if key in new}
        own = [ticket["window"] for ticket in payload["bandit"]["tickets"] if ticket.get("arm") == new["id"]]
        if own and ("" in bad or "cursor" in bad):
            new["cursor"] = max(own) + window
        if "" in bad or "pulls" in bad:
            new["pulls"] = max(new["pulls"], -(-new["cursor"] // window), len(own))
        arms[name] = new
        if donor and str(new["id"]) not in rewards and str(new["id"]) in donor["reward"]:
            rewards[str(new["id"])] = copy.deepcopy(donor["reward"][str(new["id"])])
        if donor and name not in payload["data"]:
            payload["data"][name] = donor["data"].get(name)
        fields = "its record" if "" in bad else ", ".join(bad)
        where = (
            "a sound copy"
            if donor and (same or not learned)
            else "what is sound of its record; it learns anew"
        )
        done.append(f"{name}: {fields} from {where}")
    known = {str(record["id"]) for record in arms.values()}
    for identity in [key for key, value in rewards.items() if key != "shared" and not _sound_reward(value)]:
        source = next((one["reward"][identity] for one in donors if identity in one["reward"]), None)
        del rewards[identity]
        if source is not None and identity in known:
            rewards[identity] = copy.deepcopy(source)
        done.append(f"reward of id {identity}: {'from a sound copy' if source else 'begins anew'}")
    return done


def _sound_reward(value: Any) -> bool:
    return isinstance(value, dict) and not any(
        item != item or type(item) not in (int, float) or abs(item) == float("inf") for item in value.values()
    )


def _made(
    record: dict[str, Any], bad: Mapping[str, str], donor: dict[str, Any] | None, other: dict[str, Any] | None
) -> dict[str, Any] | None:
    """A whole record: the donor's where a group has a bad field, else the record's own; None where there is no id."""
    if donor is None:
        if "" in bad or "id" in bad or "windows" in bad:
            return None
        donor = dict.fromkeys(other or {}, 0.0)
        donor |= {**dict.fromkeys(LEARNED[:5], 0.0), **dict.fromkeys(NULLABLE), **dict.fromkeys(COUNTS, 0)}
        donor |= {"weight": 0.0, "credit": 0.0, "eligible": True}
        donor |= {"cap": 1.3, "floor": 0.0, "min_share": 0.0, "max_share": 1.0}
        donor |= {key: record[key] for key in ("id", "windows")}
    if "" in bad:
        return donor
    new = {**donor, **{key: value for key, value in record.items() if key in donor and key not in bad}}
    if any(key in bad for key in LEARNED):
        new |= {key: donor[key] for key in LEARNED if key in donor}
    if any(key in bad for key in BOUNDS):
        new |= {key: donor[key] for key in BOUNDS}
    if "id" in bad:
        new["id"] = donor["id"]
    return new
