"""The processes of one run: who they are, how they talk, and what is said when one of them is gone.

`torchrun` starts them and says by its environment who each one is. Objects go over gloo as JSON, so that nothing
unpickles what came over a wire; tensors go over NCCL on CUDA and over gloo on the CPU. One process alone is a world
too: everything here then does nothing.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from curriculum.errors import Exit, FirehoseError
from state.process import Process, this_process

# How long a rank waits for another that is not gone: launch reads the data and a boundary writes a checkpoint meanwhile.
LIMIT = timedelta(minutes=10)
# How long a rank that lost touch looks for the reason.
WORD_SECONDS = 3.0
# What is in the message of every error that a group's transport makes.
TRANSPORT = ("gloo", "nccl", "connection", "socket", "timed out", "timeout")
ENDED = "firehose/ended"


class World:
    """The processes of one run. rank: of this process, from 0. size: how many. local_rank, local_size: on this machine."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
        store: Any = None,
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self.store = store
        self.peers: list[Process] = []
        self.announced = 0
        self.parted = False  # whether rank 0 has said that it is done
        self.group: dist.ProcessGroup | None = None  # of tensors; None is gloo, that of objects

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone touches the run's folder."""
        return self.rank == 0

    @classmethod
    def join(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """The world that torchrun's environment describes, once all its processes are there; alone without one.

        Raises FirehoseError(TIMEOUT) where they do not find each other.
        """
        if int(environment.get("WORLD_SIZE", "1")) == 1 or "RANK" not in environment:
            return cls()
        where = f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"
        try:
            store, rank, size = next(iter(rendezvous("env://", timeout=LIMIT)))
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=LIMIT)
        except (RuntimeError, ValueError, OSError) as error:
            raise FirehoseError(
                Exit.TIMEOUT,
                f"rank {environment['RANK']} of {environment['WORLD_SIZE']} could not join the others: {first_sentence(error)}",
                path=where,
                next="torchrun --nproc-per-node N -m trainer run CONFIG; if a network card is to be named: "
                "GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0 before it",
            ) from error
        local = int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
        world = cls(rank, size, *local, store)
        store.set(f"firehose/process/{rank}", msgspec.json.encode(this_process(time.time())).decode())
        world.peers = [
            msgspec.json.decode(store.get(f"firehose/process/{other}"), type=Process) for other in range(size)
        ]
        return world

    def carry(self, device: torch.device) -> None:
        """From now on tensors are on this device. On CUDA they need NCCL."""
        if self.size > 1 and device.type == "cuda":
            self.group = dist.new_group(backend="nccl", timeout=LIMIT)

    def device(self, name: str) -> torch.device:
        """This rank's own device: of several processes on one machine each has its own GPU. Raises FirehoseError."""
        if self.size == 1 or not name.startswith("cuda"):
            return torch.device(name)
        found = torch.cuda.device_count()
        if self.local_rank >= found:
            raise FirehoseError(
                Exit.REFUSED,
                f"rank {self.rank} is the {self.local_rank + 1}th process of a machine with {found} GPUs",
                next=f"torchrun --nproc-per-node {found} -m trainer run CONFIG, or set train.device = 'cpu'",
            )
        return torch.device("cuda", self.local_rank)

    # Talk.

    def announce(self, thing: Any = None) -> Any:
        """`tell` for a launch: others wait as long as rank 0 lives, since to read all data may take it hours."""
        self.announced += 1
        name = f"firehose/announced/{self.announced}"
        if self.size == 1:
            return thing
        if self.first:
            self.store.set(name, json.dumps(thing))
        while not self.store.check([name]):
            if self.store.check([ENDED]) or 0 in self.gone():
                raise RuntimeError("connection to rank 0 lost while it launched the run")
            time.sleep(0.02)
        return json.loads(self.store.get(name))

    def tell(self, thing: Any) -> Any:
        """Rank 0's plain object (what JSON can hold) on all ranks; whatever the others give is not looked at."""
        if self.size == 1:
            return thing
        data = torch.frombuffer(bytearray(json.dumps(thing).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0)
        if not self.first:
            data = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, 0)
        return json.loads(data.numpy().tobytes())

    def mean_(self, tensor: Tensor) -> Tensor:
        """Average a tensor over the ranks, in place; bit for bit the same on all of them."""
        return self.sum_(tensor).div_(self.size) if self.size > 1 else tensor

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def begin_sum(self, tensor: Tensor) -> "dist.Work":
        """Begin to add a tensor up over the ranks, in place; `wait` of what is given back ends it."""
        work: dist.Work = dist.all_reduce(tensor, group=self.group, async_op=True)
        return work

    def agree(self, digest: bytes, what: str) -> None:
        """Compare a digest over the ranks. Raises FirehoseError on all of them, naming those that differ from rank 0."""
        if self.size == 1:
            return
        own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        others = [str(rank) for rank, theirs in enumerate(found) if not torch.equal(theirs, found[0])]
        if others:
            raise (FirehoseError if self.first else Elsewhere)(
                Exit.UNEXPECTED,
                f"the ranks disagree on {what}: {', '.join(others)} of {self.size} differ from rank 0",
                changed="nothing since the last commit",
                next="run the same command again to go on from the last checkpoint; if it happens again, the machines "
                "may have different versions or data, or one of them faulty memory",
            )

    def rows(self, count: int) -> tuple[slice, float]:
        """This rank's part of `count` rows, and the weight that makes the mean over ranks the mean over rows.

        A rank whose part is empty takes one row, with weight 0: ranks that share a model's shards must step together.
        """
        begin, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        if begin == end:
            return slice(0, 1), 0.0
        return slice(begin, end), (end - begin) * self.size / count

    # The end.

    @contextlib.contextmanager
    def talking(self) -> Iterator[None]:
        """Turn what a group says of a rank that is gone into a FirehoseError: the other rank's own, where it left word."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(word in str(error).lower() for word in TRANSPORT):
                raise
            raise self._lost(error) from error

    def check(self) -> None:
        """Raise the RuntimeError that a group's transport would, where a rank's process is no more.

        NCCL's kernels wait for it in silence.
        """
        if gone := self.gone():
            raise RuntimeError(f"connection to rank {', '.join(map(str, gone))} lost")

    def gone(self) -> list[int]:
        """The ranks whose processes are no more, as far as that can be seen from this machine."""
        return [rank for rank, process in enumerate(self.peers) if process.alive() is False]

    def _lost(self, error: RuntimeError) -> FirehoseError:
        """Why the others are out of reach: the word that one left, or else who is gone.

        The first living rank says the latter, and leaves word of it; the others wait for that.
        """
        deadline = time.monotonic() + WORD_SECONDS
        with contextlib.suppress(RuntimeError):  # the store may be out of reach as well
            while time.monotonic() < deadline:
                if self.store.check([ENDED]):
                    return Elsewhere(**json.loads(self.store.get(ENDED)))
                gone = self.gone()
                if gone and all(rank in gone for rank in range(self.rank)):
                    break
                time.sleep(0.05)
        who = ", ".join(map(str, self.gone()))
        return FirehoseError(
            Exit.UNEXPECTED,
            f"rank {who} of {self.size} is gone, and the others cannot go on: {first_sentence(error)}"
            if who
            else f"rank {self.rank} of {self.size} is out of touch with the others: {first_sentence(error)}",
            changed="nothing since the last commit; every file is whole",
            next="run the same command again to go on from the last checkpoint",
        )

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Part: together where all went well; else leave word why, so that it is said once and all end alike."""
        if self.size == 1:
            return
        if error is None:
            with contextlib.suppress(RuntimeError):  # whoever is gone by now is not needed any more
                self.tell(None)
        elif not isinstance(error, Elsewhere):
            self._leave_word(error)
        # A group whose rank is gone is left to the end of the process: NCCL would wait for it here.
        if error is None:
            dist.destroy_process_group()
        if isinstance(error, Elsewhere) and not self.first:
            raise SystemExit(int(error.exit_code))

    def _leave_word(self, error: BaseException) -> None:
        word = {
            "exit_code": int(Exit.UNEXPECTED),
            "message": f"rank {self.rank} ended: {first_sentence(error)}",
        }
        if isinstance(error, FirehoseError):
            named = error.as_dict()
            word = {"exit_code": named.pop("code"), **named}
            if not self.first:
                word["message"] = f"rank {self.rank} ended: {error.message}"
        with contextlib.suppress(RuntimeError):
            self.store.set(ENDED, json.dumps(word))


class Elsewhere(FirehoseError):
    """An error of another rank, told there; rank 0 tells it too, and all end with its exit code."""

    def __init__(self, exit_code: int, message: str, **named: Any) -> None:
        super().__init__(Exit(exit_code), message, **named)


def first_sentence(error: BaseException) -> str:
    """The first sentence of what an error says, without the place in a library's source that it begins with.

    >>> first_sentence(RuntimeError("[/gloo/pair.cc:537] Read error [10.0.0.2]:80: Connection reset by peer. This is odd."))
    'Read error [10.0.0.2]:80: Connection reset by peer'
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[[^]]*:\d+\] ", "", line).split(". ")[0].rstrip(".")
