"""Files of every version that was ever written still open, mean the same, and are written anew only by a commit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from curriculum.errors import Exit
from state.envelope import (
    VERSION,
    SealBroken,
    canonical,
    open_envelope,
    open_plain,
    open_unsealed,
    seal,
)
from state.findings import FindingError
from state.migrate import MIGRATIONS, changes, upgrade
from state.store import StateStore

STATES = Path(__file__).parents[1] / "fixtures/states"
VERSIONS = sorted(int(path.name[1:]) for path in STATES.glob("v*"))
PLAIN, PACKED, CHECKPOINT = "plain.state.json", "packed.state.json", "checkpoint.json"
needs_header = [version for version in VERSIONS if version > 1]


def body_of(version: int, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STATES / f"v{version}" / name).read_bytes())
    return found["state"] if name == CHECKPOINT else found


def records(payload: dict[str, Any]) -> list[dict[str, Any]]:
    put_aside = [entry["record"] for entry in payload["pruned"].values()]
    return [*payload["bandit"]["arms"].values(), *put_aside]


def test_every_version_has_its_files_and_every_step_up_is_told() -> None:
    assert list(range(1, VERSION + 1)) == VERSIONS
    assert sorted(MIGRATIONS) == VERSIONS[1:]
    assert len(changes(1, VERSION)) == VERSION - 1 and all("\n" not in line for line in changes(1, VERSION))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [PLAIN, PACKED])
def test_a_file_of_each_version_opens_as_one_of_this(version: int, name: str) -> None:
    path = STATES / f"v{version}" / name
    opened = open_envelope(path.read_bytes(), path)
    assert opened.version == VERSION
    was, payload = body_of(version, name), opened.payload
    for field in ("lineage", "serial", "step", "written_at", "config_sha256"):
        assert getattr(opened, field) == was[field]
    assert payload["bandit"]["step"] == was["payload"]["bandit"]["step"]
    assert not any("last_step" in record for record in records(payload))
    assert len(records(payload)) == len(was["payload"]["pruned"]) + (1001 if name == PACKED else 2)
    again = open_envelope(seal(opened), path)
    assert again == opened and seal(again) == seal(opened), "it is sealed as of this version"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoints_copy_of_each_version_opens_too(version: int) -> None:
    body = body_of(version, CHECKPOINT)
    before = canonical(body)
    opened = open_plain(body, Path(CHECKPOINT))
    assert canonical(body) == before, "what was handed in is not changed"
    state = STATES / f"v{version}" / PLAIN
    assert opened == open_envelope(state.read_bytes(), state)


def test_version_1_loses_last_step_and_nothing_else() -> None:
    was = body_of(1, PLAIN)
    before = canonical(was)
    assert all("last_step" in record for record in records(was["payload"]))
    opened = open_envelope((STATES / "v1" / PLAIN).read_bytes(), Path(PLAIN))
    assert canonical(was) == before
    for record in records(was["payload"]):
        del record["last_step"]
    assert opened.payload == was["payload"]
    packed = upgrade(body_of(1, PACKED), 2)["payload"]["bandit"]["packed"]["columns"]
    columns = body_of(1, PACKED)["payload"]["bandit"]["packed"]["columns"]
    assert columns.keys() - packed.keys() == {"i:last_step"}
    assert all(packed[key] == columns[key] for key in packed)


@pytest.mark.parametrize(
    "payload", [{}, {"bandit": 3, "pruned": []}, {"bandit": {"arms": {"a": 1}}, "pruned": {"b": 2}}]
)
def test_a_payload_of_no_known_form_is_carried_over(payload: dict[str, Any]) -> None:
    body = {**body_of(1, PLAIN), "payload": payload}
    body["payload_sha256"] = hashlib.sha256(canonical(payload)).hexdigest()
    assert open_plain(body, Path(PLAIN)).payload == payload


@pytest.mark.parametrize("version", VERSIONS)
def test_damage_to_a_file_of_each_version_is_noticed(version: int) -> None:
    data = (STATES / f"v{version}" / PLAIN).read_bytes()
    edited = data.replace(b'"cursor": ', b'"cursor": 1', 1)
    assert edited != data
    with pytest.raises(SealBroken) as caught:
        open_envelope(edited, Path(PLAIN))
    assert caught.value.differs == ("payload",)
    read, differs = open_unsealed(edited, Path(PLAIN))
    assert differs == ("payload",) and open_envelope(seal(read), Path(PLAIN)) == read
    moved = data.replace(b'  "step": 40,\n  "version"', b'  "step": 39,\n  "version"', 1)
    assert moved != data
    if version in needs_header:
        with pytest.raises(SealBroken):
            open_envelope(moved, Path(PLAIN))
    else:
        assert open_envelope(moved, Path(PLAIN)).step == 39, "version 1 could not tell"


@pytest.mark.parametrize("version", VERSIONS)
def test_reading_changes_no_file_and_a_commit_writes_this_version(version: int, tmp_path: Path) -> None:
    data = (STATES / f"v{version}" / PLAIN).read_bytes()
    path = tmp_path / "tiny.state.json"
    path.write_bytes(data)
    store = StateStore(path)
    current, findings = store.read()
    assert current is not None and findings == [] and path.read_bytes() == data
    new = store.commit(current.payload, step=current.step, config_sha256=current.config_sha256)
    assert json.loads(path.read_bytes())["version"] == VERSION
    assert (new.serial, new.payload, new.lineage) == (current.serial + 1, current.payload, current.lineage)
    assert store.versions()[-1][1].read_bytes() == data, "the old file is kept as it was"


def test_a_later_version_is_refused_by_all_who_read_and_left_as_it_is(tmp_path: Path) -> None:
    body = {**body_of(VERSION, PLAIN), "version": VERSION + 1, "header_sha256": "0" * 64}
    path = tmp_path / "tiny.state.json"
    path.write_text(json.dumps(body))
    data = path.read_bytes()
    for read in (
        lambda: open_envelope(data, path),
        lambda: open_unsealed(data, path),
        lambda: open_plain(body, path),
        lambda: StateStore(path).read(),
    ):
        with pytest.raises(FindingError) as caught:
            read()
        assert (caught.value.exit_code, caught.value.finding.id) == (Exit.NEWER_SCHEMA, "F0012")
    assert path.read_bytes() == data
