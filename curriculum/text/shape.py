"""The shape filter: does a user's first turn have the shape of a system prompt? (document 002, "Why Shape Beats Character")

Agents' logs hold the prompt that configured the agent where a user's words should be, and a model that reads them learns
that users speak in sections. Wording changes from agent to agent, the shape does not: sections under headers of any
kind, sheets of rules, a schema of tools, a statement of who the reader is.
"""

import itertools
import re
import sys

LONG_WITH_HEADERS = 500  # characters at which two headers do
LONG_WITH_FINGERPRINT = 400
LONG_ROLE = 400
ENOUGH = 3  # signs: a turn of so many is a system prompt by default
RULES = 4  # items that command: as many make a sheet of rules
SHORT = 100  # characters: a single line of fewer shows no shape
LOOKED_AT = 20_000  # characters of a turn: the shape shows early, and no turn may cost more than that

FINGERPRINTS = ("# Agent ", "Shadow Clone", "Your shard", "Read it. Become it", "This file defines")

# Patterns of lines begin with the newline before them, which is found fast, and leave the one behind them.
_HEADER = re.compile(r"\n {0,3}#{1,6} +\S")
_COMMENT = re.compile(r"\n {0,3}# +\S[^\n]*\n(?![ \t]*(?:\n|[-*•#]|\d))")
_CODE = re.compile(
    r"\n[ \t]*(?:import \w|from [\w.]+ import |def \w+\(|class \w+[(:]|return\b|(?:for|if|while) [^\n]{1,80}:(?=\n|\Z)|#!|#include"
    r"|[\w.\[\]\"']{1,40} ?[+-]?= ?\S|[\w.]{1,40}\([^\n]{0,200}\);?(?=\n|\Z)|export \w+=|SELECT )"
)
_FENCED = re.compile(r"\n```.*?\n```", re.S)
_BOLD = re.compile(r"\n {0,3}(?:\d{1,2}[.)] {1,3})?(?:\*\*|__)[^*_\n]{2,80}(?:\*\*|__):?[ \t]*(?=\n|\Z)")
_BOLD_ITEM = re.compile(r"\n[ \t]*(?:(?:[-*]|\d{1,2}[.)]) {1,3})?\*\*[^*\n]{2,80}(?:\*\*:|:\*\*)")
_CAPITALS = re.compile(
    r"\n {0,3}(?:=+ |\[|\d{1,2}[.)] )?([A-Z][A-Z0-9 &/,'’().+-]{2,68})[\]:]?(?: =+)?[ \t]*(?=\n|\Z)"
)
_THREE_CAPITALS = re.compile(r"(?:[^A-Z]*[A-Z]){3}")
_TAG = re.compile(r"\n {0,3}<([A-Za-z][\w.-]{1,40})(?: [^<>\n]{0,200})?>")
_ITEM = re.compile(r"\n[ \t]*(?:[-*•+] |\d{1,2}[.)] )")
_OVER_A_LIST = rf"(?=\n?{_ITEM.pattern})"
_TITLE = re.compile(r"\n[A-Z][\w&/,()'’+. -]{2,58}[\w)][ \t]*" + _OVER_A_LIST)
_LABEL = re.compile(r"\n {0,3}(?:\d{1,2}[.)] )?[A-Z][^\n.?!:：]{2,60}[:：][ \t]*" + _OVER_A_LIST)
_LABEL_ALONE = re.compile(r"\n[A-Z][^\n.?!:：]{2,60}[:：][ \t]*(?=\n|\Z)")
_HEADLINE = re.compile(
    r"\n[A-Z][\w.-]+(?: (?:and|of|the|to|in|for|with|&|[A-Z][\w()/.-]+)){1,5}[ \t]*(?=\n|\Z)"
)
_SLASHES = re.compile(r"\n//+ +[A-Z][^\n]{2,60}(?=\n|\Z)")
_HTML = frozenset(
    {
        "a", "article", "aside", "body", "br", "button", "canvas", "center", "code", "dd", "details", "div",
        "dl", "dt", "em", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header",
        "hr", "html", "i", "iframe", "img", "input", "label", "li", "link", "main", "meta", "nav", "ol",
        "option", "p", "pre", "script", "section", "select", "small", "span", "strong", "style", "summary",
        "sup", "svg", "table", "tbody", "td", "template", "textarea", "th", "thead", "title", "tr", "u",
        "ul", "var", "video",
    }
)  # fmt: skip
_COMMANDS = (
    "Add|Adhere|Always|Apply|Avoid|Consider|Create|Define|Do not|Don['’]t|Document|Ensure|Favou?r|Focus|Follow|Handle|"
    "Implement|Include|Keep|Leverage|Maintain|Make sure|Minimi[sz]e|Must|Never|Only|Optimi[sz]e|Prefer|Prioriti[sz]e|Provide|"
    "Structure|Test|Use|Utili[sz]e|Validate|Verify|Write|You (?:must|should|will|always|never)"
)
_RULE = re.compile(rf"\n[ \t]*(?:[-*•+]|\d{{1,3}}[.)]) +(?:\*\*)?(?:{_COMMANDS})\b")
_ROLE = re.compile(
    r"[\W_]*(?:(?:system|role|persona)\s*:\s*)?(?:you(?: are|['’]re) (?:now )?(?:an?|the|my|our|called|named|[A-Z]\w+)\b"
    r"|as an? (?:ai|expert|senior)\b|your (?:sole |main |primary )?(?:role|task|goal|job|mission) is\b)",
    re.I,
)
_DIRECTIVE = re.compile(
    r"\byou (?:must|should|will|always|never|have access|are (?:able|allowed|responsible|tasked|familiar)|carefully|also|"
    r"prefer|use|follow|help|provide|focus|understand|specialize|excel|communicate|write)\b"
    r"|\byour (?:task|role|goal|job|mission|responsibilit\w+|expertise|primary|responses?|outputs?|answers?)\b",
    re.I,
)
_EXPERT = re.compile(
    r"\W*you are (?:now )?an? (?:\w+ ){0,3}?(?:expert|assistant|agent|chatbot|bot|language model|senior|specialist"
    r"|developer|engineer)\b",
    re.I,
)
_ONE_SENTENCE = re.compile(r"(?:[^\n.!?]|\.(?! ))+\.[ \t]*")
_SCHEMA = re.compile(
    r"\s*(?:```\w*\s*|<[\w-]{1,30}>\s*|[^\n{\[]{0,120}\n\s*)?[{\[][\s\S]{0,200}?\"(?:name|type|function|rules|tools)\"\s*:"
)
_SCHEMA_PART = re.compile(
    r"\"(?:parameters|description|input_schema|inputSchema|arguments|message|properties)\"\s*:"
)
_TOOLS = re.compile(
    r"\s*(?:<(?:tools|functions|tool_definitions?|available_tools)>|(?:you have access to|here are|in this environment you have)"
    r" (?:the following |a set of |these |several )?(?:tools|functions)\b|(?:#+ )?tools\s+(?:namespace|type) \w)",
    re.I,
)
_ONE_LINE_HEADER = re.compile(r"\s+(?=#{2,6} \S|# [A-Z])")


