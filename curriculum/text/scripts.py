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
)  # fmt: skip
# Anything beyond the letters of Latin script, and the punctuation, signs and pictures that stand between them.
_BEYOND_LATIN = re.compile(
    "[^\x00-\u02af\u0300-\u036f\u1e00-\u1eff\u2000-\u206f\u20a0-\u20cf\u2190-\u2bff\ufb00-\ufb06\ufe00-\ufe0f\ufffd\U0001f000-\U0001faff]"
)
# First bytes in UTF-8 of characters that are letters of these scripts, but for a few marks: counted in no time.
_FAR_LEADS = bytes((*range(0xD0, 0xD4), *range(0xE4, 0xEE)))
_FAR_SCRIPTS = frozenset({"Cyrillic", "Han", "Hangul"})
_PLAINLY = 1.5  # times the share: a text that is far beyond it is not counted out
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
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


def letters(text: str, scripts: Collection[str]) -> tuple[int, int]:
    """How many letters a text has, and how many of them are of none of the scripts.

    >>> letters("abc где 1", {"Latin"})
    (6, 3)
    """
    latin = len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    total, foreign = latin, 0 if "Latin" in scripts else latin
    if not text.isascii():
        for character, count in Counter("".join(_NOT_ASCII.findall(text))).items():
            script = _SCRIPT_OF[character]
            if script is not None:
                total += count
                if script not in scripts and script != COMMON:
                    foreign += count
    return total, foreign


def foreign_share(text: str, scripts: Collection[str]) -> float:
    """Share of a text's letters that are of none of the scripts; 0 for a text without letters."""
    total, foreign = letters(text, scripts)
    return foreign / total if total else 0.0


def drifts(text: str, scripts: Collection[str], share: float) -> bool:
    """Whether more than that share of the letters are foreign, or half of the turns are in foreign letters.

    Turns are counted beside letters, since a Chinese answer has a fifth of the letters of its English question.

    >>> drifts("> How do the hours of daylight change over the year?\\n< 夏天长。", {"Latin"}, 0.2)
    True
    """
    if share >= 1 or ("Latin" in scripts and (text.isascii() or not _BEYOND_LATIN.search(text))):
        return False
    if _FAR_SCRIPTS.isdisjoint(scripts):
        data = text.encode(errors="replace")
        far = len(data) - len(data.translate(None, _FAR_LEADS))
        if far > _PLAINLY * share * len(text):  # letters are at most as many as characters
            return True
    total, foreign = letters(text, scripts)
    if foreign == 0:
        return False
    if foreign > share * total:
        return True
    counted = [(of, outside) for of, outside in (letters(turn, scripts) for turn in turns(text)) if of]
    strange = sum(outside > FOREIGN_TURN * of for of, outside in counted)
    return len(counted) > 1 and strange >= FOREIGN_TURNS * len(counted)
