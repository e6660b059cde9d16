"""`firehose simulate`: try a config's caps, floors and policy on made-up sources before a run is given them."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer
from rich.console import Console

from bandit.errors import BanditError
from bandit.policies import POLICIES
from bandit.simulation.simulate import Outcome, Plan, Tick, optimum, simulate
from curriculum import config as configs
from curriculum import plot
from curriculum.config_toml import did_you_mean
from curriculum.console import command, emit_json, say
from curriculum.eligibility import why_not
from curriculum.errors import Exit, FirehoseError
from curriculum.simulation import STEPS, Options, Trial, prepare

app = typer.Typer()
SCHEMA = "simulate/1"
PATIENCE = 1.0  # seconds without a progress bar
TABLE = 80  # columns


@app.command("simulate")
@command(SCHEMA)
def simulate_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")],
    *,
    steps: Annotated[
        int | None, typer.Option(help=f"Steps to simulate; at most {STEPS:,} by default.", min=1)
    ] = None,
    skip_warmup: Annotated[
        bool, typer.Option("--skip-warmup", help="Begin where the curriculum's warm-up ends.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Another config to compare the shares with.")
    ] = None,
    junk: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A source that teaches nothing; repeatable.")
    ] = None,
    windows: Annotated[
        list[str] | None,
        typer.Option(metavar="N|NAME=N", help="Windows of every source, or of one; repeatable."),
    ] = None,
    policies: Annotated[
        str, typer.Option(help="Policies to compare, by commas: all, none, or names.")
    ] = "all",
    seed: Annotated[
        int | None, typer.Option(help="Of picks and noise; the config's by default.", min=0)
    ] = None,
    world: Annotated[int, typer.Option(metavar="SEED", help="Another seed, other sources.", min=0)] = 0,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the shares; needs matplotlib.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which shares CONFIG's caps and floors would give its sources, on made-up sources that learn.

    The scheduler is the real one; the sources are not: nothing is trained, and no loss shown here is a forecast.

    Examples: firehose simulate configs/andrea-120m-polish.toml --against configs/andrea-120m.toml
    """
    if plot_file is not None:
        plot.check_picture(plot_file)
    options = Options(
        steps=steps,
        skip_warmup=skip_warmup or against is not None,
        junk=tuple(junk or ()),
        windows=_windows(windows or ()),
        seed=seed,
        world=world,
    )
    trial = prepare(configs.load(config), options)
    other = prepare(configs.load(against), options) if against is not None else None
    compared = _policies(policies)
    for warning in configs.warnings(trial.config):
        say(f"warning: {warning}")
    with _progress() as ticker:
        outcome = _simulate(trial, trial.plan, ticker("predicting shares", trial.plan.steps))
        before = None
        if other is not None:
            tick = ticker(f"predicting shares of {other.config.path.name}", other.plan.steps)
            before = _shares(other, _simulate(other, other.plan, tick))
        losses = _losses(trial, outcome, compared, ticker)
        best = optimum(trial.plan)
    for message in outcome.relaxed:
        say(f"bounds relaxed: {message}")
    rows = _rows(trial, outcome, before)
    if json:
        emit_json(SCHEMA, _body(trial, outcome, rows, losses, best))
    else:
        blocks = _can_print(plot.BLOCKS)
        print("\n".join(_report(trial, outcome, rows, losses, best, blocks=blocks)))
    if plot_file is not None:
        title = f"{trial.config.path.name}: predicted shares of the pulls"
        plot.picture(plot_file, _series(trial, outcome, rows), outcome.ends.tolist(), title)
        say(f"drawn to {plot_file}")


def _windows(told: Sequence[str]) -> dict[str, int]:
    counts = {}
    for text in told:
        name, _, number = text.rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise FirehoseError(
                Exit.USAGE, f"--windows {text} is neither a count nor NAME=COUNT", next="--windows 20000"
            )
        counts[name] = int(number)
    return counts


def _policies(text: str) -> list[str]:
    if text in ("all", "none"):
        return list(POLICIES) if text == "all" else []
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in POLICIES:
            hint = did_you_mean(name, list(POLICIES))
            raise FirehoseError(
                Exit.USAGE,
                f"--policies: {name!r} is no policy{hint}",
                next=f"--policies {','.join(POLICIES)}",
            )
    return names


def _simulate(trial: Trial, plan: Plan, tick: Tick) -> Outcome:
    try:
        return simulate(plan, tick)
    except BanditError as error:
        raise FirehoseError(
            Exit.REFUSED,
            f"policy {plan.settings.policy}: {error}",
            path=trial.config.path,
            arm=error.arm,
            next=f"firehose config check {trial.config.path}",
        ) from error


def _losses(
    trial: Trial, outcome: Outcome, compared: Sequence[str], ticker: Callable[[str, int], Tick]
) -> dict[str, float]:
    """Policy to the goal loss that it ends with; one that cannot keep these bounds is left out, and said."""
    losses = {}
    for policy in compared:
        plan = replace(trial.plan, settings=replace(trial.plan.settings, policy=policy))
        try:
            own = policy == trial.plan.settings.policy
            done = outcome if own else _simulate(trial, plan, ticker(f"comparing {policy}", plan.steps))
        except FirehoseError as error:
            say(f"left out of the comparison: {error.message}")
            continue
        losses[policy] = done.goal_loss[1]
    return losses


def _shares(trial: Trial, outcome: Outcome) -> dict[str, float]:
    return {arm.name: float(share) for arm, share in zip(trial.plan.arms, outcome.share, strict=True)}


