"""The shape filter: does a user's first turn have the shape of a system prompt? (document 002, "Why Shape Beats Character")

Agents' logs hold the prompt that configured the agent where a user's words should be, and a model that reads them learns
that users speak in sections. Wording changes from agent to agent, the shape does not: sections under headers of any
kind, sheets of rules, a schema of tools, a statement of who the reader is.

People send recipes, poems and lists of theirs, which have sections too. Markdown's headers and tags count wherever they
stand; lines in capitals or bold and titles count where the turn instructs its reader and asks nothing for its writer.
"""

import itertools
import re
import sys

LONG_WITH_HEADERS = 500  # characters at which two headers do
LONG_WITH_FINGERPRINT = 400
LONG_ROLE = 400
ENOUGH = 3  # signs: a turn of so many is a system prompt by default
RULES = 4  # items that command: as many make a sheet of rules
LASTING = 2  # of them hold for ever ("Never ..."), where steps and shopping are done once
SPEAKS_OF_IT = 3  # sentences whose subject is the agent that the first one named
OBLIGATIONS = (
    3  # sentences ("You must ...", "Never ...") that make more of "Act as a poet" than an honest request
)
TAGS = 100  # looked at in a turn
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
_BOLD_ITEM = re.compile(r"\*\*[^*\n]{2,80}(?:\*\*:|:\*\*)")
_UNDERLINED = re.compile(
    r"\n\n(?=[^\na-z]{0,60}[a-z])[\dA-Z][^\n]{1,60}(?<![.?!,:; ])\n(?:={3,}|-{3,})[ \t]*(?=\n|\Z)"
)
_BRACKETS = re.compile(r"\n {0,3}\[(?=[^\]\na-z]{0,60}[a-z])[A-Z][^\[\]\n]{2,60}\][ \t]*(?=\n|\Z)")
_ORNAMENT = re.compile(
    r"\n[\u2190-\u2bff\U0001f300-\U0001faff]\ufe0f? {1,2}[A-Z][^\n.?!:]{2,60}(?=\n{1,2}[^\n\u2190-\u2bff\U0001f300-\U0001faff])"
)
_CAPITALS = re.compile(
    r"\n {0,3}(?:=+ |\[|\d{1,2}[.)] )?([A-Z][A-Z0-9 &/,'’().+-]{2,68})[\]:]?(?: =+)?[ \t]*(?=\n|\Z)"
)
_THREE_CAPITALS = re.compile(r"(?:[^A-Z]*[A-Z]){3}")
_TAG = re.compile(r"(?:\n {0,3}|>[ \t]?)<([A-Za-z][\w.-]{0,40})(?: [^<>\n]{0,200})?>")
_WRAPPER = re.compile(r"system|prompt|instruction|agent|assistant", re.I)
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
_LASTING = re.compile(
    r"\n[ \t]*(?:[-*•+]|\d{1,3}[.)]) +(?:\*\*)?(?:A(?:dhere|lways|void)|Do not|Don['’]t|Ensure|Favou?r|Focus|Follow|Handle|Implement"
    r"|Leverage|Maintain|Make sure|M(?:ini|axi)mi[sz]e|Must|Never|Only|Optimi[sz]e|Prefer|Prioriti[sz]e|Utili[sz]e|Validate|Verify"
    r"|You (?:must|should|will|always|never))\b"
)
_RULE = re.compile(rf"\n[ \t]*(?:[-*•+]|\d{{1,3}}[.)]) +(?:\*\*)?(?:{_COMMANDS})\b")
_GREETING = r"[\W_]*(?:(?:hello|hi|hey|welcome|okay|ok)\b[^\n.!?]{0,20}[.!,] )?"
_FIRST = frozenset(
    {
        "act", "as ", "fro", "fun", "hel", "her", "hey", "hi ", "hi!", "hi,", "hi.", "i'd", "i’d", "nam", "ok ", "ok!", "ok,",
        "ok.", "oka", "per", "ple", "rol", "sys", "too", "wel", "you",
        "i nee", "i wan", "i wou", "in th", "the a", "the b", "the c", "the f", "the m", "this ", "use a", "use t",
    }
)  # how turns begin that state a role or tools, unless by a mark: asked first, because it takes no time  # fmt: skip
_FROM_NOW = r"(?:from now on|in this (?:chat|conversation|session)),? "
_NAME = r"(?-i:(?<![A-Z] )[A-Z]\w+)"
_ROLE = re.compile(
    rf"{_GREETING}(?:(?:system|role|persona)\W{{1,4}})?(?:{_FROM_NOW})?"
    rf"(?:you(?: are|['’]re) (?:now )?(?:(?:an?|the|my|our|called|named|tasked|responsible|operating|acting|in \w+ mode)\b|{_NAME})"
    r"|as an? (?:ai|expert|senior)\b|your (?:sole |main |primary )?(?:role|task|goal|job|mission) is\b)",
    re.I,
)
_ACT = re.compile(
    rf"{_GREETING}(?:{_FROM_NOW})?"
    r"(?:(?:please )?act as|(?:I want|I need|I would like|I['’]d like) you to (?:act|behave|serve|work) as|you (?:will|must|shall) act as) ",
    re.I,
)
_OBLIGATION = re.compile(
    r"(?:[.!:\n]|\n[ \t]*[-*•]|\n[ \t]*\d{1,2}[.)])[ \t]+(?:You (?:must|shall|should|may)\b|You will (?:always|never|only)\b|You (?:always|never|only)\b"
    r"|Never\b|Always\b|Do not\b|Don['’]t\b)"
)
_THIRD_PERSON = re.compile(
    rf"{_GREETING}(?:(?:the|this) (assistant|agent|ai|chatbot|bot|model) (?:is|acts|answers|helps|must|should|will)\b"
    rf"|you are ({_NAME}),? )",
    re.I,
)
_DIRECTIVE = re.compile(
    r"\byou (?:must|should|will|always|never|have access|are (?:able|allowed|responsible|tasked|familiar)|carefully|also|"
    r"prefer|use|follow|help|provide|focus|understand|specialize|excel|communicate|write)\b"
    r"|\byour (?:task|role|goal|job|mission|responsibilit\w+|expertise|primary|responses?|outputs?|answers?)\b"
    r"|\bwhen (?:asked|given|provided)\b",
    re.I,
)
_EXPERT = re.compile(
    rf"{_GREETING}{_FROM_NOW}you (?:are|will be) |\W*you are (?:now )?an? (?:\w+ ){{0,3}}?(?:expert|assistant|agent|chatbot|bot|language model|senior|specialist"
    r"|developer|engineer)\b",
    re.I,
)
_ONE_SENTENCE = re.compile(r"(?:[^\n.!?]|\.(?! ))+\.[ \t]*")
_SCHEMA = re.compile(
    r"(?:```\w*\s*|<[\w-]{1,30}>\s*|[^\n{\[]{0,120}\n\s*)?[{\[][\s\S]{0,200}?\"(?:name|type|function|rules|tools)\"\s*:"
)
_SCHEMA_PART = re.compile(
    r"\"(?:parameters|description|input_schema|inputSchema|arguments|message|properties)\"\s*:"
)
_YAML_TOOLS = re.compile(
    r"(?:```\w*\n\s*)?(?:tools|functions):[ \t]*\n[ \t]*- *(?:name|type|function):", re.I
)
_YAML_PART = re.compile(r"\n[ \t]+(?:parameters|description|input_schema|arguments|properties):")
_RULES_FILE = re.compile(
    r"---\n(?:[^\n]{0,200}\n){0,12}?(?:globs|alwaysApply|applyTo|allowed-tools|tools)[ \t]*:"
)
_NAMESPACE = re.compile(
    r"(?:#{1,6} [^\n]{1,60}\s+){0,3}namespace \w{1,40} \{[\s\S]{0,1000}?\btype \w+ = \((?:_|\))"
)
_TOOLS = re.compile(
    r"<(?:tools|functions|tool_definitions?|available_tools)>|(?:#+ )?tools\s+(?:namespace|type) \w"
    r"|(?:in this environment,? )?you (?:now )?have (?:been given |been provided with )?(?:access to )?(?:\w+ ){0,5}?tools\b",
    re.I,
)
_CALLABLE = re.compile(
    r"(?:\A|(?<=[.!?:] )|(?<=\n))(?:#+ )?(?:in this environment,? )?(?:you (?:now |also )?(?:have (?:access to|been given)|can (?:use|call|invoke))"
    r"|here are|use|the following are) (?:\w+ ){0,5}?(?:tools|functions)\b",
    re.I,
)
_CALLS = re.compile(
    r"\b(?:[Cc]all(?:s|ing)?|[Ii]nvok(?:e|es|ing)|tool_calls?|function_calls?) (?:a|an|the|one|each|any|these|this|them|it|functions?|tools?)\b"
    r"|\bto (?:answer|help|assist) (?:the user|users)\b|\nAction(?: Input)?:|\"(?:parameters|input_schema|arguments)\"\s*:"
)
_ONE_LINE_HEADER = re.compile(r"\s(?=#{2,6} \S|# [A-Z])")
_INSTRUCTS = re.compile(
    r"\b(?:role|identity|persona|mission|goals?|objectives?|tasks?|agents?|assistants?|users?|rules?|guidelines?|instructions?|constraints?"
    r"|principles|conventions?|practices|standards?|tone|style|format|outputs?|respon(?:d|ses?)|tools?|you are|you must|you should|your"
    r"|never|always|must|ensure|prefer|avoid|use)\b",
    re.I,
)
_MINE = re.compile(r"\b(?:I|I['’](?:m|ve|d|ll)|my|me)\b|\b(?i:please)\b")
_QUOTED = re.compile(r"[\"“][^\"”\n]{0,200}[\"”]")
_OF_A_TEXT = re.compile(
    r"(?:can you |could you )?(?:analy[sz]e|answer|check|classify|compare|complete|continue|convert|correct|edit|explain|extract|find|fix|format"
    r"|give|grade|help|identify|improve|make|paraphrase|proofread|provide|rate|read|review|rewrite|shorten|solve|suggest|summari[sz]e"
    r"|translate|write)\b[^\n]{0,120}(?:\b(?:this|these|the following|given|below|above)\b|:[ \t]*\Z)",
    re.I,
)


