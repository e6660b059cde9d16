"""A world of ranks, as far as one process can see it: who takes which rows, what a launch settles, what is said of the lost."""

import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curriculum.errors import Exit, FirehoseError
from state.process import this_process
from tests.fixtures import tiny
from trainer import parallel, ring, start
from trainer.goal import GoalLoss
from trainer.model import Decoder, Shape
from trainer.ring import Ring
from trainer.world import ENDED, Elsewhere, World

CPU = torch.device("cpu")


@given(st.integers(1, 40), st.integers(1, 9))
def test_rows_are_dealt_once_each_and_weighed_to_their_mean(count: int, size: int) -> None:
    rows: list[int] = []
    mean = Fraction(0)
    for rank in range(size):
        part, weight = World(rank, size).rows(count)
        own = list(range(count))[part]
        assert own, "every rank has a row to take part with"
        if weight:
            rows += own
        mean += Fraction(weight).limit_denominator(10_000) * Fraction(sum(own), len(own)) / size
    assert rows == list(range(count))
    assert mean == Fraction(sum(range(count)), count)


def test_one_process_is_a_world_that_does_nothing() -> None:
    world, tensor = World.join({}), torch.tensor([1.0, 2.0])
    assert (world.rank, world.size, world.first) == (0, 1, True)
    assert World.join({"WORLD_SIZE": "1", "RANK": "0"}).size == 1
    assert world.mean_(tensor) is tensor and tensor.tolist() == [1.0, 2.0]
    thing = object()
    assert world.tell(thing) is thing and world.announce(thing) is thing
    with pytest.raises(RuntimeError, match="gloo"), world.talking():
        raise RuntimeError("gloo is no part of this")


class Store:
    """What the ranks' store holds, here alone."""

    def __init__(self, **held: str) -> None:
        self.held = {name.replace("_", "/"): text for name, text in held.items()}

    def check(self, names: list[str]) -> bool:
        return all(name in self.held for name in names)

    def get(self, name: str) -> bytes:
        return self.held[name].encode()

    def set(self, name: str, text: str) -> None:
        self.held[name] = text


def a_world(rank: int, *, dead: tuple[int, ...] = ()) -> World:
    """A rank of three, some of whose processes are no more."""
    world, alive = World(rank, 3, store=Store()), this_process(time.time())
    world.peers = [
        msgspec.structs.replace(alive, start=1 if one in dead else alive.start) for one in range(3)
    ]
    return world


def test_the_first_living_rank_says_who_is_gone_and_the_others_repeat_its_word() -> None:
    world = a_world(1, dead=(0,))
    with pytest.raises(RuntimeError, match="rank 0 lost"):
        world.check()
    with (
        pytest.raises(FirehoseError, match=r"rank 0 of 3 is gone.*: Connection closed") as first,
        world,
        world.talking(),
    ):
        raise RuntimeError("[/gloo/pair.cc:1] Connection closed by peer. Odd.")
    assert first.value.exit_code is Exit.UNEXPECTED
    other = World(2, 3, store=world.store)
    other.peers = world.peers
    with pytest.raises(SystemExit) as code, other, other.talking():
        raise RuntimeError("[/gloo/pair.cc:1] Connection closed by peer")
    assert code.value.code == Exit.UNEXPECTED


def test_an_error_of_one_rank_ends_all_with_its_code() -> None:
    world = a_world(0)
    with pytest.raises(FirehoseError), world:
        raise FirehoseError(Exit.LOCKED, "another process trains this run", path="lock", next="wait")
    follower = World(1, 3, store=world.store)
    with pytest.raises(SystemExit) as code, follower, follower.talking():
        raise RuntimeError("Connection reset by peer")
    assert code.value.code == Exit.LOCKED

    follower = a_world(1)
    with pytest.raises(FirehoseError), follower:
        raise FirehoseError(Exit.DAMAGED, "a token file is damaged", path="a.btok")
    first = World(0, 3, store=follower.store)
    with pytest.raises(Elsewhere, match="rank 1 ended: a token file is damaged"), first, first.talking():
        raise RuntimeError("gloo timed out")
    assert ENDED in follower.store.held


