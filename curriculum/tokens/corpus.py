"""From a data folder to batches: the sources of a manifest, checked against their files and read window by window."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.errors import Exit, FirehoseError
from curriculum.files import sha256_file
from curriculum.tokens import manifest as manifests
from curriculum.tokens.btok import Btok, token_width
from curriculum.tokens.manifest import Manifest
from curriculum.tokens.windows import WindowsAhead, windows_in

REBUILD = "firehose data build CONFIG"


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """One source as the manifest describes it; counts are of the training file, windows for the run's block size."""

    name: str
    path: Path
    heldout_path: Path | None
    documents_in: int  # documents read from the text, before any rule: what `expect_documents` counts
    documents: int
    tokens: int
    windows: int
    heldout_windows: int
    sha256: str


class Corpus:
    """The token files of a data folder, opened by need and read through memory maps.

    sources: name -> SourceInfo of every source whose training file exists. missing: name -> why another cannot be
    used. tokenizer: path of tokenizer.json. dtype: of a token in the files, uint16 or uint32. A file, once checked or read from, stays the one that is read, even when
    a build replaces it.
    """

    def __init__(self, folder: Path, manifest: Manifest, block_size: int, seed: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self.block_size = block_size
        self.seed = seed
        self.tokenizer = folder / manifest.tokenizer.file
        self.tokenizer_sha256 = manifest.tokenizer.sha256
        self.vocab_size = manifest.tokenizer.vocab_size
        self.sources: dict[str, SourceInfo] = {}
        self.missing: dict[str, str] = {}
        self.dtype = np.dtype(f"<u{token_width(self.vocab_size)}")
        self._open: dict[tuple[str, bool], Btok] = {}
        self._windows: dict[str, NDArray[np.void]] = {}
        self._ahead = WindowsAhead(seed)
        for name, entry in manifest.sources.items():
            path = folder / entry.train.file
            if not path.is_file():
                self.missing[name] = f"{path} does not exist"
                continue
            heldout = entry.heldout
            self.sources[name] = SourceInfo(
                name=name,
                path=path,
                heldout_path=folder / heldout.file if heldout else None,
                documents_in=entry.documents_in,
                documents=entry.train.documents,
                tokens=entry.train.tokens,
                windows=windows_in(entry.train.tokens, block_size),
                heldout_windows=windows_in(heldout.tokens, block_size) if heldout else 0,
                sha256=entry.train.sha256,
            )

    @classmethod
    def open(cls, data_dir: str | Path, block_size: int, seed: int) -> "Corpus":
        """Read a folder's manifest and check that tokenizer and template are the ones it names.

        Token files are only looked for; `check` reads them. Raises FirehoseError: NOT_FOUND without a manifest,
        DAMAGED for one that cannot be read or that disagrees with the tokenizer.
        """
        folder = Path(data_dir)
        manifest = manifests.read(folder)
        entry = manifest.tokenizer
        for file, expected in ((entry.file, entry.sha256), (entry.template, entry.template_sha256)):
            path = folder / file
            if not path.is_file():
                raise _disagrees(path, None, f"{file} is missing")
            if sha256_file(path) != expected:
                raise _disagrees(path, None, f"{file} is not the file that was built: its SHA-256 differs")
        return cls(folder, manifest, block_size, seed)

    def info(self, name: str) -> SourceInfo:
        """A source that can be read; FirehoseError(NOT_FOUND) names one that cannot, and why."""
        if name in self.sources:
            return self.sources[name]
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"source {name} has no data: {self.missing.get(name, f'it is not in {manifests.NAME}')}",
            path=self.folder / manifests.NAME,
            arm=name,
            next=REBUILD,
        )

    def check_headers(self, name: str) -> None:
        """Compare the headers and sizes of a source's files with the manifest, without reading their tokens."""
        for heldout, _ in enumerate(self.manifest.sources[self.info(name).name].files()):
            self._btok(name, heldout=bool(heldout))

    def check(self, name: str, *, expect_documents: int | None = None) -> None:
        """Read a source's files whole, in pieces, and compare them with the manifest.

        expect_documents: how many documents the config says the text holds.
        Raises FirehoseError: DAMAGED naming file and what disagrees, REFUSED for a count that is not the expected
        one or too few tokens for a window, NOT_FOUND for a source without data.
        """
        info = self.info(name)
        if expect_documents is not None and info.documents_in != expect_documents:
            raise FirehoseError(
                Exit.REFUSED,
                f"source {name} was built from {info.documents_in:,} documents; "
                f"the config expects {expect_documents:,}",
                path=info.path,
                arm=name,
                next=f"complete the source's text or correct expect_documents, then {REBUILD}",
            )
        for heldout, entry in enumerate(self.manifest.sources[name].files()):
            file = self._btok(name, heldout=bool(heldout))
            file.check_table()
            if sha256_file(file.path) != entry.sha256:
                raise _disagrees(
                    file.path, name, f"the SHA-256 of {entry.file} differs: its bytes have changed"
                )
        if info.windows == 0:
            raise too_few_tokens(name, info.path, info.tokens, self.block_size)

    def fill(self, out: NDArray[Any], name: str, arm_id: int, first_window: int) -> None:
        """Write the windows an arm serves at cursors first_window, first_window + 1, ... to the rows of `out`.

        out: an array of whole numbers [rows, block_size + 1] that holds every id, as of `dtype`. The cursors may cross
        epochs. A row's inputs are all but its last token, its targets all but the first.
        """
        if name not in self._windows:
            info = self.info(name)
            if info.windows == 0:
                raise too_few_tokens(name, info.path, info.tokens, self.block_size)
            self._windows[name] = self._btok(name).windows(self.block_size)
        windows = self._windows[name]
        index = self._ahead.take(arm_id, len(windows), first_window, len(out))
        out[:] = windows[index].view(self.dtype).reshape(out.shape)

    def token_counts(self, names: Sequence[str], most: int) -> NDArray[np.int64]:
        """How often each token occurs in training windows of these sources, evenly spaced, about as many of each.

        most: tokens that are read at most. Returns int64 [vocab_size], the same at every call.
        """
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        each = max(1, most // (self.block_size * max(1, len(names))))
        for name in names:
            windows = self._btok(name).windows(self.block_size)
            picked = np.ascontiguousarray(windows[:: max(1, -(-len(windows) // each))])
            counts += np.bincount(picked.view(self.dtype), minlength=self.vocab_size)
        return counts

    def heldout(self, name: str, count: int) -> NDArray[np.int64]:
        """Up to `count` windows of what is reported of a source's held-out file, evenly spaced, the same at every call.

        Of the file's windows every second one, the first of them among these, is reported; the others are `probe`'s.
        Returns int64 [windows, block_size + 1]; windows is 0 for a source without held-out text.
        """
        reported = (self.info(name).heldout_windows + 1) // 2
        windows = min(count, reported)
        return self._heldout(name, [2 * (row * reported // windows) for row in range(windows)])

    def probe(self, name: str, first: int, count: int) -> NDArray[np.int64]:
        """`count` windows of the half of a source's held-out file that is never reported, from position `first` on.

        Positions go round and round that half. Returns int64 [count, block_size + 1]; REFUSED where the half is empty.
        """
        half = self.info(name).heldout_windows // 2
        if half == 0:
            raise FirehoseError(
                Exit.REFUSED,
                f"source {name} has no held-out window to probe with",
                path=self.info(name).heldout_path or self.info(name).path,
                arm=name,
                next="give the source more text, or take it out of curriculum.goal_sources",
            )
        return self._heldout(name, [2 * ((first + row) % half) + 1 for row in range(count)])

    def _heldout(self, name: str, windows: list[int]) -> NDArray[np.int64]:
        """Windows of a source's held-out file by their index."""
        out = np.empty((len(windows), self.block_size + 1), dtype=np.int64)
        for row, window in enumerate(windows):
            start = window * self.block_size
            out[row] = self._btok(name, heldout=True).tokens[start : start + self.block_size + 1]
        return out

    def _btok(self, name: str, *, heldout: bool = False) -> Btok:
        """A source's file, opened once and compared with the manifest's counts."""
        key = (name, heldout)
        if key not in self._open:
            self.info(name)
            entry = self.manifest.sources[name].files()[int(heldout)]
            path = self.folder / entry.file
            if heldout and not path.is_file():
                raise _disagrees(path, name, f"the held-out file {entry.file} is missing")
            file = Btok.open(path, source=name, tokenizer_sha256=self.tokenizer_sha256)
            for what, found, expected in (
                ("bytes", file.size, entry.bytes),
                ("tokens", file.count, entry.tokens),
                ("documents", file.documents, entry.documents),
                ("ids in its vocabulary", file.vocab_size, self.vocab_size),
            ):
                if found != expected:
                    raise _disagrees(
                        path, name, f"{entry.file} has {found:,} {what}, the manifest says {expected:,}"
                    )
            self._open[key] = file
        return self._open[key]


def too_few_tokens(name: str, path: object, tokens: int, block_size: int) -> FirehoseError:
    """The error for a source that does not fill one window."""
    return FirehoseError(
        Exit.REFUSED,
        f"source {name} has {tokens:,} tokens for training, too few for one window of {block_size:,} + 1",
        path=path,
        arm=name,
        next="give the source more text, lower model.block_size, or remove the source",
    )


def _disagrees(path: Path, source: str | None, what: str) -> FirehoseError:
    return FirehoseError(
        Exit.DAMAGED, f"{manifests.NAME} disagrees with the data: {what}", path=path, arm=source, next=REBUILD
    )
