"""One sitting of a run: what a command line asks for, under the run's lock, from launch to the last commit."""

import contextlib
import gc
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bandit.bounds import implied_intervals
from curriculum import budget, config_rules
from curriculum import config as configs
from curriculum.config import Config
from curriculum.eligibility import phases
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, write_atomic
from curriculum.gate.coherence import score
from curriculum.text import tokenizer as tokenizers
from state import journal, passed, recover, rollback, survey
from state.findings import Finding
from state.lock import RunLock
from state.run_dir import RunDir
from state.store import StateStore
from trainer import comeback
from trainer.signals import Flags

if TYPE_CHECKING:
    from trainer.world import World

RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run where. runs_dir: folder of the runs."""

    config: Config
    run: RunDir
    runs_dir: Path


def plan(path: Path, *, name: str | None, runs_dir: Path, resume: Literal["auto", "must", "never"]) -> Plan:
    """Read the config and find the run it means. A config inside a run's folder means that run.

    Raises FirehoseError: USAGE, REFUSED, NOT_FOUND.
    """
    inside = RunDir(path.resolve().parent)
    if inside.exists() and path.resolve() == inside.config.resolve():
        if name not in (None, inside.name):
            raise FirehoseError(
                Exit.USAGE,
                f"this config is that of the run {inside.name!r}, and --name says {name!r}",
                path=path,
                next=f"leave --name out to go on; for another run copy the config out of {inside.root} first",
            )
        config, run, runs_dir = configs.load(path), inside, inside.root.parent
    else:
        config = configs.load(path)
        name = name or config.name
        if not RUN_NAME.fullmatch(name):
            raise FirehoseError(
                Exit.USAGE,
                f"{name!r} cannot be the name of a run: letters, digits, '.', '_' and '-', not first '.' or '-'",
                path=path,
                next=f"firehose run {path} --name NAME",
            )
        run = RunDir(runs_dir / name)
    if resume == "never" and run.exists():
        raise FirehoseError(
            Exit.REFUSED,
            f"the run {run.name!r} exists already and --resume never was given",
            path=run.root,
            next=f"firehose run {path} --name OTHER, or leave --resume out to go on",
        )
    if resume == "must" and not run.exists():
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"there is no run {run.name!r} to resume",
            path=run.root,
            next="firehose list, or leave --resume out to begin",
        )
    return plan_of(config, run, runs_dir)


def plan_of(config: Config, run: RunDir, runs_dir: Path) -> Plan:
    """The plan of a config and a run already chosen."""
    return Plan(config, run, runs_dir)


def describe(plan: Plan) -> dict[str, Any]:
    """What a launch would train on: phases, sources, bounds and the share intervals they imply, and what it would find."""
    from curriculum import sources
    from trainer import goal, identity, start, weights

    run = plan.run
    config = comeback.own(run, plan.config)
    payload: dict[str, Any] = {}
    step, findings, goes_back = 0, [], None
    if run.exists():
        identity.refuse_other_config(run, config)
        seen = recover.look(run, StateStore(run.state), deep=False)
        payload, step = seen.settled.payload or {}, seen.settled.step
        findings = passed.before_launch(run, seen.findings)
        if halt := payload.get("halt"):
            back = rollback.plan(run, StateStore(run.state)) if config.gate.on_halt == "rollback" else None
            if back is None:
                raise start.halted(run, halt)
            config, payload, step, goes_back = back.config, back.payload, back.step, back.words()
    with naming(config):
        corpus = sources.open_corpus(config)
        sources.check_sources(config, corpus, known=sources.known_arms(payload))
        findings += survey.reconciled(config, corpus, payload, step=step, read_data=False).findings
        _, notes = goal.goal_sources(config, corpus)
    result = []
    for phase in phases(config):
        ids = {name: index for index, name in enumerate(phase.sources) if name in corpus.sources}
        intervals = implied_intervals(sources.specs(config, corpus, ids))
        for name in ids:
            low, high = intervals[ids[name]]
            source, info = config.sources[name], corpus.sources[name]
            result.append(
                {
                    "phase": phase.name,
                    "name": name,
                    "cap": source.cap,
                    "floor": source.floor,
                    "share_low": low,
                    "share_high": high,
                    "tokens": info.tokens,
                    "windows": info.windows,
                }
            )
    model = weights.build(config, corpus.vocab_size)
    return {
        "run": plan.run.name,
        "resumes": plan.run.exists(),
        "goes_back": goes_back,
        "steps": config.train.steps,
        "tokens_per_step": config.train.grad_accum * config.train.micro_batch * config.model.block_size,
        "parameters": model.parameter_count(),
        "budget": budget.projection(config, step),
        "warnings": [*config_rules.warnings(config), *notes],
        "findings": [found.as_dict() for found in findings],
        "sources": result,
    }


def table(plan: Plan, summary: dict[str, Any]) -> list[str]:
    """`describe` for a person."""
    from state.status import table as columns
    from trainer import start

    rows = [
        [
            source["name"],
            source["phase"],
            f"{source['cap']:g}",
            f"{source['floor']:g}",
            f"{source['share_low']:.1%}",
            f"{source['share_high']:.1%}",
            f"{source['tokens']:,}",
        ]
        for source in summary["sources"]
    ]
    verb = "resume" if summary["resumes"] else "begin"
    parent = summary.get("parent")
    changes = summary.get("changes", [])
    changed = ", ".join(f"{change['arm'] or 'config'} {change['field']}" for change in changes)
    return [
        *(
            [f"fork of {parent['run']} at step {parent['step']:,}; changed: {changed or 'nothing'}"]
            if parent
            else []
        ),
        f"would {verb} run {summary['run']}: {summary['steps']:,} steps of {summary['tokens_per_step']:,} tokens, "
        f"{summary['parameters']:,} parameters",
        *([f"the gate halted it: it would go {summary['goes_back']}"] if summary["goes_back"] else []),
        *(f"warning: {warning}" for warning in summary["warnings"]),
        *(start.told(Finding(**found)) for found in summary["findings"]),
        *columns(["source", "phase", "cap", "floor", "share from", "to", "tokens"], rows),
        "",
        *budget.lines(summary["budget"]),
        *budget.unknown(summary["budget"]),
    ]


@contextlib.contextmanager
def naming(config: Config) -> Iterator[None]:
    """Name the config in the next command of an error from below, where it is not known."""
    try:
        yield
    except FirehoseError as error:
        error.next = error.next and error.next.replace("build CONFIG", f"build {config.path}")
        raise


def preflight(plan: Plan) -> None:
    """What a new run would be refused for at once, looked at before anything is made."""
    from curriculum.sources import check_present, open_corpus

    if not plan.run.exists():
        check_present(plan.config, open_corpus(plan.config), known=set())


def train(
    plan: Plan,
    *,
    flags: Flags,
    until: int | None = None,
    clear_halt: bool = False,
    world: "World | None" = None,
) -> dict[str, Any]:
    """Launch and train until the end, a stop or a halt; what came of it, with the exit code under `exit`.

    The other ranks of `world` are told what they `follow`. Raises FirehoseError where the run could not be launched,
    a file could not be written or a rank was lost.
    """
    from trainer.display import open_display
    from trainer.sitting import Sitting
    from trainer.world import World

    config, run, world = plan.config, plan.run, world or World()
    with naming(config):
        preflight(plan)
    with failing_writes(run.root):
        run.root.mkdir(parents=True, exist_ok=True)
    check_space(run.root)
    with RunLock(run.lock):
        done = journal.redo(run)
        if done is not None:
            config = configs.load(config.path)  # it may be one of the files that were replaced
        before = run.process.read_bytes() if run.process.exists() else None
        run.begin(time.time())
        display = open_display(run.log)
        last = min(until or config.train.steps, config.train.steps)
        sitting = Sitting(run, display, flags=flags, last=last, runs_dir=plan.runs_dir, world=world)
        try:
            if done is not None:
                display.note(f"finished what was begun and cut short: {done.what}")
            config = comeback.own(run, config)
            for warning in config_rules.warnings(config):
                display.note(f"warning: {warning}")
            display.note(config_rules.decay_line(config))
            if not clear_halt:  # of a process that ended between its halt and its way back
                config = comeback.come_back(run, config, display.note) or config
            with naming(config), world.talking():
                ended = sitting.stretch(config, clear_halt=clear_halt)
                while sitting.may_go_on:
                    back = comeback.come_back(run, config, display.note)
                    if back is None:
                        world.announce(None)
                        break
                    run.go_on()
                    gc.collect()  # before the next launch asks for the same memory again
                    config = back
                    ended = sitting.stretch(config, clear_halt=False)
            display.note(closing(run, ended, sitting.step))
            return {
                "run": run.name,
                "exit": int(ended),
                "step": sitting.step,
                "loss_ema": sitting.loss_ema,
                "seconds": sitting.seconds,
            }
        except FirehoseError as error:
            # On a full disk the first error is the one to show.
            with contextlib.suppress(FirehoseError, OSError):
                if sitting.began:
                    run.end("failed", exit_code=error.exit_code, step=sitting.step, now=time.time())
                elif before is None:
                    run.process.unlink()
                else:
                    write_atomic(run.process, before)  # a launch that was refused leaves the run as it was
            raise
        finally:
            display.close()


def check_space(root: Path, least: int = 64 << 20) -> None:
    """Refuse to begin on a full disk: a run that cannot write its first checkpoint would end in an hour."""
    free = shutil.disk_usage(root).free
    if free < least:
        raise FirehoseError(
            Exit.WRITE_FAILED,
            f"only {free >> 20} MiB are free where the run is to be written",
            path=root,
            next="free some space, or give another folder with --runs-dir",
        )


def closing(run: RunDir, ended: Exit, step: int) -> str:
    """The last words of a sitting: how it ended and what to type next."""
    again = f"firehose run {run.config}"
    return {
        Exit.OK: f"finished at step {step}; firehose samples {run.root} shows what it wrote",
        Exit.ALARMS: f"finished at step {step}, with alarms: firehose status {run.root}",
        Exit.STOPPED: f"stopped at step {step}, resumable; to go on: {again}",
        Exit.HALTED: f"halted at step {step}; firehose samples {run.root}; to go on regardless: {again} --clear-halt",
        Exit.NON_FINITE: f"gave up at step {step}: too many steps in a row had a non-finite gradient (see {run.pulls}); "
        f"begin another run with a lower train.lr and init_from = '{run.checkpoints.resolve()}/step_N' of a good step",
    }[ended]


def ask(run: RunDir, prompt: str, *, temperature: float, max_new_tokens: int, seed: int) -> dict[str, Any]:
    """An answer of a run's newest checkpoint, with its score."""
    from state import checkpoints
    from trainer import checkpoint, sampling, weights
    from trainer.model import Decoder, Shape

    found = checkpoints.locate(run.root)
    model = Decoder(msgspec.convert(found.meta["shape"], Shape))
    weights.load(model, checkpoint.tensors(found, checkpoints.MODEL), found.path)
    drawn = sampling.generate(
        sampling.Sampler(model),
        tokenizers.load(run.root / "tokenizer" / tokenizers.NAME),
        prompt,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        key=(seed, found.step),
    )
    return {
        "run": run.name,
        "step": found.step,
        "prompt": prompt,
        "text": drawn.text,
        "loss": drawn.loss,
        "score": score(drawn.text).total,
    }
