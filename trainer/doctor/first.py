"""The last look before step 1: a model drawn from its seed is asked a few questions on the run's own first windows."""

import torch

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from trainer.doctor import model as asked
from trainer.model import Decoder

WINDOWS = 2
SHORT = 32  # tokens that tell causality and labels; the loss is of whole windows


def look(config: Config, corpus: Corpus, ids: dict[str, int], model: Decoder) -> None:
    """Ask for the loss at the start, causality and labels; changes nothing, takes a few forward passes (I13, I14).

    The latter two are matters of bits and asked on the CPU, of a copy where the model is elsewhere. ids: arm names to ids.
    Raises FirehoseError(REFUSED) that names the first check that fails and what it means.
    """
    name, arm_id = next(iter(ids.items()))
    windows = torch.empty((WINDOWS, config.model.block_size + 1), dtype=torch.int64)
    corpus.fill(windows.numpy(), name, arm_id, 0)
    device, short = model.embedding.weight.device, windows[:, : SHORT + 1]
    copy = model
    if device.type != "cpu":
        copy = Decoder(model.shape)
        copy.load_state_dict({key: weight.cpu() for key, weight in model.state_dict().items()})
    checks = (
        asked.loss_at_start(model, windows.to(device)),
        asked.causality(copy, short),
        asked.labels(copy, short, copy.loss(short).item()),  # the loss as training calls it, with gradients
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
