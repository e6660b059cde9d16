"""The longest run of tokens that a text shares with the training data, found through a thin index of it.

Of every 32 neighbouring 8-token shingles the one with the least hash is kept ("winnowing": Schleimer, Wilkerson and
Aiken 2003), with its place in the token files. So a copy of 39 tokens or more always contains a kept one; a hit is
verified and extended in the token files themselves. Where a shingle occurs more than once its first place is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer]
Hashes = NDArray[np.uint64]
SHINGLE = 8  # tokens
WINDOW = 32  # shingles of which one is kept; doubled until the index has at most `MOST` entries
MOST = 1 << 23
CHUNK = 1 << 20  # tokens looked at a time
LONGEST_SAMPLE = 4096  # tokens; of more, the beginning is looked at
_LOW = np.uint64((1 << 20) - 1)  # room for a shingle's place in its chunk, in the low bits of its hash


def shingle_hashes(tokens: Tokens) -> Hashes:
    """The 64-bit hash of every run of 8 tokens."""
    size = max(0, len(tokens) - SHINGLE + 1)
    found = np.zeros(size, dtype=np.uint64)
    wide = tokens.astype(np.uint64)
    for at in range(SHINGLE):
        found = found * np.uint64(0x9E3779B97F4A7C15) + wide[at : at + size] + np.uint64(1)
    found ^= found >> np.uint64(31)
    found *= np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(found ^ (found >> np.uint64(32)))


def winnow(tokens: Tokens, window: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The kept shingles of a token file: their hashes, without the low 20 bits, and places, in order."""
    keys, places = [], []
    step = CHUNK - window - SHINGLE
    for start in range(0, len(tokens), step):
        piece = shingle_hashes(np.asarray(tokens[start : start + CHUNK - 1]))
        if not piece.size:
            break
        least = (piece & ~_LOW) | np.arange(piece.size, dtype=np.uint64)
        width = 1
        while width < window and least.size > width:  # the least of 2, 4, 8 ... neighbours
            least = np.minimum(least[:-width], least[width:])
            width *= 2
        kept = np.unique(least & _LOW).astype(np.int64)
        keys.append(piece[kept] & ~_LOW)
        places.append(kept + start)
    if not keys:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    where, first = np.unique(np.concatenate(places), return_index=True)
    return np.concatenate(keys)[first], where


def build(files: Mapping[str, Tokens]) -> tuple[dict[str, NDArray[np.generic]], int]:
    """The index of some token files, in their order, and how many neighbouring shingles share a kept one."""
    total = sum(len(tokens) for tokens in files.values())
    window = WINDOW
    while 2 * total > MOST * (window + 1):
        window *= 2
    keys, places, offset = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for tokens in files.values():
        found, where = winnow(tokens, window)
        keys.append(found)
        places.append(where + offset)
        offset += len(tokens)
    prints = (np.concatenate(keys) >> np.uint64(32)).astype(np.uint32)
    prints, first = np.unique(prints, return_index=True)
    dtype = np.uint32 if total < 1 << 32 else np.uint64
    return {"shingles": prints, "places": np.concatenate(places)[first].astype(dtype)}, window


@dataclass(frozen=True, slots=True)
class Copy:
    """A verbatim run: its tokens, where it begins in the text, and in which source's file, at which token."""

    tokens: int
    at: int
    source: str | None
    place: int


NO_COPY = Copy(0, 0, None, 0)


class Copies:
    """The index, as it is asked."""

    def __init__(
        self, arrays: Mapping[str, NDArray[np.generic]], window: int, files: Mapping[str, Tokens]
    ) -> None:
        """arrays: those of `build`, which may be memory maps. files: the token files, in the same order."""
        self._prints = np.asarray(arrays["shingles"], dtype=np.uint32)
        self._places = arrays["places"]
        self.window = window
        self._names = list(files)
        self._files = list(files.values())
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._files)])

    @property
    def sure(self) -> int:
        """The length, in tokens, from which a copy is always found."""
        return SHINGLE + self.window - 1

    def longest(self, tokens: Sequence[int]) -> Copy:
        """The longest run that the text shares with one of the files; `NO_COPY` where no shingle of it is known."""
        text = np.asarray(tokens[:LONGEST_SAMPLE], dtype=np.int64)
        best = NO_COPY
        if not self._prints.size or len(text) < SHINGLE:
            return best
        prints = ((shingle_hashes(text)) >> np.uint64(32)).astype(np.uint32)
        at = np.minimum(np.searchsorted(self._prints, prints), self._prints.size - 1)
        done = -1  # a run found covers its later shingles
        for row in np.flatnonzero(self._prints[at] == prints).tolist():
            place = int(self._places[at[row]])
            if place - row == done:
                continue
            done = place - row
            found = self._extend(text, row, place)
            if found.tokens > best.tokens:
                best = found
        return best

    def _extend(self, text: NDArray[np.int64], row: int, place: int) -> Copy:
        """The run around a hit: as far as the text and the file agree, both ways."""
        file = int(np.searchsorted(self._starts, place, side="right")) - 1
        tokens, start = self._files[file], place - int(self._starts[file])
        after = min(len(text) - row, len(tokens) - start)
        same = text[row : row + after] == tokens[start : start + after]
        forward = int(after if same.all() else same.argmin())
        if forward < SHINGLE:
            return NO_COPY  # two shingles with one fingerprint
        before = min(row, start)
        same = (text[row - before : row] == tokens[start - before : start])[::-1]
        back = int(before if same.all() else same.argmin())
        return Copy(back + forward, row - back, self._names[file], start - back)
