"""A run's picks made again from its files: the loop's order of things without model, device or token files.

At the head of step s the losses of step s - D are credited and the tickets of step s + D issued; a sample after step
s charges recent pulls; a launch that changed arms or bounds takes back what was not trained (`trainer.loop`,
`trainer.launch`). Picks are a pure function of these, so each must be the one in the files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bandit.arms import ArmSpec
from bandit.errors import BanditError
from bandit.explain import PickReason, explain
from bandit.ledger import Ticket
from bandit.reward import REWARDS
from bandit.scheduler import Scheduler
from curriculum.arms import arm_spec, scheduler_config
from curriculum.eligibility import Phase, phases
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import shortfall
from state import edits
from state.envelope import Envelope
from state.polish import live
from state.reconcile import put_aside, reconcile
from state.story import Launch, Story
from state.survey import configured


class NotFound(Exception):
    """A pick, a charge or a state of the files that the replay does not make. what: a sentence. pull: from 1."""

    def __init__(self, step: int, what: str, *, pull: int | None = None) -> None:
        super().__init__(what)
        self.step, self.what, self.pull = step, what, pull


@dataclass(slots=True)
class Explained:
    """One pick with what it rested on, and the loss it brought (nats a token; None for a skipped step)."""

    reason: PickReason
    ticket: Ticket
    loss: float | None = None


class Replay:
    """The bandit of a run at a step, brought forward by `run`.

    start: the state to begin from, of a checkpoint or of a pivot; None begins at the first launch. wanted: the step whose picks are
    kept, with their reasons, in `explained`. began: the step it begins after. found: picks that were the files'.
    """

    def __init__(self, story: Story, start: Envelope | None = None, *, wanted: int | None = None) -> None:
        self.story, self.wanted = story, wanted
        self.config = story.config_after(start.step if start else story.began)
        self.delay = self.config.train.feedback_delay
        self.phases: list[Phase] = phases(self.config)
        self.explained: list[Explained] = []
        self.aside: dict[str, str] = {}  # what was put aside by then, and why
        self.rows: dict[int, dict[str, Any]] = {}
        self.found = 0
        self.step = self.began = start.step if start else story.began
        self.pruned: dict[str, Any] = {}
        self.forgotten: set[int] = set()
        arms = story.first_arms()
        if start is None:
            self.ids = {name: arm["id"] for name, arm in arms.items()}
            self.data = {name: {"sha256": a["sha256"], "windows": a["windows"]} for name, a in arms.items()}
            names = {arm_id: name for name, arm_id in self.ids.items()}
            self.scheduler = Scheduler(scheduler_config(self.config), self._specs())
            self.scheduler.keeps_working = True
            self.reward = REWARDS[self.config.curriculum.reward](list(names), names)
        else:
            self._go_on_from(start.payload)
            for step, result in start.payload["loop"]["uncredited"].items():
                if result["goal"] is None:  # a pivot forgets what was measured of another bandit's goal
                    self.forgotten.add(int(step))
        self.tickets = self._open_tickets()

    def _go_on_from(self, payload: dict[str, Any]) -> None:
        records = payload["bandit"]["arms"]
        self.ids = {name: record["id"] for name, record in records.items()}
        self.pruned = payload["pruned"]
        self.data = {
            name: {"sha256": payload["data"][name], "windows": record["windows"]}
            for name, record in records.items()
        } | {
            name: {"sha256": entry["data"], "windows": entry["record"]["windows"]}
            for name, entry in self.pruned.items()
            if name not in records
        }
        self._restore(payload["bandit"], payload["reward"])

    def _restore(self, bandit: dict[str, Any], reward: dict[str, Any]) -> None:
        names = {arm_id: name for name, arm_id in self.ids.items()}
        self.scheduler = Scheduler.restore(scheduler_config(self.config), self._specs(), bandit)
        self.scheduler.keeps_working = True
        self.reward = REWARDS[self.config.curriculum.reward].restore(list(names), reward, names)

    def _specs(self) -> list[ArmSpec]:
        return [
            arm_spec(self.config, name, arm_id, self.data[name]["windows"])
            for name, arm_id in self.ids.items()
        ]

    def _open_tickets(self) -> dict[int, list[Ticket]]:
        tickets: dict[int, list[Ticket]] = {}
        for ticket in self.scheduler.open_tickets():
            tickets.setdefault(ticket.step, []).append(ticket)
        return tickets

    # The loop.

    def run(self, until: int) -> None:
        """Go on to step `until`, comparing every pick with the files. Raises NotFound, and FirehoseError(DAMAGED)."""
        for _ in self.steps(until):
            pass

    def steps(self, until: int) -> Iterator[int]:
        """As `run`, giving control after every step, its sample included, and before a launch that follows it."""
        rows = self.story.rows(max(1, self.step - self.delay + 1))
        for step in range(max(1, self.step - self.delay + 1), self.step + 1):
            self._read(step, rows)
        filled = False
        while True:
            try:
                changed = self._launched()
                if self.step >= until:
                    return
                if changed or not filled:
                    self._fill()
                    filled = True
                step = self.step + 1
                self._read(step, rows)
                self._credit(step - self.delay)
                self._issue(step + self.delay)
                self._compare(step)
                self._sampled(step)
                self.step = step
            except (BanditError, LookupError, TypeError, ValueError) as error:
                raise NotFound(self.step + 1, f"the files cannot be replayed here: {error}") from error
            yield step

    def _read(self, step: int, rows: Iterator[dict[str, Any]]) -> None:
        row = next(rows, None)
        if row is None:
            raise NotFound(step, "the pulls file has no row of this step")
        self.rows[step] = row

    def _fill(self) -> None:
        for step in range(self.step + 1, self.step + 1 + self.delay):
            if step not in self.tickets:
                self._issue(step)

    def _issue(self, step: int) -> None:
        if step > self.config.train.steps:
            return
        for phase in self.phases:
            if phase.first_step == step:
                self._open_phase(phase)
        picks = range(self.config.train.grad_accum)
        if step != self.wanted:
            self.tickets[step] = [self.scheduler.pick(step) for _ in picks]
            return
        self.aside = {
            name: f"put aside at step {e['step']}: {e['reason']}"
            for name, e in self.pruned.items()
            if name not in self.ids
        }
        self.explained = [Explained(explain(self.scheduler, step), self.scheduler.pick(step)) for _ in picks]
        self.tickets[step] = [pick.ticket for pick in self.explained]

    def _open_phase(self, phase: Phase) -> None:
        live = [self.ids[name] for name in phase.sources if name in self.ids]
        self.scheduler.set_eligible(live, restart=True)

    def _credit(self, step: int) -> None:
        if step < 1:
            return
        row = self.rows.pop(step)
        if row.get("goal") is not None and step not in self.forgotten:
            self.reward.probe(row["goal"])
        for ticket in self.tickets.pop(step, ()):
            signals = row["pulls"][ticket.micro][1:]  # the loss, and for some rewards a signal
            reward = None if row["skipped"] else self.reward.update(ticket.arm, *signals)
            self.scheduler.credit(ticket.id, reward)

    def _compare(self, step: int) -> None:
        pulls, tickets = self.rows[step]["pulls"], self.tickets[step]
        for ticket, (arm, *_) in zip(tickets, pulls, strict=False):
            if ticket.arm != arm:
                names = self._names()
                said, made = names.get(arm, f"arm {arm}"), names[ticket.arm]
                pull = ticket.micro + 1
                raise NotFound(step, f"the files say {said}, the replay picks {made}", pull=pull)
            self.found += 1
        if len(pulls) != len(tickets):
            raise NotFound(step, f"the files have {len(pulls)} pulls, the replay makes {len(tickets)}")
        if step == self.wanted:
            for pick, (_, loss, *_) in zip(self.explained, pulls, strict=True):
                pick.loss = loss

    def _names(self) -> dict[int, str]:
        """Id to name of every arm that the files know, those that were put aside by then or since included."""
        payload = self.story.payload
        records = [*payload["bandit"]["arms"].items()]
        for pruned in (payload["pruned"], self.pruned):
            records += [(name, one["record"]) for name, top in pruned.items() for one in put_aside(top)]
        return {record["id"]: name for name, record in records} | {i: name for name, i in self.ids.items()}

    def _sampled(self, step: int) -> None:
        sample = self.story.samples.get(step)
        if sample is None:
            return
        charged = self.scheduler.penalize(step, shortfall(sample["score"], self.config.gate.target))
        if dict(sorted(charged.items())) != sample["penalties"]:
            raise NotFound(step, "the sample's charges in the files are not those that the replay makes")

    # A launch that changed something.

    def _launched(self) -> bool:
        """Do what the launches after this step did, if any."""
        found = [launch for launch in self.story.launches if launch.step == self.step]
        for launch in found:
            self.config = live.with_bounds(self.config, launch.bounds, "new")
            self._reconcile(launch)
        return bool(found)

    def _edit(self, payload: dict[str, Any], made: dict[str, Any]) -> None:
        """Make an operator's edit, as far as it is of what the replay has."""
        if made["op"] == "set":
            changes = [change for change in made["args"]["changes"] if change["path"][0] in payload]
            made = {**made, "args": {**made["args"], "changes": changes}}
        try:
            edits.apply(payload, made, self.step)
        except FirehoseError as error:
            raise NotFound(
                self.step + 1, f"the edit {made['what']!r} cannot be made: {error.message}"
            ) from error

    def _reconcile(self, launch: Launch) -> None:
        made = [event["edit"] for event in launch.events if event["event"] == "edit"]
        for event in launch.events:
            name, kind = event.get("arm", ""), event["event"]
            if kind == "data":
                self.data[name] |= {"sha256": event["new"], "windows": event["windows"][1]}
            elif kind == "new":
                if name in self.pruned:  # an edit that changed no arm is in no history: it was removed since
                    self.pruned[name]["removed"] = True
                self.data[name] = self._joined(event)
        known = {name: entry["sha256"] for name, entry in self.data.items() if name in self.ids}
        for event in launch.events:
            if event["event"] == "data":
                known[event["arm"]] = event["old"]
        payload = {
            "bandit": self.scheduler.snapshot(),
            "reward": self.reward.snapshot(),
            "pruned": self.pruned,
            "data": known,
        }
        for edit in made:
            self._edit(payload, edit)
        result = reconcile(configured(self.config), self._data_then(launch, payload), payload, step=self.step)
        self.ids, self.pruned = result.ids, result.payload["pruned"]
        for event in launch.events:
            if event["event"] == "prune" and event["arm"] in self.pruned:
                self.pruned[event["arm"]]["reason"] = event["reason"]  # in the words of the launch
        self._restore(result.payload["bandit"], result.payload["reward"])
        self.scheduler.cancel_from(self.step + 1)
        self._open_phase([phase for phase in self.phases if phase.first_step <= self.step + 1][-1])
        self.tickets = self._open_tickets()

    def _joined(self, event: dict[str, Any]) -> dict[str, Any]:
        """Hash and windows of the data that a source joined with; a history from before they were told has the last ones."""
        if "sha256" in event:
            return {"sha256": event["sha256"], "windows": event["windows"]}
        name, payload = event["arm"], self.story.payload
        record = payload["bandit"]["arms"].get(name) or payload["pruned"][name]["record"]
        return {"sha256": payload["data"].get(name), "windows": record["windows"]}

    def _data_then(self, launch: Launch, payload: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The data that a launch found. Every source that can be pulled is in the bandit after it, and its events tell all
        that joined or left: so what is not in it had no data.

        payload: with the edits made that the launch took up.
        """
        told = {(event["event"], event.get("arm")) for event in launch.events}
        reasons = {event["arm"]: event["reason"] for event in launch.events if event["event"] == "prune"}
        found = {}
        for name, entry in self.data.items():
            joined = name in payload["bandit"]["arms"] or told & {("restore", name), ("new", name)}
            why = reasons.get(name) if joined else "no data then"
            found[name] = entry if why is None else {**entry, "missing": why}
        return found


def explain_step(story: Story, step: int) -> Replay:
    """A replay up to a step, with the step's picks explained.

    It begins at the newest checkpoint from before the weights in force at the step were drawn, or at the beginning.
    Where the files cannot be replayed from there, at a nearer checkpoint, which a note says: how the weights came
    about may then not be known. Raises NotFound; FirehoseError(USAGE) for a step that is not in the files.
    """
    if not story.began < step <= story.last:
        raise FirehoseError(
            Exit.USAGE,
            f"step {step} is not among the steps of this run's files, {story.began + 1} to {story.last}",
            path=story.run.pulls,
            next=f"firehose explain {story.run.name} --step {story.last}",
        )
    config = story.config
    issued = (
        step - config.train.feedback_delay
    )  # a checkpoint of this step or later holds the tickets already
    drawn = issued - config.curriculum.dwell[1] - 1  # weights in force were drawn after this step
    before = [at for at in sorted(story.checkpoints) if story.began <= at < issued]
    early, near = [at for at in before if at <= drawn], [at for at in before if at > drawn]
    problem: NotFound | None = None
    for at in [early[-1] if early else None, *near]:
        try:
            found = first(story, wanted=step) if at is None else begin(story, at, wanted=step)
            if found is not None:
                found.run(step)
                if problem is not None:
                    story.notes.append(
                        f"replayed from the checkpoint of step {found.began}: before it, step {problem.step} is not "
                        f"found ({problem.what})"
                    )
                return found
        except NotFound as error:
            problem = problem or error
    raise problem or NotFound(step, "no checkpoint before it can be replayed from")


def begin(story: Story, at: int, *, wanted: int | None = None) -> Replay | None:
    """A replay from the checkpoint of a step; None, with a note, where its state cannot be taken up."""
    start = story.checkpoint(at)
    try:
        return None if start is None else Replay(story, start, wanted=wanted)
    except (BanditError, LookupError, TypeError) as error:
        story.notes.append(f"the checkpoint of step {at} cannot be replayed from: {error}")
        return None


def first(story: Story, *, wanted: int | None = None) -> Replay:
    """A replay from the beginning: the first launch, or a pivot; where its state is not kept, the oldest checkpoint since.

    Raises NotFound where none is there, or the picks of step `wanted` were made before it.
    """
    if story.began == 0 or story.origin is not None:
        return Replay(story, story.origin, wanted=wanted)
    for at in sorted(at for at in story.checkpoints if at >= story.began):
        if wanted is not None and at + story.config.train.feedback_delay >= wanted:
            break
        if (found := begin(story, at, wanted=wanted)) is not None:
            return found
    raise NotFound(
        wanted or story.began + 1,
        f"the run began anew after step {story.began}, and no checkpoint since, from before this step, is kept",
    )
