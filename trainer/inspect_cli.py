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
    from trainer.model import Shape

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
    from trainer.forensics import Examiner

    found = locate(checkpoint, runs_dir)
    other = None if against is None else locate(against, runs_dir)
    evidence, theirs = evidence_of(found), None if other is None else evidence_of(other)
    if other is not None and other.meta["shape"] != found.meta["shape"]:
        raise FirehoseError(
            Exit.REFUSED,
            "the two checkpoints are of models of different shapes",
            path=other.path,
            next=f"firehose inspect {found.path}",
        )
    report = Examiner(shape_of(found), found.meta.get("seed", 0), quick=False).examine(evidence, theirs)
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
    """The checkpoint that a run's name, a run's folder or a step_N folder means; a newer one passed over is said.

    Raises FirehoseError: NOT_FOUND, DAMAGED.
    """
    from state import checkpoints

    path = runs_dir / where if (runs_dir / where).is_dir() else Path(where)
    found = checkpoints.locate(path)
    for newer in checkpoints.after(path / "checkpoints", found.step):
        say(f"{checkpoints.damaged(newer).message}; {found.path.name} is looked at instead")
    return found


def shape_of(found: "Checkpoint") -> "Shape":
    """The model that a checkpoint says it is of. Raises FirehoseError(DAMAGED)."""
    import msgspec

    from state.checkpoints import damaged
    from trainer.model import Shape

    try:
        shape = msgspec.convert(found.meta.get("shape"), Shape)
    except msgspec.ValidationError as error:
        raise damaged(found.path, f"gives no shape of a model: {error}") from None
    sizes = (shape.vocab_size, shape.block_size, shape.width, shape.heads, shape.layers)
    if min(sizes) < 1 or shape.width % (2 * shape.heads):
        raise damaged(found.path, f"gives the shape of no model: {shape}")
    return shape


def evidence_of(found: "Checkpoint") -> "Evidence":
    """What forensics look at, every byte compared with what was written. Raises FirehoseError(DAMAGED)."""
    from state.checkpoints import MODEL, OPTIMIZER, damaged
    from trainer.checkpoint import tensors
    from trainer.forensics import Evidence
    from trainer.snapshot import Tensors

    shape, seed, lr, betas = shape_of(found), *(found.meta.get(key) for key in ("seed", "lr", "betas"))
    numbers = [*(betas if isinstance(betas, list) else []), *([] if lr is None else [lr])]
    if type(seed or 0) is not int or not all(isinstance(number, int | float) for number in numbers):
        raise damaged(found.path, f"is edited: seed {seed!r:.20}, lr {lr!r:.20}, betas {betas!r:.40}")
    if betas is not None and (not isinstance(betas, list) or len(betas) != 2):
        raise damaged(found.path, f"is edited: betas {betas!r:.40}")
    both = Tensors(tensors(found, MODEL), tensors(found, OPTIMIZER))
    expected, sizes = _sizes(shape), {name: tuple(tensor.shape) for name, tensor in both.model.items()}
    for name in sorted(expected.keys() | sizes.keys()):
        if expected.get(name) != sizes.get(name):
            told = f"{name} is {sizes.get(name, 'absent')}, of this shape {expected.get(name, 'absent')}"
            raise damaged(found.path, f"gives another shape than {MODEL} has: {told}")
    return Evidence(found.step, both, lr, betas)


def _sizes(shape: "Shape") -> dict[str, tuple[int, ...]]:
    """Name -> size of each of a model's tensors."""
    width, tokens = shape.width, (shape.vocab_size, shape.width)
    found: dict[str, tuple[int, ...]] = {"embedding.weight": tokens, "norm.weight": (width,)}
    if not shape.tied:
        found["head.weight"] = tokens
    for at in range(min(shape.layers, 10_000)):
        found |= {f"blocks.{at}.{norm}.weight": (width,) for norm in ("attention_norm", "mlp_norm")}
        found[f"blocks.{at}.attention.qkv.weight"] = (3 * width, width)
        found[f"blocks.{at}.attention.out.weight"] = (width, width)
        found[f"blocks.{at}.up.weight"] = (4 * width, width)
        found[f"blocks.{at}.down.weight"] = (width, 4 * width)
    return found


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
