"""Files written whole or not at all, and hashed: the one way every part of the product puts bytes on disk.

A write goes to a temporary name in the same folder, is verified and synced; the file before it is kept by hard link
where that is asked for; then the name is switched and the folder synced.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import Exit, FirehoseError

# What to do about an error, where the system's word for it says it.
NEXT = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within the quota",
    errno.EACCES: "fix the folder's rights",
    errno.EPERM: "fix the folder's rights",
    errno.EROFS: "mount the file system for writing",
    errno.EBUSY: "mount the folder rather than the single file, which cannot be replaced as a mount point",
    errno.EXDEV: "put the file and its folder on one file system",
    errno.ELOOP: "remove the symbolic link that leads back to itself",
    errno.EIO: "look into the system's log: the disk may be failing",
    errno.ENOSYS: "use a file system that has what is missing here, such as a local disk",
    errno.ENOLCK: "use a file system that has locks, such as a local disk",
}
# Answers to a hard link that mean that there are none here, or none to there.
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
# Answers to the sync of a folder that mean that the file system has no such thing.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
READ_BACK = 1 << 20  # bytes compared at a time

# Names that `write_atomic` gives its temporaries; the number is the writer's pid.
TEMPORARY = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp")


def said(error: OSError) -> str:
    """What the system said, with the name of its error: "No space left on device (ENOSPC)"."""
    return f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'unknown error')})"


@contextlib.contextmanager
def failing_writes(path: Path, changed: str = "nothing") -> Iterator[None]:
    """Turn an OSError into FirehoseError(WRITE_FAILED) that names the file and what the system said."""
    try:
        yield
    except OSError as error:
        remedy = NEXT.get(error.errno or 0, "make room or fix the folder's rights")
        raise FirehoseError(
            Exit.WRITE_FAILED,
            f"cannot write {path.name}: {said(error)}",
            path=path,
            changed=changed,
            next=f"{remedy}, then run the same command again",
        ) from error


def unusable(error: OSError) -> FirehoseError | None:
    """What to say of an OSError that nothing closer to its file has named, as one of reading; None where it has no file."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(error.filename))
    return FirehoseError(
        Exit.DAMAGED,
        f"cannot use {path.name}: {said(error)}",
        path=path,
        changed="nothing that was not told before",
        next=f"ls -ld {path}; then run the same command again",
    )


def write_all(descriptor: int, data: bytes, offset: int = 0) -> None:
    """Write all of `data` at `offset`. A system that claims to have written nothing, or too much, is an error."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if not 0 < written <= len(rest):
            raise OSError(errno.EIO, f"a write of {len(rest)} bytes reported {written}")
        rest, offset = rest[written:], offset + written


def write_verified(descriptor: int, data: bytes, offset: int = 0, *, durable: bool = True) -> None:
    """Write the end of a file from `offset` on, sync it and read it back: a disk may claim what it did not write.

    Raises OSError. The descriptor must be open for reading too.
    """
    write_all(descriptor, data, offset)
    if durable:
        os.fsync(descriptor)
    if not _reads_back(descriptor, data, offset):
        raise OSError(errno.EIO, f"the {len(data)} bytes written do not read back as they were")


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: fsync of a file does not persist its name.

    Where the file system has no such thing, as some that are shared over a network, its own order is all there is, and
    this does nothing; the sync of a file, which is what holds the data, is never passed over.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, keep: Path | None = None, durable: bool = True) -> None:
    """Replace `path` by `data`, wholly or not at all. keep: name that the old content is kept under, by hard link.

    A symbolic link is followed; the permissions of a file that is replaced are kept.
    durable=False leaves out the syncs: readers still never see half a file, but a power cut may lose it.
    Raises FirehoseError(WRITE_FAILED); the old file is then intact and the temporary gone. A sync that failed is not
    tried again: the system may have dropped what it could not write, and would then report success.
    """
    with failing_writes(path):
        if path.is_symlink():
            path = _target(path)  # replace what it points to, not the link
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        try:
            _write_new(temporary, data, _mode(path), durable)
            if keep is not None and path.exists():
                _keep(path, keep)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    if durable:
        with failing_writes(path, "the file is the new one, but a power cut could still undo that"):
            sync_folder(path.parent)


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except RuntimeError:  # Python below 3.13, of links that lead in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


def _mode(path: Path) -> int | None:
    """Permissions of the file to be replaced; None where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _write_new(temporary: Path, data: bytes, mode: int | None, durable: bool) -> None:
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        write_verified(descriptor, data, durable=durable)
    finally:
        os.close(descriptor)


def _reads_back(descriptor: int, data: bytes, offset: int) -> bool:
    """Whether a file holds `data` at `offset`, and not a byte more."""
    expected, at = memoryview(data), 0
    while piece := os.pread(descriptor, READ_BACK, offset + at):
        if expected[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return at == len(data)


def _keep(path: Path, keep: Path) -> None:
    """Keep the file at `path` under a second name, durably. A name already taken by other content is not touched."""
    if not keep.parent.is_dir():
        keep.parent.mkdir(exist_ok=True)
        sync_folder(keep.parent.parent)
    while True:
        try:
            second_name(path, keep)
            break
        except FileExistsError:
            if keep.samefile(path) or keep.read_bytes() == path.read_bytes():
                break  # linked before, by a commit that was cut short after this point
            keep = keep.with_name(f"{keep.stem}-{os.urandom(2).hex()}{keep.suffix}")
    sync_folder(keep.parent)


def second_name(path: Path, name: Path) -> None:
    """Give the file at `path` a second name: a hard link, or a copy where there are none. Raises OSError.

    FileExistsError where the name is taken. The link is durable once its folder is synced.
    """
    try:
        name.hardlink_to(path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        write_atomic(name, path.read_bytes())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
