"""The turns of a chat document: where a user's first turn stands, so that no rule judges an assistant's Markdown by it."""

import re
from collections.abc import Iterator

MARKS = ("> ", "< ")
# One document a line (`> user / < assistant`) or one turn a line (`> user` and, below it, `< assistant`).
_END = re.compile(r"\n[<>](?=[ \r\n]|\Z)")
_SLASH = re.compile(r" / (?=[<>] )")
_REPLY = re.compile(r"\n<(?=[ \r\n]|\Z)| / < ")
_BOUNDARY = re.compile(r"\n(?=[<>][ \r\n])| / (?=[<>] )")


def first_user_turn(text: str) -> str | None:
    """The content of the first user turn; None where the document is no chat.

    It runs from the first line that starts `> ` to ` / < `, ` / > `, a line that starts `< ` or `> `, or ` / ` in its first
    line where no reply has a mark: otherwise, and further down, that is prose ("either / or"). A document that neither
    starts so nor holds a reply is no chat: in Markdown a `> ` is a quotation.

    >>> first_user_turn("Be brief.\\n> What is\\nrain? / < Water. / > And snow?")
    'What is\\nrain?'
    >>> first_user_turn("A document.\\n\\n> quoted")
    """
    if text.startswith("> "):
        start = 2
    else:
        start = text.find("\n> ") + 3
        if start == 2 or not ("\n< " in text or " / < " in text):
            return None
    end = _END.search(text, start)
    stop = end.start() if end else len(text)
    slash = text.find(" / ", start, stop)
    if slash >= 0 and (text.find("\n", start, slash) >= 0 or _REPLY.search(text, start)):
        marked = _SLASH.search(text, slash, stop)
        slash = marked.start() if marked else -1
    return text[start : stop if slash < 0 else slash]


def turns(text: str) -> Iterator[str]:
    """The turns of a chat without their marks; any other document is one turn.

    >>> list(turns("> Hi. / < Hello. / > Bye."))
    ['Hi.', 'Hello.', 'Bye.']
    """
    for turn in _BOUNDARY.split(text):
        yield turn[2:] if turn[:2] in MARKS else turn
