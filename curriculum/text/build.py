"""From text to token files: `firehose data build`.

Two streaming passes over the text: one counts the documents and trains the tokenizer on an even sample, one encodes.
A source's tokens go to a raw file first; when all its documents are hashed, their ranges are copied to the training
and the held-out file. Memory holds one batch and 32 bytes a document. Everything is made in a folder inside the data
folder (so on the same file system) and renamed into place when every source has succeeded, the manifest last.
"""

import contextlib
import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sha256_file
from curriculum.text import template, tokenizer
from curriculum.text.clean import Tally, clean
from curriculum.text.read import Document, documents, find_files
from curriculum.text.sample import Sampler
from curriculum.text.split import choose_heldout, content_hash
from curriculum.text.staging import publish, staging_folder
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens.btok import Btok, BtokWriter, token_width
from curriculum.tokens.corpus import too_few_tokens
from curriculum.tokens.manifest import Manifest, SourceEntry, TokenFile, TokenizerEntry
from curriculum.tokens.windows import windows_in

BATCH = 1 << 17  # characters encoded at a time; larger batches are slower and take more memory
COPY = 1 << 20  # tokens copied at a time


@dataclass(frozen=True, slots=True)
class SourceText:
    """Where a source's text is (files, folders, globs), and how many documents it should hold, if that is known."""

    paths: tuple[Path, ...]
    expect_documents: int | None = None


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What to build: `sources` into `out_dir`, held-out parts sized in windows of `block_size` tokens.

    A source's name is part of file names: `curriculum.config` says which will do. tokenizer: file of one to be used
    again, with its template beside it, as for a source that joins a run; None trains one.
    """

    out_dir: Path
    sources: Mapping[str, SourceText]
    vocab_size: int = 8192
    tokenizer_sample_mb: int = 100
    block_size: int = 1024
    tokenizer: Path | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is. stage: reading, training, encoding. Bytes are of text files, over all sources."""

    stage: str
    source: str
    documents: int
    bytes_done: int
    bytes_total: int


Report = Callable[[Progress], None]


def plan_for(config: Config, tokenizer: Path | None = None) -> BuildPlan:
    """The build of a config: every source that is not excluded. tokenizer: see `BuildPlan`."""
    excluded = set(config.curriculum.exclude_sources)
    return BuildPlan(
        out_dir=config.resolve(config.data.dir),
        sources={
            name: SourceText(tuple(map(config.resolve, source.paths)), source.expect_documents)
            for name, source in config.sources.items()
            if name not in excluded
        },
        vocab_size=config.data.vocab_size,
        tokenizer_sample_mb=config.data.tokenizer_sample_mb,
        block_size=config.model.block_size,
        tokenizer=tokenizer,
    )


def find_text(plan: BuildPlan) -> dict[str, list[Path]]:
    """The text files of every source; FirehoseError(NOT_FOUND) names a source whose text is missing."""
    if not plan.sources:
        raise FirehoseError(Exit.REFUSED, "there is no source to build", next="add a [sources.NAME] table")
    return {name: find_files(name, text.paths) for name, text in plan.sources.items()}


def build(plan: BuildPlan, report: Report = lambda progress: None) -> Manifest:
    """Build every source of a plan and return the manifest that was written.

    report: called after every batch. The same text and plan give the same bytes of every file. On any error the data
    folder is as it was. Raises FirehoseError: NOT_FOUND for missing text; DAMAGED for text that cannot be read, with
    file and line; REFUSED for a source with the wrong number of documents, with none, or with too few tokens for a
    window; WRITE_FAILED naming the file; LOCKED while another build is at work in the folder.
    """
    files = find_text(plan)
    with staging_folder(plan.out_dir) as staging:
        reading = _Reading(plan, files, report)
        sampler = Sampler(
            plan.tokenizer_sample_mb * 1_000_000 * (plan.tokenizer is None), reading.bytes_total
        )
        if plan.tokenizer is None:
            trained = tokenizer.train(reading.sample(sampler), plan.vocab_size, staging / tokenizer.NAME)
        else:
            trained = tokenizer.copy(plan.tokenizer, staging / tokenizer.NAME)
            for _ in reading.sample(sampler):
                pass  # what this pass counts and checks is wanted all the same
        entries = {name: _build_source(reading, name, trained, staging) for name in plan.sources}
        manifest = Manifest(
            tokenizer=TokenizerEntry(
                file=tokenizer.NAME,
                sha256=trained.sha256,
                vocab_size=trained.vocab_size,
                template=template.NAME,
                template_sha256=sha256_file(staging / template.NAME),
                sample_bytes=sampler.taken,
            ),
            block_size=plan.block_size,
            sources=entries,
        )
        publish(staging, plan.out_dir, manifest)
    return manifest


