"""The tokenizer: byte-level BPE trained on the sources' own text, with the chat template beside it.

Ids: 0 is the end token `<|end|>`, then the 256 bytes, then the merges. Every text round-trips exactly. The marks of
the template are ordinary text; text that spells `<|end|>` is encoded as its characters, never as the end token.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from curriculum.errors import Exit, FirehoseError
from curriculum.files import sha256_file, write_atomic
from curriculum.text import template as templates
from curriculum.text.template import END, ChatTemplate

NAME = "tokenizer.json"
BYTES = 256
LONGEST_PIECE = 1 << 15  # characters encoded as one
AT_A_TIME = 1 << 17  # characters encoded together: an encoding takes over 100 bytes of memory a token
_PIECE_END = re.compile(r"\w(?=[ \n])")


class Tokenizer:
    """A trained tokenizer and its chat template.

    vocab_size: ids, the end token included. end_id: the id that ends every document. sha256: of the file's bytes.
    """

    def __init__(self, path: Path, inner: tokenizers.Tokenizer, template: ChatTemplate) -> None:
        inner.encode_special_tokens = True
        end_id = inner.token_to_id(template.end)
        if end_id is None:
            raise _damaged(path, f"it has no token {template.end}, which the chat template names")
        self._inner = inner
        self.path = path
        self.template = template
        self.end_id: int = end_id
        self.vocab_size: int = inner.get_vocab_size()
        self.sha256 = sha256_file(path)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without end tokens, on all cores."""
        encoded: list[list[int]] = [[]]
        for ids, is_last in self._encode(texts):
            encoded[-1] += ids
            if is_last:
                encoded.append([])
        return encoded[:-1]

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.uintc], NDArray[np.int64]]:
        """The ids of texts laid end to end, each closed by an end token, and the number of ids of each, it included."""
        flat, ends = array("I"), array("q", [0])
        for ids, is_last in self._encode(texts):
            flat.extend(ids)
            if is_last:
                flat.append(self.end_id)
                ends.append(len(flat))
        return np.asarray(flat), np.diff(np.asarray(ends))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, end tokens left out; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def prompt(self, user_text: str) -> list[int]:
        """The ids that are put to the model for a user's turn, by the stored template.

        They are the first ids of the whole turn: `prompt(q) + encode(" " + a) == encode("> q\\n< a")`.
        """
        return self.encode(self.template.fill(user_text))

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], bool]]:
        """The ids of every piece of every text, and whether it is its text's last; a bounded part at a time."""
        pieces = ((piece, is_last) for text in texts for piece, is_last in _pieces(text))
        while group := list(_up_to(pieces, AT_A_TIME)):
            encoded = self._inner.encode_batch_fast([piece for piece, _ in group], add_special_tokens=False)
            for encoding, (_, is_last) in zip(encoded, group, strict=True):
                yield encoding.ids, is_last


def train(texts: Iterator[str], vocab_size: int, path: Path) -> Tokenizer:
    """Train a tokenizer on a stream of texts and write it, its template beside it.

    vocab_size: ids without the end token, which comes on top; fewer are made from little text. The same texts in the
    same order give the same bytes. An exception of the iterator passes through. Raises FirehoseError: USAGE for a
    vocabulary smaller than the 256 bytes, WRITE_FAILED.
    """
    if vocab_size < BYTES:
        raise FirehoseError(
            Exit.USAGE,
            f"vocab_size is {vocab_size}; a byte-level vocabulary has at least {BYTES}",
            next="raise data.vocab_size in the config",
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + 1,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((piece for text in texts for piece, _ in _pieces(text)), trainer)
    write_atomic(path, inner.to_str(pretty=True).encode())
    write_atomic(path.with_name(templates.NAME), templates.TEMPLATE.encode())
    return Tokenizer(path, inner, templates.TEMPLATE)


def load(path: Path) -> Tokenizer:
    """Read tokenizer.json and the chat template beside it.

    Raises FirehoseError: NOT_FOUND for a missing file, DAMAGED for one that cannot be read.
    """
    try:
        inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FirehoseError(
            Exit.NOT_FOUND, f"{path.name} does not exist", path=path, next="firehose data build CONFIG"
        ) from None
    except Exception as error:  # the library raises bare Exception
        raise _damaged(path, str(error)) from error
    return Tokenizer(path, inner, templates.load(path.with_name(templates.NAME)))


def copy(source: Path, target: Path) -> Tokenizer:
    """Write a tokenizer's file and its template again, byte for byte, and read them there. Raises as `load`."""
    load(source)
    for old, new in (
        (source, target),
        (source.with_name(templates.NAME), target.with_name(templates.NAME)),
    ):
        write_atomic(new, old.read_bytes())
    return load(target)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """A text in pieces, each with whether it is the last.

    It is cut after a letter or digit that a blank follows, which no token of byte-level BPE spans; where there is no
    such place in a piece's length, as in one endless word, anywhere.
    """
    start = 0
    while len(text) - start > LONGEST_PIECE:
        ends = list(_PIECE_END.finditer(text, start, start + LONGEST_PIECE))
        end = ends[-1].end() if ends else start + LONGEST_PIECE
        yield text[start:end], False
        start = end
    yield text[start:], True


def _up_to(pieces: Iterator[tuple[str, bool]], characters: int) -> Iterator[tuple[str, bool]]:
    """The next pieces, until they have that many characters."""
    for piece in pieces:
        yield piece
        characters -= len(piece[0])
        if characters <= 0:
            return


def _damaged(path: Path, what: str) -> FirehoseError:
    return FirehoseError(
        Exit.DAMAGED, f"{path.name} is damaged: {what}", path=path, next="firehose data build CONFIG"
    )