def headers(turn: str, enough: int = sys.maxsize) -> int:
    """How many headers a turn has: Markdown's, tags around a section; and, where the turn instructs its reader, lines in
    bold, capitals or brackets and titles of lists.

    enough: from so many on, no more are looked for.

    >>> headers("# Agent Smith\\n\\n**Rules**\\n\\nNEVER DO\\n<identity>\\nA clerk.\\n</identity>\\nTone:\\n- dry\\n- short")
    5
    """
    turn = "\n" + turn
    if "```" in turn:
        turn = _FENCED.sub("", turn)
    found = len(_HEADER.findall(turn)) if "#" in turn else 0
    if "\n---" in turn or "\n===" in turn:
        found += len(_UNDERLINED.findall("\n" + turn))
    capitals = _CAPITALS.findall(turn)
    if capitals:
        capitals = [line for line in set(capitals) if _THREE_CAPITALS.match(line)]
    brackets = len(_BRACKETS.findall(turn)) if "[" in turn else 0
    if (found or capitals or brackets) and _several(_CODE, turn, 3):
        capitals, brackets = [], 0
        found -= len(_COMMENT.findall(turn)) if found else 0
    if "</" in turn:
        found += _sections_in_tags(turn)
    if found >= enough:
        return found
    lines = turn.count("\n")
    less = len(capitals) + (brackets if brackets >= 3 else 0)
    if "**" in turn or "__" in turn:
        less += len(_BOLD.findall(turn))
        items = len(_BOLD_ITEM.findall(turn))
        less += items if items >= 3 else 0
    if lines > 1 and found + less < max(enough, 2):  # what follows stands over a list, or comes several times
        plain = turn.isascii()
        colons = turn.count(":") if plain else lines
        if _ITEM.search(turn):
            less += len(_TITLE.findall(turn)) + (len(_LABEL.findall(turn)) if colons else 0)
        if lines >= 4:
            headlines = len(_HEADLINE.findall(turn))
            less += headlines if headlines >= 4 else 0
            if lines > 4 and colons > 4:
                labels = len(_LABEL_ALONE.findall(turn))
                less += labels if labels >= 5 else 0
            slashes = len(_SLASHES.findall(turn)) if "\n//" in turn else 0
            less += slashes if slashes >= 3 else 0
            ornaments = 0 if plain else len(_ORNAMENT.findall(turn))
            less += ornaments if ornaments >= 3 else 0
    return found + less if found + less < 2 or (less and _instructs(turn)) else found


