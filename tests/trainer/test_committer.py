"""The thread that writes commits, and the copy of the tensors that it writes from."""

import signal
import threading

import pytest
import torch

from curriculum.errors import Exit, FirehoseError
from trainer.committer import Committer
from trainer.snapshot import Snapshot, Tensors

FULL = FirehoseError(Exit.WRITE_FAILED, "the disk is full")


def fail() -> None:
    raise FULL


def test_a_job_runs_beside_and_its_error_comes_at_the_join_once() -> None:
    committer, going = Committer(), threading.Event()
    committer.hand(lambda: fail() if going.wait(30) else None)
    committer.look()  # not done: neither waits nor raises
    going.set()
    with pytest.raises(FirehoseError, match="the disk is full"):
        committer.join()
    committer.join()
    done: list[int] = []
    committer.hand(lambda: done.append(1))
    assert committer.close() is None
    assert done == [1]


def test_what_a_job_came_to_is_not_lost_where_the_run_ends_for_another_reason() -> None:
    committer = Committer()
    committer.hand(fail)
    assert committer.close() is FULL
    assert committer.close() is None


def test_an_error_is_heard_by_a_look_without_waiting() -> None:
    committer = Committer()
    committer.hand(fail)
    assert committer.job is not None
    committer.job.exception()  # wait for it, raising nothing
    with pytest.raises(FirehoseError):
        committer.look()
    assert committer.close() is None


def test_the_thread_leaves_signals_to_the_main_thread() -> None:
    committer, masks = Committer(), [set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))]
    committer.hand(lambda: masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
    committer.close()
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1} <= masks[1] - masks[0]


def tensors(value: float, *, moments: bool = True) -> Tensors:
    model = {"a": torch.full((3, 5), value), "b": torch.full((7,), value + 1)}
    memory = {"a/exp_avg": torch.full((3, 5), value + 2), "a/step": torch.tensor(value)}
    return Tensors(model, memory if moments else {})


def equal(one: Tensors, other: Tensors) -> bool:
    return all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in ((one.model, other.model), (one.optimizer, other.optimizer))
    )


def test_a_copy_keeps_what_was_there_and_its_memory_is_used_again() -> None:
    snapshot, live = Snapshot(torch.device("cpu")), tensors(1.0)
    snapshot.take(live)
    for group in (live.model, live.optimizer):
        for tensor in group.values():
            tensor.add_(1)
    assert equal(snapshot.wait(), tensors(1.0))
    where = snapshot.wait().model["a"].data_ptr()
    snapshot.take(live)
    assert equal(snapshot.wait(), tensors(2.0))
    assert snapshot.wait().model["a"].data_ptr() == where


def test_a_copy_costs_what_the_tensors_cost_and_no_more() -> None:
    snapshot = Snapshot(torch.device("cpu"))
    size = {"weight": torch.zeros(1000, 100)}
    snapshot.take(Tensors(size, {f"weight/{moment}": torch.zeros(1000, 100) for moment in "mv"}))
    assert snapshot.wait().model["weight"].untyped_storage().nbytes() == 12 * 100_000


def test_a_copy_follows_an_optimizer_that_gets_its_moments_later() -> None:
    snapshot = Snapshot(torch.device("cpu"))
    snapshot.take(tensors(1.0, moments=False))
    snapshot.take(tensors(2.0))
    assert equal(snapshot.wait(), tensors(2.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_of_device_tensors_is_of_the_moment_it_was_asked_for() -> None:
    device = torch.device("cuda")
    snapshot, weight = Snapshot(device), torch.zeros(1 << 24, device=device)
    for value in range(5):
        snapshot.take(Tensors({"weight": weight}, {}))
        weight.add_(1)  # queued behind the copy
        assert torch.equal(snapshot.wait().model["weight"], torch.full((1 << 24,), float(value)))
    assert snapshot.wait().model["weight"].is_pinned()
