"""Whether a state's payload can be what a run left: every value of its kind, every count in step with the others.

A hash tells that a file was changed; these checks tell whether what it says is possible, arm by arm, and so serve a file
edited by hand, a salvaged one, and one written by a program with a defect. A state of a sound run passes them all.
"""

import math
from collections.abc import Mapping
from typing import Any

from bandit.errors import BanditError
from curriculum.config import Config
from curriculum.eligibility import BOUNDS
from curriculum.errors import FirehoseError
from state.findings import Finding, finding

LEARNED = (
    *("weight_sum", "reward_sum", "difference_sum", "difference_weight", "penalty_trace"),
    *("last_reward", "mean", "recent_mean", "score"),
)
COUNTS = ("cursor", "pulls", "served", "offered")
WHOLE = ("id", "windows", *COUNTS)
NUMBERS = (*BOUNDS, "weight", "credit", *LEARNED[:5])
OPTIONAL = ("recent_mean", "score", "share_floor", "share_cap", "owed", "allowed")
NULLABLE = ("last_reward", "mean")
PARTS = ("bandit", "reward", "gate", "pruned", "data", "files", "loop")


def faults(record: Any) -> dict[str, str]:
    """The fields of an arm's record that cannot be read, and why; `""` stands for the whole record."""
    if not isinstance(record, dict):
        return {"": f"expected an object, found {record!r:.40}"}
    found = {}
    for key in (*WHOLE, "eligible", *NUMBERS, *NULLABLE, *OPTIONAL):
        if key not in record:
            if key not in OPTIONAL:
                found[key] = "is missing"
            continue
        value = record[key]
        if key == "eligible":
            sound = type(value) is bool
        elif key in WHOLE:
            sound = type(value) is int and 0 <= value < 1 << 63
        else:
            number = type(value) in (int, float)
            sound = (number and math.isfinite(value)) or (value is None and key in NULLABLE)
        if not sound:
            found[key] = f"is {value!r:.40}"
    return found


def number_fault(record: Any, field: str) -> bool:
    """Whether what is wrong with a field is that it holds no finite number where there should be one."""
    if not isinstance(record, dict) or field not in record or field == "eligible":
        return False
    value = record[field]
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def problems(
    payload: Mapping[str, Any], *, step: int, config: Config | None, descends: bool = False
) -> list[Finding]:
    """Everything that keeps a payload from being one that a run left at `step`, F0008, F0009 and F0010, by arm where it is one's.

    config: of the run; without it, what depends on batch, delay and policy is not looked at. descends: whether the
    state began from another lineage's, which brings counts along.
    """
    checks = _Checks(payload, step, config, descends)
    return checks.run()


