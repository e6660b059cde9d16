"""Which documents of a source are held out: the lowest content hashes, so that the choice follows the text alone."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.windows import windows_in

HELDOUT_WINDOWS = 8  # at least, where the source is large enough
LARGEST_PART = 5  # never more than one fifth of the documents or tokens


def content_hash(text: str) -> int:
    """The first 64 bits of the SHA-256 of the text's UTF-8."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def choose_heldout(
    hashes: NDArray[np.uint64], lengths: NDArray[np.int64], block_size: int
) -> tuple[NDArray[np.bool_], str | None]:
    """The documents to hold out, as a mask, and a sentence where they are fewer than they should be.

    One per cent of the documents, taken in order of hash and on until they fill 8 windows; but never more than a
    fifth of the documents or of the tokens, nor so many that no training window is left. Documents with the same
    text are one: they go to the same side, or training text would be held out.

    hashes: [documents], at least one. lengths: tokens of each document.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    texts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))  # first of each text
    copies = np.diff(texts, append=order.size)
    tokens = np.add.reduceat(lengths[order], texts)
    total, smallest = int(lengths.sum()), int(tokens.min())
    most_documents = order.size // LARGEST_PART
    most_tokens = min(total // LARGEST_PART, total - block_size - 1)
    least_documents = -(-order.size // 100)

    held = np.zeros(order.size, dtype=np.bool_)
    documents = held_tokens = 0
    for text, first in enumerate(texts):
        if documents >= least_documents and windows_in(held_tokens, block_size) >= HELDOUT_WINDOWS:
            break
        if documents >= most_documents or held_tokens + smallest > most_tokens:
            break
        if documents + copies[text] <= most_documents and held_tokens + tokens[text] <= most_tokens:
            held[order[first : first + copies[text]]] = True
            documents += int(copies[text])
            held_tokens += int(tokens[text])
    return held, _note(documents, least_documents, windows_in(held_tokens, block_size))


def _note(documents: int, least_documents: int, windows: int) -> str | None:
    if documents == 0:
        return "nothing is held out: no document can be spared"
    if documents < least_documents or windows < HELDOUT_WINDOWS:
        return (
            f"only {documents:,} documents, {windows} windows, are held out: "
            "the source is too small for more than a fifth"
        )
    return None