def _sections_in_tags(turn: str) -> int:
    """Tags around a section, outside of all others but one around the whole prompt: those within are data, not sections."""
    found, place = set(), 0
    for _ in range(TAGS):
        tag = _TAG.search(turn, place)
        if tag is None:
            break
        name = tag[1]
        end = turn.find(f"</{name}>", tag.end())
        if end >= 0 and len(name) > 1 and name.lower() not in _HTML:
            found.add(name)
        inside = end < 0 or _WRAPPER.search(name)
        place = tag.end() - 1 if inside else end + len(name) + 2
    return len(found)


def _instructs(turn: str) -> bool:
    """Whether a turn speaks of how its reader is to be, in two words at least, and asks nothing for its writer."""
    if _asks(turn):
        return False
    words = _INSTRUCTS.finditer(turn, 0, 4000)
    first = next(words, None)
    return first is not None and any(word[0].lower() != first[0].lower() for word in words)


def _asks(turn: str) -> bool:
    """Whether the first or the last line of a turn is a question, speaks of its writer, or asks for work on a text."""
    turn = turn.strip()
    for line in (turn[:300].partition("\n")[0].rstrip(), turn[-300:].rpartition("\n")[2]):
        if line.endswith("?") or _MINE.search(_QUOTED.sub("", line)):
            return True
    return bool(_OF_A_TEXT.match(turn[:300].partition("\n")[0]))


