"""What the numbers of a run depend on beside its config: chosen once at the first launch, stored, and reused."""

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from bandit.hashing import Purpose, mix64
from curriculum.errors import Exit, FirehoseError
from trainer import cuda
from trainer.model import Decoder, Shape

# A choice a resume keeps; the rest of what `describe` reports is found, not chosen.
CHOSEN = ("threads", "dtype", "device")
# More threads than this have not been measured.
MOST_THREADS = 16
# bfloat16 is chosen where a step of it takes at most this part of one of float32.
PAYS = 0.95
TRIALS = 2
# Of glibc's malloc.h: blocks that may be mapped one by one; free memory at the end that is given back.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

Trial = Callable[[], dict[str, float]]


def choose(device: str, dtype: str, threads: int, trial: Trial | None = None) -> dict[str, Any]:
    """Resolve `auto` and 0 into the choices of this machine.

    trial: seconds of a step in `float32` and `bfloat16`; run where the choice is open, on a CPU that may gain by it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise FirehoseError(
            Exit.REFUSED,
            "train.device asks for CUDA and torch sees no CUDA device",
            next="set device = 'auto' or 'cpu' under [train]",
        )
    threads = threads or auto_threads()
    if dtype == "auto":
        dtype = "float32"
        if device.startswith("cuda"):
            dtype = "bfloat16"
        elif trial is not None and bfloat16_units():
            torch.set_num_threads(threads)
            seconds = trial()
            if seconds["bfloat16"] <= PAYS * seconds["float32"]:
                dtype = "bfloat16"
    return {"device": device, "dtype": dtype, "threads": threads}


def auto_threads() -> int:
    """Threads of a process that has its cores for itself."""
    return min(cores(), MOST_THREADS)


def cores(group: Path | None = None) -> int:
    """How many cores this process may use: those it is bound to, and no more than its control group's share.

    group: folder of the control group; the process's own by default.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if group is None:
        try:
            own = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].split("\n", 1)[0]
        except (OSError, IndexError):
            return bound
        group = Path("/sys/fs/cgroup") / own.lstrip("/")
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return bound


def bfloat16_units() -> list[str]:
    """The instructions of this CPU that multiply bfloat16; without any it is several times slower than float32."""
    asked = {
        "AMX": torch.cpu._is_amx_tile_supported,
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported,
    }
    return [name for name, there in asked.items() if there()]


def trial_of(shape: Shape, rows: int) -> dict[str, float]:
    """Seconds of the fastest forward and backward pass of a model on windows [rows, block_size + 1], for each dtype."""
    from trainer.crew import loss_of

    model = Decoder(shape)
    model.initialise(0)
    loss_of_windows = loss_of(model)
    generator = torch.Generator().manual_seed(mix64(0, Purpose.WEIGHTS) >> 1)
    windows = torch.randint(shape.vocab_size, (rows, shape.block_size + 1), generator=generator)
    best = {"float32": float("inf"), "bfloat16": float("inf")}
    for attempt in range(TRIALS + 1):
        for dtype, before in best.items():
            began = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = loss_of_windows(windows)
            loss.backward()  # type: ignore[no-untyped-call]
            if attempt:  # the first one prepares kernels
                best[dtype] = min(before, time.perf_counter() - began)
    return best


def describe(chosen: dict[str, Any]) -> dict[str, Any]:
    """The choices, and the versions and hardware they met."""
    name = (
        torch.cuda.get_device_name(chosen["device"])
        if chosen["device"].startswith("cuda")
        else " ".join([torch.backends.cpu.get_cpu_capability(), *bfloat16_units()])
    )
    return {**chosen, "torch": torch.__version__, "hardware": name}


def settle(
    stored: dict[str, Any] | None, wanted: Callable[[], dict[str, Any]], *, deterministic: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Keep a run's stored choices; say what could not be kept, since from there on its bits differ.

    On CUDA, kernels that add in any order are in use where train.deterministic is not set, and a resume there is exact
    in state and not in bits.
    """
    if not stored:
        return describe(wanted()), []
    chosen = {key: stored[key] for key in CHOSEN}
    if chosen["device"].startswith("cuda") and not torch.cuda.is_available():
        chosen = wanted()
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
        return device, nullcontext()
    keep_memory()
    if platform["dtype"] == "bfloat16":
        return device, torch.autocast("cpu", dtype=torch.bfloat16)
    return device, nullcontext()


def keep_memory() -> None:
    """Have the C library keep what a step frees: the next one needs the same, and pages from the system come zeroed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(option, value)
