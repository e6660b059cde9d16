"""What a run writes down: rows held until a commit, then rows, checkpoint and state, in that order, each durable.

A crash between any two leaves a run that resumes: rows beyond the checkpoint's marks are moved to the archive at the
next launch, and a state newer than the checkpoint gives way to the checkpoint's copy.

The files are written by a thread while the loop goes on (`trainer.committer`). From `Record.commit` to the next
`Record.join` the row files, the state store, the folder of checkpoints and the history are the thread's; the loop only
holds rows for the commit after it, asks what is asked of the run, and tells the monitors.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import msgspec
import torch

from bandit.ledger import Ticket
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.coherence import Score
from curriculum.gate.rule import Verdict
from state import checkpoints
from state.checkpoints import Keep
from state.envelope import Envelope
from state.rows import RowFile, encode_row
from state.run_dir import RunDir
from state.store import StateStore, utc_now
from trainer import checkpoint
from trainer.committer import Committer
from trainer.desk import Desk
from trainer.forensics import Evidence, Examiner
from trainer.ring import StepResult
from trainer.sampling import Drawn
from trainer.snapshot import Snapshot, Tensors

ROW_FILES = ("loss", "pulls", "samples", "heldout")
ENDINGS = {Exit.OK: "finished", Exit.ALARMS: "finished", Exit.STOPPED: "stopped", Exit.HALTED: "halted"}


def finite(value: float) -> float | None:
    """A number as JSON can hold it: null where it is not finite."""
    return value if math.isfinite(value) else None


@dataclass(slots=True)
class Position:
    """Where a run is: everything a resume needs that is neither tensor, scheduler, reward nor gate.

    uncredited: steps trained whose losses the bandit has not been credited with. forgiven:
    the last step whose skip counts no more, since the run ended for it. passing_checkpoint: the last
    checkpoint whose newest sample passed the gate; clean_checkpoint: the last one whose gate had no low sample left to
    be paid off. halt: why the gate stopped the run, until an operator clears it.
    """

    step: int = 0
    uncredited: dict[int, StepResult] = field(default_factory=dict)
    skipped_in_a_row: int = 0
    forgiven: int = 0
    loss_ema: float | None = None
    passing_checkpoint: int | None = None
    clean_checkpoint: int | None = None
    last_sample: dict[str, Any] | None = None
    halt: dict[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        """The position as the state's payload keeps it."""
        losses = {
            str(step): {
                "losses": [finite(loss) for loss in result.losses],
                "norm": finite(result.norm),
                "skipped": result.skipped,
                "signals": result.signals,
                "goal": result.goal,
            }
            for step, result in self.uncredited.items()
        }
        return {
            "halt": self.halt,
            "loop": {
                "uncredited": losses,
                "skipped_in_a_row": self.skipped_in_a_row,
                "forgiven": self.forgiven,
                "loss_ema": self.loss_ema,
                "passing_checkpoint": self.passing_checkpoint,
                "clean_checkpoint": self.clean_checkpoint,
                "last_sample": self.last_sample,
            },
        }

    @classmethod
    def from_payload(cls, step: int, payload: dict[str, Any]) -> "Position":
        """The inverse of `payload`."""
        loop = payload["loop"]
        uncredited = {
            int(number): StepResult(
                losses=[math.nan if loss is None else loss for loss in result["losses"]],
                norm=math.nan if result["norm"] is None else result["norm"],
                skipped=result["skipped"],
                signals=result["signals"],
                goal=result["goal"],
            )
            for number, result in loop["uncredited"].items()
        }
        return cls(
            step=step,
            uncredited=uncredited,
            skipped_in_a_row=loop["skipped_in_a_row"],
            forgiven=loop["forgiven"],
            loss_ema=loop["loss_ema"],
            passing_checkpoint=loop["passing_checkpoint"],
            clean_checkpoint=loop.get("clean_checkpoint"),  # a state from before there was one
            last_sample=loop["last_sample"],
            halt=payload["halt"],
        )


def alarm_of(step: int, found: dict[str, Any] | None) -> str | None:
    """What a checkpoint's forensics say where they fail, in a line; None where they hold or there are none.

    >>> alarm_of(20, {"verdict": "failing", "checks": [{"name": "scale", "ok": False}, {"name": "prefix", "ok": True}]})
    'forensics of the checkpoint of step 20: scale'
    """
    if found is None or found["verdict"] == "healthy":
        return None
    names = ", ".join(check["name"] for check in found["checks"] if not check["ok"])
    return f"forensics of the checkpoint of step {step}: {names}"


@dataclass(frozen=True, slots=True)
class Job:
    """One commit as the writing thread gets it: nothing in it changes any more.

    meta: of the checkpoint that is part of it, None where there is none. protect: the steps of checkpoints to keep.
    """

    rows: dict[str, list[bytes]]
    envelope: Envelope
    meta: dict[str, Any] | None
    protect: set[int]


