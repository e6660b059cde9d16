"""A model and its weights: built from a config, drawn from the seed, or taken from a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from trainer import checkpoint
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


def start(config: Config, model: Decoder, runs_dir: Path, say: Callable[[str], None]) -> None:
    """Weights of a fresh run: drawn from the seed, or another run's."""
    origin = config.train.init_from
    if origin is None:
        model.initialise(config.seed)
        return
    where = runs_dir / origin if (runs_dir / origin).exists() else config.resolve(origin)
    source = checkpoint.locate(where)
    load(model, source.tensors(checkpoint.MODEL), source.path)
    say(f"weights are those of {source.path} (step {source.step})")
