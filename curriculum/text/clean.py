"""The one pipeline that every document of every source goes through, and the count of what each rule dropped.

There is no list of sources that skip it. The rules that look at one document (`rules.py`) are judged in processes, a batch
of documents at a time; what depends on the documents before, exact and near duplicates, is decided here, in order. So
the result does not depend on how many processes there are.
"""

import collections
import contextlib
import gc
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from curriculum.config import Clean
from curriculum.errors import Exit, FirehoseError
from curriculum.text.read import Document
from curriculum.text.rules import RULES, Text, broken_rule
from curriculum.text.seen import DIGEST, Near, Seen, digest, sketch

DUPLICATE, NEAR_DUPLICATE = "duplicate", "near-duplicate"
ALL_RULES = (*RULES, DUPLICATE, NEAR_DUPLICATE)
KEPT = 0  # in a verdict; else 1 + the index of the rule in ALL_RULES
WARN_OVER = 0.5  # share of a source's documents that may be dropped before it is reported
BATCH = 1 << 19  # characters judged at a time
PARALLEL_FROM = 16 << 20  # bytes of text under which starting processes costs more than it saves
MOST_PROCESSES = 16

Sketches = list[Any]
Judged = tuple[
    bytes, bytes, Sketches
]  # verdicts; digests, then MinHashes, of the documents that no rule dropped


@dataclass(slots=True)
class Tally:
    """Documents that came in, went out, and were dropped by rule (every rule is listed, also those at 0)."""

    documents_in: int = 0
    documents_out: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ALL_RULES, 0))

    def count(self, verdicts: bytes) -> None:
        """Add the verdicts of a batch."""
        self.documents_in += len(verdicts)
        self.documents_out += verdicts.count(KEPT)
        for index, name in enumerate(ALL_RULES, 1):
            self.dropped[name] += verdicts.count(index)

    @property
    def dropped_share(self) -> float:
        """Share of the documents that were dropped, in [0, 1]."""
        return (self.documents_in - self.documents_out) / max(1, self.documents_in)


class Cleaner:
    """The pipeline of one source: batches of documents in, the same batches with a verdict a document out.

    Holds 16 bytes a kept document, and about 1.5 kB more where near-duplicates are compared.
    """

    def __init__(self, limits: Clean, judges: "Judges") -> None:
        self.limits = limits
        self.tally = Tally()
        self._judges = judges
        self._seen = Seen()
        self._near = Near(limits.near_duplicates) if limits.near_duplicates else None

    def clean(self, documents: Iterable[Document]) -> Iterator[tuple[list[Document], bytes]]:
        """Batches of documents, in order, and their verdicts: `KEPT`, or 1 + the index of a rule of `ALL_RULES`."""
        for batch, judged in self._judges.judge(in_batches(documents), self.limits):
            verdicts = self._compared(*judged)
            self.tally.count(verdicts)
            yield batch, verdicts

    def _compared(self, verdicts: bytes, digests: bytes, sketches: Sketches) -> bytes:
        """The verdicts with those for copies of earlier documents."""
        final, position = bytearray(verdicts), 0
        for at, verdict in enumerate(verdicts):
            if verdict == KEPT:
                if not self._seen.add(digests[position * DIGEST : (position + 1) * DIGEST]):
                    final[at] = 1 + ALL_RULES.index(DUPLICATE)
                elif self._near is not None and not self._near.add(sketches[position]):
                    final[at] = 1 + ALL_RULES.index(NEAR_DUPLICATE)
                position += 1
        return bytes(final)


class Judges:
    """Whoever applies the rules that look at one document: this process, or several at once."""

    def __init__(self, executor: ProcessPoolExecutor | None = None, ahead: int = 0) -> None:
        self._executor = executor
        self._ahead = ahead  # batches handed out and not yet taken back

    def judge(
        self, batches: Iterable[list[Document]], limits: Clean
    ) -> Iterator[tuple[list[Document], Judged]]:
        """Each batch, in order, with what the rules say of it."""
        if self._executor is None:
            for batch in batches:
                yield batch, judge(_texts(batch), limits)
            return
        waiting: collections.deque[tuple[list[Document], Future[Judged]]] = collections.deque()
        try:
            for batch in batches:
                waiting.append((batch, self._executor.submit(judge, _texts(batch), limits)))
                if len(waiting) > self._ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise FirehoseError(
                Exit.UNEXPECTED,
                "a cleaning process ended before its work was done, perhaps for want of memory",
                next="make memory free, or give --processes 1, then run the same command again",
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()


@contextlib.contextmanager
def judges(size: int, processes: int | None = None) -> Iterator[Judges]:
    """The judges for so many bytes of text: `processes` of them (default: one a core), one for a little text."""
    wanted = min(_cores(), MOST_PROCESSES) if processes is None else processes
    with _uncollected():
        if wanted <= 1 or (processes is None and size < PARALLEL_FROM):
            yield Judges()
            return
        # Not forked: a fork of a process with threads, as this one may have, can stop for good.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(wanted, mp_context=context, initializer=_in_a_process) as executor:
            try:
                yield Judges(executor, ahead=2 * wanted)
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's garbage collector: documents make no cycles, and looking for some takes a twelfth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def judge(texts: list[Text], limits: Clean) -> Judged:
    """The verdicts of the rules that look at one document, and of each that is kept its digest and its MinHash."""
    verdicts = bytearray()
    for text in texts:
        broken = broken_rule(text, limits)
        verdicts.append(KEPT if broken is None else 1 + ALL_RULES.index(broken))
    kept = [text.text for text, verdict in zip(texts, verdicts, strict=True) if verdict == KEPT]
    sketches = [sketch(text) for text in kept] if limits.near_duplicates else []
    return bytes(verdicts), b"".join(map(digest, kept)), sketches


def in_batches(stream: Iterable[Document], characters: int = BATCH) -> Iterator[list[Document]]:
    """The documents of a stream in lists of at least so many characters, but for the last."""
    batch: list[Document] = []
    held = 0
    for document in stream:
        batch.append(document)
        held += len(document.text)
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def kept(batch: list[Document], verdicts: bytes) -> list[Document]:
    """The documents of a batch that stay."""
    return [document for document, verdict in zip(batch, verdicts, strict=True) if verdict == KEPT]


def _texts(batch: list[Document]) -> list[Text]:
    return [Text(document.text, document.turn) for document in batch]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _in_a_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    gc.disable()  # as in the parent
