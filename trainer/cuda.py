"""What is particular to CUDA: its settings, which steps are compiled, and which are recorded as one graph."""

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from curriculum.config import Train
from curriculum.errors import Exit, FirehoseError
from trainer import crew, fit
from trainer.graph import CudaRecorder, Replay, static
from trainer.model import Decoder
from trainer.peak import flops_per_token
from trainer.step import Loss, TrainStep

# Channels up to which a step is recorded: there its hundreds of launches take as long as its kernels.
GRAPH_WIDTH = 512

# Arithmetic of a run from which on compiling its step is worth the wait: a minute of it against four on an H200.
COMPILE_FLOPS = 1e17

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")

Say = Callable[[str], None]


def settings(*, deterministic: bool) -> None:
    """Set allocator, matmul and determinism; must come before anything is put on the device.

    What the environment says of the allocator stands. Segments that grow leave no holes behind that a longer batch
    would not fit into. Of attention's kernels torch takes the fastest (cuDNN's or flash attention) by itself; in
    deterministic mode cuDNN's is left out, whose backward pass adds in any order, and flash attention's is told not to.
    """
    if not any(name in os.environ for name in ALLOCATOR):
        grow = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        if grow is None:  # before torch 2.10
            grow = importlib.import_module("torch.cuda.memory")._set_allocator_settings
        grow("expandable_segments:True")
    torch.set_float32_matmul_precision("high")  # fp32 products by TF32
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # no choice of kernels by a race
    torch.backends.cuda.enable_cudnn_sdp(not deterministic)
    torch.use_deterministic_algorithms(deterministic)
    # Without a pass over memory that is written anyway.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def forward(
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    train: Train,
    device: torch.device,
    autocast: AbstractContextManager[None],
    rows: int,
    say: Say,
    *,
    whole: bool = True,
) -> Loss:
    """The model's loss as the steps will compute it: compiled or as it is, and on CUDA known to fit the memory.

    rows: windows of a pull that this process trains on. whole: this process has all of the model; what is gathered from
    others as it is used is neither compiled nor shared among threads. Nothing is trained and nothing is left behind. Raises
    FirehoseError(REFUSED) where a pull does not fit, or where train.compile is "on" and compiling fails.
    """
    cuda = device.type == "cuda"
    trial = fit.Trial(model, optimizer, device, autocast, passes=min(2, train.grad_accum))
    loss: Loss = crew.loss_of(model) if whole else model.loss
    if whole and (train.compile == "on" or (train.compile == "auto" and cuda and pays(model, train))):
        loss = compiled(model.loss, lambda loss: trial.run(loss, rows if cuda else 1), train, say)
    if cuda:
        fit.check(lambda rows: trial.run(loss, rows), train, rows, torch.cuda.get_device_name(device))
    return loss


def pays(model: Decoder, train: Train) -> bool:
    """Whether a run is long enough to earn back what compiling takes."""
    tokens = train.steps * train.grad_accum * train.micro_batch * model.shape.block_size
    return tokens * flops_per_token(model) >= COMPILE_FLOPS


def compiled(loss: Loss, trial: Callable[[Loss], None], train: Train, say: Say) -> Loss:
    """A loss compiled, if it then goes through a trial; else as it is, which is said, or refused as `forward` says."""
    torch.compiler.reset()  # models compiled before count against a limit
    made: Loss = torch.compile(loss, dynamic=False, fullgraph=True)
    try:
        trial(made)
    except torch.OutOfMemoryError:
        pass  # compiled it was; what would fit is found out by `fit`
    except Exception as error:  # a compiler may fail in any way
        why = f"torch.compile failed: {fit.first_line(error)}"
        if train.compile == "on":
            raise FirehoseError(
                Exit.REFUSED, why, next="set compile = 'auto' or 'off' under [train]"
            ) from error
        say(f"{why}; steps run without it")
        return loss
    return made


def record(step: TrainStep, train: Train, device: torch.device, *, alone: bool, say: Say) -> None:
    """Have a small model's steps recorded and replayed as one CUDA graph. alone: one process has the model to itself.

    Raises FirehoseError(REFUSED) where train.cuda_graph is "on" and cannot be.
    """
    wanted = train.cuda_graph == "on"
    if wanted and not (device.type == "cuda" and alone):
        raise FirehoseError(
            Exit.REFUSED,
            "train.cuda_graph = 'on' is for a single process on CUDA",
            next="set cuda_graph = 'auto' under [train]",
        )
    small = step.model.shape.width <= GRAPH_WIDTH and device.type == "cuda" and alone
    recorded = wanted or (train.cuda_graph == "auto" and small)
    if device.type == "cuda":
        made = "as it is" if step.forward == step.model.loss else "compiled"
        run = "recorded as one graph" if recorded else "launched kernel by kernel"
        sums = "the same bits each time" if train.deterministic else "kernels that add in any order"
        say(f"CUDA: the step is {made} and {run}; {sums}")
    if not recorded:
        return

    def failed(why: str) -> None:
        step.forget()
        if wanted:
            raise FirehoseError(Exit.REFUSED, why, next="set cuda_graph = 'auto' under [train]")
        say(f"{why}; steps run without a CUDA graph")

    static(step.optimizer, device)
    step.runner = Replay(step.update, CudaRecorder(device), failed)
