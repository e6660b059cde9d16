"""The .btok file: a source's tokens and where its documents start, written as a stream and read through a map.

Layout (docs/formats.md): 64-byte little-endian header, tokens of 2 or 4 bytes, padding to 8, then
uint64[documents + 1] of token positions, of which the last is the number of tokens.
"""

import contextlib
import os
import struct
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sync_folder
from curriculum.tokens.mapped import map_file
from curriculum.tokens.windows import windows_in

MAGIC = b"BTOK"
VERSION = 1
# magic, version, token width, vocabulary, zero, tokens, documents, tokenizer prefix, table offset, zero, CRC32
HEADER = struct.Struct("<4sHHIIQQ16sQII")
_CRC = struct.Struct("<I")
_CRC_AT = HEADER.size - _CRC.size
_TABLE_PIECE = 1 << 20  # documents whose starts are checked at a time: 8 MiB


def token_width(vocab_size: int) -> int:
    """Bytes of a token id: 2 while every id fits, else 4.

    >>> token_width(65536), token_width(65537)
    (2, 4)
    """
    return 2 if vocab_size <= 1 << 16 else 4


def table_offset(tokens: int, width: int) -> int:
    """Where the table of starts begins: after the tokens, at a multiple of 8 bytes."""
    return -(-(HEADER.size + tokens * width) // 8) * 8


def pack_header(vocab_size: int, tokens: int, documents: int, tokenizer_sha256: str) -> bytes:
    """The 64 header bytes, checksum in place."""
    width = token_width(vocab_size)
    prefix = bytes.fromhex(tokenizer_sha256)[:16]
    offset = table_offset(tokens, width)
    body = HEADER.pack(MAGIC, VERSION, width, vocab_size, 0, tokens, documents, prefix, offset, 0, 0)
    return body[:_CRC_AT] + _CRC.pack(zlib.crc32(body[:_CRC_AT]))


class BtokWriter:
    """Write a .btok document by document: a context manager that leaves the whole file, or none.

    The file has a temporary name until a clean exit, which syncs and renames it; an exception removes it. Held in
    memory: 8 bytes a document. Raises FirehoseError(WRITE_FAILED), naming the file, when the disk is full.
    """

    def __init__(self, path: Path, vocab_size: int, tokenizer_sha256: str) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.tokenizer_sha256 = tokenizer_sha256
        self.tokens = 0
        self._starts = array("Q", [0])
        self._partial = path.with_name(path.name + ".tmp")  # until it is whole
        self._dtype = np.dtype(f"<u{token_width(vocab_size)}")
        self._file: BinaryIO

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return len(self._starts) - 1

    def __enter__(self) -> Self:
        with failing_writes(self.path):
            self._file = self._partial.open("wb", buffering=1 << 20)
            self._file.write(bytes(HEADER.size))  # no magic until the file is whole
        return self

    def add(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Append one document; its last token is the end token, put there by the caller."""
        self.extend(tokens, [len(tokens)])

    def extend(
        self, tokens: Sequence[int] | NDArray[np.integer], lengths: Sequence[int] | NDArray[np.integer]
    ) -> None:
        """Append documents laid end to end; `lengths` are their numbers of tokens, each at least 1.

        Raises ValueError where lengths and tokens disagree or a token is outside the vocabulary.
        """
        flat = np.asarray(tokens)
        sizes = np.asarray(lengths, dtype=np.int64)
        if sizes.size == 0:
            return
        if int(sizes.min()) < 1 or int(sizes.sum()) != flat.size:
            raise ValueError(f"{sizes.size} document lengths do not cover {flat.size} tokens")
        if int(flat.min()) < 0 or int(flat.max()) >= self.vocab_size:
            raise ValueError(f"a token is outside the vocabulary of {self.vocab_size}")
        with failing_writes(self.path):
            self._file.write(flat.astype(self._dtype, copy=False).tobytes())
        self._starts.frombytes((np.cumsum(sizes, dtype=np.uint64) + np.uint64(self.tokens)).tobytes())
        self.tokens += flat.size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with failing_writes(self.path):
                    self._finish()
        finally:
            with contextlib.suppress(OSError):  # what a full disk left in the buffer cannot be flushed either
                self._file.close()
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        end = HEADER.size + self.tokens * self._dtype.itemsize
        self._file.write(bytes(table_offset(self.tokens, self._dtype.itemsize) - end))
        self._file.write(np.asarray(self._starts).astype("<u8", copy=False).data)
        self._file.seek(0)
        self._file.write(pack_header(self.vocab_size, self.tokens, self.documents, self.tokenizer_sha256))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.path)
        sync_folder(self.path.parent)


class Btok:
    """A .btok open for reading: a read-only memory map, of which only the touched pages are read.

    No descriptor is held, and the file stays the one that was opened, whatever is written under its name later.

    tokens: uint16 or uint32 [count]. starts: uint64 [documents + 1], document d is tokens[starts[d]:starts[d + 1]].
    """

    def __init__(
        self, path: Path, data: memoryview, *, source: str | None, expected_sha256: str | None
    ) -> None:
        self.path = path
        self.source = source
        self.size = len(data)
        fields = self._header(data, expected_sha256)
        self.vocab_size, self.count, self.documents, self.tokenizer_prefix, width, offset = fields
        self.tokens: NDArray[np.unsignedinteger] = np.frombuffer(data, f"<u{width}", self.count, HEADER.size)
        self.starts: NDArray[np.uint64] = np.frombuffer(data, "<u8", self.documents + 1, offset)
        if (first := int(self.starts[0])) != 0:
            raise self._damaged(f"its document table starts at token {first}, not at 0")
        if (last := int(self.starts[-1])) != self.count:
            where = "past the end of" if last > self.count else "short of"
            raise self._damaged(f"its document table ends at token {last}, {where} its {self.count} tokens")

    @classmethod
    def open(cls, path: Path, *, source: str | None = None, tokenizer_sha256: str | None = None) -> "Btok":
        """Map a file and check its header, its size and the ends of its document table, in O(1).

        source: the arm that errors name. tokenizer_sha256: the tokenizer the tokens must come from.
        Raises FirehoseError: NOT_FOUND for a missing file, NEWER_SCHEMA for a later version, DAMAGED for all else.
        """
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < HEADER.size:
                    raise _damaged(path, source, f"it has {size} bytes, fewer than a header's {HEADER.size}")
                data = map_file(file.fileno(), size)
        except FileNotFoundError:
            raise FirehoseError(
                Exit.NOT_FOUND,
                f"{path.name} does not exist",
                path=path,
                arm=source,
                next="firehose data build CONFIG",
            ) from None
        return cls(path, data, source=source, expected_sha256=tokenizer_sha256)

    def check_table(self) -> None:
        """Check that the starts rise from document to document, reading the whole table in pieces."""
        for first in range(0, self.documents, _TABLE_PIECE):
            piece = self.starts[first : first + _TABLE_PIECE + 1]
            falls = np.flatnonzero(piece[1:] <= piece[:-1])
            if falls.size:
                raise self._damaged(
                    f"its document table does not rise after document {first + int(falls[0])}"
                )

    def windows(self, block_size: int) -> NDArray[np.void]:
        """Its windows of `block_size` + 1 tokens, each beginning with the last one's last: a view (windows,) of items.

        An item is a window's bytes, so that picking some of them copies each in one piece, with no cost a token.
        """
        token = self.tokens.itemsize
        item = np.dtype((np.void, (block_size + 1) * token))
        count = windows_in(self.count, block_size)
        return np.ndarray((count,), item, self.tokens.data, strides=(block_size * token,))

    def _header(self, data: memoryview, expected_sha256: str | None) -> tuple[int, int, int, bytes, int, int]:
        raw = bytes(data[: HEADER.size])
        magic, version, width, vocab_size, _, tokens, documents, prefix, offset, _, crc = HEADER.unpack(raw)
        if magic != MAGIC:
            raise self._damaged(f"it starts with {magic!r}, not {MAGIC!r}: not a .btok file")
        if crc != zlib.crc32(raw[:_CRC_AT]):
            raise self._damaged("its header's checksum is wrong")
        if version > VERSION:
            raise FirehoseError(
                Exit.NEWER_SCHEMA,
                f"{self.path.name} has version {version}; this firehose reads up to {VERSION}",
                path=self.path,
                arm=self.source,
                next="use the newer firehose, or rebuild: firehose data build CONFIG",
            )
        if width != token_width(vocab_size):
            raise self._damaged(
                f"its tokens have {width} bytes, which does not fit a vocabulary of {vocab_size}"
            )
        if offset != table_offset(tokens, width):
            raise self._damaged(f"its header puts the document table at {offset}, not behind the tokens")
        if len(data) != (size := offset + 8 * (documents + 1)):
            raise self._damaged(f"its header describes {size} bytes; the file has {len(data)}")
        if expected_sha256 is not None and prefix != bytes.fromhex(expected_sha256)[:16]:
            raise self._damaged("its tokens come from another tokenizer than the one beside it")
        return vocab_size, tokens, documents, prefix, width, offset

    def _damaged(self, what: str) -> FirehoseError:
        return _damaged(self.path, self.source, what)


def _damaged(path: Path, source: str | None, what: str) -> FirehoseError:
    return FirehoseError(
        Exit.DAMAGED,
        f"{path.name} is damaged: {what}",
        path=path,
        arm=source,
        next="firehose data build CONFIG",
    )
