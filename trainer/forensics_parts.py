"""Forensics of a layer's parts: heads and channels that died, matrices of one direction, tokens that share an embedding."""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.model import Shape

DEAD = 0.1  # of a fresh draw's RMS: what no gradient has kept alive
ROWS = 64  # of a matrix, whose directions are compared
EQUAL = 1e-6  # of a unit vector's projection: above rounding, far under what two tokens differ by


def dead(
    model: dict[str, Tensor], shape: Shape, drawn: dict[str, float], sample: int | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of the heads, and of the channels, that are dead, by layer and half of it.

    A head is its rows of queries, keys and values and its columns of the output, a channel one of each; an MLP's channel
    is a neuron: a row of `up`, a column of `down`. Dead: one of these under DEAD of a fresh draw's RMS. drawn: the RMS of
    each matrix as first drawn; sample: weights of a matrix to look at, None for all.
    """
    heads, channels = {}, {}
    for at in range(shape.layers):
        of = f"blocks.{at}."
        qkv, out, up, down = (
            f"{of}{part}.weight" for part in ("attention.qkv", "attention.out", "up", "down")
        )
        rows = _powers(model[qkv], drawn[qkv], sample).view(3, -1)
        columns = _powers(model[out].T, drawn[out], sample)
        attention = torch.cat((rows, columns[None]))  # [4, width]: mean square over a fresh one
        of_heads = attention.view(4, shape.heads, -1).mean(2)
        neurons = torch.stack(
            (_powers(model[up], drawn[up], sample), _powers(model[down].T, drawn[down], sample))
        )
        heads[f"{of}attention"] = _share(of_heads)
        channels[f"{of}attention"] = _share(attention)
        channels[f"{of}mlp"] = _share(neurons)
    return heads, channels


def ranks(model: dict[str, Tensor]) -> dict[str, float]:
    """Effective rank of each matrix of the layers, of queries, keys and values apart: in how many directions rows point.

    (tr G)^2 / |G|^2, G the Gram matrix of at most ROWS rows of length 1: of n rows 1 where all are one direction,
    n w / (n + w) for normal draws of w numbers.
    """
    found = {}
    for name, rows in _matrices(model):
        some = rows[:: max(1, len(rows) // ROWS)]
        units = torch.nn.functional.normalize(some, dim=1, eps=1e-30)
        gram = units @ units.T
        all_of_it = float(gram.square().sum())
        found[name] = float(gram.trace()) ** 2 / all_of_it if all_of_it else 0.0
    return found


def shared(directions: Tensor) -> float:
    """Share of tokens whose embedding points where another's does; directions: [tokens, width], each of length 1.

    Two random projections of each stand for it: tokens that are neighbours by the first and equal in both are the same.
    """
    draw = torch.Generator().manual_seed(0)
    seen = directions @ torch.randn(directions.shape[1], 2, generator=draw)
    steps = seen[seen[:, 0].argsort()].diff(dim=0)
    return float((steps.abs() < EQUAL).all(dim=1).double().mean())


def _matrices(model: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, weight in model.items():
        if not name.startswith("blocks.") or weight.dim() < 2:
            continue
        if name.endswith("qkv.weight"):
            yield from ((f"{name} {part}", rows) for part, rows in zip("qkv", weight.chunk(3), strict=True))
        else:
            yield name, weight


def _powers(rows: Tensor, drawn: float, sample: int | None) -> Tensor:
    """Mean square of each row over that of a fresh draw."""
    if sample is not None:
        rows = rows[:, :: max(1, rows.numel() // sample)]
    return rows.square().mean(1) / drawn**2


def _share(powers: Tensor) -> float:
    """Of what is counted in the last dimension, the share that has a part under DEAD."""
    return float((powers.amin(0) < DEAD**2).double().mean())