def _rows(trial: Trial, outcome: Outcome, before: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """The configured sources in the config's order, zombies included; with `before`, those only in it too."""
    at = {arm.name: row for row, arm in enumerate(trial.plan.arms)}
    rows: list[dict[str, Any]] = []
    for name, source in trial.config.sources.items():
        why = why_not(trial.config, name, trial.last_step)
        row = at.get(name)
        if why is None and row is not None and trial.plan.arms[row].windows == 0:
            why = "no data"
        rows.append(
            {
                "name": name,
                "share": 0.0 if row is None else float(outcome.share[row]),
                "pulls": 0 if row is None else int(outcome.pulls[row]),
                "share_low": 0.0 if row is None else float(outcome.low[row]),
                "share_high": 0.0 if row is None else float(outcome.high[row]),
                "cap": source.cap,
                "floor": source.floor,
                "min_share": source.min_share,
                "max_share": source.max_share,
                "windows": None if row is None else trial.plan.arms[row].windows,
                "epochs": 0.0 if row is None else float(outcome.epochs[row]),
                "why_not": why,
            }
        )
        if before is not None:
            rows[-1]["share_against"] = before.get(name, 0.0)
    return rows


def _series(trial: Trial, outcome: Outcome, rows: list[dict[str, Any]]) -> list[plot.Series]:
    """Largest share first; those that may not be picked last."""
    at = {arm.name: row for row, arm in enumerate(trial.plan.arms)}
    series = [
        plot.Series(
            name=row["name"],
            history=outcome.history[:, at[row["name"]]].tolist() if row["name"] in at else [],
            share=row["share"],
            low=row["share_low"],
            high=row["share_high"],
            why_not=row["why_not"],
        )
        for row in rows
    ]
    return sorted(series, key=lambda each: (each.why_not is not None, -each.share))


def _body(
    trial: Trial, outcome: Outcome, rows: list[dict[str, Any]], losses: Mapping[str, float], best: float
) -> dict[str, Any]:
    plan = trial.plan
    return {
        "config": str(trial.config.path),
        "steps": plan.steps,
        "skipped_steps": trial.skipped,
        "policy": plan.settings.policy,
        "reward": trial.config.curriculum.reward,
        "seed": plan.seed,
        "windows": trial.sizes,
        "arms": rows,
        "regret": {policy: loss - best for policy, loss in losses.items()},
        "goal": trial.goal,
        "goal_loss": {"start": outcome.goal_loss[0], "end": outcome.goal_loss[1], "optimum": best},
        "relaxed": outcome.relaxed,
    }


def _report(
    trial: Trial,
    outcome: Outcome,
    rows: list[dict[str, Any]],
    losses: Mapping[str, float],
    best: float,
    *,
    blocks: bool,
) -> Iterator[str]:
    plan, settings = trial.plan, trial.plan.settings
    yield from _wrapped(
        f"{trial.config.path.name}: {plan.steps:,} step{'s' * (plan.steps > 1)} of {settings.grad_accum} pulls "
        f"by {settings.policy}, reward {trial.config.curriculum.reward}, seed {plan.seed}"
    )
    yield from _wrapped(f"windows {trial.sizes}")
    if trial.skipped:
        yield from _wrapped(f"the warm-up, {trial.skipped:,} steps, is left out")
    yield ""
    width = min(28, max(len(name) for name in ("source", *(row["name"] for row in rows))))
    yield from _table(rows, width)
    series = [each for each in _series(trial, outcome, rows) if each.history]
    top = max(max(each.history) for each in series)
    yield ""
    yield from _wrapped(
        f"share of the pulls, steps {trial.skipped + 1:,} to {trial.last_step:,}; full height is {top:.1%}"
    )
    yield from plot.terminal(series, min(width, TABLE - 2 - len(outcome.ends) - 8), blocks=blocks)
    if losses:
        yield ""
        yield from _wrapped(
            f"held-out loss of the goal ({', '.join(trial.goal)}): {outcome.goal_loss[0]:.3f} at first, "
            f"{best:.3f} at the end under the best shares that these bounds allow"
        )
        yield f"{'policy':16s} {'at the end':>10s} {'regret':>8s}"
        for policy, loss in sorted(losses.items(), key=lambda item: item[1]):
            mine = "  this config" if policy == settings.policy else ""
            yield f"{policy:16s} {loss:10.3f} {loss - best:8.4f}{mine}"


def _table(rows: list[dict[str, Any]], width: int) -> Iterator[str]:
    compared = "share_against" in rows[0]
    yield (
        f"{'source':{width}s} {'cap':>5s} {'floor':>5s}  {'bounds allow':>14s} "
        f"{'was' if compared else 'pulls':>7s} {'share':>7s} {'epochs':>7s}"
    )
    for row in rows:
        allowed = row["why_not"] or f"{row['share_low']:5.1%} to {row['share_high']:5.1%}"
        if row["why_not"] and row["why_not"].startswith("not in the warm-up"):
            allowed = "not in warm-up"
        other = f"{row['share_against']:7.1%}" if compared else f"{row['pulls']:7,}"
        yield (
            f"{row['name']:{width}.{width}s} {row['cap']:5g} {row['floor']:5g}  {allowed:>14s} "
            f"{other} {row['share']:7.1%} {row['epochs']:7.2f}"
        )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, TABLE, subsequent_indent="  ")


def _can_print(characters: str) -> bool:
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Tick]]:
    """Where stderr is a terminal, a bar for what takes longer than a moment; gone when it is done."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
    )
    bar = rich.progress.Progress(*columns, console=Console(stderr=True), transient=True)
    began, shown = time.monotonic(), sys.stderr.isatty()
    task = bar.add_task("")

    def start(what: str, steps: int) -> Tick:
        bar.reset(task, description=what, total=steps)

        def tick(done: int) -> None:
            if shown and time.monotonic() - began > PATIENCE:
                bar.start()
            bar.update(task, completed=done)

        return tick

    try:
        yield start
    finally:
        bar.stop()
