"""Which script a letter belongs to, and how a text's letters spread over scripts.

Python knows no script property; the first word of a letter's Unicode name is one for all living scripts.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping

OWN_SHARE = 0.05  # of the trusted sources' letters: from here on a script is the run's own
# Forms of another script's letters, by what their names begin with.
FORMS = {
    "FULLWIDTH",
    "HALFWIDTH",
    "MATHEMATICAL",
    "MODIFIER",
    "CIRCLED",
    "SUPERSCRIPT",
    "SUBSCRIPT",
    "SCRIPT",
}


@functools.cache
def script(character: str) -> str | None:
    """The script of a letter, lower-cased ("latin", "cyrillic", "cjk"); None for anything else.

    >>> [script(character) for character in "aЯ漢は한é1!"]
    ['latin', 'cyrillic', 'cjk', 'hiragana', 'hangul', 'latin', None, None]
    """
    if not character.isalpha():
        return None
    words = unicodedata.name(character, "UNKNOWN").replace("-", " ").split()
    if words[0] in FORMS or words[-1] in ("ORDINAL", "INDICATOR", "SIGN"):
        return None  # typography, not a language
    return words[0].lower()


def letters(text: str) -> Counter[str]:
    """How many letters of each script a text has.

    >>> letters("The word is слово.")
    Counter({'latin': 9, 'cyrillic': 5})
    """
    found: Counter[str] = Counter()
    for character, times in Counter(text).items():
        name = script(character)
        if name is not None:
            found[name] += times
    return found


def own(counted: Mapping[str, int]) -> list[str]:
    """The scripts that hold at least 5 % of the letters, by name."""
    total = sum(counted.values())
    return sorted(name for name, times in counted.items() if times >= OWN_SHARE * total)


def foreign_share(text: str, scripts: Collection[str]) -> tuple[float, int]:
    """Share of a text's letters outside `scripts`, in [0, 1], and how many letters they are."""
    counted = letters(text)
    outside = sum(times for name, times in counted.items() if name not in scripts)
    return outside / max(1, sum(counted.values())), outside
