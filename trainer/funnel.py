"""Funnel cross-entropy: a softmax over few tokens at first, over more with every step, and then over all.

Candidates are the most frequent tokens of the run's text, and of each position its own target. So the loss is a sum over
positions that know nothing of each other: it is the same however a pull's windows are dealt to threads and ranks. The
number of candidates can only rise, and past the last step of the funnel there is none: the plain loss is computed by the
plain code (I16).
"""

import numpy as np
import torch
from torch import Tensor

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from trainer.loss import Candidates

COUNTED = 1 << 22  # tokens of all sources together that are counted: a tenth of a second


class Funnel:
    """How many tokens, and which, the softmax of a step has.

    order: [vocabulary] every token's id, the most frequent one first, on the device of the loss. start: candidates of step
    1. steps: those before the softmax is whole. Raises ValueError for a funnel that would not widen.
    """

    def __init__(self, order: Tensor, *, start: int, steps: int) -> None:
        if not 1 <= start <= len(order) or steps < 1:
            raise ValueError(f"a funnel widens: {start} of {len(order)} tokens in {steps} steps does not")
        self.order, self.rank = order, torch.argsort(order)
        self.start, self.steps = start, steps

    def size(self, step: int) -> int:
        """Candidates of a step counted from 1: `start` at first, rising geometrically to all of them after `steps`."""
        total = len(self.order)
        opened = min(1.0, (step - 1) / self.steps)
        return total if opened == 1.0 else min(total, int(self.start * (total / self.start) ** opened))

    def at(self, step: int) -> Candidates | None:
        """The candidates of a step; None where they are all tokens there are."""
        size = self.size(step)
        return None if size >= len(self.order) else Candidates(self.order[:size], self.rank)


def of_run(config: Config, corpus: Corpus, device: torch.device) -> Funnel | None:
    """The funnel that the config asks for. Raises FirehoseError(REFUSED) for one that would narrow.

    A function of config and data alone, so every rank and every launch has the same one and nothing of it is stored.
    """
    train = config.train
    if train.funnel_steps == 0:
        return None
    if train.funnel_start > corpus.vocab_size:
        raise FirehoseError(
            Exit.REFUSED,
            f"train.funnel_start {train.funnel_start} is over the vocabulary of {corpus.vocab_size} tokens: a funnel widens",
            path=config.path,
            next=f"set funnel_start to {corpus.vocab_size} at most, or funnel_steps to 0",
        )
    counts = corpus.token_counts([name for name in config.sources if name in corpus.sources], COUNTED)
    order = torch.from_numpy(np.argsort(-counts, kind="stable")).to(device)
    return Funnel(order, start=train.funnel_start, steps=train.funnel_steps)


def words(funnel: Funnel, step: int) -> str:
    """Where a run stands in its funnel after a step, for its start."""
    size, total = funnel.size(step + 1), len(funnel.order)
    if size == total:
        return f"funnel: open since step {funnel.steps + 1:,}"
    return (
        f"funnel: step {step + 1:,} tells {size:,} of {total:,} tokens apart, and step {funnel.steps + 1:,} all; until "
        "then training losses are lower than held-out ones for that reason"
    )
