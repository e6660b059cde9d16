"""audits.bin: what the audits compare samples with, built beside the token files and read through a memory map.

A header in JSON (see `docs/formats.md`), then the arrays of the bigram model and of the copy index, each aligned.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes
from curriculum.gate import bigrams, copies
from curriculum.gate.bigrams import Bigrams
from curriculum.gate.coherence import tokenize
from curriculum.gate.copies import Copies
from curriculum.text.sample import Sampler
from curriculum.text.scripts import COMMON, OTHER, SCRIPTS, letters
from curriculum.tokens.btok import Btok
from curriculum.tokens.manifest import Manifest, SourceEntry

NAME = "audits.bin"
MAGIC = b"FHAUDIT1"
ALIGN = 64
BUDGET = 64_000_000  # bytes of trusted text that are counted, evenly spread
ASIDE = 50  # one document in so many is not counted, but tried on the model
TRIED = 400  # pieces of text, and as many of salad, of
PIECE = 60  # tokens
OWN_SHARE = 0.05  # of the trusted sources' letters: from here on a script is the run's own
COHERENT = -0.45  # mean log ratio under which a text has no local coherence
REBUILD = "firehose data build CONFIG"


def trusted(config: Config) -> list[str]:
    """The sources that samples are measured by: the goal's; where none are named those with a floor; else all."""
    built = {
        name: one for name, one in config.sources.items() if name not in config.curriculum.exclude_sources
    }
    floored = [name for name, one in built.items() if one.floor > 0 and one.cap > 0]
    return sorted(built.keys() & set(config.curriculum.goal_sources)) or sorted(floored or built)


class Builder:
    """Gathers the trusted sources' text while it is encoded, then writes the file.

    trusted: names of those sources. sizes: bytes of text files of every source.
    """

    def __init__(self, trusted: Sequence[str], sizes: Mapping[str, int]) -> None:
        self.trusted = list(trusted)
        self._sampler = Sampler(BUDGET, sum(sizes[name] for name in trusted))
        self._counter = bigrams.Counter()
        self._letters: dict[str, int] = {}
        self._aside: list[str] = []
        self.bytes = 0

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Count some documents of a source, if it is a trusted one."""
        if name not in self.trusted:
            return
        for text in self._sampler.take(texts):
            data = text.encode()
            if zlib.crc32(data) % ASIDE == 0 and len(self._aside) < TRIED:
                self._aside.append(text[: 20 * PIECE])
                continue
            self.bytes += len(data)
            self._counter.add(text)
            for name, times in letters(text).items():
                self._letters[name] = self._letters.get(name, 0) + times

    def write(self, path: Path, sources: Mapping[str, SourceEntry], tokenizer: str) -> None:
        """Write the file, beside the token files of all sources. tokenizer: its SHA-256."""
        arrays = self._counter.arrays()
        model = Bigrams(arrays, self._counter.total)
        index, window = copies.build(
            {name: Btok.open(path.parent / entry.train.file).tokens for name, entry in sources.items()}
        )
        header = {
            "trusted": self.trusted,
            "bytes": self.bytes,
            "words": self._counter.total,
            "letters": dict(sorted(self._letters.items())),
            "scripts": own(self._letters),
            "coherence": try_out(model, self._aside),
            "window": window,
            "tokenizer": tokenizer,
            "files": [
                [name, entry.train.file] for name, entry in sources.items()
            ],  # places count in this order
        }
        _write(path, header, {**arrays, **index})


def own(counted: Mapping[str, int]) -> list[str]:
    """The scripts that hold at least 5 % of the letters, by name; those of formulas are no script.

    >>> own({"Latin": 90, "Cyrillic": 10, "Greek": 1})
    ['Cyrillic', 'Latin']
    """
    total = sum(counted.values())
    return sorted(
        name for name, times in counted.items() if name != COMMON and 0 < times >= OWN_SHARE * total
    )


def script_names(stored: Iterable[str]) -> frozenset[str]:
    """Scripts of a file's header by the names they have now: earlier versions stored them in lower case, Han as "cjk".

    >>> sorted(script_names(["cjk", "latin", "runic"])), sorted(script_names(["Han", "Latin"]))
    (['Han', 'Latin', 'Other'], ['Han', 'Latin'])
    """
    named = {name.lower(): name for name in SCRIPTS} | {"cjk": "Han", "ideographic": "Han"}
    return frozenset(named.get(name.lower(), OTHER) for name in stored)


def try_out(model: Bigrams, aside: Iterable[str]) -> dict[str, float | int]:
    """How the limit of local coherence does on this model: text it has not seen, and words drawn by frequency.

    Shares, of as many pieces as are said, that are under the limit.
    """
    pieces = []
    for text in aside:
        tokens = tokenize(text)
        pieces += [tokens[at : at + PIECE] for at in range(0, len(tokens) - PIECE + 1, PIECE)]
    words, counts = model.words_by_count()
    up_to = np.cumsum(counts)
    drawn = np.random.default_rng(0).random((TRIED if words.size else 0, PIECE))
    salad = [model.ratios(words[np.searchsorted(up_to, row * up_to[-1])]).mean() for row in drawn]
    real = [model.coherence(piece) or 0.0 for piece in pieces[:TRIED]]
    return {
        "text": len(real),
        "text_found": sum(value < COHERENT for value in real) / max(1, len(real)),
        "salad_found": sum(value < COHERENT for value in salad) / max(1, len(salad)),
    }


@dataclass(frozen=True, slots=True)
class Reference:
    """The file, opened. header: see `Builder.write`."""

    path: Path
    header: dict[str, Any]
    bigrams: Bigrams
    copies: Copies

    @property
    def scripts(self) -> frozenset[str]:
        """The run's own scripts, as `curriculum.text.scripts` names them."""
        return script_names(self.header["scripts"])

    @property
    def coherence_works(self) -> bool:
        """Whether the model tells text from salad: it was built from enough text."""
        tried = self.header["coherence"]
        return bool(tried["salad_found"] >= 0.95 and (tried["text"] < 20 or tried["text_found"] <= 0.02))


