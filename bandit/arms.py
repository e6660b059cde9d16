"""Arms: what the bandit is told about each source, and the table that holds them, a column a property."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.errors import InvalidArms
from bandit.hashing import preference

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DEFAULT_CAP = 1.3
"""The largest weight there is: an arm in focus (1.0) times the largest coverage bonus (1.3)."""

ID_LIMIT = 1 << 48


def cells(column: NDArray[Any]) -> Any:
    """A view of an array for single numbers: several times faster than indexing it, and plain numbers come out."""
    return memoryview(column)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """One source as the bandit sees it.

    id: < 2^48, given once by `new_id` and kept through renames. windows: training windows of the source.
    cap, floor: bounds of the weight (1.0 = in focus). min_share, max_share: bounds of the share of pulls.
    """

    name: str
    id: int
    windows: int
    cap: float = DEFAULT_CAP
    floor: float = 0.0
    min_share: float = 0.0
    max_share: float = 1.0

    @property
    def pullable(self) -> bool:
        """False for an arm that no phase may pull: capped at 0, or without data."""
        return self.windows > 0 and self.cap > 0 and self.max_share > 0


def new_id(name: str, taken: Collection[int]) -> int:
    """A 48-bit id for a new arm, from the SHA-256 of its name; the next hash where that id is taken.

    >>> new_id("books", ()) == new_id("books", ()), new_id("books", ()) < 2**48
    (True, True)
    >>> new_id("books", {new_id("books", ())}) == new_id("books", ())
    False
    """
    attempt = 0
    while True:
        text = name if attempt == 0 else f"{name}\0{attempt}"
        identity = int.from_bytes(sha256(text.encode()).digest()[:6], "big")
        if identity not in taken:
            return identity
        attempt += 1


def bounds_record(spec: ArmSpec) -> dict[str, float]:
    """The part of an arm's record in a snapshot that comes from the configuration and the data."""
    return {
        "cap": spec.cap,
        "floor": spec.floor,
        "min_share": spec.min_share,
        "max_share": spec.max_share,
        "windows": spec.windows,
    }


def arm_problems(spec: ArmSpec) -> list[str]:
    """What is wrong with one arm taken alone, each in a sentence that begins with its name; empty when sound."""
    problems = []
    if not 0 <= spec.id < ID_LIMIT:
        problems.append(f"{spec.name}: id {spec.id} is outside [0, 2^48)")
    if spec.windows < 0:
        problems.append(f"{spec.name}: windows {spec.windows} is negative")
    bounds = {
        "cap": spec.cap,
        "floor": spec.floor,
        "min_share": spec.min_share,
        "max_share": spec.max_share,
    }
    for key, value in bounds.items():
        if not math.isfinite(value) or value < 0:
            problems.append(f"{spec.name}: {key} {value} is not a number of at least 0")
        elif key.endswith("_share") and value > 1:
            problems.append(f"{spec.name}: {key} {value} is above 1")
    if spec.floor > spec.cap:
        problems.append(f"{spec.name}: floor {spec.floor} is above cap {spec.cap}")
    if spec.min_share > spec.max_share:
        problems.append(f"{spec.name}: min_share {spec.min_share} is above max_share {spec.max_share}")
    return problems


class ArmTable:
    """The arms as columns, one row an arm, in the order of preference among equals: by a hash of (seed, id).

    So the first of equal maxima is the one to serve, and no pick has to look for ties. The order in which the caller
    lists the arms, and their names, reach no sum and no sort: picks are invariant to reordering and renaming.
    """

    def __init__(self, specs: Sequence[ArmSpec], seed: int = 0) -> None:
        place = {identity: at for at, identity in enumerate(preference(seed, [spec.id for spec in specs]))}
        self.specs = tuple(sorted(specs, key=lambda spec: place[spec.id]))
        self.ids = [spec.id for spec in self.specs]
        self.row = {identity: row for row, identity in enumerate(self.ids)}
        self.names = {spec.id: spec.name for spec in self.specs}
        for spec in self.specs:
            problems = arm_problems(spec)
            if problems:
                raise InvalidArms("; ".join(problems), arm=spec.name)
        seen: dict[str, ArmSpec] = {}
        for spec in self.specs:
            if spec.name in seen:
                raise InvalidArms(f"{spec.name}: two arms have this name", arm=spec.name)
            seen[spec.name] = spec
        holder: dict[int, ArmSpec] = {}
        for spec in specs:
            if spec.id in holder:
                first = holder[spec.id].name
                raise InvalidArms(f"{first} and {spec.name} share the id {spec.id}", arm=spec.name)
            holder[spec.id] = spec
        self.windows: IntArray = np.array([spec.windows for spec in self.specs], dtype=np.int64)
        self.cap: FloatArray = np.array([spec.cap for spec in self.specs], dtype=np.float64)
        self.floor: FloatArray = np.array([spec.floor for spec in self.specs], dtype=np.float64)
        self.min_share: FloatArray = np.array([spec.min_share for spec in self.specs], dtype=np.float64)
        self.max_share: FloatArray = np.array([spec.max_share for spec in self.specs], dtype=np.float64)
        self.columns: dict[str, NDArray[Any]] = {
            "id": np.array(self.ids, dtype=np.int64),
            "cap": self.cap,
            "floor": self.floor,
            "min_share": self.min_share,
            "max_share": self.max_share,
            "windows": self.windows,
        }
        self.pullable: BoolArray = np.array([spec.pullable for spec in self.specs], dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.specs)