def headers(turn: str, enough: int = sys.maxsize) -> int:
    """How many headers a turn has: Markdown's, lines in bold or capitals, tags around a section, titles of lists.

    enough: from so many on, no more are looked for.

    >>> headers("# Agent Smith\\n\\n**Rules**\\n\\nNEVER DO\\n<identity>\\nA clerk.\\n</identity>\\nTone:\\n- dry\\n- short")
    5
    """
    turn = "\n" + turn
    if "```" in turn:
        turn = _FENCED.sub("", turn)
    found = len(_HEADER.findall(turn)) if "#" in turn else 0
    capitals = [line for line in set(_CAPITALS.findall(turn)) if _THREE_CAPITALS.match(line)]
    if (found or capitals) and _several(_CODE, turn, 3):
        capitals = []
        found -= len(_COMMENT.findall(turn)) if found else 0
    found += len(capitals)
    if found >= enough:
        return found
    if "**" in turn or "__" in turn:
        found += len(_BOLD.findall(turn))
        items = len(_BOLD_ITEM.findall(turn))
        found += items if items >= 3 else 0
    if "</" in turn:
        found += sum(tag.lower() not in _HTML and f"</{tag}>" in turn for tag in set(_TAG.findall(turn)))
    lines = turn.count("\n")
    if lines == 1 or found >= enough:  # what follows stands over a list, or comes several times
        return found
    if _ITEM.search(turn):
        found += len(_TITLE.findall(turn)) + len(_LABEL.findall(turn))
    for pattern, least in ((_LABEL_ALONE, 5), (_HEADLINE, 4), (_SLASHES, 3)):
        several = len(pattern.findall(turn)) if lines >= least else 0
        found += several if several >= least else 0
    return found


