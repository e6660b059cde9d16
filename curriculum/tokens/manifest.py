"""manifest.json: what a data folder holds, by source, with the counts and hashes that every launch checks."""

from pathlib import Path
from typing import Any

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import sha256_file, write_atomic

NAME = "manifest.json"
FORMAT = "firehose-data"
VERSION = 2


class TokenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One .btok: its name in the folder, size in bytes, counts, and the SHA-256 of its bytes."""

    file: str
    bytes: int
    documents: int
    tokens: int
    sha256: str

    def __post_init__(self) -> None:
        _plain_name(self.file)


class SourceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source: documents read and kept, why the others were dropped, its files, what is unusual about it.

    `files_read` and `bytes_read` count the text files. `dropped` has every rule, in the order they are applied.
    `heldout` is null for a source too small to spare any document; `notes` says so in words. `limits` of the rules: by
    the keys of `[clean]`; empty in a manifest of version 1, whose one rule had none.
    """

    files_read: int
    bytes_read: int
    documents_in: int = msgspec.field(name="in")
    documents_out: int = msgspec.field(name="out")
    dropped: dict[str, int]
    train: TokenFile
    heldout: TokenFile | None = None
    notes: tuple[str, ...] = ()
    limits: dict[str, Any] = {}

    @property
    def dropped_share(self) -> float:
        """Share of the documents read that the rules dropped, in [0, 1]."""
        return (self.documents_in - self.documents_out) / max(1, self.documents_in)

    def files(self) -> tuple[TokenFile, ...]:
        """Its token files: training, then held-out where there is one."""
        return (self.train,) if self.heldout is None else (self.train, self.heldout)


class TokenizerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tokenizer and chat template all sources share; `sample_bytes` of text trained it."""

    file: str
    sha256: str
    vocab_size: int
    template: str
    template_sha256: str
    sample_bytes: int

    def __post_init__(self) -> None:
        _plain_name(self.file)
        _plain_name(self.template)


class AuditEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What samples are compared with (`curriculum.gate.reference`): the file, its size and its SHA-256."""

    file: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _plain_name(self.file)

    @classmethod
    def of(cls, path: Path) -> "AuditEntry":
        """The entry of a file."""
        return cls(path.name, path.stat().st_size, sha256_file(path))


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole manifest. `block_size` is the one that held-out parts were sized for; a run may use another."""

    tokenizer: TokenizerEntry
    block_size: int
    sources: dict[str, SourceEntry]
    audits: AuditEntry | None = None
    format: str = FORMAT
    version: int = VERSION

    def encode(self) -> bytes:
        """The file's bytes: sorted keys, indented, so that two builds can be compared with diff."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


class _Version(msgspec.Struct):
    format: str
    version: int


def write(folder: Path, manifest: Manifest) -> None:
    """Replace the folder's manifest."""
    write_atomic(folder / NAME, manifest.encode())


def read(folder: Path) -> Manifest:
    """Read a data folder's manifest.

    Raises FirehoseError: NOT_FOUND where there is none, NEWER_SCHEMA for a later version, DAMAGED for anything else.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"{folder} holds no token files: it has no {NAME}",
            path=path,
            next="firehose data build CONFIG",
        ) from None
    try:
        head = msgspec.json.decode(data, type=_Version)
        if head.format != FORMAT:
            raise ValueError(f"its format is {head.format!r}, not {FORMAT!r}")
        if head.version > VERSION:
            raise FirehoseError(
                Exit.NEWER_SCHEMA,
                f"{NAME} has version {head.version}; this firehose reads up to {VERSION}",
                path=path,
                next="use the newer firehose, or rebuild: firehose data build CONFIG",
            )
        return msgspec.json.decode(data, type=Manifest)
    except ValueError as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise FirehoseError(
            Exit.DAMAGED, f"{NAME} is damaged: {error}", path=path, next="firehose data build CONFIG"
        ) from error


def _plain_name(name: str) -> None:
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not a file name")