class _Reading:
    """The two passes over the text, with one progress and one set of tallies."""

    def __init__(self, plan: BuildPlan, files: Mapping[str, list[Path]], report: Report) -> None:
        self.plan = plan
        self.files = files
        self.tallies: dict[str, Tally] = {}
        self.bytes_of = {name: sum(f.stat().st_size for f in found) for name, found in files.items()}
        self.bytes_total = sum(self.bytes_of.values())
        self._report = report

    def sample(self, sampler: Sampler) -> Iterator[str]:
        """First pass: count and check every document, and yield what the tokenizer is trained on."""
        done = 0
        for name in self.files:
            tally = Tally()
            for batch in self._batches("reading", name, tally, done):
                yield from sampler.take(text for text, _ in batch)
            self._check_counts(name, tally)
            self.tallies[name] = tally
            done += self.bytes_of[name]
        kept = sum(tally.documents_out for tally in self.tallies.values())
        self._report(Progress("training", "the tokenizer", kept, self.bytes_total, self.bytes_total))

    def encode(self, name: str) -> Iterator[list[str]]:
        """Second pass over one source: its documents in batches, the same ones as in the first."""
        done = sum(
            size for _, size in itertools.takewhile(lambda item: item[0] != name, self.bytes_of.items())
        )
        tally = Tally()
        for batch in self._batches("encoding", name, tally, done):
            yield [text for text, _ in batch]
        if tally != self.tallies[name]:
            raise _refused(
                name, f"the text of source {name} changed while it was read", "let its writer finish"
            )

    def _batches(self, stage: str, name: str, tally: Tally, done: int) -> Iterator[list[Document]]:
        for batch in _in_batches(clean(documents(name, self.files[name]), tally)):
            yield batch
            done += sum(size for _, size in batch)
            self._report(Progress(stage, name, tally.documents_in, done, self.bytes_total))

    def _check_counts(self, name: str, tally: Tally) -> None:
        expected = self.plan.sources[name].expect_documents
        if expected is not None and tally.documents_in != expected:
            raise _refused(
                name,
                f"source {name} holds {tally.documents_in:,} documents; the config expects {expected:,}",
                f"complete the source's text or correct sources.{name}.expect_documents",
            )
        if tally.documents_out == 0:
            dropped = ", ".join(f"{count:,} {rule}" for rule, count in tally.dropped.items())
            raise _refused(
                name,
                f"source {name} has no documents ({tally.documents_in:,} read; dropped: {dropped})",
                "give the source text, or remove it from the config",
            )


def _in_batches(stream: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in stream:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _build_source(reading: _Reading, name: str, trained: Tokenizer, staging: Path) -> SourceEntry:
    """Encode one source and write its files into the staging folder."""
    block_size = reading.plan.block_size
    raw = staging / f"{name}.tokens"
    hashes, lengths = _encode(reading.encode(name), trained, raw)
    total = int(lengths.sum())
    if windows_in(total, block_size) == 0:
        raise too_few_tokens(name, reading.plan.sources[name].paths[0], total, block_size)
    held, note = choose_heldout(hashes, lengths, block_size)
    names = [f"{name}.btok"] + ([f"{name}.heldout.btok"] if held.any() else [])
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(BtokWriter(staging / file, trained.vocab_size, trained.sha256))
            for file in names
        ]
        _copy(raw, token_width(trained.vocab_size), lengths, held, writers)
    raw.unlink()
    parts = [_describe(staging / file, name) for file in names]
    tally = reading.tallies[name]
    return SourceEntry(
        files_read=len(reading.files[name]),
        bytes_read=reading.bytes_of[name],
        documents_in=tally.documents_in,
        documents_out=tally.documents_out,
        dropped=tally.dropped,
        train=parts[0],
        heldout=parts[1] if len(parts) > 1 else None,
        notes=() if note is None else (note,),
    )


def _encode(
    batches: Iterable[list[str]], trained: Tokenizer, raw: Path
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Write all tokens end to end to `raw`; returns each document's hash and its number of tokens."""
    hashes, lengths = array("Q"), array("q")
    dtype = np.dtype(f"<u{token_width(trained.vocab_size)}")
    with contextlib.ExitStack() as stack:
        with failing_writes(raw):
            file = stack.enter_context(raw.open("wb", buffering=0))
        for texts in batches:
            tokens, counts = trained.encode_documents(texts)
            with failing_writes(raw):
                _write_all(file.fileno(), tokens.astype(dtype).tobytes())
            hashes.extend(map(content_hash, texts))
            lengths.extend(counts.tolist())
    return np.asarray(hashes), np.asarray(lengths)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _copy(
    raw: Path, width: int, lengths: NDArray[np.int64], held: NDArray[np.bool_], writers: list[BtokWriter]
) -> None:
    """Copy each document's tokens from `raw` to the training writer, or the held-out one, in pieces."""
    ends = np.cumsum(lengths)
    first = start = 0
    with raw.open("rb") as file:
        while first < lengths.size:
            last = max(first + 1, int(np.searchsorted(ends, start + COPY, side="right")))
            flat = np.fromfile(file, dtype=f"<u{width}", count=int(ends[last - 1]) - start)
            sizes, side = lengths[first:last], held[first:last]
            of_token = np.repeat(side, sizes)
            for is_held, writer in enumerate(writers):
                writer.extend(flat[of_token == is_held], sizes[side == is_held])
            first, start = last, int(ends[last - 1])


def _describe(path: Path, source: str) -> TokenFile:
    file = Btok.open(path, source=source)
    return TokenFile(
        file=path.name,
        bytes=file.size,
        documents=file.documents,
        tokens=file.count,
        sha256=sha256_file(path),
    )


def _refused(name: str, what: str, next: str) -> FirehoseError:
    return FirehoseError(Exit.REFUSED, what, arm=name, next=f"{next}, then run the same command again")
