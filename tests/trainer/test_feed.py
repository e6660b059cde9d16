"""Batches: each pull is its own ticket's windows, in order, however they were loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bandit.ledger import Ticket
from curriculum.tokens.corpus import Corpus
from state.rows import read_rows
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state
from trainer.feed import Feed
from trainer.step import TrainStep


def test_each_pull_holds_its_own_tickets_windows() -> None:
    tickets = [Ticket(id=n, step=7, micro=n, arm=n % 2, window=10 * n) for n in range(4)]
    feed = Feed(lambda t: np.full((2, 5), 100 * t.arm + t.window, dtype=np.int64), torch.device("cpu"))
    feed.load(7, tickets)
    pulls = feed.take(7)
    feed.close()
    assert pulls.shape == (4, 2, 5)
    assert pulls[:, 0, 0].tolist() == [0, 110, 20, 130]
    assert feed.loading == {}


def test_a_run_trains_on_what_its_pulls_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch, recomputed from the pulls file alone: arm by arm, windows in the order of their cursors."""
    seen: dict[int, torch.Tensor] = {}
    run = TrainStep.run

    def watched(self: TrainStep, step: int, pulls: torch.Tensor, lr: float) -> None:
        seen[step] = pulls.clone()
        run(self, step, pulls, lr)

    monkeypatch.setattr(TrainStep, "run", watched)
    config = tiny.make(tmp_path)
    go(config.path, until=30)
    envelope = the_state(config.path)
    names = {record["id"]: name for name, record in envelope.payload["bandit"]["arms"].items()}
    corpus = Corpus.open(tmp_path / "data/tiny", config.model.block_size, config.seed)
    cursor = dict.fromkeys(names, 0)
    for row in read_rows(the_run(config.path).pulls):
        for micro, (arm, *_) in enumerate(row["pulls"]):
            expected = corpus.batch(names[arm], arm, cursor[arm], config.train.micro_batch)
            assert np.array_equal(seen[row["step"]][micro].numpy(), expected)
            cursor[arm] += config.train.micro_batch
