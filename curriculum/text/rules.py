"""The cleaning rules that look at one document alone: small pure functions, true of a document to drop.

The order is that of their cost and of how plain their case is; the first that holds drops the document. What each limit
means stands in `curriculum.config.Clean`, what each was measured to drop in docs/benchmarks.md ("Cleaning").
"""

import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

from curriculum.config import Clean
from curriculum.text.scripts import drifts
from curriculum.text.shape import signs
from curriculum.text.turns import first_user_turn

FEWEST_WORDS = 20  # a text of fewer says nothing about repetition
PIECE = 2_000  # words: diversity falls with length, so a longer text is judged in pieces
LONGEST_WORD = 16  # characters of the mean word: beyond it, the text has no blanks between words, or no words
FEWEST_ITEMS = 2
FEWEST_NUMBERED = 12  # a dictionary numbers its two or three senses, and is no list
# An honest answer may be a list; a chat that pours out a log or a table is none.
CHAT_ITEMS = 100
CHAT_SHARE = 0.95

# Each pattern begins with the newline, which is found fast; marks of a turn are no part of its line.
_LINES = re.compile(r"\n[ \t]*[^\s#]")  # headers are neither items nor text
_ITEMS = re.compile(r"\n(?:[<>] )?[ \t]*(?:[-*+•·◦▪‣–—●○][ \t]|\||\[[ xX]\])")
_ROWS = re.compile(r"\n[^\n|]{1,80} \| [^\n|]{0,200} \|")
_NUMBERED = re.compile(r"\n(?:[<>] )?[ \t]*(?:\d{1,3}|[a-zA-Z])[.)][ \t]")
_STAMPED = re.compile(
    r"\n(?:\d{4}-\d\d-\d\d[T ]\d|\[?\d\d:\d\d:\d\d|\[?(?:INFO|WARN(?:ING)?|DEBUG|TRACE|FATAL)\b|export \w+=|\++ [\w'\"])"
)
_OUTCOME = re.compile(
    r"\n(?:[^\n]{0,400} (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b|\[?(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b)"
)
_PERHAPS = re.compile(
    r"\n(?:[<>] )?[ \t]*(?:[-*+•·◦▪‣–—●○|\[\d]|[a-zA-Z][.)]|INFO|WARN|DEBUG|TRACE|FATAL|export )"
)


class Text(NamedTuple):
    """What the rules look at. turn: the first user turn, where the input has roles; None: to be found in the text."""

    text: str
    turn: str | None = None


Rule = Callable[[Text, Clean], bool]


def is_empty(document: Text, limits: Clean) -> bool:
    """Nothing but white space."""
    return not document.text or document.text.isspace()


def has_oversize_paragraph(document: Text, limits: Clean) -> bool:
    """A line of more than `longest_paragraph` characters: text that is not hard-wrapped holds a paragraph a line.

    >>> has_oversize_paragraph(Text("word " * 500), Clean()), has_oversize_paragraph(Text("word\\n" * 500), Clean())
    (True, False)
    """
    text, longest, start = document.text, limits.longest_paragraph, 0
    while len(text) - start > longest:
        end = text.rfind("\n", start, start + longest + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def has_script_drift(document: Text, limits: Clean) -> bool:
    """Letters outside `scripts`: more than `foreign_share` of all, or most of those of half of the turns."""
    return drifts(document.text, limits.scripts, limits.foreign_share)


def is_repetition(document: Text, limits: Clean) -> bool:
    """Too few of the word pairs are new: less than `bigram_diversity` of them.

    >>> is_repetition(Text("region " * 30), Clean())
    True
    """
    text, least = document.text, limits.bigram_diversity
    if least <= 0:
        return False
    most = text.count(" ") + text.count("\n") + 1  # words, or fewer, but for rare kinds of white space
    if most < FEWEST_WORDS and FEWEST_WORDS > len(text.split()) >= len(text) / LONGEST_WORD - 1:
        return False
    # A text has as many pairs as words, less one: where half of it has different words enough, no more are counted. One
    # whose words are long has no blanks between them, and a long one is judged in pieces.
    if most < PIECE and len(text) < LONGEST_WORD * most:
        half = len(text) // 2
        early = text[:half].split()
        different = set(early)
        if len(different) > least * most + 1:
            return False
        late = text[half:].split()  # the word that is cut in two counts twice
        words = len(early) + len(late)
        if len(text) < LONGEST_WORD * (words - 1):
            if len(different) > least * words + 2:
                return False
            different.update(late)
            if len(different) > least * words + 3:
                return False
    return bigram_diversity(text, enough=least) < least


def bigram_diversity(text: str, enough: float = 1.0) -> float:
    """Share of pairs of neighbouring words that are new, in pieces of 2,000 words; 1 for a text under 20 words.

    Text without blanks, whose mean word has over 16 characters, is judged by its characters. enough: from there on any
    value will do: a text has as many new pairs as new words, less one, and words are counted faster.
    """
    units: list[str] | str = text.split()
    if len(text) > LONGEST_WORD * (len(units) + 1):
        units = "".join(units)
    if len(units) < FEWEST_WORDS:
        return 1.0
    new = pairs = 0
    for start in range(0, len(units), PIECE):
        piece = units[start : start + PIECE] if len(units) > PIECE else units
        least = len(set(piece)) - 1
        pairs += len(piece) - 1
        new += least if least >= enough * (len(piece) - 1) else len(set(itertools.pairwise(piece)))
    return new / max(1, pairs)


def is_list(document: Text, limits: Clean) -> bool:
    """At least `list_share` of the lines are list items, table rows or log lines; of a chat, nearly all must be.

    >>> is_list(Text("Fruit\\n- apple\\n- pear\\n- plum\\n- fig"), Clean())
    True
    """
    breaks = document.text.count("\n")
    if breaks == 0 or limits.list_share >= 1:
        return False
    chat = document.text.startswith("> ")
    fewest = CHAT_ITEMS if chat else FEWEST_ITEMS
    if 3 * (breaks + 1) < fewest:  # each of the three patterns below finds a line once at most
        return False
    text = "\n" + document.text
    rows = len(_ROWS.findall(text)) if "|" in text and " | " in text else 0
    rows += len(_OUTCOME.findall(text)) if "ED" in text or "RR" in text else 0
    most = len(_PERHAPS.findall(text)) + rows
    if most < fewest:
        return False
    share = max(limits.list_share, CHAT_SHARE) if chat else limits.list_share
    needed = max(fewest, share * len(_LINES.findall(text)))
    if most < needed:
        return False
    items = rows + len(_ITEMS.findall(text)) + len(_STAMPED.findall(text))
    if items < needed and breaks + 1 >= FEWEST_NUMBERED:
        numbered = len(_NUMBERED.findall(text))
        items += numbered if numbered >= FEWEST_NUMBERED else 0
    return items >= needed


def is_prompt(document: Text, limits: Clean) -> bool:
    """The first user turn has the shape of a system prompt: at least `prompt_signs` of its signs."""
    turn = first_user_turn(document.text) if document.turn is None else document.turn
    return turn is not None and signs(turn, limits.prompt_signs) >= limits.prompt_signs


RULES: dict[str, Rule] = {
    "empty": is_empty,
    "oversize paragraph": has_oversize_paragraph,
    "script drift": has_script_drift,
    "repetition": is_repetition,
    "list": is_list,
    "prompt shape": is_prompt,
}


def broken_rule(document: Text, limits: Clean) -> str | None:
    """The first rule that drops the document; None for one that stays."""
    for name, rule in RULES.items():
        if rule(document, limits):
            return name
    return None
