"""Writing derived files whole or not at all, and hashing them: what token files, tokenizer and manifest share."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import Exit, FirehoseError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write inside the block (a full disk, a read-only folder) into an error that names `path`."""
    try:
        yield
    except OSError as error:
        raise FirehoseError(
            Exit.WRITE_FAILED,
            f"{path.name} could not be written: {error.strerror or error}",
            path=path,
            next="free space or make the folder writable, then run the same command again",
        ) from error


def temporary(path: Path) -> Path:
    """The name a file has, in the same folder, until it is whole."""
    return path.with_name(path.name + ".tmp")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, at any moment and after any crash, finds the old bytes or the new ones."""
    partial = temporary(path)
    with writing(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