def _several(pattern: re.Pattern[str], text: str, least: int) -> bool:
    """Whether a pattern is found at least so many times."""
    return next(itertools.islice(pattern.finditer(text), least - 1, None), None) is not None


def signs(turn: str, enough: int = sys.maxsize) -> int:
    """How many signs of a system prompt a user's turn has: one a header, and `ENOUGH` at once for any stronger sign.

    enough: from so many on, no more are looked for.
    The stronger ones: two headers and 500 characters; a fingerprint phrase with a header or 400 characters; four items
    that command, two of them for ever, in a turn that instructs; tools described at its start; a role statement of 400
    characters, or with a header, a rule or directives. A line may end in CR, LF or both.
    """
    size = len(turn)
    lines = "\n" in turn
    if size < SHORT and not (lines or "#" in turn or "<" in turn or "*" in turn or "tools" in turn):
        return 0
    if size > LOOKED_AT:
        turn = turn[:LOOKED_AT]
    if "\r" in turn:
        turn = turn.replace("\r\n", "\n").replace("\r", "\n")
        lines = "\n" in turn
    if not lines and "# " in turn:
        turn = _ONE_LINE_HEADER.sub("\n", turn)
        lines = "\n" in turn
    found = headers(turn, enough) if lines or turn[:1] == "#" or "<" in turn or "*" in turn else 0
    if found >= 2 and size >= LONG_WITH_HEADERS:
        found += ENOUGH
    if found >= enough:
        return found
    first = turn[:5].lower()
    marked = not first[:1].isalpha()
    opens = marked or first[:3] in _FIRST or first in _FIRST
    rules = 0
    if lines and (opens or found or turn.count("\n") >= RULES - 1):
        rules = len(_RULE.findall("\n" + turn))
    strong = (
        (rules >= RULES and _several(_LASTING, "\n" + turn, LASTING) and _instructs(turn))
        or ((found or size >= LONG_WITH_FINGERPRINT) and any(phrase in turn for phrase in FINGERPRINTS))
        or (
            (marked or "ools" in turn or '":' in turn or (opens and "unctions" in turn))
            and opens_with_tools(turn)
        )
        or ((opens or found > 0) and states_a_role(turn, found, rules))
    )
    return found + ENOUGH * strong


def opens_with_tools(turn: str) -> bool:
    """Whether a turn opens with descriptions of tools or functions, or with rules as JSON.

    Words about tools count at the start; where functions, which puzzles have too, or a later sentence are meant, something
    must say that they are called.

    >>> opens_with_tools('[{"name": "grep", "description": "Search.", "parameters": {}}]')
    True
    """
    turn = turn.lstrip()
    if _TOOLS.match(turn):
        return True
    if '":' in turn and _SCHEMA.match(turn) and _SCHEMA_PART.search(turn, 0, 2000):
        return True
    if "tools" in turn or "unctions" in turn:
        if _CALLABLE.search(turn, 0, 400) and _CALLS.search(turn, 0, 3000):
            return True
        if _NAMESPACE.match(turn) or (_YAML_TOOLS.match(turn) and _YAML_PART.search(turn, 0, 2000)):
            return True
    return turn.startswith("---\n") and bool(_RULES_FILE.match(turn))


def states_a_role(turn: str, headers: int, rules: int) -> bool:
    """Whether a turn tells its reader at length who they are and how to behave, and is no mere question in character.

    Below headers the statement may be the second or third line that is not blank.
    """
    if headers:
        lines = filter(str.strip, turn.split("\n"))
        return any(map(_ROLE.match, itertools.islice(lines, 3)))
    if not _ROLE.match(turn):
        if _ACT.match(turn):
            return rules >= RULES or _several(_OBLIGATION, turn, OBLIGATIONS)
        return _is_spoken_of(turn)
    if rules:
        return True
    opening, _, rest = turn.lstrip().partition("\n")
    directives = len(_DIRECTIVE.findall(turn, 0, 3000))
    if _EXPERT.match(opening) and (directives >= 2 or (rest and _ONE_SENTENCE.fullmatch(opening))):
        return True
    if directives < 3 and (len(turn) < LONG_ROLE or directives < 2):
        return _is_spoken_of(turn)
    return _MINE.search(turn, 0, 3000) is None and "?" not in turn[-300:]


def _is_spoken_of(turn: str) -> bool:
    """Whether an agent is described in the third person: `SPEAKS_OF_IT` sentences more begin with its name."""
    agent = _THIRD_PERSON.match(turn) if turn.count(".") >= SPEAKS_OF_IT else None
    if agent is None:
        return False
    names = (f"The {agent[1]} ", f"This {agent[1]} ") if agent[1] else (f"{agent[2]} ",)
    said = sum(turn.count(before + name) for name in names for before in (". ", "! ", "\n"))
    return said >= SPEAKS_OF_IT and not _asks(turn)
