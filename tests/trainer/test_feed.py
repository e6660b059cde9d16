"""Batches: each pull is its own ticket's windows, in order, however they were loaded."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bandit.ledger import Ticket
from curriculum.config import Train
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from state.rows import read_rows
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state
from trainer.feed import Feed
from trainer.step import TrainStep

BLOCK = 5
CPU = torch.device("cpu")
NAMES = {0: "even", 1: "odd"}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Counting:
    """A source whose tokens tell where they come from; it can be held up."""

    block_size = BLOCK

    def __init__(self, width: str = "<u2") -> None:
        self.dtype = np.dtype(width)
        self.go = threading.Event()
        self.go.set()

    def fill(self, out: NDArray[Any], name: str, arm_id: int, first_window: int) -> None:
        assert self.go.wait(30)
        if name == "odd" and first_window >= 1000:
            raise FirehoseError(Exit.DAMAGED, "the file is damaged", arm=name)
        out[:] = 100 * arm_id + first_window + np.arange(len(out))[:, None]


def tickets_of(step: int, first: int = 0) -> list[Ticket]:
    return [
        Ticket(id=4 * step + n, step=step, micro=n, arm=n % 2, window=first + 10 * n + step) for n in range(4)
    ]


def feed_of(source: Counting, device: torch.device = CPU, *, rank: int = 0, size: int = 1) -> Feed:
    train = Train(micro_batch=4, grad_accum=4, feedback_delay=2)
    return Feed(source, NAMES, train, device, rank=rank, size=size)


def firsts(step: int, first: int = 0) -> list[int]:
    return [100 * ticket.arm + ticket.window for ticket in tickets_of(step, first)]


def test_each_pull_holds_its_own_tickets_windows() -> None:
    feed = feed_of(Counting())
    for step in (7, 8, 9):
        feed.load(step, tickets_of(step))
    for step in (7, 8, 9, 10):
        pulls = feed.take(step)
        assert (pulls.shape, pulls.dtype) == ((4, 4, BLOCK + 1), torch.int64)
        assert pulls[:, 0, 0].tolist() == firsts(step)
        assert (pulls[:, 3, BLOCK] - pulls[:, 0, 0]).tolist() == [3] * 4
        if step == 7:
            feed.load(10, tickets_of(10))
    feed.close()
    assert feed.loading == {}


def test_the_ranks_of_a_run_share_out_the_rows_of_every_pull() -> None:
    whole, parts = feed_of(Counting()), [feed_of(Counting(), rank=rank, size=2) for rank in (0, 1)]
    for feed in (whole, *parts):
        feed.load(1, tickets_of(1))
    assert torch.equal(torch.cat([feed.take(1) for feed in parts], dim=1), whole.take(1))
    for feed in (whole, *parts):
        feed.close()


def test_a_buffer_that_was_not_taken_is_not_written_over() -> None:
    feed = feed_of(Counting())
    for step in (1, 2, 3):
        feed.load(step, tickets_of(step))
    with pytest.raises(LookupError, match="step 1 was loaded and not taken"):
        feed.load(4, tickets_of(4))
    assert feed.take(1)[:, 0, 0].tolist() == firsts(1)
    feed.close()


def test_what_was_dropped_while_it_was_being_read_does_not_show() -> None:
    source = Counting()
    feed = feed_of(source)
    source.go.clear()
    for step in (1, 2, 3):
        feed.load(step, tickets_of(step))
    feed.drop()
    for step in (1, 2, 3):
        feed.load(step, tickets_of(step, first=50))
    source.go.set()
    assert [feed.take(step)[:, 0, 0].tolist() for step in (1, 2, 3)] == [firsts(n, 50) for n in (1, 2, 3)]
    feed.close()


def test_what_went_wrong_is_said_when_the_step_is_taken() -> None:
    feed = feed_of(Counting())
    feed.load(1, tickets_of(1, first=1000))
    feed.load(2, tickets_of(2))
    with pytest.raises(FirehoseError, match="damaged"):
        feed.take(1)
    assert feed.take(2)[:, 0, 0].tolist() == firsts(2)
    feed.close()


def test_on_the_cpu_a_batch_is_not_copied_once_it_is_read() -> None:
    feed = feed_of(Counting())
    seen = set()
    for step in range(1, 7):
        feed.load(step, tickets_of(step))
        seen.add(feed.take(step).data_ptr())
    feed.close()
    assert seen == {buffer.data_ptr() for buffer in feed.buffers}
    assert len(seen) == 3


@needs_cuda
@pytest.mark.parametrize("width", ["<u2", "<u4"])
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_on_cuda_batches_travel_in_their_own_width_from_pinned_memory(width: str, name: str) -> None:
    feed = feed_of(Counting(width), torch.device(name))
    assert feed.buffers.is_pinned()
    assert feed.buffers.element_size() == int(width[-1])
    taken = []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        feed.load(1, tickets_of(1))
        feed.load(2, tickets_of(2))
        for step in range(1, 40):
            feed.load(step + 2, tickets_of(step + 2))
            if step % 5 == 0:  # so that copies and casts queue up behind a busy device
                torch.cuda._sleep(5_000_000)
            taken.append(feed.take(step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    feed.close()
    for step, pulls in enumerate(taken, 1):
        assert (pulls.dtype, pulls.device.type) == (torch.int64, "cuda")
        assert pulls[:, 0, 0].tolist() == firsts(step)


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
            expected = np.empty((config.train.micro_batch, config.model.block_size + 1), dtype=np.int64)
            corpus.fill(expected, names[arm], arm, cursor[arm])
            assert np.array_equal(seen[row["step"]][micro].numpy(), expected)
            cursor[arm] += config.train.micro_batch