def test_an_error_that_is_no_transports_stays_what_it_is() -> None:
    world = a_world(1)
    with pytest.raises(RuntimeError, match="shapes"), world.talking():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_launch_waits_for_rank_0_as_long_as_it_lives() -> None:
    world = a_world(1, dead=(0,))
    with pytest.raises(RuntimeError, match="rank 0"):
        world.announce()
    world.store.set("firehose/announced/2", '{"a": 1}')
    assert world.announce() == {"a": 1}


def test_a_row_that_never_comes_ends_with_the_rank_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, where NCCL waits in silence."""
    monkeypatch.setattr(ring, "LOOK_SECONDS", 0.0)
    lost, waits = Ring(4, 1, CPU), [0]

    def query() -> bool:
        waits[0] += 1
        return waits[0] > 3

    lost.cuda, lost.home, lost.arrived = True, lost.rows, [SimpleNamespace(query=query)] * 4
    lost.row(1)
    lost.alive = lambda: None
    assert lost.read(1).losses == [0.0] and waits[0] == 4
    lost.alive, waits[0] = a_world(1, dead=(2,)).check, 0
    with pytest.raises(RuntimeError, match="connection to rank 2 lost"):
        lost.read(1)


def test_the_platform_says_how_many_ranks_and_what_changed(tmp_path: Path) -> None:
    config = tiny.make(tmp_path)
    corpus = SimpleNamespace(vocab_size=401)
    one, lost = start.choose_platform(config, corpus, None, World())  # type: ignore[arg-type]
    assert one["ranks"] == 1 and "parallel" not in one and lost == []
    two, lost = start.choose_platform(config, corpus, one, World(0, 2, 0, 2))  # type: ignore[arg-type]
    assert (two["ranks"], two["parallel"]) == (2, "ddp")
    assert lost == ["resume is not bit-exact: ranks 1 -> 2"]
    same, lost = start.choose_platform(config, corpus, two, World(0, 2, 0, 2))  # type: ignore[arg-type]
    assert same == two and lost == []
    old = {key: value for key, value in one.items() if key != "ranks"}  # before there was more than one
    assert start.choose_platform(config, corpus, old, World()) == (one, [])  # type: ignore[arg-type]


def test_rows_that_cannot_be_dealt_are_refused(tmp_path: Path) -> None:
    config = tiny.make(tmp_path)
    start.refuse_uneven(config, World(1, 2))
    with pytest.raises(FirehoseError, match="2 windows cannot be dealt evenly to 3 ranks") as refused:
        start.refuse_uneven(config, World(1, 3))
    assert refused.value.exit_code is Exit.REFUSED and "one of 1, 2;" in str(refused.value.next)


def test_shards_where_a_gpu_would_be_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30)
    )
    assert parallel.choose("auto", 3_000_000_000, "cuda") == "ddp"
    assert parallel.choose("auto", 3_500_000_000, "cuda") == "fsdp"
    assert parallel.choose("auto", 3_500_000_000, "cpu") == "ddp"
    assert parallel.choose("fsdp", 1, "cpu") == "fsdp"


def test_two_ranks_rows_of_the_goal_average_to_its_loss() -> None:
    model = Decoder(Shape(50, 8, 16, 2, 1))
    model.initialise(1)
    batches = [torch.randint(0, 50, (rows, 9)) for rows in (4, 3, 1)]
    text = SimpleNamespace(batch=lambda number: batches)
    autocast = torch.autocast("cpu", enabled=False)

    def measured(world: World) -> float:
        into = torch.zeros(())
        GoalLoss(model, text, every=1, autocast=autocast, world=world).measure(1, into)  # type: ignore[arg-type]
        return float(into)

    parts = [measured(World(rank, 2)) for rank in range(2)]
    assert sum(parts) / 2 == pytest.approx(measured(World()), abs=1e-6)
