"""The envelope round a run's state: who wrote it, when, and hashes that tell a damaged file from a valid one.

A state file is one JSON object, keys sorted, indented by two, so that it diffs. Beside the fields of `Envelope`,
the payload may hold `edits`: the changes operators made by command, in order (`state.edits`). A resume that must go
back to a checkpoint's copy makes those that came later again (`state.settle`).

Files of older versions are checked by what their version has and come back as `state.migrate` makes them.
"""

import hashlib
import json
import math
import uuid
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import msgspec
from msgspec import Meta

from curriculum.errors import Exit, FirehoseError
from state.findings import FindingError, finding
from state.migrate import upgrade

FORMAT, VERSION = "firehose-state", 2
NO_DIGEST = "0" * 64
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
    `canonical(payload)`. header_sha256: the same of all other fields, so that a changed serial, step or date is noticed.
    """

    lineage: Lineage
    serial: Serial
    step: Step
    written_at: str
    config_sha256: Digest
    payload_sha256: Digest
    header_sha256: Digest
    payload: dict[str, Any]
    parent: Parent | None = None
    format: str = FORMAT
    version: int = VERSION


class SealBroken(FindingError):
    """F0002: the file is sound JSON of the right form, but not what was sealed.

    differs: "payload", "header" or both; a payload alone is what an edit by hand leaves. `open_unsealed` reads the file.
    """

    def __init__(self, differs: tuple[str, ...], path: Path) -> None:
        what = "neither the payload nor a field beside it is what was written"
        if differs == ("payload",):
            what = "the payload is not what was written: edited by hand, or damaged"
        elif differs == ("header",):
            what = "a field beside the payload is not what was written"
        super().__init__(Exit.DAMAGED, finding("F0002", what), path=path)
        self.differs = differs


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


def is_packed(bandit: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a payload's bandit is in columns rather than records (`bandit.packed`)."""
    return isinstance(bandit, dict) and "packed" in bandit


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
    where, arm = non_finite(payload), None
    if where:
        arm = arm_at(where, payload)
    elif is_packed(bandit := payload.get("bandit")):
        from bandit.packed import non_finite as packed_non_finite  # here: numpy, as in `_current`

        if bad := packed_non_finite(bandit):
            arm, column = bad
            where = ("bandit", "packed", column)
    if where:
        field = ".".join(where)
        raise FindingError(
            Exit.WRITE_FAILED,
            finding("F0008", f"{field} is not a finite number, so the state cannot be written", arm=arm),
            path=path,
            changed="nothing: the state before it is as it was",
        )
    text = canonical(payload)
    unsealed = Envelope(
        lineage=lineage,
        serial=serial,
        step=step,
        written_at=written_at,
        config_sha256=config_sha256,
        payload_sha256=hashlib.sha256(text).hexdigest(),
        header_sha256=NO_DIGEST,
        payload=_decoded(text),
        parent=parent,
    )
    return _with_header_hash(unsealed)


def _header_sha256(body: dict[str, Any]) -> str:
    """SHA-256 of a file's fields but the payload, whose own hash is among them, and this hash itself."""
    header = {key: value for key, value in body.items() if key not in ("payload", "header_sha256")}
    return hashlib.sha256(canonical(header)).hexdigest()


def _with_header_hash(envelope: Envelope) -> Envelope:
    fields = msgspec.structs.asdict(envelope)
    return msgspec.structs.replace(envelope, header_sha256=_header_sha256(fields))


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

    A bandit that was written packed (`bandit.packed`) comes back with its records; then, and where the file is of an
    older version, the hashes are those of what comes back.
    Raises FindingError: F0001 unreadable, F0002 hash mismatch (`SealBroken`), F0008 non-finite value, F0011 duplicate
    key (all with Exit.DAMAGED), F0012 newer schema (Exit.NEWER_SCHEMA). The file is never touched.
    """
    return open_plain(_parsed(data, path), path)


def open_plain(body: Any, path: Path) -> Envelope:
    """As `open_envelope`, for an envelope that stands decoded inside another JSON file, as in a checkpoint's."""
    return _checked(body, path, sealed=True)[0]


def open_unsealed(data: bytes, path: Path) -> tuple[Envelope, tuple[str, ...]]:
    """Read a state file whatever its hashes say: the envelope, with hashes that fit, and what differs from the sealed.

    That is none, one or both of "payload" and "header". Every other check is made, and raises as in `open_envelope`.
    """
    return _checked(_parsed(data, path), path, sealed=False)


def _parsed(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)
    except DuplicateKey as error:
        raise _damaged("F0011", str(error), path) from None
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, endless digits or brackets
        raise _damaged("F0001", str(error), path) from None


def _checked(body: Any, path: Path, *, sealed: bool) -> tuple[Envelope, tuple[str, ...]]:
    try:
        differs = _differs(body, path)
        if differs and sealed:
            raise SealBroken(differs, path)
        return _current(body, anew=bool(differs)), differs
    except (ValueError, RecursionError) as error:  # a wrong type, endless brackets
        raise _damaged("F0001", str(error), path) from None


def _differs(body: Any, path: Path) -> tuple[str, ...]:
    """Check an envelope's form by its own version; which of its parts are not what its hashes say.

    Raises ValueError and FindingError.
    """
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"not a state file: its format is not {FORMAT!r}")
    version = body.get("version")
    if type(version) is int and version > VERSION:
        if _header_sha256({**body, "version": VERSION}) == body.get("header_sha256"):
            return ("header",)  # sealed as this version: the number is what was changed
        raise FindingError(
            Exit.NEWER_SCHEMA,
            finding("F0012", f"version {version}; this program knows {VERSION}", fix="upgrade firehose"),
            path=path,
        )
    if type(version) is not int or version < 1:
        raise ValueError(f"version {version!r} was never written")
    if version == 1 and "header_sha256" in body:
        raise ValueError("version 1 has no header_sha256")
    form = body if version > 1 else {**body, "header_sha256": NO_DIGEST}
    envelope = msgspec.convert(form, Envelope)
    if where := non_finite(envelope.payload):
        raise _damaged("F0008", ".".join(where), path, arm_at(where, envelope.payload))
    differs = []
    if hashlib.sha256(canonical(envelope.payload)).hexdigest() != envelope.payload_sha256:
        differs.append("payload")
    if version > 1 and _header_sha256(body) != envelope.header_sha256:
        differs.append("header")
    return tuple(differs)


def _current(body: dict[str, Any], *, anew: bool) -> Envelope:
    """The envelope of a checked body, as this version has it, its bandit with records.

    anew: whether its hashes must be worked out anew, as they must for anything that is not what was sealed.
    """
    if body["version"] > VERSION:
        body = {**body, "version": VERSION}
    if body["version"] < VERSION:
        body, anew = {**upgrade(body, VERSION), "header_sha256": NO_DIGEST}, True
    if is_packed(bandit := body["payload"].get("bandit")):
        from bandit.packed import expand  # here: numpy takes 0.1 s, paid only by states of thousands of arms

        body = {**body, "payload": {**body["payload"], "bandit": expand(bandit)}}
        anew = True
    envelope = msgspec.convert(body, Envelope)
    if not anew:
        return envelope
    digest = hashlib.sha256(canonical(envelope.payload)).hexdigest()
    return _with_header_hash(msgspec.structs.replace(envelope, payload_sha256=digest))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise DuplicateKey(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def _damaged(id: str, message: str, path: Path, arm: str | None = None) -> FirehoseError:
    return FindingError(Exit.DAMAGED, finding(id, message, arm=arm), path=path)