def load(folder: Path, manifest: Manifest) -> Reference | None:
    """A data folder's file; None where an earlier version built the folder, without one.

    Its size and header are checked, and those of the token files it points into: in one that is gone or damaged, as that
    of a source that was put aside, no copy is found. Raises FirehoseError(DAMAGED), also where the manifest names a file
    of audits that is missing.
    """
    if manifest.audits is None:
        return None
    path = folder / manifest.audits.file
    try:
        with path.open("rb") as file:
            if file.read(8) != MAGIC:
                raise ValueError("it does not begin as such a file does")
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size < 1 << 26:
                raise ValueError("its header is cut off")
            data = file.read(size)
            digest = file.read(32)
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("the SHA-256 of its header differs")
        header = json.loads(data)
        start = _aligned(8 + 8 + size + 32)
        expected = start + header["size"]
        if not path.stat().st_size == expected == manifest.audits.bytes:
            raise ValueError(f"it has {path.stat().st_size:,} bytes of {manifest.audits.bytes:,}")
        if header["tokenizer"] != manifest.tokenizer.sha256:
            raise ValueError("it was built with another tokenizer")
        arrays = {
            name: np.memmap(path, dtype, "r", start + at, (count,)).view(np.ndarray)
            if count
            else np.empty(0, dtype)
            for name, (dtype, at, count) in header["arrays"].items()
        }
        counts = {entry.train.file: entry.train.tokens for entry in manifest.sources.values()}
        files = {name: _tokens(folder / file, counts[file]) for name, file in header["files"]}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise FirehoseError(
            Exit.DAMAGED, f"{NAME} cannot be used: {error}", path=path, next=REBUILD
        ) from error
    return Reference(path, header, Bigrams(arrays, header["words"]), Copies(arrays, header["window"], files))


def _tokens(path: Path, count: int) -> NDArray[np.integer[Any]]:
    """The tokens of a file; as many that equal none where it cannot be read, so that the others keep their places."""
    try:
        return Btok.open(path).tokens
    except FirehoseError:  # whether a run can do without this source is not for audits to say
        return np.broadcast_to(np.int64(-1), (count,))


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _write(path: Path, header: dict[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> None:
    table, at = {}, 0
    for name, array in arrays.items():
        table[name] = (array.dtype.newbyteorder("<").str, at, array.size)
        at = _aligned(at + array.nbytes)
    data = json.dumps({**header, "arrays": table, "size": at}, sort_keys=True).encode()
    head = MAGIC + len(data).to_bytes(8, "little") + data + hashlib.sha256(data).digest()
    with failing_writes(path), path.open("wb") as file:
        file.write(head.ljust(_aligned(len(head)), b"\0"))
        for array in arrays.values():
            raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            file.write(raw.ljust(_aligned(len(raw)), b"\0"))
