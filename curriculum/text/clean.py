"""The rules that every document of every source goes through, and the count of what each of them dropped.

There is one pipeline and no list of sources that skip it. A rule is a name and a predicate that is true of a text
to drop; the first rule that holds drops it and counts it. A new rule is one more entry of `RULES`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from curriculum.text.read import Document

Rule = tuple[str, Callable[[str], bool]]

RULES: tuple[Rule, ...] = (("empty", lambda text: not text.strip()),)


@dataclass(slots=True)
class Tally:
    """Documents that came in, went out, and were dropped by rule (every rule is listed, also those at 0)."""

    documents_in: int = 0
    documents_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def clean(documents: Iterable[Document], tally: Tally, rules: Sequence[Rule] = RULES) -> Iterator[Document]:
    """The documents that no rule drops, in order; `tally` is kept up to date as they pass."""
    tally.dropped = {name: 0 for name, _ in rules}
    for document in documents:
        tally.documents_in += 1
        broken = next((name for name, drops in rules if drops(document.text)), None)
        if broken is None:
            tally.documents_out += 1
            yield document
        else:
            tally.dropped[broken] += 1
