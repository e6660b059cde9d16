"""`firehose data`: clean text, build token files from it, and list what a data folder holds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curriculum import clean_cli, clean_table
from curriculum import config as configs
from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit, FirehoseError
from curriculum.progress import progress
from curriculum.text.build import build, find_text, plan_for
from curriculum.text.clean import Tally
from curriculum.text.read import say_passed_over
from curriculum.text.tokenizer import NAME as TOKENIZER
from curriculum.tokens import manifest as manifests
from curriculum.tokens.corpus import Corpus
from curriculum.tokens.manifest import Manifest
from curriculum.tokens.windows import windows_in

app = typer.Typer(
    name="data", help="Clean text, build token files from it, and list them.", no_args_is_help=True
)
BUILD_SCHEMA = "data-build/1"
LIST_SCHEMA = "data-ls/1"
LOOK = "firehose data clean PATH OUT --dry-run --show-dropped 5"  # PATH: the source's

app.command("clean")(clean_cli.clean_command)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("build")
@command(BUILD_SCHEMA)
def build_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read and written.")] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Use this tokenizer.json again, or the one in this folder, instead of training one: "
            "runs/NAME/tokenizer lets a new source join the run NAME."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Tokenise every source of CONFIG that is not excluded into its data folder."""
    settings = configs.load(config)
    if tokenizer is not None and tokenizer.is_dir():
        tokenizer /= TOKENIZER
    plan = plan_for(settings, tokenizer)
    for name in sorted(settings.sources.keys() - plan.sources.keys()):
        say(f"{name}: left out (curriculum.exclude_sources)")
    for name, text in plan.sources.items():
        for message in say_passed_over(text.paths):
            say(f"{name}: {message}")
    if dry_run:
        files = {name: [(str(f), f.stat().st_size) for f in found] for name, found in find_text(plan).items()}
        if json:
            sources = {
                name: {"files": [{"path": path, "bytes": size} for path, size in found]}
                for name, found in files.items()
            }
            emit_json(BUILD_SCHEMA, {"dry_run": True, "out_dir": str(plan.out_dir), "sources": sources})
            return
        print(f"would write token files, tokenizer and manifest to {plan.out_dir}")
        print(
            _table(
                ("source", "files", "bytes"),
                [(name, len(found), sum(size for _, size in found)) for name, found in files.items()],
            )
        )
        return
    with progress() as report:
        manifest = build(plan, report)
    if json:
        emit_json(BUILD_SCHEMA, {"out_dir": str(plan.out_dir), "sources": _sources(manifest)})
    else:
        _print_sources(manifest, {})
        print(f"wrote {plan.out_dir}")
    for warning in clean_table.warnings(tallies(manifest), LOOK):
        say(typer.style(f"warning: {warning}", fg="yellow") if sys.stderr.isatty() else f"warning: {warning}")
    for file in _leftovers(plan.out_dir, manifest):
        say(f"left over from an earlier build, used by nothing: {file}")


@app.command("ls")
@command(LIST_SCHEMA)
def list_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The data folder: `data.dir` of the config.")],
    json: Json = False,
) -> int:
    """List the sources of a data folder, from its manifest; exit 4 where a file is missing or damaged."""
    manifest = manifests.read(folder)
    problems = _problems(folder, manifest)
    error = None
    if problems:
        error = FirehoseError(
            Exit.DAMAGED,
            f"{len(problems)} of {len(manifest.sources)} sources cannot be used: {', '.join(problems)}",
            path=folder,
            next="firehose data build CONFIG",
        )
    if json:
        sources = _sources(manifest)
        for name, source in sources.items():
            source["problem"] = problems.get(name)
        emit_json(LIST_SCHEMA, {"sources": sources} | ({"error": error.as_dict()} if error else {}))
    else:
        _print_sources(manifest, problems)
        if error:
            say(f"error: {error}")
    return int(Exit.DAMAGED if problems else Exit.OK)


def _problems(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Source -> what is wrong with its files, as far as their headers and sizes tell."""
    corpus = Corpus.open(folder, manifest.block_size, seed=0)
    problems = dict(corpus.missing)
    for name in corpus.sources:
        try:
            corpus.check_headers(name)
        except FirehoseError as error:
            problems[name] = error.message
    return problems


def _sources(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The `sources` of the JSON contract (DESIGN 9.1), with windows and held-out counts added."""
    return {
        name: {
            "in": entry.documents_in,
            "out": entry.documents_out,
            "dropped": entry.dropped,
            "dropped_share": entry.dropped_share,
            "documents": entry.train.documents,
            "tokens": entry.train.tokens,
            "windows": windows_in(entry.train.tokens, manifest.block_size),
            "heldout_documents": entry.heldout.documents if entry.heldout else 0,
            "heldout_tokens": entry.heldout.tokens if entry.heldout else 0,
            "heldout_windows": windows_in(entry.heldout.tokens, manifest.block_size) if entry.heldout else 0,
            "notes": list(entry.notes),
        }
        for name, entry in manifest.sources.items()
    }


def _print_sources(manifest: Manifest, problems: dict[str, str]) -> None:
    clean_table.print_table(tallies(manifest))
    rows = [
        (name, source["documents"], source["tokens"], source["windows"], source["heldout_windows"])
        for name, source in _sources(manifest).items()
    ]
    print("\n" + _table(("source", "documents", "tokens", "windows", "held-out windows"), rows))
    print(
        f"windows of {manifest.block_size:,} tokens; vocabulary {manifest.tokenizer.vocab_size:,}, "
        f"trained on {manifest.tokenizer.sample_bytes / 1e6:.1f} MB"
    )
    for name, entry in manifest.sources.items():
        for line in filter(None, (*entry.notes, problems.get(name))):
            print(wrapped(f"{name}: {line}"))


def tallies(manifest: Manifest) -> dict[str, Tally]:
    """What the rules dropped of each source, as the manifest has it."""
    return {
        name: Tally(entry.documents_in, entry.documents_out, dict(entry.dropped))
        for name, entry in manifest.sources.items()
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> str:
    """Aligned columns: names to the left, numbers to the right."""
    lines = [header, *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _leftovers(folder: Path, manifest: Manifest) -> list[str]:
    """Token files in the folder that its manifest does not name."""
    used = {part.file for entry in manifest.sources.values() for part in entry.files()}
    return sorted(path.name for path in folder.glob("*.btok") if path.name not in used)
