"""Data folders made by hand, small and without a trained tokenizer, and a stand-in for a full disk."""

import contextlib
import hashlib
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.files import sha256_file
from curriculum.tokens import manifest as manifests
from curriculum.tokens.btok import BtokWriter
from curriculum.tokens.manifest import Manifest, SourceEntry, TokenFile, TokenizerEntry

VOCAB = 300


def random_documents(count: int, seed: int = 0) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, random.integers(1, 40)) for _ in range(count)]


def write_btok(path: Path, documents: Sequence[Sequence[int] | NDArray[np.int64]], sha256: str) -> TokenFile:
    with BtokWriter(path, VOCAB, sha256) as writer:
        for document in documents:
            writer.add(document)
    return TokenFile(path.name, path.stat().st_size, writer.documents, writer.tokens, sha256_file(path))


def write_folder(
    folder: Path, sources: Mapping[str, tuple[Sequence[NDArray[np.int64]], Sequence[NDArray[np.int64]]]]
) -> Manifest:
    """A data folder of sources: name -> (training documents, held-out documents, which may be none)."""
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.json").write_text("{ }")
    sha256 = hashlib.sha256(b"{}").hexdigest()
    entries = {
        name: SourceEntry(
            files_read=1,
            bytes_read=10,
            documents_in=len(train) + len(heldout),
            documents_out=len(train) + len(heldout),
            dropped={"empty": 0},
            train=write_btok(folder / f"{name}.btok", train, sha256),
            heldout=write_btok(folder / f"{name}.heldout.btok", heldout, sha256) if heldout else None,
        )
        for name, (train, heldout) in sources.items()
    }
    template_sha256 = hashlib.sha256(b"{ }").hexdigest()
    tokenizer = TokenizerEntry("tokenizer.json", sha256, VOCAB, "chat_template.json", template_sha256, 10)
    manifest = Manifest(tokenizer=tokenizer, block_size=8, sources=entries)
    manifests.write(folder, manifest)
    return manifest


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Let every write past `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and those below it, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
