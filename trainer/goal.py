"""The goal: which sources it is made of at launch, its held-out text in probe batches, and its loss as a signal."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from bandit.reward import REWARDS
from curriculum.config import Config
from curriculum.eligibility import never_picked
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from trainer.model import Decoder
from trainer.world import World


def goal_sources(config: Config, corpus: Corpus) -> tuple[list[str], list[str]]:
    """The sources whose held-out text can be probed, and a note for each goal source that has none.

    Nothing where the reward needs no goal. Raises FirehoseError(REFUSED), naming all, where none is left: another
    reward would be another run.
    """
    if REWARDS[config.curriculum.reward].needs is None:
        return [], []
    usable: list[str] = []
    lost: dict[str, str] = {}
    for name in config.curriculum.goal_sources:
        if name not in corpus.sources:
            lost[name] = "it has no token files"
        elif corpus.sources[name].heldout_windows < 2:
            lost[name] = "its held-out text has no window to spare for probing"
        else:
            if never_picked(config, name) is not None:  # no one else reads its files before they are used
                corpus.check(name)
            usable.append(name)
    if not usable:
        raise FirehoseError(
            Exit.REFUSED,
            f"the reward {config.curriculum.reward} has no goal left: "
            + "; ".join(f"{name}: {why}" for name, why in lost.items()),
            path=config.path,
            arm=", ".join(lost),
            next="name other curriculum.goal_sources, give these more text and build again, or set "
            'curriculum.reward = "progress"',
        )
    notes = [f"{name} is left out of the goal: {why}" for name, why in lost.items()]
    return usable, notes


class GoalText:
    """Held-out windows of the goal's sources in turn: never trained on, and never the ones that are reported.

    windows: of one probe. chunk: windows of one forward pass.
    """

    def __init__(
        self, corpus: Corpus, sources: Sequence[str], *, windows: int, chunk: int, device: torch.device
    ) -> None:
        self.corpus, self.sources, self.device = corpus, list(sources), device
        self.windows, self.chunk = windows, chunk

    def batch(self, number: int) -> list[Tensor]:
        """The text of probe `number` (from 0), as windows [at most chunk, block_size + 1] of token ids."""
        rows = []
        for at in range(number * self.windows, (number + 1) * self.windows):
            turn, which = divmod(at, len(self.sources))
            rows.append(self.corpus.probe(self.sources[which], turn, 1))
        tokens = torch.from_numpy(np.concatenate(rows))
        if self.device.type == "cuda":  # else the copy would wait for the device
            tokens = tokens.pin_memory()
        tokens = tokens.to(self.device, non_blocking=True)
        return list(torch.split(tokens, self.chunk))


class GoalLoss:
    """The goal's loss every `every` steps, over the same windows each time, each source with as many as any other."""

    def __init__(
        self,
        model: Decoder,
        text: GoalText,
        *,
        every: int,
        autocast: AbstractContextManager[None],
        world: World | None = None,
    ) -> None:
        self.model, self.every, self.autocast = model, every, autocast
        self.world = world or World()
        self.batches = text.batch(0)

    @torch.no_grad()
    def measure(self, step: int, into: Tensor) -> None:
        """Before steps 1, 1 + every, ...: write the mean loss, in nats a token, to the scalar `into`.

        Of several ranks each measures its rows: what it writes is the whole mean once it is averaged over the ranks.
        """
        if (step - 1) % self.every:
            return
        losses = []
        for windows in self.batches:
            rows, weight = self.world.rows(len(windows))
            with self.autocast:
                losses.append(self.model.loss(windows[rows]) * (weight * len(windows)))
        into.copy_(torch.stack(losses).sum() / sum(map(len, self.batches)))
