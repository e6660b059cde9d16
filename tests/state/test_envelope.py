"""The envelope tells a damaged state from a valid one, and reads back what was written to the bit."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.arms import ArmSpec
from bandit.scheduler import Scheduler, SchedulerConfig
from curriculum.errors import Exit
from state import envelope
from state.envelope import Parent, SealBroken, open_envelope, open_plain, open_unsealed, seal
from state.findings import FindingError

PATH = Path("demo.state.json")


def found(data: bytes) -> FindingError:
    with pytest.raises(FindingError) as caught:
        open_envelope(data, PATH)
    return caught.value


def test_the_file_has_the_fields_of_the_contract_sorted_and_indented(
    sealed: Any, payload: dict[str, Any]
) -> None:
    data = seal(sealed(payload, parent=Parent("0" * 8 + "-0000" * 3 + "-" + "0" * 12, 3, 10)))
    body = json.loads(data)
    assert list(body) == [
        *("config_sha256", "format", "header_sha256", "lineage", "parent", "payload", "payload_sha256"),
        *("serial", "step", "version", "written_at"),
    ]
    assert (body["format"], body["version"]) == ("firehose-state", 2)
    lines = data.decode().splitlines()
    assert lines[1].startswith('  "config_sha256": ') and lines[-1] == "}" and data.endswith(b"}\n")
    assert list(body["payload"]) == sorted(body["payload"])
    for record in body["payload"]["bandit"]["arms"].values():
        assert list(record) == sorted(record)
    assert sum(line.strip().startswith('"cap": ') for line in lines) == len(body["payload"]["bandit"]["arms"])
    compact = msgspec.json.encode(payload, order="sorted")
    assert body["payload_sha256"] == hashlib.sha256(compact).hexdigest()
    header = {key: body[key] for key in body if key not in ("payload", "header_sha256")}
    compact = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    assert body["header_sha256"] == hashlib.sha256(compact).hexdigest()
    assert open_envelope(data, PATH).payload == payload


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20), st.integers())
def test_numbers_come_back_to_the_bit(values: list[float], whole: int) -> None:
    made = envelope.make(
        {"x": values, "n": whole},
        lineage=envelope.new_lineage(),
        serial=1,
        step=0,
        written_at="",
        config_sha256="0" * 64,
    )
    back = open_envelope(seal(made), PATH)
    assert [value.hex() for value in back.payload["x"]] == [value.hex() for value in values]
    assert back.payload["n"] == whole
    assert seal(back) == seal(made)


def test_an_envelope_does_not_follow_later_changes_of_the_payload(sealed: Any) -> None:
    payload = {"arms": {"web": [1, 2]}}
    made = sealed(payload)
    payload["arms"]["web"].append(3)
    assert open_envelope(seal(made), PATH).payload == {"arms": {"web": [1, 2]}}


@pytest.mark.parametrize(
    ("old", "new", "id"),
    [
        ('"cap": 1.3', '"cap": 1.2', "F0002"),
        ('"cap": 1.3', '"cap": 1e999', "F0008"),
        ('"cap": 1.3', '"cap": NaN', "F0008"),
        ('"cap": 1.3', '"cap": 1.3, "cap": 1.3', "F0011"),
        ('"cap": 1.3', '"cap" 1.3', "F0001"),
        ('"format": "firehose-state"', '"format": "other"', "F0001"),
        ('"version": 2', '"version": 0', "F0001"),
        ('"version": 2', '"version": 1', "F0001"),
        ('"version": 2', '"version": true', "F0001"),
        ('"version": 2', '"version": 2.0', "F0001"),
        ('"version": 2', '"version": 3', "F0002"),
        ('"version": 2', '"version": 2, "extra": 1', "F0001"),
        ('"parent": null,', "", "F0002"),
        ('"serial": 7', '"serial": 8', "F0002"),
        ('"written_at": "2026', '"written_at": "2027', "F0002"),
        ('"serial": 7', '"serial": "7"', "F0001"),
        ('"serial": 7', '"serial": 0', "F0001"),
    ],
)
def test_each_damage_has_its_finding(
    sealed: Any, payload: dict[str, Any], old: str, new: str, id: str
) -> None:
    text = seal(sealed(payload)).decode()
    assert old in text
    error = found(text.replace(old, new, 1).encode())
    assert (error.finding.id, error.exit_code, error.path) == (id, Exit.DAMAGED, str(PATH))
    if id == "F0008":
        assert error.finding.message == "bandit.arms.books.cap" and error.arm == "books"


def test_an_envelope_inside_another_file_is_checked_alike(sealed: Any, payload: dict[str, Any]) -> None:
    made = sealed(payload)
    body = json.loads(seal(made))
    assert open_plain(body, PATH) == made
    body["payload"]["bandit"]["arms"]["books"]["cap"] = 1.2
    for bad, id in ((body, "F0002"), (None, "F0001"), ({**body, "step": -1}, "F0001")):
        with pytest.raises(FindingError, match=id):
            open_plain(bad, PATH)


def test_bytes_that_are_no_json_at_all(sealed: Any) -> None:
    data = seal(sealed())
    for bad in (
        b"",
        b"null",
        data[:-5],
        data + b"x",
        data.replace(b"a", b"\xff"),
        b"[" * 100_000,
        b"1" * 5000,
    ):
        assert found(bad).finding.id == "F0001"


def test_a_newer_schema_is_refused_whatever_else_it_holds(sealed: Any) -> None:
    data = seal(sealed()).replace(b'"version": 2', b'"version": 3, "unknown": []')
    error = found(data)
    assert (error.finding.id, error.exit_code) == ("F0012", Exit.NEWER_SCHEMA)


@pytest.mark.parametrize(
    ("edits", "differs"),
    [
        ((), ()),
        ((('"cap": 1.3', '"cap": 1.2'),), ("payload",)),
        ((('"serial": 7', '"serial": 8'),), ("header",)),
        ((('"version": 2', '"version": 9'),), ("header",)),
        (
            (('"cap": 1.3', '"cap": 1.2'), ('"step": 20,\n  "ver', '"step": 21,\n  "ver')),
            ("payload", "header"),
        ),
    ],
)
def test_a_file_that_was_edited_can_be_read_and_says_what_differs(
    sealed: Any, payload: dict[str, Any], edits: tuple[tuple[str, str], ...], differs: tuple[str, ...]
) -> None:
    text = seal(sealed(payload)).decode()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    if differs:
        error = found(text.encode())
        assert isinstance(error, SealBroken) and error.differs == differs
    read, differed = open_unsealed(text.encode(), PATH)
    assert differed == differs
    assert read.payload["bandit"]["arms"]["books"]["cap"] == (1.2 if "payload" in differs else 1.3)
    assert open_envelope(seal(read), PATH) == read, "its hashes are those of what it is now"


@pytest.mark.parametrize(
    ("old", "new", "id"),
    [
        ('"cap": 1.3', '"cap": NaN', "F0008"),
        ('"cap": 1.3', '"cap": 1.3, "cap": 1.2', "F0011"),
        ('"serial": 7', '"serial": -7', "F0001"),
        ('"version": 2', '"version": 3, "new": 1', "F0012"),
    ],
)
def test_reading_without_the_seal_still_checks_the_rest(
    sealed: Any, payload: dict[str, Any], old: str, new: str, id: str
) -> None:
    with pytest.raises(FindingError, match=id):
        open_unsealed(seal(sealed(payload)).decode().replace(old, new, 1).encode(), PATH)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_field_and_arm(
    sealed: Any, payload: dict[str, Any], value: float
) -> None:
    record = payload["bandit"]["arms"]["code"]
    for place, path in (
        (record, "bandit.arms.code.reward_sum"),
        (payload["reward"][str(record["id"])], f"reward.{record['id']}.fast"),
    ):
        key = path.rpartition(".")[2]
        before, place[key] = place[key], value
        with pytest.raises(FindingError) as caught:
            sealed(payload)
        place[key] = before
        assert path in caught.value.message and caught.value.finding.id == "F0008"
        assert (caught.value.arm, caught.value.exit_code) == ("code", Exit.WRITE_FAILED)
        assert caught.value.changed.startswith("nothing")


@pytest.mark.parametrize("count", [3, 1001])
def test_a_number_of_the_bandit_itself_is_refused_before_it_becomes_null(sealed: Any, count: int) -> None:
    arms = [ArmSpec(f"source-{at}", at, windows=10) for at in range(1, count + 1)]
    scheduler = Scheduler(SchedulerConfig(seed=1, grad_accum=2, windows_per_pull=1, delay=1), arms)
    sealed({"bandit": scheduler.saved()})
    scheduler._estimator.reward_sum[1] = math.nan
    with pytest.raises(FindingError, match=r"F0008.*reward_sum") as caught:
        sealed({"bandit": scheduler.saved()})
    assert caught.value.arm == scheduler.arms.specs[1].name


def test_a_key_that_json_would_turn_into_a_string_is_refused(sealed: Any) -> None:
    with pytest.raises(TypeError, match=r"key 3 at reward is not a string"):
        sealed({"reward": {3: 1.0}})


def test_half_a_surrogate_pair_is_kept(sealed: Any) -> None:
    """A path that is no UTF-8 may stand in a reason; it must not end a run."""
    made = sealed({"pruned": {"books": {"reason": "gone: /data/\udcff.btok"}}})
    assert open_envelope(seal(made), PATH).payload == made.payload
    assert made.payload["pruned"]["books"]["reason"].endswith("\udcff.btok")


def test_a_packed_bandit_comes_back_with_its_records(sealed: Any) -> None:
    arms = [ArmSpec(name, at, windows=10) for at, name in enumerate(("books", "code", "web"), start=1)]
    scheduler = Scheduler(SchedulerConfig(seed=1, grad_accum=2, windows_per_pull=1, delay=1), arms)
    scheduler.pick(1)
    made = sealed({"bandit": scheduler.packed(text=True)})
    assert "packed" in made.payload["bandit"]
    opened = open_envelope(seal(made), PATH)
    assert opened.payload["bandit"] == scheduler.snapshot()
    assert open_envelope(seal(opened), PATH) == opened


def test_a_subclass_of_a_plain_type_is_written_as_its_plain_self(sealed: Any) -> None:
    class Version(str):
        """As torch.__version__ is."""

    made = sealed({"platform": {"torch": Version("2.9")}})
    assert open_envelope(seal(made), PATH).payload == {"platform": {"torch": "2.9"}}
    with pytest.raises(TypeError, match="cannot be written"):
        sealed({"platform": {1, 2}.__iter__()})