class _Checks:
    def __init__(self, payload: Mapping[str, Any], step: int, config: Config | None, descends: bool) -> None:
        self.payload, self.step, self.config, self.descends = payload, step, config, descends
        self.found: list[Finding] = []
        self.names: dict[int, str] = {}

    def wrong(self, message: str, arm: str | None = None, id: str = "F0009") -> None:
        self.found.append(finding(id, message, arm=arm))

    def run(self) -> list[Finding]:
        """Parts that cannot be read at all are named, and what hangs on them is left out."""
        for part in PARTS:
            if not isinstance(self.payload.get(part), dict):
                self.wrong(f"{part}: expected an object, found {self.payload.get(part)!r:.40}")
        if self.found:
            return self.found
        sound = self._arms()
        for check in (self._put_aside, self._traces, *((self._counts, self._tickets) if sound else ())):
            self._guarded(check)
        for check in (self._marks, self._loop):
            self._guarded(check)
        if not self.found and self.config is not None:
            self._restorable(self.config)
        return self.found

    def _guarded(self, check: Any) -> None:
        try:
            check()
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            part = check.__name__.removeprefix("_").replace("_", " ")
            self.wrong(f"the {part} cannot be read: {error!r:.80}")

    def _arms(self) -> bool:
        arms = self.payload["bandit"].get("arms")
        if not isinstance(arms, dict) or not arms:
            self.wrong("bandit.arms: expected the records of the arms")
            return False
        sound = True
        for name, record in arms.items():
            bad = faults(record)
            for field, why in bad.items():
                id = "F0008" if number_fault(record, field) else "F0009"
                self.wrong(f"{name}.{field} {why}" if field else f"{name}: {why}", name, id)
            if not bad:
                if record["id"] in self.names:
                    other = self.names[record["id"]]
                    self.wrong(f"{other!r} and {name!r} share the id {record['id']}", name)
                self.names[record["id"]] = name
                self._bounds(name, record)
            elif isinstance(record, dict) and "id" not in bad:
                self.names.setdefault(record["id"], name)
            sound = sound and not bad
        return sound

    def _wanted(self, name: str) -> bool:
        """Whether the config has an arm. One that it has not is a zombie, a finding of its own, and may be no run's."""
        return self.config is None or name in self.config.sources

    def _bounds(self, name: str, record: Mapping[str, Any]) -> None:
        for low, high in (("floor", "cap"), ("min_share", "max_share")):
            if record[low] > record[high]:
                self.wrong(f"{name}: {low} {record[low]:g} is above {high} {record[high]:g}", name, "F0010")

    def _put_aside(self) -> None:
        for name, top in self.payload["pruned"].items():
            entry = top
            while entry is not None:
                identity = entry["record"]["id"]
                if identity in self.names:
                    self.wrong(
                        f"{name!r} is put aside with the id {identity} of {self.names[identity]!r}", name
                    )
                for field, why in faults(entry["record"]).items():
                    self.wrong(f"pruned {name}.{field} {why}", name)
                lacks = [key for key in ("reward", "data", "reason", "step", "origin") if key not in entry]
                if lacks:
                    self.wrong(f"pruned {name}: {', '.join(lacks)} missing", name)
                entry = entry.get("earlier")

    def _traces(self) -> None:
        """What other parts hold of each arm, and of none else."""
        payload, known = self.payload, {str(identity) for identity in self.names}
        for name in payload["bandit"]["arms"]:
            if self._wanted(name) and not isinstance(payload["data"].get(name), str):
                self.wrong(f"{name}: the SHA-256 of its data is missing", name)
        for name in payload["data"].keys() - payload["bandit"]["arms"].keys():
            self.wrong(f"data of {name!r}, which is no arm")
        for key, record in payload["reward"].items():
            if key == "shared":
                continue
            if key not in known:
                self.wrong(f"a reward record of id {key}, which no arm has")
            elif not isinstance(record, dict):
                self.wrong(
                    f"the reward record of {self.names[int(key)]} cannot be read", self.names[int(key)]
                )
            else:
                for field, value in record.items():
                    if type(value) not in (int, float) or not math.isfinite(value):
                        name = self.names[int(key)]
                        self.wrong(f"{name}: {field} of its reward is {value!r:.40}", name, "F0008")
        for identity, name in self.names.items():
            missing = str(identity) not in payload["reward"]
            if missing and self._wanted(name) and not payload.get("edited"):
                self.wrong(f"{name}: its reward record is missing", name)
        for deal in payload["bandit"]["deals"]:
            for key in deal["shares"].keys() - known:
                self.wrong(f"a deal names the id {key}, which no arm has")

    def _counts(self) -> None:
        bandit, pending = self.payload["bandit"], bool(self.payload.get("edited"))
        records = bandit["arms"]
        served = sum(record["served"] for record in records.values())
        for name, record in records.items():
            limit = None if self.config is None else self.config.train.micro_batch * record["pulls"]
            if limit is not None and record["cursor"] > limit:
                self.wrong(f"{name}: {record['cursor']} windows served by {record['pulls']} pulls", name)
            if pending:  # the next launch counts served and offered anew
                continue
            if record["served"] > record["pulls"]:
                self.wrong(f"{name}: served {record['served']} of its {record['pulls']} pulls", name)
            if not record["served"] <= record["offered"] <= served:
                parts = f"served {record['served']}, offered {record['offered']}, all arms {served}"
                self.wrong(f"{name}: {parts}", name)
        pulls = sum(record["pulls"] for name, record in records.items() if self._wanted(name))
        if not self.descends and not pending and pulls >= bandit["next_ticket"]:
            self.wrong(f"{pulls} pulls, and the next ticket is {bandit['next_ticket']}")
        for name, number in (
            ("settled_step", bandit["settled_step"]),
            ("last_sample_step", bandit["last_sample_step"]),
        ):
            if number > self.step:
                self.wrong(f"bandit.{name} is {number}, beyond step {self.step}")
        ahead = None if self.config is None else self.config.train.feedback_delay
        if bandit["step"] < self.step or (ahead is not None and bandit["step"] > self.step + ahead):
            self.wrong(f"bandit.step is {bandit['step']}, and the state's {self.step}")
        if self.config is not None and bandit["micro"] != self.config.train.grad_accum:
            self.wrong(f"bandit.micro is {bandit['micro']}, in the middle of a step")

    def _tickets(self) -> None:
        """Pulls on their way: in order, of arms that are there, their windows the last that those served."""
        bandit, uncredited = self.payload["bandit"], self.payload["loop"]["uncredited"]
        last, place = bandit["counted_ticket"], (bandit["settled_step"], 1 << 62)
        flying: dict[int, list[int]] = {}
        for ticket in bandit["tickets"]:
            number, at = ticket["id"], (ticket["step"], ticket["micro"])
            if not last < number < bandit["next_ticket"]:
                self.wrong(f"ticket {number} is not between {last} and {bandit['next_ticket']}")
            if at <= place or at[0] > bandit["step"]:
                self.wrong(f"ticket {number} of step {at[0]}, pick {at[1]}, is out of order")
            last, place = max(last, number), max(place, at)
            name = self.names.get(ticket["arm"])
            if name is None:
                self.wrong(f"ticket {number} is of id {ticket['arm']}, which no arm has")
                continue
            waits = str(at[0]) in uncredited
            if at[0] > self.step:
                flying.setdefault(ticket["arm"], []).append(ticket["window"])
                waits = True
            if (ticket["credit"] is None) != waits:
                done = "no reward" if ticket["credit"] is None else "a reward"
                self.wrong(f"ticket {number} of {name}, step {at[0]}, has {done}", name)
        if self.config is None or self.payload.get("edited"):
            return
        size = self.config.train.micro_batch
        for identity, windows in flying.items():
            cursor, name = bandit["arms"][self.names[identity]]["cursor"], self.names[identity]
            if windows != list(range(cursor - size * len(windows), cursor, size)):
                self.wrong(f"{name}: its pulls on the way do not end at window {cursor}", name)
        for key, result in uncredited.items():
            if not int(key) <= self.step or len(result["losses"]) != self.config.train.grad_accum:
                self.wrong(f"loop.uncredited: step {key} does not belong to step {self.step}")

    def _marks(self) -> None:
        for name, mark in self.payload["files"].items():
            shape = (
                [type(mark.get(key)) for key in ("bytes", "rows", "sha256")] if isinstance(mark, dict) else []
            )
            if shape != [int, int, str] or mark["bytes"] < 1 or mark["rows"] < 0:
                self.wrong(f"files.{name}: no mark of a row file")

    def _loop(self) -> None:
        loop, gate = self.payload["loop"], self.payload["gate"]
        if self.step and {key for key in ("skipped_in_a_row", "forgiven", "loss_ema") if key not in loop}:
            self.wrong("loop: fields are missing")
        for part, number in (("gate.streak", gate.get("streak", 0)), ("gate.since", gate.get("since", 0))):
            if type(number) is not int or number < 0:
                self.wrong(f"{part} is {number!r:.40}")
        checkpoint = self.payload.get("checkpoint")
        if checkpoint is not None and not (type(checkpoint) is int and checkpoint <= self.step):
            self.wrong(f"checkpoint is {checkpoint!r:.40}, and the state of step {self.step}")

    def _restorable(self, config: Config) -> None:
        """The bandit's own word: what it cannot restore, no launch can."""
        from bandit.arms import ArmSpec  # here: numpy takes 0.1 s
        from bandit.reward import REWARDS
        from bandit.scheduler import Scheduler
        from curriculum.arms import scheduler_config
        from curriculum.gate.rule import Gate
        from curriculum.gate.watch import Watch

        try:
            specs = [
                ArmSpec(name, record["id"], record["windows"], *(record[key] for key in BOUNDS))
                for name, record in self.payload["bandit"]["arms"].items()
            ]
            Scheduler.restore(scheduler_config(config), specs, self.payload["bandit"])
            REWARDS[config.curriculum.reward].restore(self.names, self.payload["reward"], self.names)
            if self.payload["gate"]:
                Gate().restore(self.payload["gate"])
            Watch().restore(self.payload.get("watch", {}), self.names)
        except BanditError as error:
            self.wrong(str(error), getattr(error, "arm", None))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, FirehoseError) as error:
            self.wrong(f"the bandit cannot be restored from it: {error!r:.120}")
