"""Audits beside the score: what the four axes cannot see in a sample (DESIGN 5.4).

Each gives one number, under the name that `--json`, the sample log and `gate.audit_halt` use, and finds something or
not. Word salad has real words and no repetition, so that its score is 100; fluent text of another script scores up to
80; a recited document scores like any other; "a" as every fourth word costs a few points.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.errors import Exit, FirehoseError
from curriculum.gate.bigrams import is_word
from curriculum.gate.coherence import tokenize
from curriculum.gate.copies import Copy
from curriculum.gate.reference import COHERENT, NAME, REBUILD, Reference, load
from curriculum.text import tokenizer as tokenizers
from curriculum.text.scripts import foreign
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens import manifest as manifests

LEAST_TOKENS = 16  # of a sample that local coherence can judge
LEAST_WORDS = 16  # of one that token dominance can judge
LEAST_COPY = 64  # tokens that a source's own text may share with it: licences, greetings, templates
COPIED_PART = 0.8  # of a sample
LEAST_LETTERS = 8  # outside the run's scripts
FOREIGN = 0.15  # share of letters


def dominance_limit(words: int) -> float:
    """How far the commonest word's share may be over its share in the trusted text, for so many words.

    No real text of 60 words or more in the sources this was set on was over it but tables of one symbol.

    >>> [round(dominance_limit(words), 2) for words in (20, 60, 120, 300)]
    [0.33, 0.22, 0.18, 0.14]
    """
    return 0.08 + 1.1 / math.sqrt(words)


@dataclass(frozen=True, slots=True)
class Audit:
    """What the audits say of one text. Numbers are None where the text is too short or there is nothing to compare with.

    local_coherence: mean log ratio in nats. longest_copy: tokens. top_token_share, script_share: shares in [0, 1].
    found: names of the audits that found something, in order; `why` has a sentence for each.
    """

    local_coherence: float | None
    longest_copy: int | None
    top_token_share: float | None
    top_token: str | None
    script_share: float | None
    copied_from: str | None
    why: dict[str, str]

    @property
    def found(self) -> tuple[str, ...]:
        """The audits that found something."""
        return tuple(sorted(self.why))

    def as_dict(self) -> dict[str, Any]:
        """The audits as `--json` and the sample log hold them."""
        return {
            "local_coherence": self.local_coherence,
            "longest_copy": self.longest_copy,
            "copied_from": self.copied_from,
            "top_token_share": self.top_token_share,
            "top_token": self.top_token,
            "script_share": self.script_share,
            "found": list(self.found),
        }


class Audits:
    """The audits of one data folder's trusted sources."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.scripts = reference.scripts

    def judge(self, text: str, ids: Sequence[int] = ()) -> Audit:
        """Audit a generated text. ids: its tokens, without which the longest copy is not looked for."""
        tokens = tokenize(text)
        why: dict[str, str] = {}
        coherence = self._coherence(tokens, why)
        copy = self._copy(ids, why)
        share, word = self._dominance(tokens, why)
        foreign = self._script(text, why)
        return Audit(
            coherence,
            None if copy is None else copy.tokens,
            share,
            word,
            foreign,
            copy.source if copy else None,
            why,
        )

    def _coherence(self, tokens: Sequence[str], why: dict[str, str]) -> float | None:
        if len(tokens) < LEAST_TOKENS:
            return None
        value = self.reference.bigrams.coherence(tokens)
        if value is not None and value < COHERENT and self.reference.coherence_works:
            why["local_coherence"] = (
                f"words do not follow from one another: {value:.2f} nats, under {COHERENT:g}"
            )
        return value

    def _copy(self, ids: Sequence[int], why: dict[str, str]) -> Copy | None:
        if not ids:
            return None
        copy = self.reference.copies.longest(ids)
        if copy.tokens >= max(LEAST_COPY, COPIED_PART * len(ids)):
            why["longest_copy"] = f"{copy.tokens} of {len(ids)} tokens are those of {copy.source}, in order"
        return copy

    def _dominance(self, tokens: Sequence[str], why: dict[str, str]) -> tuple[float | None, str | None]:
        words = [token for token in tokens if is_word(token)]
        if len(words) < LEAST_WORDS:
            return None, None
        word, times = Counter(words).most_common(1)[0]
        share, usual = times / len(words), self.reference.bigrams.share(word)
        if share - usual > dominance_limit(len(words)):
            why["top_token_share"] = (
                f"{word[:40]!r} is {share:.0%} of the words, {usual:.1%} of the trusted sources'"
            )
        return share, word[:40]

    def _script(self, text: str, why: dict[str, str]) -> float:
        total, outside = foreign(text, self.scripts)
        share = outside / max(1, total)
        if share > FOREIGN and outside >= LEAST_LETTERS:
            why["script_share"] = (
                f"{share:.0%} of the letters are of another script than {', '.join(sorted(self.scripts))}"
            )
        return share


class TextAudits:
    """The audits of a data folder for text from anywhere, which is encoded to look for copies."""

    def __init__(self, audits: Audits, tokenizer: Tokenizer) -> None:
        self._audits = audits
        self._tokenizer = tokenizer

    @classmethod
    def open(cls, folder: Path) -> "TextAudits":
        """Open a data folder's. Raises FirehoseError: NOT_FOUND where it has none, DAMAGED."""
        manifest = manifests.read(folder)
        found = load(folder, manifest)
        if found is None:
            raise FirehoseError(
                Exit.NOT_FOUND,
                "there is nothing to audit against: an earlier version built these token files",
                path=folder / NAME,
                next=REBUILD,
            )
        return cls(Audits(found), tokenizers.load(folder / manifest.tokenizer.file))

    def judge(self, text: str) -> Audit:
        """Audit a text."""
        return self._audits.judge(text, self._tokenizer.encode(text))
