"""The check-up at a boundary: how far the step moved, held-out losses, a sample and its verdict, the end of a phase.

Every runner samples through here, and every sample goes through the gate.
"""

import torch

from curriculum import budget
from curriculum.gate.coherence import score
from curriculum.gate.rule import shortfall
from trainer import view
from trainer.display import Display
from trainer.parts import Parts
from trainer.timing import Timers

HELDOUT_WINDOWS = 8


class Checkup:
    """Looks at a run between two steps, all losses up to there being known; what it finds is said, written and alarmed."""

    def __init__(self, parts: Parts, display: Display, timers: Timers) -> None:
        self.parts, self.display, self.timers = parts, display, timers
        self.at, self.world = parts.position, parts.world
        self.alarmed: set[str] = set()  # what the judge's alarms were about at the last sample

    def halts(self, step: int, lr: float) -> bool:
        """Look at all that is due at this boundary, whose step had the learning rate `lr`; whether the run is to halt."""
        config = self.parts.config
        self.weigh(step, lr)
        phase = budget.judged(config, step)
        losses: dict[str, float] = {}
        if step % config.train.heldout_every == 0 or phase:
            with self.timers("held-out"):
                losses = self.heldout_losses()
                self.parts.record.heldout(step, losses)
        halted = step % config.train.sample_every == 0 and self.sample(step)
        return (phase is not None and self.insane(step, phase, losses)) or halted

    def weigh(self, step: int, lr: float) -> None:
        """See how far the step moved each group of parameters; what is newly out of range is said and told."""
        with self.timers("monitor"):
            for alarm in self.parts.ratios.measure(step, lr):
                self.display.note(f"ALARM {alarm}")
                if self.world.first:
                    self.parts.record.decided("update-ratio", step, alarm=alarm)

    def sample(self, step: int) -> bool:
        """Draw a sample, score it, judge it, charge recent pulls for it; True where the gate halts the run."""
        config = self.parts.config
        with self.timers("sampling"):
            prompt = config.gate.prompts[(step // config.train.sample_every - 1) % len(config.gate.prompts)]
            drawn = self.parts.generate(prompt, step)
        with self.timers("gate"):
            scored = score(drawn.text)
            audits = self.parts.judge.audit(drawn.text, drawn.ids, drawn.loss)
            spared = self.parts.judge.spared(step)
            verdict = self.parts.gate.observe(step, scored.total, audits["found"], spared)
            audits |= self.parts.judge.settle(verdict)
            short = shortfall(scored.total, config.gate.target)
            penalties = self.parts.scheduler.penalize(step, short)
            self.parts.record.sample(step, prompt, drawn, scored, verdict, audits, penalties)
        self.display.note(view.sample_line(step, prompt, drawn.text, scored, verdict.kind, audits["found"]))
        self.alarm()
        self.at.last_sample = {
            "step": step,
            "score": scored.total,
            "streak": verdict.streak,
            "kind": verdict.kind,
        }
        if verdict.kind != "halt":
            return False
        blame = self.parts.judge.blame()
        self.at.halt = {"step": step, "reason": verdict.reason, "blame": blame}
        self.parts.record.decided("halt", step, reason=verdict.reason, blame=blame)
        blamed = ", ".join(f"{name} ({share:.0%} of the pulls)" for name, share in blame.items())
        self.display.note(
            f"HALTED by the coherence gate at step {step}: {verdict.reason}\n"
            f"  to blame: {blamed or 'no source stands out'}\n"
            f"  changed:  checkpoint and state of step {step} are written\n"
            f"  next:     firehose samples {self.parts.record.run.root}"
        )
        return True

    def insane(self, step: int, phase: str, losses: dict[str, float]) -> bool:
        """At the end of a phase: halt a run that has not learnt what the next one is to build on; whether it was."""
        why, mean = budget.failing(self.parts.config, losses, self.at.last_sample)
        if why is None or self.at.halt is not None:
            self.display.note(f"end of the {phase} phase: mean held-out loss {mean:.4f}")
            return False
        by, reason = "the evaluation between phases", f"at the end of the {phase} phase {why}"
        self.at.halt = {"step": step, "reason": reason, "blame": {}, "by": by}
        self.parts.record.decided("halt", step, reason=reason, by=by)
        self.display.note(
            f"HALTED by {by} at step {step}: {reason}\n"
            f"  changed:  checkpoint and state of step {step} are written\n"
            f"  next:     firehose inspect {self.parts.record.run.checkpoints / f'step_{step}'}; to go on regardless: "
            f"firehose run {self.parts.record.run.config} --clear-halt"
        )
        return True

    def alarm(self) -> None:
        """Say the judge's alarms that were not there at the sample before."""
        alarms = {alarm.split(":")[0]: alarm for alarm in self.parts.judge.alarms()}
        for about in sorted(alarms.keys() - self.alarmed):
            self.display.note(f"ALARM {alarms[about]}")
        self.alarmed = set(alarms)

    @torch.no_grad()  # not inference mode: what shards of a model are gathered into is used in training again
    def heldout_losses(self) -> dict[str, float]:
        """Mean loss of every source's held-out windows, in nats a token; never trained on.

        Ranks with a copy of the model each take every size-th source; those that share one measure all together.
        """
        measured: dict[str, int] = {}
        losses = torch.zeros(len(self.parts.arm_ids), device=self.parts.device)
        together = self.parts.shared.together
        for number, name in enumerate(self.parts.arm_ids):
            windows = self.parts.corpus.heldout(name, HELDOUT_WINDOWS)
            if len(windows):
                measured[name] = number
                if together or number % self.world.size == self.world.rank:
                    on_device = torch.from_numpy(windows).to(self.parts.device)
                    with self.parts.train_step.autocast:
                        losses[number] = self.parts.model.loss(on_device)
        if not together:
            self.world.sum_(losses)
        found = losses.tolist()
        return {name: found[number] for name, number in measured.items()}
