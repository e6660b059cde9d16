"""One sitting of a process at a run: launch and train, as often as the run goes on by itself; and the same on other ranks."""

import gc
import time
from pathlib import Path
from typing import Any

from curriculum import budget
from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import Exit
from state.polish import polish
from state.run_dir import RunDir
from trainer import collector, launch, view
from trainer.display import Display, Silent
from trainer.loop import Loop
from trainer.parts import Parts
from trainer.record import ENDINGS
from trainer.signals import Flags
from trainer.world import World


class Sitting:
    """Rank 0's. step, loss_ema, seconds: where the run is, and where the time went.

    last: the step to train up to. began: whether a launch succeeded. may_go_on: whether what ended the last stretch
    need not end the sitting.
    """

    def __init__(
        self, run: RunDir, display: Display, *, flags: Flags, last: int, runs_dir: Path, world: World
    ) -> None:
        self.run, self.display, self.flags = run, display, flags
        self.last, self.runs_dir, self.world = last, runs_dir, world
        self.step, self.began, self.may_go_on = 0, False, False
        self.loss_ema: float | None = None
        self.seconds: dict[str, float] = {}

    def stretch(self, config: Config, *, clear_halt: bool) -> Exit:
        """From a launch to the loop's end: how it ended, all files being durable. Raises FirehoseError."""
        run, world = self.run, self.world
        if world.size > 1:
            world.announce(orders(config, run, self.last))
        parts = launch.launch(
            config,
            run,
            flags=self.flags,
            clear_halt=clear_halt,
            say=self.display.note,
            runs_dir=self.runs_dir,
            world=world,
        )
        self.step = parts.position.step
        if not self.began:  # a run that went back said what it changed
            platform = parts.record.standing["platform"]
            rows = budget.projection(config, self.step)
            said = settings(parts.config, parts.model.parameter_count(), platform)
            for line in [*said, *budget.lines(rows), *budget.unknown(rows)]:
                self.display.note(line)
        self.began = True
        if self.step >= self.last:
            self.display.note(f"nothing to do: the run is at step {self.step} already")
            parts.feed.close()
            ended = view.outcome(parts, self.step)
            run.end(ENDINGS[ended], exit_code=ended, step=self.step, now=time.time())
        else:
            verb = "begins" if self.step == 0 else f"resumes after step {self.step}"
            self.display.note(f"run {run.name} {verb}; firehose status {run.root} looks at it from elsewhere")
            ended, loop = trained(parts, self.display, self.last)
            self.display.note(f"time: {loop.timers.report()}")
            self.may_go_on = may_go_on(ended, loop)
            for part, seconds in loop.timers.seconds.items():
                self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        self.step, self.loss_ema = parts.position.step, parts.position.loss_ema
        return ended


def trained(parts: Parts, display: Display, last: int) -> tuple[Exit, Loop]:
    """Train up to a step; how it ended, and the loop that did it."""
    loop = Loop(parts, display)
    with collector.at_boundaries():
        return loop.run(last), loop


def orders(config: Config, run: RunDir, last: int) -> dict[str, Any]:
    """What the other ranks need to follow a run up to step `last`: its config as text, wherever each of them is."""
    original = configs.original_of(config.path) if config.path.name == "config.toml" else None
    text = config.path.read_text(encoding="utf-8")
    paths = {
        "path": str(config.path),
        "original": str(original or config.path),
        "run": str(run.root.resolve()),
    }
    return {"config": text, **paths, "last": last}


def follow(world: World, flags: Flags) -> int:
    """Train as one of the ranks that are not the first, as that one says; the exit code, which is that one's as well."""
    ended, goes_on = Exit.OK, True
    with world.talking():
        while goes_on and (told := world.announce()) is not None:  # none: rank 0 looked only, or stays halted
            ended, goes_on = _follow(told, world, flags)
            gc.collect()  # before the next launch asks for the same memory again
    return ended


def _follow(told: dict[str, Any], world: World, flags: Flags) -> tuple[Exit, bool]:
    """One stretch of it: how it ended, and whether rank 0 will say more."""
    config = polish.check(told["config"], Path(told["path"]), Path(told["original"]))
    parts = launch.follow(config, RunDir(Path(told["run"])), flags=flags, world=world)
    if parts.position.step >= told["last"]:
        parts.feed.close()
        return view.outcome(parts, parts.position.step), False
    ended, loop = trained(parts, Silent(), told["last"])
    return ended, may_go_on(ended, loop)


def may_go_on(ended: Exit, loop: Loop) -> bool:
    """Whether a stretch that ended so may be followed by another: where the gate halted, and nobody asked for a stop."""
    return ended is Exit.HALTED and not loop.stopped


def settings(config: Config, parameters: int, platform: dict[str, Any]) -> list[str]:
    """Every effective setting, a line a section, as a run prints them at its start."""
    lines = [f"model: {parameters:,} parameters", "platform: " + _pairs(platform)]
    for section, value in configs.effective(config).items():
        if section == "sources":
            lines += [f"source {name}: {_pairs(source)}" for name, source in value.items()]
        elif isinstance(value, dict):
            lines.append(f"{section}: {_pairs(value)}")
    return lines


def _pairs(table: dict[str, Any]) -> str:
    return "  ".join(f"{key}={value}" for key, value in table.items())
