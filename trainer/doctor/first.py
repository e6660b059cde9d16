"""The last look before step 1: a model drawn from its seed is asked a few questions on the run's own first windows."""

import torch

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from trainer.doctor import model as asked
from trainer.model import Decoder

WINDOWS, LONGEST = 2, 128  # and tokens of each: enough to tell, and under a second for a large model on a CPU


def look(config: Config, corpus: Corpus, ids: dict[str, int], model: Decoder) -> None:
    """Ask for the loss at the start, causality and labels; changes nothing, takes a few forward passes (I13, I14).

    ids: arm names to ids. Raises FirehoseError(REFUSED) that names the first check that fails and what it means.
    """
    name, arm_id = next(iter(ids.items()))
    fed = torch.empty((WINDOWS, config.model.block_size + 1), dtype=torch.int64)
    corpus.fill(fed.numpy(), name, arm_id, 0)
    windows = fed[:, : LONGEST + 1].to(model.embedding.weight.device)
    measured = model.loss(windows).item()  # as training calls it, with gradients
    checks = (
        asked.loss_at_start(model, windows),
        asked.causality(model, windows),
        asked.labels(model, windows, measured),
    )
    for check in checks:
        if not check.ok:
            raise FirehoseError(
                Exit.REFUSED,
                f"the model is not sound before step 1: {check.name} is {check.value:.4g}, expected {check.expected}: "
                f"{check.message}",
                path=config.path,
                changed="nothing",
                next=f"firehose doctor {config.path}",
            )
