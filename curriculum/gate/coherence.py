"""The coherence score of a sample: four axes that sum to 100 (document 004, "Score Every Sample on Four Axes").

Loss cannot see collapse: a model that says one frequent token again and again is paid for it. Each axis catches a
collapse the others miss: repeated pairs, cycles of three, another language or gibberish, one character over and over.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from curriculum.gate.words import is_english

BIGRAM, TRIGRAM, ENGLISH, CHARACTERS = 35.0, 35.0, 20.0, 10.0  # the most each axis can give
ENOUGH_CHARACTERS = 20  # distinct ones, for the whole of that axis
SHORT = 8  # tokens; a sample under this is scored as it is and marked
PUNCTUATION = ""  # the one symbol that every token of punctuation only becomes
# From the first letter or digit to the last. Looking for the punctuation at the ends instead takes the square of a run's
# length: each place in the run is tried as the beginning of the end.
CORE = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Score:
    """A sample's total (0 to 100), its four axes, its length in tokens, and whether that is short."""

    total: float
    bigram: float
    trigram: float
    english: float
    characters: float
    tokens: int
    short: bool

    @property
    def axes(self) -> dict[str, float]:
        """The four axes by name, as `--json` and the sample log hold them."""
        return {
            "bigram": self.bigram,
            "trigram": self.trigram,
            "english": self.english,
            "characters": self.characters,
        }


def score(text: str) -> Score:
    """Score generated text; empty text scores 0.

    With n tokens, u_k distinct k-grams of m_k = n - k + 1: bigrams 35 (u_2-1)/(m_2-1), trigrams 35 (u_3-1)/(m_3-1),
    English 20 times the share of words that are English, characters 10 min(1, distinct / 20).

    >>> [round(score(text).total) for text in ("region " * 8, "The cat sat on the mat and looked at the rain.")]
    [23, 98]
    """
    tokens = tokenize(text)
    words = [token for token in tokens if any(map(str.isalpha, token))]
    bigram = BIGRAM * _diversity(tokens, 2)
    trigram = TRIGRAM * _diversity(tokens, 3)
    english = ENGLISH * sum(map(is_english, words)) / len(words) if words else 0.0
    distinct = len({character for character in text if not character.isspace()})
    characters = CHARACTERS * min(1.0, distinct / ENOUGH_CHARACTERS)
    total = bigram + trigram + english + characters
    return Score(total, bigram, trigram, english, characters, len(tokens), len(tokens) < SHORT)


def tokenize(text: str) -> list[str]:
    """White-space tokens, lower-cased, without edge punctuation; those of punctuation only become one symbol.

    >>> tokenize("Rain's rhythmic refrain, ''' ... __init__")
    ["rain's", 'rhythmic', 'refrain', '', '', 'init']
    """
    return [token if token.isalnum() else _core(token) for token in text.lower().split()]


def _core(token: str) -> str:
    found = CORE.search(token)
    return found.group() if found else PUNCTUATION


def _diversity(tokens: Sequence[str], k: int) -> float:
    """Share of k-grams that are new, 0 where all are one; 0 for fewer than two k-grams, where nothing can be said."""
    grams = len(tokens) - k + 1
    if grams < 2:
        return 0.0
    distinct = len(set(zip(*(tokens[at:] for at in range(k)), strict=False)))
    return (distinct - 1) / (grams - 1)
