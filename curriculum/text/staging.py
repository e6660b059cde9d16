"""Where a build makes its files, and how they take the place of the earlier ones: all of them, or none."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sync_folder
from curriculum.tokens import manifest as manifests
from curriculum.tokens.manifest import Manifest

STAGING = ".building"
LOCK = ".build.lock"


@contextlib.contextmanager
def staging_folder(out_dir: Path) -> Iterator[Path]:
    """A fresh folder for a build's files, inside `out_dir`, so that they can be renamed into it; removed at the end.

    Raises FirehoseError: LOCKED while another build is at work in `out_dir`, WRITE_FAILED.
    """
    folder = out_dir / STAGING
    with failing_writes(folder):
        out_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(out_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(lock, out_dir)
        try:
            with failing_writes(folder):
                shutil.rmtree(folder, ignore_errors=True)  # what a killed build left
                folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def publish(staging: Path, out_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, move the new files over the old ones, and then the manifest.

    Should a rename fail all the same, the error says which files were replaced; the next launch would name them.
    """
    manifests.write(staging, manifest)
    names = [part.file for entry in manifest.sources.values() for part in entry.files()]
    names += [manifest.tokenizer.file, manifest.tokenizer.template]
    names += [manifest.audits.file] if manifest.audits else []
    moved: list[str] = []
    try:
        for name in names:
            with failing_writes(out_dir / name):
                (staging / name).replace(out_dir / name)
            moved.append(name)
        with failing_writes(out_dir / manifests.NAME):
            sync_folder(out_dir)
            (staging / manifests.NAME).replace(out_dir / manifests.NAME)
            sync_folder(out_dir)
    except FirehoseError as error:
        if moved:
            error.changed = f"replaced: {', '.join(moved)}"
        raise


def _lock(handle: int, out_dir: Path) -> None:
    """Take the lock, which goes with the process however it ends."""
    with failing_writes(out_dir / LOCK):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FirehoseError(
                Exit.LOCKED,
                "another build is at work in this folder",
                path=out_dir,
                next="wait for it to end, then run the same command again",
            ) from None
