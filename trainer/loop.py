"""The one training loop: credit what came home, pick what goes out, train, and settle accounts at boundaries.

At the head of step s the losses of step s - D are credited and the tickets of step s + D are issued, D being
`feedback_delay`; so what a pick knows never depends on how fast anything was. What a boundary looks at is in
`trainer.checkup`; a loop cannot be built without the gate that judges there.
"""

import gc
import hashlib
import math
import signal
import time
from collections.abc import Callable

from bandit.ledger import Ticket
from curriculum.eligibility import Phase, phases
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import Gate
from curriculum.sources import open_phase
from trainer import live, optim, view
from trainer.checkup import Checkup
from trainer.display import Display
from trainer.parts import Parts
from trainer.ring import StepResult
from trainer.signals import Flags
from trainer.snapshot import Tensors
from trainer.timing import Timers

LIVE_SECONDS = 1.0
LIVE_SHARE = 100  # with thousands of sources, a look takes this part of the time at most
LOSS_EMA = 0.98


class Loop:
    """Runs `parts` from `parts.position` to a step, a stop, a halt or the end."""

    def __init__(self, parts: Parts, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(parts.gate, Gate):
            raise FirehoseError(Exit.REFUSED, "a run cannot start without a coherence gate")
        self.parts, self.display, self.clock = parts, display, clock
        self.config, self.train = parts.config, parts.config.train
        self.delay = self.train.feedback_delay
        self.at = parts.position
        self.names = {arm_id: name for name, arm_id in parts.arm_ids.items()}
        self.phases: list[Phase] = phases(self.config)
        self.tickets: dict[int, list[Ticket]] = {}
        self.world = parts.world
        # What is acted on: with several ranks, what all of them know that any of them heard.
        self.flags = parts.flags if self.world.size == 1 else Flags()
        self.picked = hashlib.sha256()  # since the last boundary
        self.timers = Timers()
        self.checkup = Checkup(parts, display, self.timers)
        self.latest: StepResult | None = None
        self.stopped = False  # asked to stop, which a run does whatever else ends it
        self.next_live = -math.inf
        self.began, self.began_step = clock(), self.at.step

    def run(self, until: int) -> Exit:
        """Train up to step `until`; the exit code says how it ended. All files are durable when it returns."""
        try:
            self.fill()
            while self.at.step < until:
                step = self.at.step + 1
                self.credit(step - self.delay)
                self.issue(step + self.delay)
                self.dispatch(step)
                self.at.step = step
                ended = self.between(step, until)
                if ended is not None:
                    return ended
            return view.outcome(self.parts, self.at.step)
        finally:
            self.parts.feed.close()
            if lost := self.parts.record.close():  # beside what ended the run already
                self.display.note(lost)

    # The way of a batch.

    def fill(self) -> None:
        """Load again what a checkpoint left issued and untrained; issue what is missing of the first D steps."""
        for ticket in self.parts.scheduler.open_tickets():
            self.tickets.setdefault(ticket.step, []).append(ticket)
        for step in range(self.at.step + 1, self.at.step + 1 + self.delay):
            if step in self.tickets:
                self.parts.feed.load(step, self.tickets[step])
            else:
                self.issue(step)

    def issue(self, step: int) -> None:
        """Pick the sources of a step and start to load their windows."""
        if step > self.train.steps:
            return
        with self.timers("scheduler"):
            for phase in self.phases:
                if phase.first_step == step:
                    self.enter(phase)
            self.tickets[step] = self.parts.scheduler.pick_all(step)
            if self.world.size > 1:
                for ticket in self.tickets[step]:
                    self.picked.update(f"{step} {ticket.arm} {ticket.window};".encode())
        with self.timers("loader"):
            self.parts.feed.load(step, self.tickets[step])

    def enter(self, phase: Phase) -> None:
        """Open a phase's sources to the bandit."""
        for message in open_phase(self.config, self.parts.scheduler, phase, self.parts.arm_ids):
            self.display.note(message)

    def dispatch(self, step: int) -> None:
        """Hand a step to the device."""
        with self.timers("loader"):
            pulls = self.parts.feed.take(step)
        if self.world.size > 1:
            heard = self.parts.flags
            self.parts.ring.heard = heard.stop is not None, heard.request
            if self.parts.ring.heard[1]:
                heard.request = False  # all ranks will know; one that comes now is another
        with self.timers("step"):
            self.parts.train_step.run(step, pulls, self.lr(step))

    def credit(self, step: int) -> None:
        """Reward the pulls of a step whose losses are due; a skipped step voids its tickets."""
        if step < 1:
            return
        with self.timers("step"):  # waiting for the step's own event is the step's time
            result = self.arrive(step)
        with self.timers("scheduler"):
            self.latest = result
            counts = result.skipped and step > self.at.forgiven
            self.at.skipped_in_a_row = self.at.skipped_in_a_row + 1 if counts else 0
            if not result.skipped:
                ema = self.at.loss_ema
                self.at.loss_ema = (
                    result.loss if ema is None else LOSS_EMA * ema + (1 - LOSS_EMA) * result.loss
                )
            if result.goal is not None:
                self.parts.reward.probe(result.goal)
            for ticket in self.tickets.pop(step, ()):  # none where a prune took them all
                # A step that was skipped, or an arm pruned since the pick, counts nothing.
                void = result.skipped or ticket.arm not in self.names
                loss, signal = result.losses[ticket.micro], result.signals[ticket.micro]
                if not void:
                    self.parts.judge.watch.pull(ticket.arm, loss)
                reward = None if void else self.parts.reward.update(ticket.arm, loss, signal)
                self.parts.scheduler.credit(ticket.id, reward)
            del self.at.uncredited[step]

    def arrive(self, step: int) -> StepResult:
        """The losses of a step, read once and written down once."""
        if step not in self.at.uncredited:
            result = self.parts.ring.read(step)
            self.at.uncredited[step] = result
            self.parts.record.step(step, result, self.tickets[step], self.lr(step))
            if result.stop:
                self.flags.stop = signal.SIGTERM
            if result.request:
                self.flags.request = True
        return self.at.uncredited[step]

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        train = self.train
        return optim.learning_rate(
            step, peak=train.lr, floor=train.min_lr, warmup_steps=train.warmup_steps, steps=train.steps
        )

    # Between steps.

    def between(self, step: int, until: int) -> Exit | None:
        """What follows a step: look at signals; at a boundary check up; there and at an end commit."""
        flags, train = self.flags, self.train
        boundary = step % train.boundary_every == 0
        if boundary:
            self.arrive_all(step)
        ended: Exit | None = None
        if step == until:
            ended = view.outcome(self.parts, step)
        if self.at.skipped_in_a_row > train.max_skipped:
            ended = Exit.NON_FINITE
            self.at.skipped_in_a_row, self.at.forgiven = 0, step  # a resume begins the count anew
        wanted = self.wanted(boundary=boundary)
        if wanted is not None and (flags.stop is not None or wanted.startswith("stop")):
            ended, self.stopped = ended or Exit.STOPPED, True
        if not boundary and ended is None:
            if self.clock() >= self.next_live:
                self.parts.record.look()  # a full disk ends the run now, not at the next boundary
                self.show(step, milestone=False)
            return None

        self.arrive_all(step)
        self.compare(step)
        if boundary and self.checkup.halts(step, self.lr(step)):
            ended = Exit.HALTED
        if ended is Exit.OK:
            ended = view.outcome(self.parts, step)  # the last sample may have raised an alarm
        change = self.asked_bounds(ended) if wanted == "bounds" else None
        asked = wanted == "checkpoint" or change is not None
        due = boundary and (step % train.checkpoint_every == 0 or self.parts.changed)
        self.parts.changed = self.parts.changed and not due
        ended = self.commit(checkpoint=due or asked or ended is not None, ended=ended)
        if change is not None:
            self.take_bounds(change)
        if wanted is not None and self.heard_twice():
            self.display.note(
                "another SIGUSR1 came while a request was served and is taken for the same one; to stop, send it again"
            )
        self.show(step, milestone=True, ended=ended)
        gc.collect()  # the only time, see trainer/collector.py
        return ended

    def arrive_all(self, step: int) -> None:
        """Wait for the losses of all steps dispatched."""
        with self.timers("step"):
            for uncommitted in range(max(1, step - self.delay + 1), step + 1):
                self.arrive(uncommitted)

    def wanted(self, *, boundary: bool) -> str | None:
        """What is asked for now, None for nothing: the same on all ranks, rank 0 having read the request."""
        if self.flags.stop is None and not (boundary and self.flags.request):
            return None
        wanted: str | None = self.world.tell(self.parts.record.desk.take(self.flags, boundary=boundary))
        return wanted

    def heard_twice(self) -> bool:
        """After a service: drop signals that came meanwhile for the same request; whether this rank had one."""
        heard = self.parts.flags
        if self.world.size == 1:
            return self.parts.record.desk.heard_twice(heard)
        dropped = heard.request if self.world.tell(self.parts.record.desk.idle()) else False
        if dropped:
            heard.request = False
        return dropped

    def compare(self, step: int) -> None:
        """Before anything of these steps is kept: have all ranks picked the same since the last boundary, knowing the same?"""
        if self.world.size > 1:
            known = f"{step} {self.at.loss_ema!r} {self.at.skipped_in_a_row}"
            self.picked.update(known.encode())
            self.world.agree(self.picked.digest(), f"the picks up to step {step}")
            self.picked = hashlib.sha256()

    def asked_bounds(self, ended: Exit | None) -> live.Change | None:
        """The change of bounds that was asked for; None where it is refused, which is answered."""
        change: live.Change | None = None
        if self.world.first:
            try:
                if ended is not None:
                    raise FirehoseError(Exit.REFUSED, "the run ends at this step, with the bounds it has")
                assert self.parts.record.desk.request is not None
                change = live.prepare(self.parts, self.parts.record.desk.request)
            except FirehoseError as error:
                self.parts.record.desk.answer(self.at.step, error.message, refused=True)
                self.display.note(f"new bounds were asked for and refused: {error.message}")
        asked = self.world.tell(change and live.plain(change))
        return change if self.world.first or asked is None else live.repeat(self.parts, asked)

    def take_bounds(self, change: live.Change) -> None:
        """Put new bounds in force from the next step on; what was issued for it is taken back and picked again."""
        live.apply(self.parts, change)
        self.config, step = change.config, self.at.step
        self.parts.feed.drop()
        self.tickets = {}
        self.fill()
        for message in change.notes:
            self.display.note(message)
        self.display.note(f"new bounds from step {step + 1} on: {change.words()}")
        self.parts.record.desk.answer(step, f"in force from step {step + 1} on: {change.words()}")

    def commit(self, *, checkpoint: bool, ended: Exit | None) -> Exit | None:
        """Have rows, checkpoint and state written by a thread, once the commit before is durable.

        Waits for its own where somebody else does: a request, or the end. Gives back how the run ends, which the last
        checkpoint's forensics have a word in.
        """
        parts = self.parts
        if not self.world.first:
            if checkpoint and parts.shared.together:
                self.tensors()
            return self.told(ended)
        with self.timers("checkpoint"):
            parts.record.join()
        if checkpoint and self.at.last_sample and self.at.last_sample["kind"] == "pass":
            self.at.passing_checkpoint = self.at.step
            if parts.gate.clean:
                self.at.clean_checkpoint = self.at.step
        with self.timers("checkpoint" if checkpoint else "commit"):
            payload = {
                "bandit": parts.scheduler.saved(),
                "reward": parts.reward.snapshot(),
                "gate": parts.gate.snapshot(),
                "watch": parts.judge.snapshot(),
                **self.at.payload(),
            }
            parts.record.commit(self.at, payload, self.tensors() if checkpoint else None)
            if ended is None and parts.record.desk.request is None:
                return None
            parts.record.join()
        if ended in (Exit.OK, Exit.ALARMS):
            ended = view.outcome(parts, self.at.step)
        parts.record.tell(self.at.step, ended)
        return self.told(ended)

    def told(self, ended: Exit | None) -> Exit | None:
        """How the run ends, as rank 0 knows it, once its files are durable."""
        return None if ended is None else Exit(self.world.tell(int(ended)))

    def tensors(self) -> Tensors:
        """Weights, and what the optimizer and the reward remember, whole; of a shared model all ranks must ask."""
        shared, align = self.parts.shared, self.parts.train_step.align
        memory = optim.state_tensors(self.parts.optimizer, shared.named)
        return Tensors(shared.weights(), shared.full({**memory, **(align.tensors() if align else {})}))

    def show(self, step: int, *, milestone: bool, ended: Exit | None = None) -> None:
        """Tell the display and the monitors where the run is."""
        asked = self.clock()
        if not self.world.first:
            self.next_live = math.inf
            return
        with self.timers("monitor"):
            for note in self.parts.record.said():
                self.display.note(note)
            done, seconds = step - self.began_step, self.clock() - self.began
            pace = seconds / done if done and seconds > 0 else None
            seen = view.look(self.parts, step, latest=self.latest, lr=self.lr(step), seconds_per_step=pace)
            self.display.progress(seen, milestone=milestone)
            stopping = ended is not None or self.parts.flags.stop is not None
            failed = self.parts.record.live(view.live(self.parts, seen), stopping=stopping)
            if failed and milestone:
                self.display.note(failed)
        self.next_live = asked + max(LIVE_SECONDS, LIVE_SHARE * (self.clock() - asked))
