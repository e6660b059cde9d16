"""The table of a cleaning: documents in, out and dropped, by source and rule, at most 80 columns wide."""

from collections.abc import Iterable, Mapping

import typer

from curriculum.config import Clean
from curriculum.console import wrapped
from curriculum.text.clean import NEAR_DUPLICATE, WARN_OVER, Tally

NAME = 40  # columns
LIMITS = {
    "oversize paragraph": "longest_paragraph",
    "script drift": "foreign_share",
    "repetition": "bigram_diversity",
    "list": "list_share",
    "prompt shape": "prompt_signs",
    NEAR_DUPLICATE: "near_duplicates",
}


def print_table(tallies: Mapping[str, Tally]) -> None:
    """Print a line a source, and below it what each rule dropped of it; yellow where it loses more than half."""
    width = min(NAME, max(map(len, (*tallies, "source", "total"))))
    print(f"{'source':<{width}}  {'in':>12} {'out':>12} {'dropped':>9}")
    for name, tally in tallies.items():
        colour = "yellow" if tally.dropped_share > WARN_OVER else None
        typer.secho(_line(name, tally, width), fg=colour)
        if told := _rules(tally):
            typer.secho(wrapped(f"    {told}"), fg=colour)
    if len(tallies) > 1:
        print(_line("total", total(tallies.values()), width))


def print_rules(tallies: Mapping[str, Tally], limits: Clean) -> None:
    """Print a line a rule: what it dropped of all sources, and the limit it went by."""
    of_all = total(tallies.values())
    print(f"\n{'rule':<20} {'dropped':>12} {'share':>8}  limit")
    for rule, count in of_all.dropped.items():
        key = LIMITS.get(rule)
        limit = f"{key} = {getattr(limits, key)}" if key else ""
        print(f"{rule:<20} {count:>12,} {count / max(1, of_all.documents_in):>8.2%}  {limit}")


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    summed = Tally()
    for tally in tallies:
        summed.documents_in += tally.documents_in
        summed.documents_out += tally.documents_out
        for rule, count in tally.dropped.items():
            summed.dropped[rule] = summed.dropped.get(rule, 0) + count
    return summed


def warnings(tallies: Mapping[str, Tally], next: str) -> list[str]:
    """A sentence for each source that loses more than half of its documents, and how to see whether it should."""
    found = []
    for name, tally in tallies.items():
        if tally.dropped_share > WARN_OVER:
            rule = max(tally.dropped, key=lambda each: tally.dropped[each])
            found.append(
                f"{name} loses {tally.dropped_share:.1%} of its documents, most by the rule {rule!r}: {next}"
            )
    return found


def _line(name: str, tally: Tally, width: int) -> str:
    shown = name if len(name) <= width else "…" + name[1 - width :]
    return (
        f"{shown:<{width}}  {tally.documents_in:>12,} {tally.documents_out:>12,} {tally.dropped_share:>9.1%}"
    )


def _rules(tally: Tally) -> str:
    counts = {rule: count for rule, count in tally.dropped.items() if count}
    return ", ".join(f"{rule} {count:,} ({count / tally.documents_in:.1%})" for rule, count in counts.items())
