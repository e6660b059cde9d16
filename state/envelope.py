"""The envelope round a run's state: who wrote it, when, and a hash that tells a damaged payload from a valid one.

A state file is one JSON object, keys sorted, indented by two, so that it diffs. Beside the fields of `Envelope`,
the payload may hold `edits`: the changes operators made by command, in order, each
`{"serial": n, "what": "set web.cap = 0.3", "changes": [{"path": ["bandit", "arms", "web", "cap"], "value": 0.3}]}`,
where a change without `value` removes what stands at its path. A resume that must go back to a checkpoint's copy
applies again those that came later (`state.settle`).
"""

import hashlib
import json
import math
import uuid
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from curriculum.errors import Exit, FirehoseError
from state.findings import FindingError, finding

FORMAT, VERSION = "firehose-state", 1
HOLDS_FLOATS = (float, dict, list, tuple)

Lineage = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Serial = Annotated[int, Meta(ge=1)]
Step = Annotated[int, Meta(ge=0)]


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state that a new lineage was made from, by a pivot or a restore."""

    lineage: Lineage
    serial: Serial
    step: Step


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One committed state.

    lineage: UUID, new at creation and at every pivot. serial: grows by at least 1 with every commit and never goes
    back, so it is the file's own clock; serials are compared only inside one lineage. step: the last step the payload
    knows of. written_at: UTC, RFC 3339. config_sha256: digest of the effective config. payload_sha256: SHA-256 of
    `canonical(payload)`.
    """

    lineage: Lineage
    serial: Serial
    step: Step
    written_at: str
    config_sha256: Digest
    payload_sha256: Digest
    payload: dict[str, Any]
    parent: Parent | None = None
    format: str = FORMAT
    version: int = VERSION


class DuplicateKey(ValueError):
    """A JSON object names a key twice; plain decoders keep the last one and say nothing."""


def new_lineage() -> str:
    """A fresh lineage id."""
    return str(uuid.uuid4())


def _base(value: Any) -> Any:
    """A value of a subclass of a plain type, as `torch.__version__` is, as its plain self."""
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(f"{value!r} cannot be written as JSON")


def canonical(payload: Any) -> bytes:
    """Compact JSON with sorted keys: the bytes that are hashed. Numbers must be finite (`non_finite`).

    >>> canonical({"b": 0.1, "a": [1, None]})
    b'{"a":[1,null],"b":0.1}'
    """
    try:
        return msgspec.json.encode(payload, enc_hook=_base, order="sorted")
    except UnicodeEncodeError:  # half a surrogate pair, as a path that is no UTF-8 brings along: escaped
        return json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def non_finite(value: Any, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Path of the first NaN or infinity in nested dicts and lists, or None.

    Raises TypeError on a key that is not a string: JSON would turn it into one, and it would come back different.

    >>> non_finite({"arms": {"web": {"mean": [0.5, float("nan")]}}})
    ('arms', 'web', 'mean', '1')
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} at {'.'.join(path) or 'the top'} is not a string")
            if isinstance(item, HOLDS_FLOATS) and (found := non_finite(item, (*path, key))):
                return found
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if isinstance(item, HOLDS_FLOATS) and (found := non_finite(item, (*path, str(index)))):
                return found
    return None


def arm_at(path: tuple[str, ...], payload: dict[str, Any]) -> str | None:
    """Name of the arm that a path inside the payload belongs to: by its name, or by its id as reward records have it."""
    bandit = payload.get("bandit")
    arms = bandit.get("arms") if isinstance(bandit, dict) else None
    known: dict[str, str] = {}
    for records in (payload.get("pruned"), arms):
        if isinstance(records, dict):  # a damaged payload may hold anything
            ids = {
                str(record.get("id")): name for name, record in records.items() if isinstance(record, dict)
            }
            known |= ids | {name: name for name in records}
    return next((known[part] for part in path if part in known), None)


