"""Reading a snapshot back: plain data that a person may have edited, each field checked and named when it is wrong."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.errors import SnapshotMismatch


class Record:
    """A JSON object and the place it was found at, for errors such as `arms.books.cursor: expected ...`."""

    def __init__(self, data: object, place: str = "") -> None:
        if not isinstance(data, dict):
            raise SnapshotMismatch(f"{place or 'snapshot'}: expected an object, found {data!r}")
        self.data: dict[str, Any] = data
        self.place = place

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def wrong(self, key: str, expected: str) -> SnapshotMismatch:
        """The error for a field; names the arm where the field is an arm's."""
        where = f"{self.place}.{key}" if self.place else key
        arm = self.place.removeprefix("arms.") if self.place.startswith("arms.") else None
        found = repr(self.data[key]) if key in self.data else "nothing"
        return SnapshotMismatch(f"{where}: expected {expected}, found {found}", arm=arm)

    def whole(self, key: str) -> int:
        value = self.data.get(key)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise self.wrong(key, "a whole number of at least 0")
        return value

    def number(self, key: str) -> float:
        value: Any = self.data.get(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.wrong(key, "a finite number")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        return None if key in self.data and self.data[key] is None else self.number(key)

    def flag(self, key: str) -> bool:
        value = self.data.get(key)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def table(self, key: str) -> "Record":
        if not isinstance(self.data.get(key), dict):
            raise self.wrong(key, "an object")
        return Record(self.data[key], f"{self.place}.{key}" if self.place else key)

    def rows(self, key: str) -> "list[Record]":
        value = self.data.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        place = f"{self.place}.{key}" if self.place else key
        return [Record(item, f"{place}[{number}]") for number, item in enumerate(value)]

    def key_as_id(self, key: str) -> int:
        if not key.isdecimal():
            raise self.wrong(key, "an arm id as the key")
        return int(key)


# Columns in which NaN stands for "none yet"; anywhere else it is an error that a writer must notice.
UNKNOWN_AT_FIRST = ("last_reward", "mean")


def dump_rows(columns: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, Any]]:
    """The rows of named columns (arms,) as plain data; a NaN of `UNKNOWN_AT_FIRST` as None."""
    keys, values = list(columns), []
    for key, column in columns.items():
        numbers: list[Any] = column.tolist()
        if key in UNKNOWN_AT_FIRST:
            numbers = [None if number != number else number for number in numbers]
        values.append(numbers)
    return (dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True))


def load_row(columns: Mapping[str, NDArray[Any]], row: int, record: Record) -> None:
    """The inverse of one row of `dump_rows`; None is taken where the column's own default for the row is NaN."""
    for key, column in columns.items():
        if column.dtype == np.bool_:
            column[row] = record.flag(key)
        elif column.dtype == np.int64:
            column[row] = record.whole(key)
        elif column[row] != column[row]:
            value = record.number_or_none(key)
            column[row] = np.nan if value is None else value
        else:
            column[row] = record.number(key)
