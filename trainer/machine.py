"""What the numbers of a run depend on beside its config: chosen once at the first launch, stored, and reused."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from curriculum.errors import Exit, FirehoseError
from trainer import cuda

# A choice a resume keeps; the rest of what `describe` reports is found, not chosen.
CHOSEN = ("threads", "dtype", "device")


def choose(device: str, dtype: str, threads: int) -> dict[str, Any]:
    """Resolve `auto` and 0 into the choices of this machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise FirehoseError(
            Exit.REFUSED,
            "train.device asks for CUDA and torch sees no CUDA device",
            next="set device = 'auto' or 'cpu' under [train]",
        )
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return {"device": device, "dtype": dtype, "threads": threads or max(1, min(8, (os.cpu_count() or 2) - 1))}


def describe(chosen: dict[str, Any]) -> dict[str, Any]:
    """The choices, and the versions and hardware they met."""
    name = (
        torch.cuda.get_device_name(chosen["device"])
        if chosen["device"].startswith("cuda")
        else torch.backends.cpu.get_cpu_capability()
    )
    return {**chosen, "torch": torch.__version__, "hardware": name}


def settle(
    stored: dict[str, Any] | None, wanted: dict[str, Any], *, deterministic: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Keep a run's stored choices; say what could not be kept, since from there on its bits differ.

    On CUDA, kernels that add in any order are in use where train.deterministic is not set, and a resume there is exact
    in state and not in bits.
    """
    if not stored:
        return describe(wanted), []
    chosen = {key: stored[key] for key in CHOSEN}
    if chosen["device"].startswith("cuda") and not torch.cuda.is_available():
        chosen = wanted
    now = describe(chosen)
    changed = [f"{key} {stored.get(key)} -> {now[key]}" for key in now if stored.get(key) != now[key]]
    if chosen["device"].startswith("cuda") and not deterministic:
        changed.append("CUDA kernels that add in any order")
    return now, [f"resume is not bit-exact: {', '.join(changed)}"] if changed else []


def apply(
    platform: dict[str, Any], *, deterministic: bool = False
) -> tuple[torch.device, AbstractContextManager[Any]]:
    """Set thread count and matmul modes; give back the device and the autocast context of the step."""
    torch.set_num_threads(platform["threads"])
    device = torch.device(platform["device"])
    if device.type == "cuda":
        cuda.settings(deterministic=deterministic)
        torch.cuda.set_device(device)
        if platform["dtype"] == "bfloat16":
            return device, torch.autocast("cuda", dtype=torch.bfloat16)
    elif platform["dtype"] != "float32":
        raise FirehoseError(
            Exit.REFUSED,
            f"train.dtype {platform['dtype']} is not supported on {device.type}",
            next="set dtype = 'auto' under [train]",
        )
    return device, nullcontext()
