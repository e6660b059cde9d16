"""Files written whole or not at all, and hashed: the one way every part of the product puts bytes on disk.

A write goes to a temporary name in the same folder, is verified and synced; the file before it is kept by hard link
where that is asked for; then the name is switched and the folder synced.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import Exit, FirehoseError

# Names that `write_atomic` gives its temporaries; the number is the writer's pid.
TEMPORARY = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def failing_writes(path: Path, changed: str = "nothing") -> Iterator[None]:
    """Turn an OSError into FirehoseError(WRITE_FAILED) that names the file and what the system said."""
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
        raise FirehoseError(
            Exit.WRITE_FAILED,
            f"cannot write {path.name}: {error.strerror or error} ({code})",
            path=path,
            changed=changed,
            next="make room or fix the folder's rights, then run the same command again",
        ) from error


def write_all(descriptor: int, data: bytes, offset: int = 0) -> None:
    """Write all of `data` at `offset`. A system that claims to have written nothing, or too much, is an error."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if not 0 < written <= len(rest):
            raise OSError(errno.EIO, f"a write of {len(rest)} bytes reported {written}")
        rest, offset = rest[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: fsync of a file does not persist its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, keep: Path | None = None, durable: bool = True) -> None:
    """Replace `path` by `data`, wholly or not at all. keep: name that the old content is kept under, by hard link.

    durable=False leaves out the syncs: readers still never see half a file, but a power cut may lose it.
    Raises FirehoseError(WRITE_FAILED); the old file is then intact and the temporary gone.
    """
    if path.is_symlink():
        path = path.resolve()  # replace what it points to, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    with failing_writes(path):
        try:
            _write_verified(temporary, data, durable)
            if keep is not None and path.exists():
                _link(path, keep)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    if durable:
        with failing_writes(path, "the file is the new one, but a power cut could still undo that"):
            sync_folder(path.parent)


def _write_verified(temporary: Path, data: bytes, durable: bool) -> None:
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        if durable:
            os.fsync(descriptor)
        if os.pread(descriptor, len(data) + 1, 0) != data:
            raise OSError(errno.EIO, f"the {len(data)} bytes written do not read back as they were")
    finally:
        os.close(descriptor)


def _link(path: Path, keep: Path) -> None:
    """Keep the file at `path` under a second name, durably. A name already taken by other content is not touched."""
    keep.parent.mkdir(exist_ok=True)
    while True:
        try:
            keep.hardlink_to(path)
            break
        except FileExistsError:
            if keep.samefile(path) or keep.read_bytes() == path.read_bytes():
                break  # linked before, by a commit that was cut short after this point
            keep = keep.with_name(f"{keep.stem}-{os.urandom(2).hex()}{keep.suffix}")
    sync_folder(keep.parent)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
