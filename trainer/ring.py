"""Losses on their way home: written on the device by the step, read by the host some steps later without a sync.

A slot a step. On CUDA each slot is copied to pinned memory on a side stream and read after that copy's own event;
on the CPU the slot is simply read. Reading a step that was overwritten is an error, never an old value.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step left: loss a pull in nats (nan or inf possible), gradient norm before clipping, skipped or not.

    signals: a number a pull, for a reward that needs one; None where it was not measured or is not finite. goal: the
    goal's held-out loss before the step, likewise. stop, request: whether any rank had heard a signal to stop, or
    SIGUSR1, as the step was dispatched; never stored.
    """

    losses: list[float]
    norm: float
    skipped: bool
    signals: list[float | None]
    goal: float | None = None
    stop: bool = False
    request: bool = False

    @property
    def loss(self) -> float:
        """Mean loss over the step's pulls, in nats a token."""
        return sum(self.losses) / len(self.losses)


class Ring:
    """`slots` rows: a loss and a signal for each of grad_accum pulls, the goal's loss, the norm, and three flags.

    The flags are 0 or not: skipped, and what this process heard from outside (`heard`), by which all ranks know it once
    their rows are averaged.
    """

    def __init__(self, slots: int, grad_accum: int, device: torch.device) -> None:
        self.slots, self.grad_accum = slots, grad_accum
        width = 2 * grad_accum + 5
        self.rows = torch.zeros(slots, width, dtype=torch.float32, device=device)
        self.holds = [0] * slots  # which step a slot holds
        self.heard: tuple[bool, bool] | None = (
            None  # stop, request; None: a process alone, which needs no row to know
        )
        self.alive: Callable[[], None] | None = None  # raises where a rank that the device waits for is gone
        self.cuda = device.type == "cuda"
        if self.cuda:
            self.home = torch.zeros(slots, width, dtype=torch.float32, pin_memory=True)
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.arrived = [torch.cuda.Event() for _ in range(slots)]  # type: ignore[no-untyped-call]

    def row(self, step: int) -> Tensor:
        """The device row of a step, to be written by it: losses, signals, goal, norm, skipped (0 or 1).

        Two columns more are written here: stop and request. Signals and goal are NaN, which says that they were not measured, until they are written.
        """
        self.holds[step % self.slots] = step
        row = self.rows[step % self.slots]
        row[self.grad_accum : -4].fill_(math.nan)
        for column, heard in zip((-2, -1), self.heard or (), strict=False):
            row[column].fill_(heard)
        return row

    def publish(self, step: int) -> None:
        """Start the row's way home; returns at once."""
        if self.cuda:
            slot = step % self.slots
            self.stream.wait_stream(torch.cuda.current_stream(self.rows.device))
            with torch.cuda.stream(self.stream):
                self.home[slot].copy_(self.rows[slot], non_blocking=True)
                self.arrived[slot].record(self.stream)

    def read(self, step: int) -> StepResult:
        """The result of a step; waits for that step alone."""
        slot = step % self.slots
        if self.holds[slot] != step:
            raise LookupError(f"step {step} is no longer in the ring: its slot holds step {self.holds[slot]}")
        if self.cuda:
            self._await(slot)
            values = self.home[slot].tolist()
        else:
            values = self.rows[slot].tolist()
        measured = [value if math.isfinite(value) else None for value in values[self.grad_accum : -4]]
        return StepResult(
            losses=values[: self.grad_accum],
            norm=values[-4],
            skipped=values[-3] != 0.0,
            signals=measured[:-1],
            goal=measured[-1],
            stop=values[-2] != 0.0,
            request=values[-1] != 0.0,
        )

    def _await(self, slot: int) -> None:
        """Wait for a row's event. With several ranks: look now and then whether they are there, lest it never comes."""
        if self.alive is None:
            self.arrived[slot].synchronize()
            return
        looked = time.monotonic()
        while not self.arrived[slot].query():  # type: ignore[no-untyped-call]
            if time.monotonic() - looked > LOOK_SECONDS:
                self.alive()
                looked = time.monotonic()
            time.sleep(1e-4)
