"""`firehose data clean`: clean text, show the table, and let a person judge the rules by what they dropped."""

import os
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from curriculum import clean_table
from curriculum.config import Clean
from curriculum.config_toml import did_you_mean
from curriculum.console import command, emit_json, say, wrapped
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes
from curriculum.progress import progress
from curriculum.text import cleaning
from curriculum.text.build import Progress
from curriculum.text.read import Document, say_passed_over, size_of

SCHEMA = "data-clean/1"
SHOWN = 400  # characters of a dropped document that is shown


@command(SCHEMA)
def clean_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="A file, folder or glob; a saved dataset; hf:NAME[:SPLIT[:CONFIG]]."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A file that ends in .jsonl, or a folder: a file for each of IN."),
    ],
    report: Annotated[
        bool, typer.Option("--report", help="Also print a line a rule, with its limit.")
    ] = False,
    show_dropped: Annotated[
        int, typer.Option("--show-dropped", min=0, metavar="N", help="Show the first N that each rule drops.")
    ] = 0,
    dropped: Annotated[
        Path | None,
        typer.Option("--dropped", metavar="FILE", help="Write all that is dropped there, as JSONL."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A limit, by the keys of [clean]: list_share=0.9."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="That judge; by default one a core.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and judge all, write nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Drop what no model should learn from: the same rules for every source, each with its count."""
    limits = _limits(settings or [])
    plan = cleaning.plan(source, out, limits, processes)
    size = sum(map(size_of, plan.files.values()))
    for message in say_passed_over([source]):
        say(message)
    try:
        with _Heard(show_dropped, None if dry_run else _free(dropped, plan)) as heard, progress() as tell:
            tallies = cleaning.clean_text(
                plan,
                write=not dry_run,
                dropped=heard.drop,
                done=lambda count, read: tell(Progress("cleaning", source, count, read, size)),
            )
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        raise typer.Exit(130) from None
    warnings = clean_table.warnings(tallies, "look at them with --show-dropped 5")
    if json:
        body: dict[str, Any] = {"out": None if dry_run else str(out), "dry_run": dry_run}
        body |= {
            "limits": msgspec.to_builtins(limits),
            "sources": cleaning.as_json(tallies),
            "warnings": warnings,
        }
        emit_json(SCHEMA, body | ({"shown": heard.shown} if show_dropped else {}))
    else:
        clean_table.print_table(tallies)
        if report:
            clean_table.print_rules(tallies, limits)
        for each in heard.shown:
            print(f"\n{each['source']}: {each['rule']}\n{_indented(each['text'])}")
        print(wrapped("nothing was written" if dry_run else f"\nwrote {out} and {plan.table}"))
    for warning in warnings:
        say(typer.style(f"warning: {warning}", fg="yellow") if sys.stderr.isatty() else f"warning: {warning}")


class _Heard:
    """What was dropped: the first few by source and rule to be shown, and all of it in a file where one is named.

    The file has its name once all is cleaned; else nothing is left of it.
    """

    def __init__(self, show: int, path: Path | None) -> None:
        self.shown: list[dict[str, str]] = []
        self._show = show
        self._path = path
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lines: Any = None

    def __enter__(self) -> "_Heard":
        if self._path is not None:
            with failing_writes(self._path):
                name = f".{self._path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
                cleaning.sweep(self._path.parent)
                self._temporary = self._path.with_name(name)
                self._lines = self._temporary.open("xb")
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._lines is not None and self._path is not None:
            with failing_writes(self._path, "all but that file was written"):
                try:
                    self._lines.close()
                    if kind is None:
                        self._temporary.replace(self._path)
                finally:
                    self._temporary.unlink(missing_ok=True)

    def drop(self, name: str, rule: str, document: Document) -> None:
        self._counts[name, rule] += 1
        if self._counts[name, rule] <= self._show:
            self.shown.append({"source": name, "rule": rule, "text": document.text[:SHOWN]})
        if self._lines is not None and self._path is not None:
            with failing_writes(self._path):
                self._lines.write(
                    msgspec.json.encode({"source": name, "rule": rule, "text": document.text}) + b"\n"
                )


def _free(path: Path | None, plan: cleaning.CleaningPlan) -> Path | None:
    """The file for what is dropped. Raises FirehoseError(REFUSED) where it is there, or something else is to be."""
    if path is not None:
        taken = path.resolve() in {file.resolve() for file in (*plan.targets.values(), plan.table)}
        if taken or path.exists():
            raise FirehoseError(
                Exit.REFUSED,
                "--dropped names a file that OUT is to hold"
                if taken
                else "the file that --dropped names exists",
                path=path,
                next="name another, then run the same command again",
            )
    return path


def _limits(assignments: list[str]) -> Clean:
    """The default limits with some set: KEY=VALUE, the value as TOML or, for a name, bare. Raises USAGE."""
    given: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        known = list(Clean.__struct_fields__)
        if key not in known or not equals:
            raise _usage(f"{assignment!r} is not KEY=VALUE with a key of [clean]{did_you_mean(key, known)}")
        if key == "scripts" and not value.startswith("["):
            given[key] = [name.strip() for name in value.split(",")]
            continue
        try:
            given[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise _usage(f"{value!r} is no value of {key}") from None
    try:
        return msgspec.convert(given, Clean)
    except msgspec.ValidationError as error:
        raise _usage(str(error)) from None


def _usage(what: str) -> FirehoseError:
    return FirehoseError(Exit.USAGE, what, next="docs/config.md lists the keys of [clean] and their ranges")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
