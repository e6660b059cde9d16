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
CHAT_ITEMS, CHAT_SHARE = (
    8,
    0.9,
)  # an answer may well be a list: only a chat that is hardly anything else is dropped

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
    most = _most_words(text)
    ordinary = most < PIECE and len(text) < LONGEST_WORD * most
    # A text has as many pairs as words, less one: where its first half has words enough, nothing need be counted.
    if ordinary and len(set(text[: len(text) // 2].split())) > least * most + 1:
        return False
    return least > 0 and bigram_diversity(text) < least


def _most_words(text: str) -> int:
    """As many words as a text can have, without cutting it up: its blanks and line ends, most runs of them as one."""
    most = text.count(" ") + text.count("\n") + 1
    if "  " in text:
        most -= text.count("  ") + text.count(" " * 4) + text.count(" " * 8) + text.count("\n ")
    return most - text.count("\n\n")


def bigram_diversity(text: str) -> float:
    """Share of pairs of neighbouring words that are new, in pieces of 2,000 words; 1 for a text under 20 words.

    Text without blanks, whose mean word has over 16 characters, is judged by its characters.
    """
    units: list[str] | str = text.split()
    if len(text) > LONGEST_WORD * (len(units) + 1):
        units = "".join(units)
    if len(units) < FEWEST_WORDS:
        return 1.0
    new = pairs = 0
    for start in range(0, len(units), PIECE):
        piece = units[start : start + PIECE]
        new += len(set(itertools.pairwise(piece)))
        pairs += len(piece) - 1
    return new / max(1, pairs)


def is_list(document: Text, limits: Clean) -> bool:
    """More than `list_share` of the lines are list items, table rows or log lines; of a chat, nearly all must be.

    >>> is_list(Text("Fruit\\n- apple\\n- pear\\n- plum\\n- fig"), Clean())
    True
    """
    if "\n" not in document.text or limits.list_share >= 1:
        return False
    text = "\n" + document.text
    items = 0
    if len(_PERHAPS.findall(text)) >= FEWEST_ITEMS:
        numbered = len(_NUMBERED.findall(text))
        items = len(_ITEMS.findall(text)) + (numbered if numbered >= FEWEST_NUMBERED else 0)
        items += len(_STAMPED.findall(text))
    if " | " in text:
        items += len(_ROWS.findall(text))
    if "PASSED" in text or "FAILED" in text or "ERROR" in text or "SKIPPED" in text:
        items += len(_OUTCOME.findall(text))
    chat = text.startswith("\n> ")
    if items < (CHAT_ITEMS if chat else FEWEST_ITEMS):
        return False
    share = max(limits.list_share, CHAT_SHARE) if chat else limits.list_share
    return items > share * len(_LINES.findall(text))


def is_prompt(document: Text, limits: Clean) -> bool:
    """The first user turn has the shape of a system prompt: at least `prompt_signs` of its signs."""
    turn = first_user_turn(document.text) if document.turn is None else document.turn
    return turn is not None and signs(turn) >= limits.prompt_signs


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