class Record:
    """The writer of one run's folder, under its lock.

    standing: the parts of the payload that do not change while the run trains (pruned arms, data, platform, edits).
    meta: what every checkpoint says beside tensors and state (model shape, tokenizer hash, parameter count).
    goal: the sources whose held-out loss ranks checkpoints; none named: all. checkpoint_step: of the newest one that
    is durable. examiner: looks at every checkpoint; alarm: what it found in the newest one, None where that is healthy.
    """

    def __init__(
        self,
        run: RunDir,
        store: StateStore,
        rows: dict[str, RowFile],
        *,
        config_sha256: str,
        standing: dict[str, Any],
        meta: dict[str, Any],
        keep: Keep,
        goal: Sequence[str],
        checkpoint_step: int | None,
        device: torch.device,
        examiner: Examiner | None = None,
        alarm: str | None = None,
    ) -> None:
        self.run, self.store, self.rows = run, store, rows
        self.name = run.name
        self.config_sha256, self.standing, self.meta = config_sha256, standing, meta
        self.keep, self.goal = keep, frozenset(goal)
        self.checkpoint_step = checkpoint_step
        self.held: dict[str, list[bytes]] = {name: [] for name in ROW_FILES}
        self.heldout_loss: tuple[int, float] | None = None  # step, mean
        self.lr: float | None = None  # of the newest step
        self.desk = Desk(run)
        self.decisions: list[dict[str, Any]] = []
        self.committer, self.snapshot = Committer(), Snapshot(device)
        self.examiner, self.alarm = examiner, alarm
        self.notes: SimpleQueue[str] = SimpleQueue()

    # Rows, held until the next commit.

    def step(self, step: int, result: StepResult, tickets: Sequence[Ticket], lr: float) -> None:
        """Write down a step's loss and its pulls; a skipped step has null for a loss that is no number.

        What the reward used beside the losses is there too, so that rewards can be computed again from the rows.
        """
        self.lr = lr
        self.held["loss"].append(encode_row([step, finite(result.loss)]))
        pulls: list[list[float | None]] = []
        for ticket in tickets:
            signal = result.signals[ticket.micro]
            more = [] if signal is None else [signal]
            pulls.append([ticket.arm, finite(result.losses[ticket.micro]), *more])
        goal = {} if result.goal is None else {"goal": result.goal}
        row = {
            "step": step,
            "lr": lr,
            "norm": finite(result.norm),
            "skipped": result.skipped,
            **goal,
            "pulls": pulls,
        }
        self.held["pulls"].append(encode_row(row))

    def sample(
        self,
        step: int,
        prompt: str,
        drawn: Drawn,
        scored: Score,
        verdict: Verdict,
        audits: dict[str, Any],
        penalties: dict[str, float],
    ) -> None:
        """Write down a sample with its score, the verdict on it, its audits and what it cost each arm."""
        row = {
            "step": step,
            "prompt": prompt,
            "text": drawn.text,
            "loss": finite(drawn.loss),
            "score": scored.total,
            "axes": scored.axes,
            "audits": audits,
            "short": scored.short,
            "verdict": {"kind": verdict.kind, "streak": verdict.streak, "reason": verdict.reason},
            "penalties": dict(sorted(penalties.items())),
        }
        self.held["samples"].append(encode_row(row))

    def heldout(self, step: int, losses: dict[str, float]) -> None:
        """Write down the held-out loss of every source; their mean ranks the checkpoint of this step."""
        ranking = [loss for name, loss in losses.items() if name in self.goal or not self.goal]
        mean = sum(ranking) / len(ranking) if ranking else math.nan
        self.heldout_loss = (step, mean) if math.isfinite(mean) else None
        row = {"step": step, "loss": {name: finite(loss) for name, loss in sorted(losses.items())}}
        self.held["heldout"].append(encode_row(row))

    def event(self, event: str, step: int, **details: Any) -> None:
        """Append to the run's history, with the step it takes effect at."""
        self.run.record({"event": event, "step": step, "time": utc_now(), **details})

    def decided(self, event: str, step: int, **details: Any) -> None:
        """An event that the next commit makes true; it is in the history once that commit is durable, and only then."""
        self.decisions.append({"event": event, "step": step, **details})

    def marked(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Events as the next commit's payload holds them: with a time, and an id that keeps each from being told twice."""
        serial, now = self.store.next_serial(), utc_now()
        return [{**event, "time": now, "id": f"{serial}-{at}-{now}"} for at, event in enumerate(events)]

    # A commit.

    def marks(self) -> dict[str, Any]:
        """What of the row files is committed."""
        return {name: file.mark.as_dict() for name, file in self.rows.items()}

    def commit(self, at: Position, payload: dict[str, Any], tensors: Tensors | None) -> None:
        """Take what is to be written as it is now, and have it written; `join` first.

        tensors: of the checkpoint that is due, None where there is none. It carries the very state that is made current
        after it.
        """
        rows, self.held = self.held, {name: [] for name in ROW_FILES}
        marks = {name: file.after(rows[name]).as_dict() for name, file in self.rows.items()}
        kept = self.checkpoint_step if tensors is None else at.step
        whole = {**self.standing, **payload, "files": marks, "checkpoint": kept}
        if self.decisions:
            whole["events"], self.decisions = self.marked(self.decisions), []
        envelope = self.store.prepare(whole, step=at.step, config_sha256=self.config_sha256)
        meta = None
        if tensors is not None:
            self.snapshot.take(tensors)
            loss = self.heldout_loss[1] if self.heldout_loss and self.heldout_loss[0] == at.step else None
            meta = {**self.meta, "heldout_loss": loss, "lr": self.lr}
        protect = set(self.standing.get("protected", []))  # what pivots began from
        protect |= {at.passing_checkpoint, at.clean_checkpoint} - {None}
        job = Job(rows, envelope, meta, protect)
        self.committer.hand(lambda: self._write(job))

    def join(self) -> None:
        """Wait until the commit in flight is durable, if there is one. Raises FirehoseError: what its writing came to."""
        self.committer.join()

    def look(self) -> None:
        """`join` where that does not have to wait."""
        self.committer.look()

    def close(self) -> str | None:
        """`join`, and end the thread, where something ended the run already: what the writing came to is given back."""
        error = self.committer.close()
        return None if error is None else f"the last commit was not written: {error}"

    def _write(self, job: Job) -> None:
        """Rows, then checkpoint, then state, then history: each durable before the next says that it is there."""
        for name, file in self.rows.items():
            file.append(job.rows[name])
        events = job.envelope.payload.get("events", [])
        if job.meta is not None:
            events = events + self._write_checkpoint(job.envelope, job.meta, job.protect)
        self.store.write(job.envelope)
        self.run.record_once(events)

    def _write_checkpoint(
        self, envelope: Envelope, meta: dict[str, Any], protect: set[int]
    ) -> list[dict[str, Any]]:
        """Look at the copies, write them with what was found, and retain; what of it is to be told, as events."""
        copies, step = self.snapshot.wait(), envelope.step
        found = self._examine(copies, step, meta)
        state = msgspec.to_builtins(envelope)
        checkpoint.save(
            self.run.checkpoints,
            step,
            model=copies.model,
            optimizer=copies.optimizer,
            meta={**meta, "forensics": found, "state": state},
        )
        self.checkpoint_step, self.alarm = step, alarm_of(step, found)
        checkpoints.retain(self.run.checkpoints, self.keep, protect=protect)
        if found is None or self.alarm is None:
            return []
        self.notes.put(
            f"ALARM {self.alarm}\n  next:     firehose inspect {self.run.checkpoints / f'step_{step}'}"
        )
        failing = [check for check in found["checks"] if not check["ok"]]
        event = {"event": "forensics", "step": step, "failing": failing, "time": utc_now()}
        return [{**event, "id": f"forensics-{envelope.lineage}-{envelope.serial}"}]

    def _examine(self, copies: Tensors, step: int, meta: dict[str, Any]) -> dict[str, Any] | None:
        """What the forensics say; None where there are none."""
        if self.examiner is None:
            return None
        try:
            return self.examiner.examine(Evidence(step, copies, meta["lr"], meta["betas"])).as_dict()
        except RuntimeError as error:  # of torch, such as no memory left: the checkpoint matters more
            self.notes.put(f"no forensics of the checkpoint of step {step}: {error}")
            return None

    def said(self) -> list[str]:
        """What the thread has to say to the person at the terminal, once."""
        return [self.notes.get() for _ in range(self.notes.qsize())]

    def tell(self, step: int, ended: Exit | None) -> None:
        """Answer the request that led to a commit, now durable, and say how the run ended if it did."""
        request = self.desk.request
        if request is not None and request.kind != "bounds":  # whose answer is not a commit's
            done = "stopped" if ended is not None else "checkpoint written"
            self.desk.answer(step, f"{done} at step {step}")
        if ended is not None:
            how = ENDINGS.get(ended, "failed")
            self.run.end(how, exit_code=int(ended), step=step, now=time.time())

    # Monitors.

    def live(self, body: dict[str, Any], *, stopping: bool) -> str | None:
        """Tell the monitors; never read by a resume, so a failure is given back and ends nothing."""
        lineage = self.store.lineage
        head = {
            "run": self.name,
            "lineage": lineage,
            "pid": os.getpid(),
            "time": time.time(),
            "stopping": stopping,
        }
        try:
            self.run.write_live({**head, **body})
        except FirehoseError as error:
            return f"monitors see an old state: {error.message}"
        return None
