"""A model and its weights: built from a config, drawn from the seed, or taken from a checkpoint."""

from pathlib import Path
from typing import Any

import msgspec
import torch

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from state import checkpoints
from state.checkpoints import Checkpoint
from state.run_dir import RunDir
from trainer.model import Decoder, Shape


def build(config: Config, vocab_size: int) -> Decoder:
    """The model of a config, weights not yet drawn."""
    m = config.model
    return Decoder(Shape(vocab_size, m.block_size, m.width, m.heads, m.layers, m.tied))


def load(model: Decoder, tensors: dict[str, torch.Tensor], where: Path) -> None:
    """Fill a model with a checkpoint's weights. Raises FirehoseError(REFUSED) where the shapes are not its own."""
    parameters = dict(model.named_parameters())
    wrong = [
        name
        for name in parameters.keys() | tensors.keys()
        if name not in tensors or name not in parameters or tensors[name].shape != parameters[name].shape
    ]
    if wrong:
        raise FirehoseError(
            Exit.REFUSED,
            f"the checkpoint's model is another one: {len(wrong)} tensors differ in name or shape, first {min(wrong)}",
            path=where,
            next="give [model] and the tokenizer of the run that wrote the checkpoint",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def origin(config: Config, run: RunDir, runs_dir: Path) -> Checkpoint | None:
    """The checkpoint whose weights a run begins with, None from scratch: the same one at every launch.

    What `init_from` names may train on; a run that is cut before its first checkpoint must not begin again with other
    weights, so the first launch writes down which checkpoint it took. Raises FirehoseError: NOT_FOUND, REFUSED.
    """
    wanted = config.train.init_from
    if wanted is None:
        return None
    pinned = msgspec.json.decode(run.effective.read_bytes()).get("origin") if run.effective.exists() else None
    if pinned is None:
        return checkpoints.locate(
            runs_dir / wanted if (runs_dir / wanted).exists() else config.resolve(wanted)
        )
    found = checkpoints.locate(Path(pinned["path"]))
    if identity(found) != pinned:
        raise FirehoseError(
            Exit.REFUSED,
            f"the checkpoint this run began with is not what it was: step {found.step} instead of {pinned['step']}, "
            "or other weights",
            path=found.path,
            next=f"bring it back; or begin anew: firehose run {config.path} --name OTHER",
        )
    return found


def identity(found: Checkpoint) -> dict[str, Any]:
    """What tells a checkpoint's weights from all others."""
    sha256 = found.meta["files"][checkpoints.MODEL]["sha256"]
    return {"path": str(found.path.resolve()), "step": found.step, "sha256": sha256}


def refuse_other_tokens(found: Checkpoint, tokenizer_sha256: str) -> None:
    """Weights speak of token ids, and ids of one tokenizer alone."""
    if found.meta["tokenizer_sha256"] != tokenizer_sha256:
        raise FirehoseError(
            Exit.REFUSED,
            "the checkpoint's weights are for another tokenizer than that of the token files",
            path=found.path,
            next="use the token files of the run that wrote the checkpoint (data.dir)",
        )
