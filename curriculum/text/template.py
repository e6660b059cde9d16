"""The chat template: how turns become text, stored beside the tokenizer and used by every sample.

A user turn is a line that starts `> `, an assistant turn one that starts `< `; turns are joined by one newline and
further lines of a turn carry no mark. Content is stripped of white space at its ends, and a turn left empty is left
out. A content line that itself starts with a mark gets one leading space, so that no turn can be forged. A system
turn is plain lines, without a mark.

A prompt ends at `<`, before the space: in training text the space belongs to the first token of the answer (" The"
is one token), so a prompt that ended in a space would ask for a token the model has never seen there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from curriculum.errors import Exit, FirehoseError

NAME = "chat_template.json"
END = "<|end|>"
FORMAT = "firehose-chat-template"


class Part(msgspec.Struct):
    """A part of a turn's content: its text, where it has one; pictures and the like have none."""

    text: str | None = None


class Message(msgspec.Struct):
    """One turn of a `messages` record; other keys of it are ignored.

    content: text, a list of parts, or null where the turn only calls a tool.
    """

    role: str
    content: str | list[Part] | None

    @property
    def said(self) -> str:
        """The turn's text, that of its parts in paragraphs."""
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(part.text for part in self.content or () if part.text)


class UnknownRole(ValueError):
    """A turn by someone other than system, user or assistant."""


class ChatTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The template's exact strings. `prompt` is how a user's text is put to the model."""

    format: str = FORMAT
    version: int = 1
    user: str = "> "
    assistant: str = "< "
    separator: str = "\n"
    prompt: str = "> {prompt}\n<"
    end: str = END

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as training text. Raises UnknownRole.

        >>> TEMPLATE.render([Message("user", "Hello?"), Message("assistant", "Hi.\\n> quoted")])
        '> Hello?\\n< Hi.\\n > quoted'
        """
        marks = {"system": "", "user": self.user, "assistant": self.assistant}
        turns = []
        for message in messages:
            if message.role not in marks:
                raise UnknownRole(f"role {message.role!r} is none of system, user, assistant")
            if content := self._escape(message.said):
                turns.append(marks[message.role] + content)
        return self.separator.join(turns)

    def fill(self, user_text: str) -> str:
        """The text that is put to the model for a user's turn.

        >>> TEMPLATE.fill("What is rain? ")
        '> What is rain?\\n<'
        """
        return self.prompt.replace("{prompt}", self._escape(user_text))

    def _escape(self, content: str) -> str:
        marks = f"{re.escape(self.user)}|{re.escape(self.assistant)}"
        return re.sub(f"^(?={marks})", " ", content.strip(), flags=re.MULTILINE)

    def encode(self) -> bytes:
        """The file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


TEMPLATE = ChatTemplate()
render = TEMPLATE.render


def load(path: Path) -> ChatTemplate:
    """Read a stored template. Raises FirehoseError: NOT_FOUND for a missing file, DAMAGED for one that is no template."""
    try:
        template = msgspec.json.decode(path.read_bytes(), type=ChatTemplate)
        if (template.format, template.version) != (FORMAT, 1):
            raise ValueError(f"it is {template.format} {template.version}, not {FORMAT} 1")
        if "{prompt}" not in template.prompt or not template.user or not template.assistant:
            raise ValueError("it lacks a mark, or its prompt has no place for the user's text")
        return template
    except FileNotFoundError:
        raise FirehoseError(
            Exit.NOT_FOUND, f"{path.name} does not exist", path=path, next="firehose data build CONFIG"
        ) from None
    except ValueError as error:
        raise FirehoseError(
            Exit.DAMAGED, f"{path.name} is damaged: {error}", path=path, next="firehose data build CONFIG"
        ) from error
