"""The packed form of a snapshot: columns instead of records, for more arms than anybody reads by eye.

Building and writing a record an arm takes seconds at 10,000 arms; a column is one copy. `expand` gives back the
records, so everything that reads a snapshot knows one form only.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.deal import Span
from bandit.errors import SnapshotMismatch
from bandit.snapshot import UNKNOWN_AT_FIRST

# How a column is stored, by numpy's kind: flags in a byte, numbers in eight, little-endian.
TYPES = {"b": "?", "i": "<i8", "f": "<f8"}


def pack_arms(names: Sequence[str], columns: Mapping[str, NDArray[Any]], *, text: bool) -> dict[str, Any]:
    """Names and columns (arms,) as plain data, a column under `kind:key`: bytes, or base64 where `text`.

    A column of one value throughout, as most bounds are, is that value; names are one text, a line each, where they can.
    """
    data = {f"{column.dtype.kind}:{key}": _column(column, text) for key, column in columns.items()}
    return {"names": names if any("\n" in name for name in names) else "\n".join(names), "columns": data}


def _column(column: NDArray[Any], text: bool) -> Any:
    if len(column) > 1 and (column == column[0]).all():
        return column[0].item()
    return _bytes(column, text)


def pack_spans(spans: Sequence[Span], *, text: bool) -> list[dict[str, Any]]:
    """The spans of open tickets; shares (arms,), caps (arms,) of an argmax, and who was awake (arms,)."""
    return [
        {
            "first": span.first,
            "awake": _column(span.awake, text),
            "shares": _column(span.shares, text),
            **({} if span.caps is None else {"caps": _column(span.caps, text)}),
        }
        for span in spans
    ]


def _bytes(column: NDArray[Any], text: bool) -> bytes | str:
    raw = column.astype(TYPES[column.dtype.kind], copy=False).tobytes()
    return base64.b64encode(raw).decode() if text else raw


def is_packed(snapshot: Mapping[str, Any]) -> bool:
    """Whether a snapshot holds columns rather than records."""
    return "packed" in snapshot


def expand(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The same snapshot with a record an arm, as `Scheduler.snapshot` gives it; one that is not packed comes back as it is.

    SnapshotMismatch naming the column that cannot be read.
    """
    if not is_packed(snapshot):
        return dict(snapshot)
    rest = {key: value for key, value in snapshot.items() if key not in ("packed", "deals")}
    try:
        names, columns = snapshot["packed"]["names"], snapshot["packed"]["columns"]
        names = names.split("\n") if isinstance(names, str) else names
        values = {key[2:]: _numbers(key[2:], data, key[0], len(names)) for key, data in columns.items()}
        keys = list(values)
        rows = (dict(zip(keys, row, strict=True)) for row in zip(*values.values(), strict=True))
        arms = dict(zip(names, rows, strict=True))
        if len(arms) < len(names):
            raise SnapshotMismatch("packed.names: a name stands twice")
        deals = [_span(span, values["id"]) for span in snapshot["deals"]]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise SnapshotMismatch(f"packed: cannot be read: {error!r}") from None
    return {"arms": arms, "deals": deals, **rest}


def non_finite(snapshot: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name of the first arm with a number that is not finite in a packed snapshot of text, and the field; or None."""
    names, columns = snapshot["packed"]["names"], snapshot["packed"]["columns"]
    names = names.split("\n") if isinstance(names, str) else names
    for key, data in columns.items():
        if key.startswith("f:") and isinstance(data, str):
            column = np.frombuffer(base64.b64decode(data), dtype=TYPES["f"])
            bad = np.isinf(column) if key[2:] in UNKNOWN_AT_FIRST else ~np.isfinite(column)
            if bad.any():
                return names[int(np.argmax(bad))], key[2:]
    return None


def _span(record: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    awake = _numbers("deals.awake", record["awake"], "b", len(ids))

    def by_id(key: str) -> dict[str, Any]:
        column = _numbers(f"deals.{key}", record[key], "f", len(ids))
        return {str(identity): value for identity, value, on in zip(ids, column, awake, strict=True) if on}

    return {"first": record["first"], **{key: by_id(key) for key in ("shares", "caps") if key in record}}


def _numbers(key: str, data: Any, kind: str, count: int) -> list[Any]:
    """A column's numbers; a NaN, which stands for "none yet", as None."""
    if isinstance(data, bool | int | float):
        return [data] * count
    try:
        raw = data if isinstance(data, bytes) else base64.b64decode(data, validate=True)
        values: list[Any] = np.frombuffer(raw, dtype=TYPES[kind]).tolist()
    except (ValueError, binascii.Error) as error:
        raise SnapshotMismatch(f"packed.{key}: cannot be read: {error}") from None
    if len(values) != count:
        raise SnapshotMismatch(f"packed.{key}: {len(values)} numbers for {count} arms")
    return [None if value != value else value for value in values] if kind == "f" else values
