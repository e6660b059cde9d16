"""How a run looks from outside: the numbers of the display, and the same as monitors read them."""

import math
from collections.abc import Sequence
from typing import Any

from curriculum import budget
from curriculum.eligibility import never_picked, why_not
from curriculum.errors import Exit
from curriculum.gate.coherence import Score
from state import rollback
from state.cli import plain
from trainer import peak
from trainer.display import Arm, Progress
from trainer.parts import Parts
from trainer.ring import StepResult


def look(
    parts: Parts, step: int, *, latest: StepResult | None, lr: float, seconds_per_step: float | None
) -> Progress:
    """The run at a step. latest: the newest losses the bandit has been credited with, feedback_delay steps old."""
    train, model = parts.config.train, parts.config.model
    tokens_per_pull = train.micro_batch * model.block_size
    pace = seconds_per_step
    tokens_per_s = train.grad_accum * tokens_per_pull / pace if pace else None
    arms = []
    for seen in parts.scheduler.views(step):
        arms.append(
            Arm(
                name=seen.name,
                eligible=seen.eligible,
                why_not=None if seen.eligible else why_not(parts.config, seen.name, step),
                weight=seen.weight,
                cap=seen.cap,
                floor=seen.floor,
                share=seen.share,
                share_low=seen.share_low,
                share_high=seen.share_high,
                pulls=seen.pulls,
                tokens=seen.pulls * tokens_per_pull,
                epochs=seen.epochs,
                coverage=seen.coverage,
                mean_reward=seen.mean_reward,
                index=seen.index,
                loss_ema=parts.reward.loss_ema(seen.id),
            )
        )
    return Progress(
        step=step,
        steps_total=train.steps,
        loss=latest.loss if latest and not latest.skipped else None,
        loss_ema=parts.position.loss_ema,
        norm=latest.norm if latest and math.isfinite(latest.norm) else None,
        lr=lr,
        ms_per_step=1000 * pace if pace else None,
        tokens_per_s=tokens_per_s,
        eta_s=pace * (train.steps - step) if pace else None,
        arms=arms,
        mfu=peak.mfu(parts.model, tokens_per_s, parts.device, parts.world.size),
    )


def alarms(parts: Parts) -> list[str]:
    """What a person should know: sources the config wants and the run goes on without, unless an operator took them out;
    a newest checkpoint that is not sound as a model; the times it went back; a group of parameters that steps move too little or too much."""
    found = [] if parts.record.alarm is None else [parts.record.alarm]
    return (
        found
        + [
            f"{name} was put aside at step {entry['step']}: {entry['reason']}"
            for name, entry in sorted(parts.record.standing["pruned"].items())
            if name in parts.config.sources
            and not entry.get("removed")
            and never_picked(parts.config, name) is None
        ]
        + rollback.alarms(parts.record.standing)
        + parts.judge.alarms()
        + parts.ratios.alarms
    )


def outcome(parts: Parts, step: int) -> Exit:
    """How a run ends that has done what was asked: stopped before its last step, else finished."""
    if step < parts.config.train.steps:
        return Exit.STOPPED
    return Exit.ALARMS if parts.alarms or alarms(parts) else Exit.OK


def live(parts: Parts, seen: Progress) -> dict[str, Any]:
    """The fields of `status --json` (DESIGN 9.1) that only the running process knows."""
    sampled = parts.position.last_sample
    return {
        "step": seen.step,
        "steps_total": seen.steps_total,
        "steps_per_s": 1000 / seen.ms_per_step if seen.ms_per_step else None,
        "tokens_per_s": seen.tokens_per_s,
        "mfu": seen.mfu,
        "eta_s": seen.eta_s,
        "loss": seen.loss,
        "loss_ema": seen.loss_ema,
        "lr": seen.lr,
        "norm": seen.norm,
        "budget": budget.projection(parts.config, seen.step, seen.ms_per_step and seen.ms_per_step / 1000),
        "groups": [group.as_dict() for group in parts.ratios.found],
        "checkpoint_step": parts.record.checkpoint_step,
        "gate": {
            "last_score": sampled["score"] if sampled else None,
            "streak": sampled["streak"] if sampled else 0,
            "halted": parts.position.halt is not None,
        },
        "alarms": alarms(parts),
        "arms": [arm.as_dict() for arm in seen.arms],
    }


def sample_line(
    step: int, prompt: str, text: str, scored: Score, kind: str, found: Sequence[str] = ()
) -> str:
    """A sample, its score and what audits found, for a person: one line, however many the text has."""
    audits = f" | audits: {', '.join(found)}" if found else ""
    return f"sample {step:>6} | score {scored.total:5.1f} {kind}{audits} | > {prompt} | < {plain(text)[:160]}"