def _several(pattern: re.Pattern[str], text: str, least: int) -> bool:
    """Whether a pattern is found at least so many times."""
    return next(itertools.islice(pattern.finditer(text), least - 1, None), None) is not None


def signs(turn: str, enough: int = sys.maxsize) -> int:
    """How many signs of a system prompt a user's turn has: one a header, and `ENOUGH` at once for any stronger sign.

    enough: from so many on, no more are looked for.
    The stronger ones: two headers and 500 characters; a fingerprint phrase with a header or 400 characters; four items
    that command; a tool schema that opens it; a role statement of 400 characters, or with a header, a rule or directives.
    """
    size = len(turn)
    if size < SHORT and not ("\n" in turn or "#" in turn or "tools" in turn):
        return 0
    if size > LOOKED_AT:
        turn = turn[:LOOKED_AT]
    if "# " in turn and "\n" not in turn:
        turn = _ONE_LINE_HEADER.sub("\n", turn)
    lines = "\n" in turn
    found = headers(turn, enough) if lines or turn.startswith("#") else 0
    if found >= 2 and size >= LONG_WITH_HEADERS:
        found += ENOUGH
    if found >= enough:
        return found
    rules = len(_RULE.findall("\n" + turn)) if lines else 0
    strong = (
        rules >= RULES
        or ((found or size >= LONG_WITH_FINGERPRINT) and any(phrase in turn for phrase in FINGERPRINTS))
        or opens_with_tools(turn)
        or states_a_role(turn, found, rules)
    )
    return found + ENOUGH * strong


def opens_with_tools(turn: str) -> bool:
    """Whether a turn opens with descriptions of tools or functions, or with rules as JSON.

    >>> opens_with_tools('[{"name": "grep", "description": "Search.", "parameters": {}}]')
    True
    """
    if _TOOLS.match(turn):
        return True
    return '":' in turn and bool(_SCHEMA.match(turn)) and bool(_SCHEMA_PART.search(turn, 0, 2000))


def states_a_role(turn: str, headers: int, rules: int) -> bool:
    """Whether a turn tells its reader at length who they are and how to behave, and is no mere question in character.

    Below headers the statement may be the second or third line that is not blank.
    """
    if headers:
        lines = filter(str.strip, turn.split("\n"))
        return any(map(_ROLE.match, itertools.islice(lines, 3)))
    if not _ROLE.match(turn):
        return False
    if rules:
        return True
    opening, _, rest = turn.lstrip().partition("\n")
    directives = len(_DIRECTIVE.findall(turn, 0, 3000))
    if _EXPERT.match(opening) and (directives >= 2 or (rest and _ONE_SENTENCE.fullmatch(opening))):
        return True
    return directives >= 3 or (len(turn) >= LONG_ROLE and directives >= 1)
