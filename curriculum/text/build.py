"""From text to token files: `firehose data build`.

Two streaming passes over the text: one cleans the documents and trains the tokenizer on an even sample, one encodes those
that were kept. A source's tokens go to a raw file first; when all its documents are hashed, their ranges are copied to
the training and the held-out file. Memory holds a few batches and about 32 bytes a document. Everything is made in a folder inside the data
folder (so on the same file system) and renamed into place when every source has succeeded, the manifest last.
"""

import contextlib
import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from curriculum.config import Clean, Config
from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sha256_file
from curriculum.gate import reference
from curriculum.text import template, tokenizer
from curriculum.text.clean import Cleaner, Judges, Tally, in_batches, judges, kept
from curriculum.text.read import Document, documents, find_files, size_of
from curriculum.text.sample import Sampler
from curriculum.text.split import choose_heldout, content_hash
from curriculum.text.staging import publish, staging_folder
from curriculum.text.tables import is_named
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens.btok import Btok, BtokWriter, token_width
from curriculum.tokens.corpus import too_few_tokens
from curriculum.tokens.manifest import AuditEntry, Manifest, SourceEntry, TokenFile, TokenizerEntry
from curriculum.tokens.windows import windows_in

CLEAN = Clean()
BATCH = 1 << 17  # characters encoded at a time; larger batches are slower and take more memory
COPY = 1 << 20  # tokens copied at a time


@dataclass(frozen=True, slots=True)
class SourceText:
    """Where a source's text is (see `read.find_files`), how many documents it should hold, if that is known, and limits.

    limits: of the cleaning rules.
    """

    paths: tuple[Path, ...]
    expect_documents: int | None = None
    limits: Clean = CLEAN


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What to build: `sources` into `out_dir`, held-out parts sized in windows of `block_size` tokens.

    A source's name is part of file names: `curriculum.config` says which will do. tokenizer: file of one to be used
    again, with its template beside it, as for a source that joins a run; None trains one. processes: that clean; None:
    one a core where there is much text; the result is the same. trusted: the sources that samples will be measured by;
    empty for all.
    """

    out_dir: Path
    sources: Mapping[str, SourceText]
    vocab_size: int = 8192
    tokenizer_sample_mb: int = 100
    block_size: int = 1024
    tokenizer: Path | None = None
    processes: int | None = None
    trusted: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is. stage: reading (and cleaning), training, encoding. Bytes are of text files, over all sources."""

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
            name: SourceText(
                tuple(path if is_named(path) else config.resolve(path) for path in map(Path, source.paths)),
                source.expect_documents,
                config.clean_of(name),
            )
            for name, source in config.sources.items()
            if name not in excluded
        },
        vocab_size=config.data.vocab_size,
        tokenizer_sample_mb=config.data.tokenizer_sample_mb,
        block_size=config.model.block_size,
        tokenizer=tokenizer,
        trusted=reference.trusted(config),
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
        with judges(reading.bytes_total, plan.processes) as cleaning:
            sample = reading.sample(sampler, cleaning)
            if plan.tokenizer is None:
                trained = tokenizer.train(sample, plan.vocab_size, staging / tokenizer.NAME)
            else:
                trained = tokenizer.copy(plan.tokenizer, staging / tokenizer.NAME)
                for _ in sample:
                    pass  # what this pass counts and checks is wanted all the same
        entries = {name: _build_source(reading, name, trained, staging) for name in plan.sources}
        reading.audited.write(staging / reference.NAME, entries, trained.sha256)
        manifest = Manifest(
            audits=AuditEntry.of(staging / reference.NAME),
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


@dataclass(slots=True)
class _Cleaned:
    """What the first pass found of a source: a verdict a document, what they sum to, and the characters it read."""

    tally: Tally
    verdicts: bytearray = field(default_factory=bytearray)
    characters: int = 0


class _Reading:
    """The two passes over the text, with one progress and what the first one found for the second."""

    def __init__(self, plan: BuildPlan, files: Mapping[str, list[Path]], report: Report) -> None:
        self.plan = plan
        self.files = files
        self.cleaned: dict[str, _Cleaned] = {}
        self.bytes_of = {name: sum(map(size_of, found)) for name, found in files.items()}
        self.bytes_total = sum(self.bytes_of.values())
        self.audited = reference.Builder(plan.trusted or list(files), self.bytes_of)
        self._report = report

    def sample(self, sampler: Sampler, judges: Judges) -> Iterator[str]:
        """First pass: clean and count every document, and yield what the tokenizer is trained on."""
        done = 0
        for name in self.files:
            cleaner = Cleaner(self.plan.sources[name].limits, judges)
            found = self.cleaned[name] = _Cleaned(cleaner.tally)
            for batch, verdicts in cleaner.clean(self._documents(name)):
                found.verdicts += verdicts
                found.characters += sum(len(document.text) for document in batch)
                done += sum(document.size for document in batch)
                self._report(Progress("reading", name, cleaner.tally.documents_in, done, self.bytes_total))
                yield from sampler.take(document.text for document in kept(batch, verdicts))
            self._check_counts(name, cleaner.tally)
        out = sum(found.tally.documents_out for found in self.cleaned.values())
        self._report(Progress("training", "the tokenizer", out, self.bytes_total, self.bytes_total))

    def encode(self, name: str) -> Iterator[list[str]]:
        """Second pass over one source: the documents that the first one kept, in batches."""
        before = itertools.takewhile(lambda item: item[0] != name, self.bytes_of.items())
        done, documents, characters = sum(size for _, size in before), 0, 0
        found = self.cleaned[name]
        for batch in in_batches(self._documents(name), BATCH):
            verdicts = bytes(found.verdicts[documents : documents + len(batch)])
            documents += len(batch)
            characters += sum(len(document.text) for document in batch)
            if len(verdicts) < len(batch):
                break
            texts = [document.text for document in kept(batch, verdicts)]
            self.audited.add(name, texts)
            yield texts
            done += sum(document.size for document in batch)
            self._report(Progress("encoding", name, documents, done, self.bytes_total))
        if (documents, characters) != (len(found.verdicts), found.characters):
            raise _refused(
                name, f"the text of source {name} changed while it was read", "let its writer finish"
            )

    def _documents(self, name: str) -> Iterator[Document]:
        return documents(name, self.files[name])

    def _check_counts(self, name: str, tally: Tally) -> None:
        expected = self.plan.sources[name].expect_documents
        if expected is not None and tally.documents_in != expected:
            raise _refused(
                name,
                f"source {name} holds {tally.documents_in:,} documents; the config expects {expected:,}",
                f"complete the source's text or correct sources.{name}.expect_documents",
            )
        if tally.documents_out == 0:
            dropped = ", ".join(f"{count:,} {rule}" for rule, count in tally.dropped.items() if count)
            raise _refused(
                name,
                f"source {name} has no documents ({tally.documents_in:,} read; dropped: {dropped or 'none'})",
                "give the source text, remove it, or set its limits (sources.NAME.clean; docs/data.md)",
            )


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
    tally = reading.cleaned[name].tally
    return SourceEntry(
        files_read=len(reading.files[name]),
        bytes_read=reading.bytes_of[name],
        documents_in=tally.documents_in,
        documents_out=tally.documents_out,
        dropped=tally.dropped,
        train=parts[0],
        heldout=parts[1] if len(parts) > 1 else None,
        notes=() if note is None else (note,),
        limits=msgspec.to_builtins(reading.plan.sources[name].limits),
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
        for texts in filter(None, batches):
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
