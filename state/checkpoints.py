"""Checkpoints as the files they are: a folder a step, complete or absent; found, checked, kept and removed.

`checkpoint.json` holds size and SHA-256 of the other files, and a folder without a valid one is never read. What is in
the tensor files is for `trainer.checkpoint`; nothing here imports torch.
"""

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.files import failing_writes, sha256_file, sync_folder
from state.envelope import Envelope, open_plain

FORMAT, VERSION = "firehose-checkpoint", 1
MODEL, OPTIMIZER, META = "model.safetensors", "optimizer.safetensors", "checkpoint.json"
NAME = re.compile(r"step_(\d+)$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk: its step, its folder and what `checkpoint.json` says.

    compared: whether every byte of its tensor files was compared with what was written, by this process.
    """

    step: int
    path: Path
    meta: dict[str, Any]
    compared: bool = False

    @property
    def heldout_loss(self) -> float | None:
        """Mean held-out loss at its step, in nats a token; None where none was measured there."""
        loss: float | None = self.meta.get("heldout_loss")
        return loss


@dataclass(frozen=True, slots=True)
class Keep:
    """How many checkpoints retention leaves: the newest `last`, every one at a multiple of `every` steps (0: none so),
    and the `best` of lowest held-out loss."""

    last: int
    every: int = 0
    best: int = 0


def verify(path: Path, name: str, meta: dict[str, Any]) -> None:
    """Raise if a file of a checkpoint is not, byte for byte, what was written."""
    expected = meta["files"][name]
    file = path / name
    if (
        not file.exists()
        or file.stat().st_size != expected["bytes"]
        or sha256_file(file) != expected["sha256"]
    ):
        raise FirehoseError(
            Exit.DAMAGED,
            f"checkpoint file {name} is damaged: its size or SHA-256 is not what was written",
            path=file,
            next=f"move {path} away and run again: the checkpoint before it is used",
        )


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in a folder, or None where there is no complete one."""
    try:
        meta = msgspec.json.decode((path / META).read_bytes())
        complete = meta["format"] == FORMAT and all(
            (path / name).stat().st_size == entry["bytes"] for name, entry in meta["files"].items()
        )
        step, version = int(meta["step"]), int(meta["version"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if complete and version > VERSION:
        raise FirehoseError(
            Exit.NEWER_SCHEMA,
            f"checkpoint version {version} is newer than this program's {VERSION}",
            path=path / META,
            next="upgrade firehose",
        )
    return Checkpoint(step, path, meta) if complete else None


def damaged(path: Path, why: str | None = None, file: str = META) -> FirehoseError:
    """What to raise for a checkpoint that cannot be used: the file that is to blame, and a checkpoint that is whole.

    why: what is wrong with `file`; None to find both, of a folder of which `read` gives None.
    """
    if why is None:
        file, why = _incomplete(path)
    whole = [one.path for one in complete(path.parent) if one.path != path]
    return FirehoseError(
        Exit.DAMAGED,
        f"the checkpoint {path.name} is damaged: {file} {why}",
        path=path / file,
        next=f"firehose inspect {whole[-1]}, which is complete"
        if whole
        else f"restore {path / file} from a copy",
    )


def _incomplete(path: Path) -> tuple[str, str]:
    """The file for which a folder holds no complete checkpoint, and what is wrong with it."""
    try:
        meta = msgspec.json.decode((path / META).read_bytes())
        files = [(name, int(meta["files"][name]["bytes"])) for name in (MODEL, OPTIMIZER)]
    except FileNotFoundError:
        return META, "is missing"
    except OSError as error:
        return META, f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return META, "is no JSON"
    except (KeyError, TypeError):
        return META, "does not say which files belong to it"
    for name, size in files:
        try:
            there = (path / name).stat().st_size
        except OSError as error:
            return name, "is missing" if isinstance(
                error, FileNotFoundError
            ) else f"cannot be read: {error.strerror}"
        if there != size:
            return name, f"has {there:,} bytes of {size:,}"
    return META, "is not what a checkpoint's is"


def folders(folder: Path) -> list[Path]:
    """The folders of a run that have a checkpoint's name, whole or not, oldest first."""
    named = [(match, path) for path in folder.glob("step_*") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, key=lambda pair: int(pair[0][1]))]


def after(folder: Path, step: int) -> list[Path]:
    """Those of `folders` that are of a later step."""
    return [path for path in folders(folder) if int(path.name.removeprefix("step_")) > step]


def complete(folder: Path) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    return [checkpoint for path in folders(folder) if (checkpoint := read(path)) is not None]


def sound(path: Path, *, deep: bool = True) -> tuple[Checkpoint, Envelope]:
    """A checkpoint, every byte of it checked, and the state it carries. Raises FirehoseError(DAMAGED).

    deep=False compares the tensor files' sizes only.
    """
    found = read(path)
    if found is None:
        raise FirehoseError(
            Exit.DAMAGED, f"{path.name} is not complete: {META} or a file it names is missing", path=path
        )
    for name in (MODEL, OPTIMIZER) if deep else ():
        verify(path, name, found.meta)
    found = replace(found, compared=deep)
    return found, open_plain(found.meta.get("state"), path / META)


def locate(where: Path) -> Checkpoint:
    """The checkpoint at a path: a checkpoint folder itself, or the newest complete one of a run folder.

    Raises FirehoseError: DAMAGED where there are such folders and none is complete, NOT_FOUND where there is none.
    """
    direct = read(where)
    found = complete(where / "checkpoints") if direct is None else [direct]
    if found:
        if not found[-1].meta["files"].keys() >= {MODEL, OPTIMIZER}:
            raise damaged(found[-1].path)
        return found[-1]
    named = [where] if NAME.fullmatch(where.name) and where.is_dir() else folders(where / "checkpoints")
    if named:
        raise damaged(named[-1])
    raise FirehoseError(
        Exit.NOT_FOUND,
        "no complete checkpoint here: expected a run folder or a checkpoints/step_N folder",
        path=where,
        next="firehose list",
    )


def discard(path: Path) -> None:
    """Remove a checkpoint; half removed, it is a temporary that the next launch sweeps."""
    doomed = path.with_name(f"{path.name}.tmp-discarded-{os.getpid()}")
    path.rename(doomed)
    sync_folder(path.parent)  # else a power cut could bring the name back without what was in it
    shutil.rmtree(doomed)


def sweep(folder: Path) -> list[str]:
    """Remove the temporaries of a process that died while writing or removing; give back their names.

    A checkpoint that was to be replaced by another of its step gets its name back where that one never came.
    """
    removed = []
    for path in sorted(folder.glob("step_*.tmp-*")):
        target = folder / path.name.partition(".")[0]
        if ".tmp-replaced-" in path.name and not target.exists():
            with failing_writes(target):
                path.rename(target)
                sync_folder(folder)
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path.name)
    return removed


def retain(folder: Path, keep: Keep, *, protect: set[int]) -> list[int]:
    """Remove what `keep` does not name and `protect` (steps) does not hold; the steps removed.

    The best are found in the checkpoints themselves, each of which says its held-out loss, so that no restart forgets
    them; of equal ones the older is better.
    """
    found = complete(folder)
    ranked = sorted((loss, one.step) for one in found if (loss := one.heldout_loss) is not None)
    kept = {one.step for one in found[-keep.last :]} | {step for _, step in ranked[: keep.best]} | protect
    removed = []
    for one in found:
        if one.step in kept or (keep.every and one.step % keep.every == 0):
            continue
        with failing_writes(one.path):
            discard(one.path)
        removed.append(one.step)
    return removed
