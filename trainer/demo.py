"""The whole product in minutes on text any machine has: harvest, build, train, stop, a zombie, resume, a report."""

import copy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bandit.arms import new_id
from curriculum import config as configs
from curriculum.console import say
from curriculum.errors import Exit
from curriculum.files import failing_writes
from curriculum.text.build import build, plan_for
from curriculum.text.harvest import harvest
from state.rows import read_rows
from state.run_dir import RunDir
from state.status import number, short, status, table
from state.store import StateStore
from trainer import runner
from trainer.signals import Flags

CONFIG = Path(__file__).with_name("demo.toml")
ZOMBIE = "old-crawl"


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist: a demo never overwrites another."""
    candidate, number = wanted, 2
    while candidate.exists():
        candidate, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return candidate


def prepare(folder: Path, steps: int | None) -> Path:
    """Harvest the text, copy the config beside it, build the token files; the config's path."""
    say(f"1/5  harvesting text that this machine has into {folder}")
    with failing_writes(folder):
        (folder / "data/raw").mkdir(parents=True)
    for name, source in harvest(folder / "data/raw").items():
        say(f"     {name:<20} {source.documents:>6,} documents {source.bytes:>10,} bytes")
    path = folder / "demo.toml"
    shutil.copyfile(CONFIG, path)
    if steps is not None:
        path.write_text(path.read_text().replace("steps = 600", f"steps = {steps}", 1))
    present = {found.stem for found in (folder / "data/raw").glob("*.jsonl")}
    _leave_out(path, present)
    say("2/5  training a tokenizer and building token files")
    for name, entry in build(plan_for(configs.load(path))).sources.items():
        say(
            f"     {name:<20} {entry.train.tokens:>10,} tokens, {entry.heldout.tokens if entry.heldout else 0:,} held out"
        )
    return path


def inject_zombie(run: RunDir) -> None:
    """Put an arm into the state that no config names and no data backs, as an earlier run once left one (I09)."""
    store = StateStore(run.state)
    envelope, _ = store.read()
    assert envelope is not None
    payload = copy.deepcopy(envelope.payload)
    arms = payload["bandit"]["arms"]
    model = max(arms.values(), key=lambda arm: arm["pulls"])
    arms[ZOMBIE] = {**model, "id": new_id(ZOMBIE, {arm["id"] for arm in arms.values()}), "weight": 1.546}
    store.commit(payload, step=envelope.step, config_sha256=envelope.config_sha256)


def demo(folder: Path, *, steps: int | None, flags: Flags) -> dict[str, Any]:
    """Run the demo in a folder of its own. Returns the closing report with the exit code under `exit`."""
    folder = free_folder(folder)
    path = prepare(folder, steps)
    plan = runner.plan(path, name=None, runs_dir=folder / "runs", resume="never")
    train, run = plan.config.train, plan.run
    half = train.steps // 2 // train.boundary_every * train.boundary_every
    say(f"3/5  training {train.steps} steps; the run is stopped at step {half} on purpose")
    outcome = runner.train(plan, flags=flags, until=half)
    if outcome["exit"] != Exit.STOPPED or flags.stop is not None:
        return {"exit": outcome["exit"], "folder": str(folder)}
    say(
        f"4/5  putting a zombie arm {ZOMBIE!r} into the state, weight 1.546, no data behind it; then resuming"
    )
    inject_zombie(run)
    again = runner.plan(path, name=None, runs_dir=folder / "runs", resume="must")
    outcome = runner.train(again, flags=flags)
    if flags.stop is not None or outcome["exit"] not in (Exit.OK, Exit.ALARMS):
        return {"exit": outcome["exit"], "folder": str(folder)}
    say("5/5  report")
    return {**report(run), "exit": outcome["exit"], "folder": str(folder), "config": str(path)}


def report(run: RunDir) -> dict[str, Any]:
    """What the demo showed, from the run's own files."""
    body, _ = status(run, time.time())
    losses = [row[1] for row in read_rows(run.loss) if row[1] is not None]
    heldout = read_rows(run.root / f"{run.name}.heldout.json")
    samples = read_rows(run.samples)
    pruned = [event for event in run.events() if event["event"] == "prune"]
    return {
        "run": run.name,
        "steps": body["step"],
        "loss_first": losses[0],
        "loss_last_100": sum(losses[-100:]) / len(losses[-100:]),
        "arms": [
            {
                **{
                    key: arm[key]
                    for key in ("name", "cap", "floor", "share", "share_low", "share_high", "pulls", "epochs")
                },
                "loss": arm["loss_ema"],
                "heldout_first": heldout[0]["loss"].get(arm["name"]) if heldout else None,
                "heldout_last": heldout[-1]["loss"].get(arm["name"]) if heldout else None,
            }
            for arm in body["arms"]
        ],
        "samples": [{key: row[key] for key in ("step", "prompt", "text", "score")} for row in samples],
        "pruned": [{key: event[key] for key in ("arm", "step", "reason")} for event in pruned],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The report for a person, in at most 80 columns."""
    header = ["source", "cap", "floor", "share", "allowed", "epochs", "loss", "held-out"]
    rows = [
        [
            short(arm["name"], 18),
            f"{arm['cap']:g}",
            f"{arm['floor']:g}",
            f"{arm['share']:.1%}",
            f"{arm['share_low']:.0%}-{arm['share_high']:.0%}",
            f"{arm['epochs']:.2f}",
            number(arm["loss"], ".2f"),
            f"{number(arm['heldout_first'], '.2f')} > {number(arm['heldout_last'], '.2f')}",
        ]
        for arm in sorted(found["arms"], key=lambda arm: -arm["share"])
    ]
    out = [
        f"loss {found['loss_first']:.2f} at step 1, {found['loss_last_100']:.2f} over the last 100 of {found['steps']}",
        "",
        *table(header, rows),
        "",
    ]
    out += [f"pruned at step {arm['step']}: {arm['arm']} ({arm['reason']})" for arm in found["pruned"]]
    out += ["", "samples (score of 100; under 30 five times in a row would halt the run):"]
    for sample in [found["samples"][0], *found["samples"][-2:]]:
        out.append(f"  step {sample['step']:>5}  {sample['score']:5.1f}  > {short(sample['prompt'], 52)}")
        out.append(f"                      < {short(' '.join(sample['text'].split()), 54)}")
    runs = f"--runs-dir {found['folder']}/runs"
    out += ["", "what to try next:"]
    if shutil.which("firehose") is None:
        out.append(f"  . {Path(sys.executable).parent}/activate")
    out += [
        f"  firehose status demo {runs}",
        f"  firehose samples demo {runs}",
        f'  firehose sample demo "What is rain?" {runs}',
        f"  firehose state list demo {runs}",
        f"  firehose state check demo {runs}",
    ]
    return out


def _leave_out(path: Path, present: set[str]) -> None:
    """Exclude from the config what this machine did not have; the harvest said why."""
    absent = sorted(set(configs.load(path).sources) - present)
    if absent:
        listed = ", ".join(f'"{name}"' for name in absent)
        text = path.read_text().replace("[curriculum]\n", f"[curriculum]\nexclude_sources = [{listed}]\n", 1)
        path.write_text(text)
