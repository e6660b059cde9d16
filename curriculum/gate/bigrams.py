"""A compact bigram model of the trusted sources' words: how often words occur, and which follow which.

Words and pairs are known by hashes and counts by their logarithm, so a model takes about a sixth of its text and is
read through a memory map. Bigrams are smoothed by Witten and Bell's method C (1991): after a word seen c times, with t
different followers, a new one has probability t / (c + t).
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from curriculum.gate.coherence import PUNCTUATION, tokenize

Hashes = NDArray[np.uint64]
STEPS = 16  # of a quantised count in a doubling: 4 % apart
BUCKETS = 1 << 16
MOST_RATIO = 6.0  # nats; so that no single rare pair can speak for a whole sample
PENDING = 1 << 20  # pairs counted at a time
CACHED = 1 << 19  # spellings whose hash is remembered while a model is made


@functools.lru_cache(maxsize=1 << 16)
def word_hash(word: str) -> int:
    """32 bits of a word's BLAKE2b; a generated text may hold halves of surrogate pairs, which are words too."""
    data = word.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


class Spellings(dict[str, int]):
    """White-space token, lower-cased -> hash of its word; filled as it is asked."""

    def __missing__(self, token: str) -> int:
        if len(self) >= CACHED:
            self.clear()
        found = self[token] = word_hash(tokenize(token)[0])
        return found


def hashes(words: Iterable[str]) -> Hashes:
    """The words' hashes."""
    return np.fromiter(map(word_hash, words), dtype=np.uint64)


def pair_hashes(words: Hashes) -> Hashes:
    """The hash of every pair of neighbours."""
    mixed = words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))


def quantise(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Counts of 1 and more as one byte each, 4 % apart; 0 stays 0."""
    with np.errstate(divide="ignore"):
        levels = 1 + np.rint(STEPS * np.log2(counts))
    return np.where(counts > 0, np.clip(levels, 1, 255), 0).astype(np.uint8)


LEVELS = np.concatenate(([0.0], 2.0 ** (np.arange(255) / STEPS)))  # the count that each byte stands for


class Counter:
    """Counts words and pairs while the text goes by; the memory is that of the different ones."""

    def __init__(self) -> None:
        self.spellings = Spellings()
        self.words = _Counts()
        self.pairs = _Counts()
        self.total = 0

    def add(self, text: str) -> None:
        """Count one document."""
        words = np.array([self.spellings[token] for token in text.lower().split()], dtype=np.uint64)
        self.total += words.size
        self.words.add(words, words)
        self.pairs.add(pair_hashes(words), words[:-1])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The model, as `Bigrams` reads it."""
        words, counts, _ = self.words.merged()
        pairs, pair_counts, first = self.pairs.merged()
        befores, followers = np.unique(first, return_counts=True)
        different = np.zeros(words.size, dtype=np.int64)
        different[np.searchsorted(words, befores)] = followers
        keys = (pairs >> np.uint64(32)).astype(np.uint32)  # sorted, as the pairs are
        starts = np.searchsorted(keys >> np.uint32(16), np.arange(BUCKETS + 1)).astype(np.uint32)
        return {
            "words": words.astype(np.uint32),
            "word_counts": quantise(counts),
            "followers": quantise(different),
            "pair_starts": starts,
            "pairs": (keys & np.uint32(0xFFFF)).astype(np.uint16),
            "pair_counts": quantise(pair_counts),
        }


class _Counts:
    """Distinct hashes with how often each was added and what it was first added with."""

    def __init__(self) -> None:
        self._merged = (np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint64))
        self._pending: list[tuple[Hashes, Hashes]] = []
        self._size = 0

    def add(self, keys: Hashes, with_: Hashes) -> None:
        self._pending.append((keys, with_))
        self._size += keys.size
        if self._size >= PENDING:
            self.merged()

    def merged(self) -> tuple[Hashes, NDArray[np.int64], Hashes]:
        """Sorted hashes, counts, and the companions."""
        if self._pending:
            old, counts, companions = self._merged
            keys = np.concatenate([old, *(keys for keys, _ in self._pending)])
            with_ = np.concatenate([companions, *(with_ for _, with_ in self._pending)])
            weights = np.concatenate([counts, np.ones(keys.size - old.size, np.int64)])
            order = np.argsort(keys, kind="stable")
            ordered = keys[order]
            first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
            self._merged = (
                ordered[first],
                np.add.reduceat(weights[order], first) if first.size else np.empty(0, np.int64),
                with_[order[first]],
            )
            self._pending, self._size = [], 0
        return self._merged


class Bigrams:
    """A model as it is asked: how much better each word follows from the one before it than from nothing."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], total: int) -> None:
        """arrays: those of `Counter.arrays`, which may be memory maps. total: words counted."""
        self._words = np.asarray(arrays["words"], dtype=np.uint32)
        self._word_counts = arrays["word_counts"]
        self._followers = arrays["followers"]
        self._starts = arrays["pair_starts"]
        self._pairs = arrays["pairs"]
        self._pair_counts = arrays["pair_counts"]
        self.total = total

    def counts(self, words: Hashes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How often each word was seen, and how many different words followed it."""
        if not self._words.size:
            return np.zeros(words.size), np.zeros(words.size)
        keys = words.astype(np.uint32)
        at = np.minimum(np.searchsorted(self._words, keys), self._words.size - 1)
        known = self._words[at] == keys
        return (
            np.where(known, LEVELS[self._word_counts[at]], 0.0),
            np.where(known, LEVELS[self._followers[at]], 0.0),
        )

    def pair_counts(self, pairs: Hashes) -> NDArray[np.float64]:
        """How often each pair was seen."""
        found = np.zeros(pairs.size)
        keys = (pairs >> np.uint64(32)).astype(np.int64)
        for row, (bucket, rest) in enumerate(
            zip((keys >> 16).tolist(), (keys & 0xFFFF).tolist(), strict=True)
        ):
            start, end = int(self._starts[bucket]), int(self._starts[bucket + 1])
            at = start + int(self._pairs[start:end].searchsorted(np.uint16(rest)))
            if at < end and self._pairs[at] == rest:
                found[row] = LEVELS[self._pair_counts[at]]
        return found

    def share(self, word: str) -> float:
        """The word's share of the trusted text, 0 where it never occurs."""
        return float(self.counts(hashes([word]))[0][0]) / max(1, self.total)

    def coherence(self, tokens: Sequence[str]) -> float | None:
        """Mean over the pairs of log P(word | the one before) / P(word), in nats; None for fewer than two tokens.

        About 1 for English text, under -0.45 for real words in no order. A word never seen before counts as seen once,
        with one follower, so that pairs of unknown words have log 1/2.
        """
        if len(tokens) < 2:
            return None
        return float(self.ratios(hashes(tokens)).mean())

    def ratios(self, words: Hashes) -> NDArray[np.float64]:
        """The log ratio of every pair of neighbours."""
        seen, followers = self.counts(words)
        alone = (seen[1:] + 0.5) / (self.total + 1.0)
        together = self.pair_counts(pair_hashes(words))
        followed = followers[:-1] + 1.0
        ratio = np.log((together / alone + followed) / (seen[:-1] + 1.0 + followed))
        return np.minimum(ratio, MOST_RATIO)

    def words_by_count(self) -> tuple[Hashes, NDArray[np.float64]]:
        """Every word's hash and count, to draw salad from."""
        return self._words.astype(np.uint64), LEVELS[self._word_counts]


def is_word(token: str) -> bool:
    """Whether a token has a letter."""
    return token != PUNCTUATION and any(map(str.isalpha, token))
