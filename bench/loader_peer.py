"""One peer of bench/loader.py, in the environment of bench/peers/loader.txt: its edits, pick, state and resume, as JSON.

    python bench/loader_peer.py NAME

Each source is whole numbers in order, so that a sample says where in its source it stands.
"""

import itertools
import json
import pickle
import statistics
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from loader_edits import AFTER, BEFORE, EDITS, judged

STRIDE = 10_000_000  # source number k holds k STRIDE, k STRIDE + 1, ...
NAMES = {"a": 0, "b": 1, "c": 2, "d": 3}
TIMED = 20_000  # samples of a block
POSITIONS = (1000, 100_000)  # samples before a resume that is timed


class TorchdataNodes:
    """MultiNodeWeightedSampler over nodes that count, and go on where they were in constant time."""

    package = "torchdata"

    def __init__(self, weights: dict[str, float], length: int) -> None:
        from torchdata.nodes import IterableWrapper, MultiNodeWeightedSampler

        nodes = {name: IterableWrapper(Numbers(first_of(name), length)) for name in weights}
        self.mixer = MultiNodeWeightedSampler(nodes, weights, seed=0)

    def begin(self, state: Any = None) -> Iterator[int]:
        self.mixer.reset(state)
        return iter(self.mixer.next, None)

    def state(self) -> Any:
        return self.mixer.state_dict()


class Numbers:
    """Numbers of one source, and the place in them."""

    def __init__(self, first: int, length: int) -> None:
        self.first, self.length, self.at = first, length, 0

    def __iter__(self) -> Iterator[int]:
        while self.at < self.length:
            self.at += 1
            yield self.first + self.at - 1
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class GrainDict:
    """IterDataset.mix of a dict: the best peer on edits."""

    package = "grain"

    def __init__(self, weights: dict[str, float], length: int) -> None:
        import grain

        self.mixer = grain.IterDataset.mix(
            {name: numbers(name, length).to_iter_dataset() for name in weights}, weights
        )

    def begin(self, state: Any = None) -> Iterator[int]:
        self.iterator = iter(self.mixer)
        if state is not None:
            self.iterator.set_state(state)
        return self.iterator

    def state(self) -> Any:
        return self.iterator.get_state()


class GrainList(GrainDict):
    """IterDataset.mix of a list."""

    def __init__(self, weights: dict[str, float], length: int) -> None:
        import grain

        parts = [numbers(name, length).to_iter_dataset() for name in weights]
        self.mixer = grain.IterDataset.mix(parts, list(weights.values()))


class GrainMap(GrainDict):
    """MapDataset.mix, then an iterator."""

    def __init__(self, weights: dict[str, float], length: int) -> None:
        import grain

        parts = [numbers(name, length) for name in weights]
        self.mixer = grain.MapDataset.mix(parts, list(weights.values())).to_iter_dataset()


def numbers(name: str, length: int) -> Any:
    import grain

    first = first_of(name)
    return grain.MapDataset.range(first, first + length)


class HuggingFace:
    """interleave_datasets of iterable datasets."""

    package = "datasets"

    def __init__(self, weights: dict[str, float], length: int) -> None:
        from datasets import Dataset, interleave_datasets

        parts = []
        for name in weights:
            first = first_of(name)
            rows = Dataset.from_dict({"x": range(first, first + length)})
            parts.append(rows.to_iterable_dataset())
        total = sum(weights.values())
        shares = [weight / total for weight in weights.values()]
        self.mixer = interleave_datasets(
            parts, probabilities=shares, seed=0, stopping_strategy="first_exhausted"
        )

    def begin(self, state: Any = None) -> Iterator[int]:
        if state is not None:
            self.mixer.load_state_dict(state)
        return (row["x"] for row in self.mixer)

    def state(self) -> Any:
        return self.mixer.state_dict()


class Mosaic:
    """StreamingDataset of local MDS streams by proportion, not shuffled, so that a source has an order."""

    package = "mosaicml-streaming"
    written: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, weights: dict[str, float], length: int) -> None:
        if (
            "torchvision" not in sys.modules
        ):  # PyPI's does not load beside a CPU torch, and no image is read here
            for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
                sys.modules[name] = types.ModuleType(name)
                sys.modules[name].__spec__ = ModuleSpec(name, None)
            sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]
            sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
        from streaming import MDSWriter, Stream, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        streams = []
        for name, weight in weights.items():
            if (name, length) not in self.written:
                self.written[name, length] = tempfile.mkdtemp()
                with MDSWriter(out=self.written[name, length], columns={"x": "int"}) as out:
                    for number in range(first_of(name), first_of(name) + length):
                        out.write({"x": number})
            streams.append(
                Stream(local=self.written[name, length], proportion=weight / sum(weights.values()))
            )
        self.mixer = StreamingDataset(streams=streams, batch_size=1, shuffle=False)
        self.served = 0

    def begin(self, state: Any = None) -> Iterator[int]:
        if state is not None:
            self.mixer.load_state_dict(state)
        return self._counted()

    def _counted(self) -> Iterator[int]:
        for row in self.mixer:
            self.served += 1
            yield int(row["x"])

    def state(self) -> Any:
        return self.mixer.state_dict(self.served, from_beginning=False)


