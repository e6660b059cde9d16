"""Views: one arm as status and reports show it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.arms import ArmSpec, FloatArray, IntArray
from bandit.index import IndexParts


@dataclass(frozen=True, slots=True)
class ArmView:
    """One arm as it stands. share: of the pulls since the last restart. target: its share in the current dwell.

    share_low, share_high: the interval its bounds imply over the eligible set. pulls: lifetime. mean_reward: 0.5
    before any is counted. index: None for an arm with no pull to judge by, which comes first.
    """

    name: str
    id: int
    eligible: bool
    weight: float
    cap: float
    floor: float
    share: float
    target: float
    share_low: float
    share_high: float
    pulls: int
    epochs: float
    coverage: float
    mean_reward: float
    index: float | None


def arm_views(
    specs: Sequence[ArmSpec], cursors: IntArray, columns: Mapping[str, NDArray[Any]]
) -> list[ArmView]:
    """The views of arms, from their cursors (arms,) and the scheduler's columns (arms,); an infinite index is None."""
    windows = np.array([spec.windows for spec in specs], dtype=np.int64)
    epochs = np.where(windows > 0, cursors / np.maximum(1, windows), 0.0)
    read = {**columns, "epochs": epochs, "coverage": np.minimum(1.0, epochs)}
    rows = zip(*(column.tolist() for column in read.values()), strict=True)
    views = []
    for spec, row in zip(specs, rows, strict=True):
        state = dict(zip(read, row, strict=True))
        index = state.pop("index")
        views.append(
            ArmView(
                name=spec.name,
                id=spec.id,
                cap=spec.cap,
                floor=spec.floor,
                index=index if math.isfinite(index) else None,
                **state,
            )
        )
    return views


@dataclass(frozen=True, slots=True)
class Working:
    """How a choice came about at the pick of `step`: references to what was computed anyway, and a copy.

    rows: of the awake arms. parts: of the index, all arms. cursor: windows served, all arms. own: further columns of
    the awake arms (of a mixture: raw weights, the same repeated, floors as they bound).
    """

    step: int
    rows: IntArray
    parts: IndexParts
    cursor: IntArray
    own: dict[str, FloatArray]

    def as_dict(self, arms: int) -> dict[str, Any]:
        """`step`, and a plain column of `arms` values for each number; None where it is infinite or not known."""
        whole = {
            "index": self.parts.index,
            "mean": self.parts.mean,
            "by_variance": self.parts.variance_width,
            "by_range": self.parts.range_width,
            "pulls": self.parts.pulls,
            "cursor": self.cursor,
        }
        columns = {
            key: [value if math.isfinite(value) else None for value in column.tolist()]
            for key, column in whole.items()
        }
        for key, column in self.own.items():
            awake = dict(zip(self.rows.tolist(), column.tolist(), strict=True))
            columns[key] = [awake.get(row) for row in range(arms)]
        return {"step": self.step, **columns}


def working(step: int, rows: IntArray, parts: IndexParts, cursor: IntArray, **own: FloatArray) -> Working:
    """A `Working` that later picks do not change."""
    return Working(step, rows, parts, cursor.copy(), own)
