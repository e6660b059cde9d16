"""Which writing system a letter belongs to, and how much of a text stands outside those that a source should hold."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import Literal, get_args

from curriculum.text.turns import turns

Script = Literal[
    "Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Bopomofo", "Arabic", "Hebrew", "Syriac",
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala",
    "Thai", "Lao", "Tibetan", "Myanmar", "Khmer", "Mongolian", "Georgian", "Armenian", "Ethiopic", "Cherokee", "Thaana",
]  # fmt: skip
SCRIPTS: frozenset[str] = frozenset(get_args(Script))
COMMON, OTHER = (
    "Common",
    "Other",
)  # letters of no script, as in formulas; letters of a script that is not listed
FOREIGN_TURN = 0.5  # of its letters
FOREIGN_TURNS = 0.5  # of the turns

# First words of Unicode character names that are not their script's name.
_NAMED = {"CJK": "Han", "IDEOGRAPHIC": "Han", "KATAKANA-HIRAGANA": "Katakana", "SINHALA": "Sinhala"}
_WIDTHS = ("FULLWIDTH", "HALFWIDTH")
_NO_SCRIPT = frozenset(
    {"MATHEMATICAL", "MODIFIER", "MASCULINE", "FEMININE", "MICRO", "OHM", "KELVIN", "ANGSTROM", "DOUBLE-STRUCK"}
    | {"SCRIPT", "BLACK-LETTER", "PLANCK", "INFORMATION", "ALEF", "BET", "GIMEL", "DALET", "TURNED", "EULER"}
    | {"SUPERSCRIPT", "SUBSCRIPT"}
)  # fmt: skip
# Anything beyond the letters of Latin script, and the punctuation, signs and pictures that stand between them.
_BEYOND_LATIN = re.compile(
    "[^\x00-\u02af\u0300-\u036f\u1e00-\u1eff\u2000-\u206f\u20a0-\u20cf\u2190-\u2bff\ufb00-\ufb06\ufe00-\ufe0f\ufffd\U0001f000-\U0001faff]"
)
# First bytes in UTF-8 of characters that are letters of these scripts, but for a few marks: counted in no time.
_FAR_LEADS = bytes((*range(0xD0, 0xD4), *range(0xE4, 0xEE)))
_FAR_SCRIPTS = frozenset({"Cyrillic", "Han", "Hangul"})
_PLAINLY = 1.5  # times the share: a text that is far beyond it is not counted out
_ASCII = bytes(range(128))
_NO_LETTERS = bytes(code for code in range(256) if not (code < 128 and chr(code).isalpha()))


def script_of(character: str) -> str | None:
    """The script of a letter, by the name that Unicode gives it; None for what is no letter.

    >>> [script_of(character) for character in "aéя中ひ한α1😀𝑥"]
    ['Latin', 'Latin', 'Cyrillic', 'Han', 'Hiragana', 'Hangul', 'Greek', None, None, 'Common']
    """
    if not character.isalpha():
        return None
    words = unicodedata.name(character, OTHER).split()
    first = words[1] if words[0] in _WIDTHS and len(words) > 1 else words[0]
    name = _NAMED.get(first, first.title())
    if name in SCRIPTS:
        return name
    return COMMON if first in _NO_SCRIPT else OTHER


class _Known(dict[str, str | None]):
    """`script_of`, for characters asked for again and again."""

    def __missing__(self, character: str) -> str | None:
        self[character] = found = script_of(character)
        return found


_SCRIPT_OF = _Known()


def letters(text: str) -> dict[str, int]:
    """How many letters of each script a text has.

    >>> letters("The word is слово.")
    {'Latin': 9, 'Cyrillic': 5}
    """
    found = {"Latin": len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))}
    if not text.isascii():
        for character, count in Counter(_beyond_ascii(text)).items():
            script = _SCRIPT_OF[character]
            if script is not None:
                found[script] = found.get(script, 0) + count
    return found


def foreign(text: str, scripts: Collection[str]) -> tuple[int, int]:
    """How many letters a text has, and how many of them are of none of the scripts; those of formulas are of any.

    >>> foreign("abc где 1", {"Latin"})
    (6, 3)
    """
    total = outside = 0
    for script, count in letters(text).items():
        total += count
        if script not in scripts and script != COMMON:
            outside += count
    return total, outside


def _beyond_ascii(text: str) -> str:
    """The characters of a text that are not ASCII, in order: through bytes, which is several times as fast."""
    return text.encode(errors="surrogatepass").translate(None, _ASCII).decode(errors="surrogatepass")


def drifts(text: str, scripts: Collection[str], share: float) -> bool:
    """Whether more than that share of the letters are foreign, or half of the turns are in foreign letters.

    Turns are counted beside letters, since a Chinese answer has a fifth of the letters of its English question.

    >>> drifts("> How do the hours of daylight change over the year?\\n< 夏天长。", {"Latin"}, 0.2)
    True
    """
    if share >= 1:
        return False
    beyond = "" if text.isascii() else _beyond_ascii(text)
    if "Latin" in scripts and not _BEYOND_LATIN.search(beyond):
        return False
    if _FAR_SCRIPTS.isdisjoint(scripts):
        data = beyond.encode(errors="replace")
        far = len(data) - len(data.translate(None, _FAR_LEADS))
        if far > _PLAINLY * share * len(text):  # letters are at most as many as characters
            return True
    total, outside = foreign(text, scripts)
    if outside == 0:
        return False
    if outside > share * total:
        return True
    counted = [(of, strange) for of, strange in (foreign(turn, scripts) for turn in turns(text)) if of]
    odd = sum(strange > FOREIGN_TURN * of for of, strange in counted)
    return len(counted) > 1 and odd >= FOREIGN_TURNS * len(counted)