def make(
    payload: dict[str, Any],
    *,
    lineage: str,
    serial: int,
    step: int,
    written_at: str,
    config_sha256: str,
    parent: Parent | None = None,
    path: Path | None = None,
) -> Envelope:
    """An envelope round a copy of the payload, exactly as a reader will get it.

    Raises FindingError(WRITE_FAILED, F0008) naming field and arm where a number is not finite: JSON has no such number.
    """
    if where := non_finite(payload):
        field, arm = ".".join(where), arm_at(where, payload)
        raise FindingError(
            Exit.WRITE_FAILED,
            finding("F0008", f"{field} is not a finite number, so the state cannot be written", arm=arm),
            path=path,
            changed="nothing: the state before it is as it was",
        )
    text = canonical(payload)
    return Envelope(
        lineage=lineage,
        serial=serial,
        step=step,
        written_at=written_at,
        config_sha256=config_sha256,
        payload_sha256=hashlib.sha256(text).hexdigest(),
        payload=_decoded(text),
        parent=parent,
    )


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        decoded: dict[str, Any] = msgspec.json.decode(text)
    except msgspec.DecodeError:  # an escaped half of a surrogate pair
        decoded = json.loads(text)
    return decoded


def seal(envelope: Envelope) -> bytes:
    """The bytes of a state file. Equal envelopes give equal bytes; floats read back bit for bit."""
    body = msgspec.to_builtins(envelope)
    try:
        return msgspec.json.format(canonical(body), indent=2) + b"\n"
    except msgspec.DecodeError:  # an escaped half of a surrogate pair
        return (json.dumps(body, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def open_envelope(data: bytes, path: Path) -> Envelope:
    """Check and read the bytes of a state file.

    A bandit that was written packed (`bandit.packed`) comes back with its records.
    Raises FindingError: F0001 unreadable, F0002 hash mismatch, F0008 non-finite value, F0011 duplicate key (all with
    Exit.DAMAGED), F0012 newer schema (Exit.NEWER_SCHEMA). The file is never touched.
    """
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique)
    except DuplicateKey as error:
        raise _damaged("F0011", str(error), path) from None
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, endless digits or brackets
        raise _damaged("F0001", str(error), path) from None
    return open_plain(body, path)


def open_plain(body: Any, path: Path) -> Envelope:
    """As `open_envelope`, for an envelope that stands decoded inside another JSON file, as in a checkpoint's."""
    try:
        return _checked(body, path)
    except (ValueError, RecursionError) as error:  # a wrong type, endless brackets
        raise _damaged("F0001", str(error), path) from None


def _checked(body: Any, path: Path) -> Envelope:
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"not a state file: its format is not {FORMAT!r}")
    version = body.get("version")
    if isinstance(version, int) and version > VERSION:
        raise FindingError(
            Exit.NEWER_SCHEMA,
            finding("F0012", f"version {version}; this program knows {VERSION}", fix="upgrade firehose"),
            path=path,
        )
    if version != VERSION:
        raise ValueError(f"version {version!r} was never written")
    envelope = msgspec.convert(body, Envelope)
    if where := non_finite(envelope.payload):
        raise _damaged("F0008", ".".join(where), path, arm_at(where, envelope.payload))
    if hashlib.sha256(canonical(envelope.payload)).hexdigest() != envelope.payload_sha256:
        raise _damaged("F0002", "the payload is not what was written: edited by hand, or damaged", path)
    bandit = envelope.payload.get("bandit")
    if isinstance(bandit, dict) and "packed" in bandit:
        from bandit.packed import expand  # here: numpy takes 0.1 s, paid only by states of thousands of arms

        envelope.payload["bandit"] = expand(bandit)
    return envelope


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise DuplicateKey(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def _damaged(id: str, message: str, path: Path, arm: str | None = None) -> FirehoseError:
    return FindingError(Exit.DAMAGED, finding(id, message, arm=arm), path=path)
