"""What a run writes down: rows held until a commit, then rows, checkpoint and state, in that order, each durable.

A crash between any two leaves a run that resumes: rows beyond the checkpoint's marks are moved to the archive at the
next launch, and a state newer than the checkpoint gives way to the checkpoint's copy.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from torch import Tensor

from bandit.ledger import Ticket
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.coherence import Score
from curriculum.gate.rule import Verdict
from state import checkpoints
from state.envelope import Envelope
from state.rows import RowFile, encode_row
from state.run_dir import RunDir
from state.store import StateStore, utc_now
from trainer import checkpoint
from trainer.desk import Desk
from trainer.ring import StepResult
from trainer.sampling import Drawn

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
    checkpoint whose newest sample passed the gate. halt: why the gate stopped the run, until an operator clears it.
    """

    step: int = 0
    uncredited: dict[int, StepResult] = field(default_factory=dict)
    skipped_in_a_row: int = 0
    forgiven: int = 0
    loss_ema: float | None = None
    passing_checkpoint: int | None = None
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
            last_sample=loop["last_sample"],
            halt=payload["halt"],
        )


class Record:
    """The writer of one run's folder, under its lock.

    standing: the parts of the payload that do not change while the run trains (pruned arms, data, platform, edits).
    meta: what every checkpoint says beside tensors and state (model shape, tokenizer hash, parameter count).
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
        keep: tuple[int, int],
        checkpoint_step: int | None,
    ) -> None:
        self.run, self.store, self.rows = run, store, rows
        self.name = run.name
        self.config_sha256, self.standing, self.meta = config_sha256, standing, meta
        self.keep_last, self.keep_every = keep
        self.checkpoint_step = checkpoint_step
        self.held: dict[str, list[bytes]] = {name: [] for name in ROW_FILES}
        self.desk = Desk(run)
        self.envelope: Envelope | None = None
        self.decisions: list[dict[str, Any]] = []

    # Rows, held until the next commit.

    def step(self, step: int, result: StepResult, tickets: Sequence[Ticket], lr: float) -> None:
        """Write down a step's loss and its pulls; a skipped step has null for a loss that is no number.

        What the reward used beside the losses is there too, so that rewards can be computed again from the rows.
        """
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
        penalties: dict[str, float],
    ) -> None:
        """Write down a sample with its score, the verdict on it and what it cost each arm."""
        row = {
            "step": step,
            "prompt": prompt,
            "text": drawn.text,
            "loss": finite(drawn.loss),
            "score": scored.total,
            "axes": scored.axes,
            "audits": {},
            "short": scored.short,
            "verdict": {"kind": verdict.kind, "streak": verdict.streak, "reason": verdict.reason},
            "penalties": dict(sorted(penalties.items())),
        }
        self.held["samples"].append(encode_row(row))

    def heldout(self, step: int, losses: dict[str, float]) -> None:
        """Write down the held-out loss of every source."""
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

    def commit_rows(self) -> dict[str, Any]:
        """Append the held rows durably; the marks of all row files."""
        for name, file in self.rows.items():
            file.append(self.held[name])
            self.held[name] = []
        return {name: file.mark.as_dict() for name, file in self.rows.items()}

    def checkpoint(
        self,
        at: Position,
        payload: dict[str, Any],
        model: dict[str, Tensor],
        optimizer: dict[str, Tensor],
    ) -> None:
        """Write a checkpoint that carries the very state the commit after it will make current; then retain."""
        self.checkpoint_step = at.step
        self.envelope = self._prepare(at.step, payload)
        checkpoint.save(
            self.run.checkpoints,
            at.step,
            model=model,
            optimizer=optimizer,
            meta={**self.meta, "state": msgspec.to_builtins(self.envelope)},
        )
        protect = set(self.standing.get("protected", []))  # what pivots began from
        protect |= set() if at.passing_checkpoint is None else {at.passing_checkpoint}
        checkpoints.retain(self.run.checkpoints, last=self.keep_last, every=self.keep_every, protect=protect)

    def commit_state(self, step: int, payload: dict[str, Any], ended: Exit | None) -> None:
        """Make the state current, answer the request that led here, and say how the run ended if it did."""
        envelope = self.envelope or self._prepare(step, payload)
        self.store.write(envelope)
        self.envelope, self.decisions = None, []
        self.run.record_once(envelope.payload.get("events", []))
        if (
            self.desk.request is not None and self.desk.request.kind != "bounds"
        ):  # whose answer is not a commit's
            done = "stopped" if ended is not None else "checkpoint written"
            self.desk.answer(step, f"{done} at step {step}")
        if ended is not None:
            how = ENDINGS.get(ended, "failed")
            self.run.end(how, exit_code=int(ended), step=step, now=time.time())

    def _prepare(self, step: int, payload: dict[str, Any]) -> Envelope:
        whole = {**self.standing, **payload, "checkpoint": self.checkpoint_step}
        if self.decisions:
            whole["events"] = self.marked(self.decisions)
        return self.store.prepare(whole, step=step, config_sha256=self.config_sha256)

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