PEERS = {
    "torchdata nodes": TorchdataNodes,
    "grain Iter, dict": GrainDict,
    "grain Iter, list": GrainList,
    "grain Map": GrainMap,
    "HF interleave": HuggingFace,
    "MosaicML Streaming": Mosaic,
}

SLOW = (Mosaic, GrainMap)  # timed over a tenth of the samples


def first_of(name: str) -> int:
    return (NAMES[name] if name in NAMES else int(name)) * STRIDE


def edited(peer: Any, name: str) -> dict[str, Any]:
    """One edit played, or what the peer said instead."""
    sittings = EDITS[name]
    positions: dict[str, list[int]] = {}
    state, last = None, Counter()
    letters = {number: letter for letter, number in NAMES.items()}
    try:
        for number, weights in enumerate(sittings):
            mixer = peer(weights, 20_000)
            samples = mixer.begin(state)
            last = Counter()
            for sample in itertools.islice(samples, AFTER if number == len(sittings) - 1 else BEFORE):
                source = letters[sample // STRIDE]
                positions.setdefault(source, []).append(sample % STRIDE)
                last[source] += 1
            state = pickle.loads(pickle.dumps(mixer.state()))
    except Exception as error:  # whatever a peer raises is its answer
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
    return judged(positions, sittings[-1], last)


def pick_us(peer: Any, count: int) -> list[float]:
    """Processor microseconds a sample with `count` even sources, of five blocks."""
    mixer = peer({str(number): 1.0 / count for number in range(count)}, 60_000)
    samples = mixer.begin()
    times = []
    blocks = TIMED if peer not in SLOW else TIMED // 10
    next(samples)
    for _ in range(5):
        began = time.process_time()
        for _ in itertools.islice(samples, blocks):
            pass
        times.append((time.process_time() - began) / blocks * 1e6)
    return times


def state_of(peer: Any, count: int) -> dict[str, Any]:
    """Size of the pickled state with `count` sources, and microseconds to get and pickle it."""
    mixer = peer({str(number): 1.0 / count for number in range(count)}, 20_000)
    samples = mixer.begin()
    for _ in itertools.islice(samples, 1000):
        pass
    times = []
    for _ in range(50):
        began = time.process_time()
        data = pickle.dumps(mixer.state())
        times.append((time.process_time() - began) * 1e6)
    return {"bytes": len(data), "us": statistics.median(times)}


def resume_ms(peer: Any, after: int) -> float:
    """Processor milliseconds from a state after so many samples to the next sample, the mixture already made."""
    weights = dict.fromkeys(NAMES, 1.0)
    mixer = peer(weights, 60_000)
    samples = mixer.begin()
    for _ in itertools.islice(samples, after):
        pass
    state = pickle.loads(pickle.dumps(mixer.state()))
    del samples, mixer
    again = peer(weights, 60_000)
    began = time.process_time()
    next(again.begin(state))
    return (time.process_time() - began) * 1000


def tried(measure: Any, *arguments: Any) -> Any:
    try:
        return measure(*arguments)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}


def main() -> int:
    name, answer = sys.argv[1], Path(sys.argv[2])
    peer = PEERS[name]
    found: dict[str, Any] = {"name": name, "version": f"{peer.package} {version(peer.package)}"}
    parts = {
        "edits": lambda: {edit: edited(peer, edit) for edit in EDITS},
        "state": lambda: {count: tried(state_of, peer, count) for count in (3, 26)},
        "pick": lambda: {count: tried(pick_us, peer, count) for count in (3, 26)},
        "resume": lambda: {
            after: tried(resume_ms, peer, after if peer not in SLOW else after // 10) for after in POSITIONS
        },
    }
    for part, measure in parts.items():
        found[part] = measure()
        answer.write_text(json.dumps(found))  # what there is, should it end here
    return 0


if __name__ == "__main__":
    sys.exit(main())
