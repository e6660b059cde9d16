"""Which texts were seen before: exactly, in 16 bytes a text, and nearly, by MinHash (the extra `near`)."""

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

from curriculum.extras import load

DIGEST = 16  # bytes; of 10^9 texts two have the same with a chance of 10^-21
PERMUTATIONS, BANDS = 128, 32
SHINGLE = 5  # words
_CROWDED = 64  # digests of a bucket at which all buckets are split
_WHITE = b" \t\n\r\f\v"
_SPREAD = 32  # bits of a digest that choose its bucket


def digest(text: str) -> bytes:
    """16 bytes of the SHA-256 of the text without its white space, so that a copy wrapped anew is a copy."""
    return hashlib.sha256(text.encode().translate(None, _WHITE)).digest()[:DIGEST]


class Seen:
    """A set of digests that holds little more than their bytes: end to end in buckets, which are split as they fill.

    A `set` of them would hold six times as much.
    """

    def __init__(self) -> None:
        self._bits = 0
        self._buckets = [bytearray()]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, digest: bytes) -> bool:
        """Whether it is new; then it is kept."""
        bucket = self._buckets[int.from_bytes(digest[:4]) >> _SPREAD - self._bits]
        at = bucket.find(digest)
        while at % DIGEST:  # across the border of two; -1 % 16 is 15
            if at < 0:
                break
            at = bucket.find(digest, at + 1)
        if at >= 0:
            return False
        bucket += digest
        self._count += 1
        if self._count > _CROWDED << self._bits and self._bits < _SPREAD:
            self._split()
        return True

    def _split(self) -> None:
        """Twice as many buckets, one after the other, so that no more than a bucket is held twice."""
        byte, bit = self._bits >> 3, 0x80 >> (self._bits & 7)  # the next bit of a digest
        self._bits += 1
        old, self._buckets = self._buckets, []
        old.reverse()
        while old:
            both = old.pop()
            lower, upper = bytearray(), bytearray()
            for start in range(0, len(both), DIGEST):
                half = upper if both[start + byte] & bit else lower
                half += both[start : start + DIGEST]
            self._buckets += lower, upper


class Sketch(Protocol):
    """A MinHash of a text."""


class Near:
    """Texts that are nearly one seen before: an estimated Jaccard similarity of five-word runs of at least `threshold`.

    About 1.5 kB a text that is kept. The same texts in the same order give the same answers. Raises FirehoseError
    (REFUSED) where the library is not installed.
    """

    def __init__(self, threshold: float) -> None:
        library = load("rensa", "near", "near-duplicates are found by the MinHash of rensa")
        self._seen = library.RMinHashDeduplicator(threshold, PERMUTATIONS, True, BANDS, 42)
        self._count = 0

    def add(self, sketch: Any) -> bool:
        """Whether it is like none before; then it is kept."""
        self._count += 1
        return bool(self._seen.add(str(self._count), sketch))


def sketch(text: str) -> Any:
    """The MinHash of a text's runs of five words, which `Near` compares."""
    library = load("rensa", "near", "near-duplicates are found by the MinHash of rensa")
    made = library.RMinHash(num_perm=PERMUTATIONS, seed=42)
    made.update(list(_runs(text.lower().split())))
    return made


def _runs(words: list[str]) -> Iterable[str]:
    return (" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1)))
