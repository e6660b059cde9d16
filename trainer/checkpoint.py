"""A checkpoint's tensors: written whole or not at all, and read back after size and SHA-256 are compared.

Written under a temporary name, every file synced, then renamed (`state.checkpoints` has the rest). Nothing here
unpickles a file.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from curriculum.errors import Exit, FirehoseError
from curriculum.files import said, sha256_file, write_atomic
from state.checkpoints import FORMAT, META, MODEL, OPTIMIZER, VERSION, Checkpoint, verify


def tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """Read one of a checkpoint's tensor files, after comparing size and SHA-256 where that was not done just before.

    Raises FirehoseError(DAMAGED).
    """
    if not checkpoint.compared:
        verify(checkpoint.path, name, checkpoint.meta)
    return load_file(checkpoint.path / name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(
    folder: Path, step: int, *, model: dict[str, Tensor], optimizer: dict[str, Tensor], meta: dict[str, Any]
) -> Path:
    """Write `folder/step_N`, durable when this returns. Raises FirehoseError(WRITE_FAILED), leaving no trace."""
    target = folder / f"step_{step}"
    temporary = folder / f"step_{step}.tmp-{os.getpid()}"
    replaced = target.with_name(f"{target.name}.tmp-replaced-{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, temporary / MODEL)
        save_file({k: v.detach().cpu().contiguous() for k, v in optimizer.items()}, temporary / OPTIMIZER)
        files = {}
        for name in (MODEL, OPTIMIZER):
            _sync(temporary / name)
            with safe_open(temporary / name, "pt"):
                pass  # its header speaks of as many bytes as there are: a disk may claim more than it wrote
            files[name] = {
                "bytes": (temporary / name).stat().st_size,
                "sha256": sha256_file(temporary / name),
            }
        body = {"format": FORMAT, "version": VERSION, "step": step, "files": files, **meta}
        write_atomic(
            temporary / META, msgspec.json.format(msgspec.json.encode(body, order="sorted"), indent=1)
        )
        _sync(temporary)
        if target.exists():  # the same step again, after a resume from an earlier one
            target.rename(replaced)
        temporary.rename(target)
        _sync(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except (
        OSError,
        SafetensorError,
        FirehoseError,
    ) as error:  # safetensors wraps a full disk in one of its own
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not target.exists():
                replaced.rename(target)
        why = said(error) if isinstance(error, OSError) else getattr(error, "message", str(error))
        raise FirehoseError(
            Exit.WRITE_FAILED,
            f"could not write the checkpoint of step {step}: {why}",
            path=target,
            changed="nothing: earlier checkpoints are as they were",
            next="free some space, then run the same command again to resume",
        ) from error
    return target
