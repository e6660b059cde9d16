"""How far a long command over text is, told on stderr: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

from curriculum.console import say
from curriculum.text.build import Progress, Report

LINE_EVERY = 5.0  # seconds between progress lines where there is no terminal


@contextmanager
def progress() -> Iterator[Report]:
    """Show progress on stderr: a bar on a terminal, else a line for each stage and every few seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[documents]:,} documents"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", documents=0)

        def update(now: Progress) -> None:
            bar.update(
                task,
                description=f"{now.stage} {now.source}",
                completed=now.bytes_done,
                total=now.bytes_total,
                documents=now.documents,
            )

        yield update


def _lines() -> Report:
    shown: tuple[str, str] = ("", "")
    last = 0.0

    def update(now: Progress) -> None:
        nonlocal shown, last
        at = time.monotonic()
        if (now.stage, now.source) != shown or at - last >= LINE_EVERY:
            shown, last = (now.stage, now.source), at
            share = now.bytes_done / max(1, now.bytes_total)
            say(f"{now.stage} {now.source}: {now.documents:,} documents, {share:.0%} of the text")

    return update
