"""`firehose inspect`: a checkpoint's forensics as a table, as JSON, or as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit, FirehoseError
from state.cli import RUNS, Json, RunsDir

if TYPE_CHECKING:
    from state.checkpoints import Checkpoint
    from trainer.forensics import Evidence, Report

app = typer.Typer()


@app.command("inspect")
@command("inspect/1")
def inspect_command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A step_N folder; of a run, its newest checkpoint.")
    ],
    *,
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Compare with this checkpoint: earlier, or a sibling's."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw it; needs matplotlib.")
    ] = None,
    runs_dir: RunsDir = RUNS,
    json: Json = False,
) -> int:
    """Look for weights that shrank, layers that died, tokens that became alike; exit 3 where a check fails."""
    from curriculum.plot import check_picture

    if plot is not None:
        check_picture(plot)
    import msgspec

    from trainer.forensics import Examiner
    from trainer.model import Shape

    found = locate(checkpoint, runs_dir)
    other = None if against is None else locate(against, runs_dir)
    if other is not None and other.meta["shape"] != found.meta["shape"]:
        raise FirehoseError(
            Exit.REFUSED,
            "the two checkpoints are of models of different shapes",
            path=other.path,
            next=f"firehose inspect {found.path}",
        )
    examiner = Examiner(msgspec.convert(found.meta["shape"], Shape), found.meta.get("seed", 0), quick=False)
    evidence, theirs = evidence_of(found), None if other is None else evidence_of(other)
    report = examiner.examine(evidence, theirs)
    if json:
        body = {"checkpoint": str(found.path), "step": found.step, **report.as_dict()}
        emit_json("inspect/1", body | {"against": None if other is None else str(other.path)})
    else:
        print("\n".join(screen(report)))
        say(wrapped(f"{found.path}: {report.verdict}" + (f", beside {other.path}" if other else "")))
    if plot is not None:
        from trainer.forensics_plot import picture

        picture(plot, report, evidence.tensors.model, f"{found.path.parents[1].name}, step {found.step:,}")
        say(f"drawn to {plot}")
    return Exit.FINDINGS if report.failing else Exit.OK


def locate(where: str, runs_dir: Path) -> "Checkpoint":
    """The checkpoint that a run's name, a run's folder or a step_N folder means. Raises FirehoseError(NOT_FOUND)."""
    from state import checkpoints

    return checkpoints.locate(runs_dir / where if (runs_dir / where).is_dir() else Path(where))


def evidence_of(found: "Checkpoint") -> "Evidence":
    """What forensics look at, every byte compared with what was written. Raises FirehoseError(DAMAGED)."""
    from state.checkpoints import MODEL, OPTIMIZER
    from trainer.checkpoint import tensors
    from trainer.forensics import Evidence
    from trainer.snapshot import Tensors

    both = Tensors(tensors(found, MODEL), tensors(found, OPTIMIZER))
    return Evidence(found.step, both, found.meta.get("lr"), found.meta.get("betas"))


def screen(report: "Report") -> list[str]:
    """The report in at most 80 columns."""
    from state.status import short, table
    from trainer.forensics import LIMITS

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    rows = [
        [
            check.name,
            number(check.value),
            f"{'>=' if LIMITS[check.name].least else '<='} {check.limit:g}",
            "ok" if check.ok else "FAILS",
        ]
        for check in report.checks
    ]
    lines = table(["check", "value", "limit", ""], rows)
    width = max(map(len, lines)) + 2
    abouts = ["", *(check.where or LIMITS[check.name].about for check in report.checks)]
    lines = [
        f"{line:{width}}{short(about, 80 - width)}".rstrip()
        for line, about in zip(lines, abouts, strict=True)
    ]
    columns = [name for name in report.layers[0] if any(layer[name] is not None for layer in report.layers)]
    lines += ["", *table(columns, [[number(layer[name]) for name in columns] for layer in report.layers])]
    tokens = report.tokens
    lines += [
        "",
        f"{tokens['count']:,.0f} tokens: norm of the embedding {number(tokens['norm_mean'])} in the mean "
        f"(fresh {number(tokens['norm_fresh'])}),",
        f"1 % under {number(tokens['norm_p01'])}, half under {number(tokens['norm_p50'])}, "
        f"99 % under {number(tokens['norm_p99'])}",
    ]
    failing = [f"{check.name}: {LIMITS[check.name].about}" for check in report.failing]
    return [*lines, *(["", "failing:", *(f"  {line}" for line in failing)] if failing else [])]
