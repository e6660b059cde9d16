"""Is this token an English word? A dictionary read once, and the regular endings it leaves out.

Why this list and these endings: docs/decisions/0002-english-words.md.
"""

import functools
import re

# A dictionary lists "game" and "walk", not "games" and "walking": (ending, what replaces it).
ENDINGS = (
    ("ies", "y"),
    ("ied", "y"),
    ("es", ""),
    ("s", ""),
    ("ed", ""),
    ("ed", "e"),
    ("ing", ""),
    ("ing", "e"),
    ("er", ""),
    ("er", "e"),
    ("est", ""),
    ("est", "e"),
)
DOUBLING = frozenset({"ed", "ing", "er", "est"})  # "planned", "hugging", "hottest"
CLITICS = frozenset(
    {"s", "t", "m", "d", "ll", "re", "ve", ""}
)  # it's, don't, I'm, he'd, we'll, you're, I've, boys'
ONE_LETTER_WORDS = frozenset({"a", "i", "o"})  # the dictionary has an entry for each letter of the alphabet
SHORTEST_STEM = 2
COMPOUND = re.compile(r"[-/\u2010-\u2015]+")


@functools.cache
def dictionary() -> frozenset[str]:
    """The lower-cased entries of the list, about 115,000; read from disk on the first call only."""
    from english_words import get_english_words_set  # 40 ms: not paid by commands that score nothing

    return frozenset(get_english_words_set(["gcide"], lower=True))


def is_english(word: str) -> bool:
    """Whether a lower-cased token without edge punctuation is an English word.

    True for an entry, its plural, verb and comparison forms, its contractions, and compounds of such words.

    >>> [is_english(word) for word in ("region", "games", "stopped", "don’t", "self-made", "budy", "слово")]
    [True, True, True, True, True, False, False]
    """
    words = dictionary()
    if len(word) == 1:
        return word in ONE_LETTER_WORDS
    if word in words:
        return True
    stem, apostrophe, clitic = word.replace("’", "'").partition("'")
    if apostrophe:
        return clitic in CLITICS and (
            is_english(stem) or (clitic == "t" and is_english(stem.removesuffix("n")))
        )
    if COMPOUND.search(word):
        return all(is_english(part) for part in COMPOUND.split(word))
    return any(base in words for base in _bases(word))


def _bases(word: str) -> list[str]:
    found = []
    for ending, replacement in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            stem = word.removesuffix(ending)
            found.append(stem + replacement)
            if ending in DOUBLING and len(stem) > SHORTEST_STEM and stem[-1] == stem[-2]:
                found.append(stem[:-1])
    return found
