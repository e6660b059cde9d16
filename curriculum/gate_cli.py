"""`firehose gate`: score samples as a run scores them, and replay a sample log through any rule."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curriculum.console import command, emit_json, wrapped
from curriculum.errors import Exit, FirehoseError
from curriculum.gate import samples as logs
from curriculum.gate.backtest import Backtest, backtest
from curriculum.gate.coherence import Score, score
from curriculum.gate.rule import Rules

if TYPE_CHECKING:  # numpy: not paid by commands that audit nothing
    from curriculum.gate.audits import Audit, TextAudits

LARGEST_RULE = 1_000_000  # samples: a run draws some thousands
app = typer.Typer(no_args_is_help=True, help="Judge samples: the coherence score, the audits, and the rules.")
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command("score")
@command("gate-score/1")
def score_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="A text, a JSON array, or JSONL of {text}; - for stdin.")
    ],
    *,
    data: Annotated[
        Path | None, typer.Option(help="Data folder: audit against the trusted sources in it.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="A run, by name or folder: audit against its data.")] = None,
    json: Json = False,
) -> None:
    """Score a sample, or many, on the four axes (0 to 100; the gate's threshold is 30), and audit them.

    Examples: firehose gate score sample.txt;  firehose gate score runs/demo/demo.samples.json --run demo --json
    """
    given = logs.texts(logs.read(file), file)
    audits = _audits(data, run)
    many = given if isinstance(given, list) else [given]
    judged = [(score(text), None if audits is None else audits.judge(text)) for text in many]
    if json:
        bodies = [_body(*each) for each in judged]
        emit_json("gate-score/1", {"samples": bodies} if isinstance(given, list) else bodies[0])
        return
    print(f"{'score':>6} {'bigram':>7} {'trigram':>8} {'english':>8} {'chars':>6} {'tokens':>7}")
    for scored, audit in judged:
        print(
            f"{scored.total:6.1f} {scored.bigram:7.1f} {scored.trigram:8.1f} {scored.english:8.1f} "
            f"{scored.characters:6.1f} {scored.tokens:7d}{'  short' if scored.short else ''}"
        )
        for name, sentence in (audit.why if audit else {}).items():
            print(wrapped(f"       {name}: {sentence}"))


@app.command("backtest")
@command("gate-backtest/1")
def backtest_command(
    samples: Annotated[
        str, typer.Argument(metavar="SAMPLES", help="A run's sample log, or JSONL of {step, score or text}.")
    ],
    *,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="A rule to try: 5 (in a row), 8/16 (of the last), tally:40. May be repeated."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=100, help="Score under which a sample is low.")
    ] = 30.0,
    audit_halt: Annotated[
        list[str] | None, typer.Option(help="An audit whose findings count as low. May be repeated.")
    ] = None,
    seconds_per_step: Annotated[
        float | None, typer.Option(min=0, help="The run's pace, to say what is saved in hours.")
    ] = None,
    watts: Annotated[
        float | None, typer.Option(min=0, help="Power of the machine, to say it in kWh.")
    ] = None,
    json: Json = False,
) -> None:
    """Replay a sample log: where each rule would have halted the run, and what that would have saved.

    Examples: firehose gate backtest runs/demo/demo.samples.json --rule 8/16 --seconds-per-step 10 --watts 130
    """
    halting = tuple(_audit(name) for name in audit_halt or ())
    _priced(seconds_per_step, watts)
    given = [_rule(text) for text in rule or ()]
    log = logs.log(logs.read(samples), samples)
    usual = Rules()
    tried = [
        usual,
        Rules(usual.consecutive, usual.window, usual.window_low, 0),
        Rules.read(str(usual.consecutive)),
        Rules.read(f"{usual.window_low}/{usual.window}"),
        Rules.read(f"tally:{usual.tally}"),
    ]
    results = [
        backtest(
            log,
            rules,
            threshold=threshold,
            audit_halt=halting,
            seconds_per_step=seconds_per_step,
            watts=watts,
        )
        for rules in dict.fromkeys([*given, *tried])
    ]
    if json:
        body = results[0].as_dict()
        emit_json("gate-backtest/1", {**body, "rules": [result.as_dict() for result in results]})
        return
    print(f"{'rule':<46} {'halts at':>8} {'steps':>8} {'hours':>7} {'kWh':>6}")
    for result in results:
        print("\n".join(_lines(result)))
    print(f"{len(log):,} samples, steps {log[0].step:,} to {log[-1].step:,}")


def _lines(result: Backtest) -> list[str]:
    at = "never" if result.halt_step is None else f"{result.halt_step:,}"
    hours = "" if result.saved_hours is None else f"{result.saved_hours:,.1f}"
    kwh = "" if result.saved_kwh is None else f"{result.saved_kwh:,.1f}"
    saved = f"{result.saved_steps:,}" if result.halt_step is not None else ""
    name = wrapped(result.rule, indent="", width=46).splitlines()
    return [*name[:-1], f"{name[-1]:<46} {at:>8} {saved:>8} {hours:>7} {kwh:>6}".rstrip()]


def _audit(name: str) -> str:
    from typing import get_args

    from curriculum.config_keys import Audit as Names
    from curriculum.config_toml import did_you_mean

    known = list(get_args(Names))
    if name not in known:
        raise FirehoseError(
            Exit.USAGE,
            f"there is no audit {name!r}{did_you_mean(name, known)}",
            next=f"--audit-halt {', '.join(known[:-1])} or {known[-1]}",
        )
    return name


def _priced(seconds_per_step: float | None, watts: float | None) -> None:
    """Raise USAGE for a price that says nothing: power without a pace, or what is no number."""
    for option, value in (("--seconds-per-step", seconds_per_step), ("--watts", watts)):
        if value is not None and not math.isfinite(value):
            raise FirehoseError(Exit.USAGE, f"{option} {value} is no number", next=f"{option} 10")
    if watts is not None and seconds_per_step is None:
        raise FirehoseError(
            Exit.USAGE,
            "--watts needs the run's pace to say what is saved",
            next=f"--seconds-per-step 10 --watts {watts:g}",
        )


def _rule(text: str) -> Rules:
    try:
        rules = Rules.read(text)
        if max(rules.consecutive, rules.window, rules.tally) > LARGEST_RULE:
            raise ValueError(f"a count over {LARGEST_RULE:,}")
        return rules
    except ValueError as error:
        raise FirehoseError(
            Exit.USAGE,
            f"--rule {text}: {error}",
            next="--rule 5 (in a row), --rule 8/16 (of the last), or --rule tally:40",
        ) from None


def _body(scored: Score, audit: "Audit | None") -> dict[str, Any]:
    body: dict[str, Any] = {"score": scored.total, "axes": scored.axes, "short": scored.short}
    return body if audit is None else {**body, "audits": audit.as_dict()}


def _audits(data: Path | None, run: str | None) -> "TextAudits | None":
    """The audits of a data folder, or of a run's; None where neither is given."""
    if data is not None and run is not None:
        raise FirehoseError(Exit.USAGE, "--data and --run both name what to audit against", next="give one")
    if run is not None:
        from curriculum import config as configs

        folder = Path(run) if Path(run).is_dir() else Path(os.environ.get("FIREHOSE_RUNS", "runs"), run)
        path = folder / "config.toml"
        if not path.is_file():
            raise FirehoseError(Exit.NOT_FOUND, f"there is no run {run!r}", path=folder, next="firehose list")
        config = configs.load(path)
        data = config.resolve(config.data.dir)
    if data is None:
        return None
    from curriculum.gate.audits import TextAudits

    return TextAudits.open(data)
