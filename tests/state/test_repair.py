"""A real run damaged in every way that has a name: diagnosed by it, repaired as planned, clean after, undone byte for byte."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from curriculum.errors import Exit, FirehoseError
from curriculum.files import TEMPORARY
from state import envelope, explain, journal, story
from state.envelope import Parent
from state.journal import Transaction
from state.lock import RunLock
from state.operate.cli import state_app
from state.process import this_process
from state.recover import look
from state.repair import check, repair, salvage
from state.repair.validate import problems
from state.rows import TAIL, read_rows
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state

NOW = "2026-01-02T03:04:05Z"
OTHER = "0f9c2f66-7a55-4f0e-9d0f-6f5a5b9f2a11"
STATE = "tiny.state.json"
DEAD = ".tiny.state.json.999999999-0123abcd.tmp"
LAST = 24
Damage = Callable[[RunDir], Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped at step 24, with checkpoints of steps 20 and 24, and versions of steps 0, 10 and 20."""
    root = tmp_path_factory.mktemp("repair")
    config = tiny.make(root, ("steps = 60", "steps = 30")).path
    assert go(config, until=LAST)["exit"] == Exit.STOPPED
    return root


@pytest.fixture
def world(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base, tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def run(world: Path) -> RunDir:
    return RunDir(world / "runs/tiny")


def content(run: RunDir) -> dict[str, bytes]:
    """Every file that a repair may touch and an undo must bring back."""
    own = ("archive", "journal", run.history.name, run.versions.name)
    return {
        str(path.relative_to(run.root)): path.read_bytes()
        for path in sorted(run.root.rglob("*"))
        if path.is_file() and path.relative_to(run.root).parts[0] not in own
    }


def whole(run: RunDir) -> dict[str, bytes]:
    """Every file."""
    return {str(path): path.read_bytes() for path in sorted(run.root.rglob("*")) if path.is_file()}


# Damage.


def text(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(run: RunDir) -> None:
        path = run.root / name
        before = path.read_bytes()
        path.unlink()  # a version may be a hard link of it
        path.write_bytes(change(before))
        assert path.read_bytes() != before

    return damage


def by_hand(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """As an editor leaves the state: sound JSON, hashes as they were."""

    def edited(data: bytes) -> bytes:
        body = json.loads(data)
        change(body)
        return (json.dumps(body, sort_keys=True, indent=2) + "\n").encode()

    return text(STATE, edited)


def sealed(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Damage:
    """As a program with a defect leaves the state: sealed. change gets the payload and the fields of the header."""

    def remade(data: bytes) -> bytes:
        old = envelope.open_envelope(data, Path(STATE))
        payload = old.payload
        keys = ("lineage", "serial", "step", "written_at", "config_sha256", "parent")
        header = {key: getattr(old, key) for key in keys}
        change(payload, header)
        return envelope.seal(envelope.make(payload, **header))

    return text(STATE, remade)


def arm(name: str, **fields: Any) -> Callable[..., Any]:
    def change(payload: dict[str, Any], *_: Any) -> None:
        payload.get("payload", payload)["bandit"]["arms"][name].update(fields)

    return change


def config(old: str, new: str) -> Damage:
    """The run's own config changed, and the user's with it, as an edit of both would."""

    def damage(run: RunDir) -> None:
        for path in (run.config, run.root.parents[1] / "tiny.toml"):
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))

    return damage


def data_of(name: str) -> Callable[[RunDir], Path]:
    return lambda run: run.root.parents[1] / f"data/tiny/{name}.btok"


def rebuilt(run: RunDir) -> None:
    """A source's data is another: shorter by a few documents, built anew."""
    folder = run.root.parents[1]
    manifest = json.loads((folder / "data/tiny/manifest.json").read_bytes())
    first, second = (manifest["sources"][name]["train"] for name in ("alpha", "beta"))
    (folder / "data/tiny/beta.btok").write_bytes((folder / "data/tiny/alpha.btok").read_bytes())
    second |= {key: first[key] for key in ("bytes", "documents", "tokens", "sha256")}
    (folder / "data/tiny/manifest.json").write_text(json.dumps(manifest))


def grown(run: RunDir) -> None:
    """The state does not know a source that is configured."""

    def forget(payload: dict[str, Any], header: dict[str, Any]) -> None:
        identity = payload["bandit"]["arms"].pop("gamma")["id"]
        bandit = payload["bandit"]
        bandit["tickets"] = [ticket for ticket in bandit["tickets"] if ticket["arm"] != identity]
        for deal in bandit["deals"]:
            deal["shares"].pop(str(identity))
        payload["reward"].pop(str(identity))
        payload["data"].pop("gamma")
        payload["edited"] = []
        total = sum(record["served"] for record in bandit["arms"].values())
        for record in bandit["arms"].values():
            record["offered"] = total
        header["serial"] += 1

    sealed(forget)(run)


def hollow(data: bytes) -> bytes:
    """A checkpoint's copy of the state is damaged, and nothing else of it."""
    body = json.loads(data)
    arm("beta", pulls=1)(body["state"])
    return json.dumps(body).encode()


def zombie(run: RunDir) -> None:
    """An arm that no config has, as old states were full of them."""

    def add(payload: dict[str, Any], header: dict[str, Any]) -> None:
        arms = payload["bandit"]["arms"]
        arms["ghost"] = {**arms["gamma"], "id": 77, "pulls": 90_000, "cursor": 100}
        header["serial"] += 1

    sealed(add)(run)


def older_edit(run: RunDir) -> None:
    """The state of an older step was edited, and the weights have gone on."""
    old = envelope.open_envelope((run.versions / "3.json").read_bytes(), run.state)
    edit = {"serial": 9, "what": "rm gamma", "op": "rm", "args": {"arm": "gamma"}}
    keys = {"lineage": old.lineage, "step": old.step, "config_sha256": old.config_sha256}
    new = envelope.make({**old.payload, "edits": [edit]}, serial=9, written_at=NOW, **keys)
    run.state.write_bytes(envelope.seal(new))


def begun(run: RunDir) -> None:
    """A transaction that was cut right after it began."""
    tx = Transaction(run, "polish", "a change cut short", now=NOW)
    tx.put(run.root / "note.txt", b"done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_do", lambda *rest: None)
        tx.commit()
    assert run.journal.is_dir()


def leftovers(run: RunDir) -> None:
    (run.root / DEAD).write_text("half")
    (run.versions / DEAD).write_text("half")
    (run.checkpoints / "step_30.tmp-999999999").mkdir()
    (run.checkpoints / "step_30.tmp-999999999/model.safetensors").write_text("half")


def nan(field: str) -> Damage:
    import re

    pattern = rf'("alpha": \{{[^}}]*?"{field}": )[^,\n]+'.encode()
    return text(STATE, lambda data: re.sub(pattern, rb"\1NaN", data, count=1))


CASES: dict[str, tuple[set[str], Damage, dict[str, Any]]] = {
    "cut": ({"F0001"}, text(STATE, lambda data: data[: len(data) // 2]), {}),
    "zeros": ({"F0001"}, text(STATE, lambda data: b"\0" * len(data)), {}),
    "missing": ({"F0001"}, lambda run: run.state.unlink(), {}),
    "version": ({"F0001"}, text(f"{STATE}.d/2.json", lambda data: data[:99]), {}),
    "history": ({"F0001"}, text("history.jsonl", lambda data: b'{"event\n' + data), {}),
    "effective": ({"F0001"}, text("effective.json", lambda data: data[:99]), {}),
    "edited": ({"F0002"}, by_hand(arm("alpha", mean=0.9)), {}),
    "accepted": ({"F0002"}, by_hand(arm("alpha", mean=0.9)), {"accept_edit": True}),
    "header": ({"F0002"}, by_hand(lambda body: body.update(serial=40)), {}),
    "excluded": ({"F0003"}, config("probe_every = 7", 'probe_every = 7\nexclude_sources = ["gamma"]'), {}),
    "capped": ({"F0003"}, config('gamma.jsonl"', 'gamma.jsonl"\ncap = 0.0'), {}),
    "no data": ({"F0003", "F0004"}, lambda run: data_of("gamma")(run).unlink(), {}),
    "new data": ({"F0005"}, rebuilt, {}),
    "new source": ({"F0006"}, grown, {}),
    "drift": ({"F0007"}, config("cap = 0.8", "cap = 0.6"), {}),
    "nan": ({"F0008"}, nan("mean"), {}),
    "nans": ({"F0008"}, nan("cursor"), {}),
    "null": ({"F0002", "F0008"}, by_hand(arm("alpha", weight_sum=None)), {}),
    "pulls": ({"F0009"}, sealed(arm("alpha", pulls=1)), {}),
    "twice": ({"F0009"}, sealed(lambda p, h: arm("alpha", id=p["bandit"]["arms"]["beta"]["id"])(p)), {}),
    "ticket": ({"F0009"}, sealed(lambda p, h: p["bandit"]["tickets"].pop()), {}),
    "next ticket": ({"F0009"}, sealed(lambda p, h: p["bandit"].update(next_ticket=3)), {}),
    "stray": ({"F0009"}, sealed(lambda p, h: p["reward"].update({"77": {"pulls": 1, "fast": 1.0}})), {}),
    "zombie": ({"F0003"}, zombie, {}),
    "floor": ({"F0007", "F0010"}, sealed(lambda p, h: (arm("alpha", floor=0.9)(p), h.update(serial=9))), {}),
    "doubled": (
        {"F0011"},
        text(STATE, lambda d: d.replace(b'"halt": null', b'"halt": null,\n"halt": 1')),
        {},
    ),
    "newer": (
        {"F0012"},
        text(
            STATE, lambda d: d.replace(b'"version": 2', b'"version": 9').replace(b'"step": 24', b'"step": 25')
        ),
        {"discard_newer": True},
    ),
    "weights": ({"F0013"}, text("checkpoints/step_24/model.safetensors", lambda d: d[:-1] + b"\7"), {}),
    "gone": ({"F0013"}, lambda run: shutil.rmtree(run.checkpoints / "step_24"), {}),
    "old one": ({"F0013"}, text("checkpoints/step_20/checkpoint.json", lambda d: d[:99]), {}),
    "copy": ({"F0013"}, text("checkpoints/step_24/checkpoint.json", hollow), {}),
    "two stories": ({"F0013"}, sealed(lambda p, h: p["loop"].update(forgiven=2)), {}),
    "lineage": ({"F0014"}, sealed(lambda p, h: h.update(lineage=OTHER)), {}),
    "older edit": ({"F0014"}, older_edit, {}),
    "leftovers": ({"F0015"}, leftovers, {}),
    "journal": ({"F0015"}, begun, {}),
    "loss middle": ({"F0016"}, text("tiny.loss.json", lambda d: d[:99] + b"\0\0\0\0" + d[103:]), {}),
    "loss cut": ({"F0016"}, text("tiny.loss.json", lambda d: d[:300]), {}),
    "loss gone": ({"F0016"}, lambda run: run.loss.unlink(), {}),
    "pulls torn": ({"F0016"}, text("tiny.pulls.json", lambda d: d[:900] + b"~" * 300 + d[1200:]), {}),
    "sample cut": ({"F0016"}, text("tiny.samples.json", lambda d: d[:99]), {}),
}
QUIET = {"F0006", "F0015"}  # findings that the next launch clears, told as information


@pytest.mark.parametrize("name", CASES)
def test_damage_is_diagnosed_repaired_and_undone(name: str, run: RunDir) -> None:
    expected, damage, options = CASES[name]
    damage(run)
    before, every = content(run), whole(run)
    found = check.check(run)
    above = {one.id for one in found if one.severity != "info"}
    assert above == (expected if name == "journal" else expected - QUIET)
    assert expected <= {one.id for one in found}
    assert all(one.fix for one in found)

    dry = repair.plan(run, **options, now=lambda: NOW)
    assert whole(run) == every
    made = repair.plan(run, **options, now=lambda: NOW)
    assert made.actions == dry.actions
    assert dry.actions
    assert made.left == []
    repair.apply(made)

    after = [one for one in check.check(run) if one.severity != "info"]
    assert after == []
    assert repair.plan(run).actions == []
    seen = look(run, StateStore(run.state))
    assert (seen.findings, seen.damaged, seen.settled.source) == ([], [], "state")
    assert seen.state is not None
    assert seen.state.step == seen.settled.step

    journal.undo(run, None, now=NOW)
    undone = content(run)
    undone.pop("note.txt", None)
    assert undone == before
    if name not in ("journal", "history"):  # of what is finished or was noted, an undo takes nothing back
        assert check.check(run) == found


def test_a_damaged_pivot_is_not_taken_back(run: RunDir) -> None:
    """Before the first checkpoint of its lineage, a pivot's state is in the archive alone."""
    old = envelope.open_envelope(run.state.read_bytes(), run.state)
    parent = Parent(old.lineage, old.serial, old.step)
    keys = {"step": old.step, "written_at": NOW, "config_sha256": old.config_sha256, "parent": parent}
    tx = Transaction(run, "polish", "a pivot", now=NOW)
    new = envelope.make(old.payload, lineage=OTHER, serial=old.serial + 1, **keys)
    tx.put(run.state, envelope.seal(new))
    tx.keep(run.state, run.versions / f"{old.serial}.json")
    tx.commit()
    assert check.check(run) == []
    CASES["cut"][1](run)
    repair.apply(repair.plan(run))
    state = StateStore(run.state).read()[0]
    assert state is not None
    assert (state.lineage, state.parent) == (OTHER, parent)
    assert check.check(run) == []


def test_a_pivot_whose_own_checkpoints_are_lost_goes_on_from_its_first_state(run: RunDir) -> None:
    later = envelope.open_envelope(run.state.read_bytes(), run.state)
    (old,) = [one for _, one in check.examine(run).sound if one.step == 20]
    parent = Parent(old.lineage, old.serial, old.step)
    keys = {"written_at": NOW, "config_sha256": old.config_sha256, "parent": parent, "lineage": OTHER}
    first = envelope.make(old.payload, serial=later.serial + 1, step=old.step, **keys)
    tx = Transaction(run, "polish", "a pivot", now=NOW)
    tx.put(run.state, envelope.seal(first))
    tx.commit()
    gone_on = envelope.make(later.payload, serial=later.serial + 4, step=LAST, **keys)
    run.state.unlink()
    run.state.write_bytes(envelope.seal(gone_on))
    shutil.rmtree(run.checkpoints / f"step_{LAST}")
    assert "F0014" in {one.id for one in check.check(run)}
    made = repair.plan(run)
    assert any("steps 21 to 24 are given up" in action.what for action in made.actions)
    repair.apply(made)
    state = StateStore(run.state).read()[0]
    assert state is not None
    assert (state.lineage, state.parent, state.step, state.payload) == (OTHER, parent, 20, first.payload)
    assert [one for one in check.check(run) if one.severity != "info"] == []


LAUNCHED = ("effective", "accepted", "no data", "new source", "nan", "gone", "lineage", "pulls torn")


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_launch_goes_on_from_a_repaired_run(name: str, world: Path, run: RunDir) -> None:
    _, damage, options = CASES[name]
    damage(run)
    repair.apply(repair.plan(run, **options))
    serial = envelope.open_envelope(run.state.read_bytes(), run.state).serial
    assert go(world / "tiny.toml")["exit"] in (Exit.OK, Exit.ALARMS)
    state = the_state(world / "tiny.toml")
    assert state.step == 30
    assert state.serial > serial
    assert [row[0] for row in read_rows(run.loss)] == list(range(1, 31))


def test_a_repair_prunes_as_a_launch_would(world: Path, tmp_path: Path) -> None:
    """The picks and losses after it are the same bits."""
    shutil.copytree(world, tmp_path / "other")
    losses = []
    for root in (world, tmp_path / "other"):
        run = the_run(root / "tiny.toml")
        data_of("gamma")(run).unlink()
        if root == world:
            repair.apply(repair.plan(run))
            assert set(the_state(root / "tiny.toml").payload["bandit"]["arms"]) == {"alpha", "beta"}
        go(root / "tiny.toml")
        losses.append((run.loss.read_bytes(), run.pulls.read_bytes()))
    assert losses[0] == losses[1]


def test_a_run_is_explained_across_repairs(world: Path, run: RunDir) -> None:
    """A replay makes what a repair did where the run did, and nothing of one that was undone."""
    gamma = data_of("gamma")(run)
    gamma.rename(gamma.with_suffix(".kept"))
    repair.apply(repair.plan(run))
    journal.undo(run, None, now=NOW)
    gamma.with_suffix(".kept").rename(gamma)
    by_hand(arm("alpha", mean=0.9))(run)
    repair.apply(repair.plan(run, accept_edit=True))
    go(world / "tiny.toml")
    body = explain.verify(story.read(run))
    assert (body["found"], body["missing"]) == (body["picks"], [])


def test_rows_are_rebuilt_from_the_pulls(run: RunDir) -> None:
    before = run.loss.read_bytes()
    CASES["loss middle"][1](run)
    repair.apply(repair.plan(run))
    assert run.loss.read_bytes() == before


def test_what_is_lost_for_good_is_said_by_step(run: RunDir) -> None:
    lines = run.pulls.read_bytes().split(b"\n")
    run.pulls.write_bytes(b"\n".join([*lines[:7], b"~" * 50, *lines[8:]]))
    whats = [action.what for action in repair.plan(run).actions]
    assert "lost for good, pulls of steps 7" in whats


def test_one_bad_arm_does_not_lose_the_others(run: RunDir) -> None:
    """An edit that no checkpoint has, and a bad number in another arm: the edit stays, the arm is the sound copy's."""
    old = envelope.open_envelope(run.state.read_bytes(), run.state)

    def edit(payload: dict[str, Any], header: dict[str, Any]) -> None:
        arm("beta", weight_sum=9.0)(payload)
        header["serial"] += 1

    sealed(edit)(run)
    nan("weight_sum")(run)
    assert {one.arm for one in check.check(run)} == {"alpha"}
    repair.apply(repair.plan(run))
    arms = StateStore(run.state).read()[0].payload["bandit"]["arms"]  # type: ignore[union-attr]
    assert arms["beta"]["weight_sum"] == 9.0
    assert arms["alpha"]["weight_sum"] == old.payload["bandit"]["arms"]["alpha"]["weight_sum"]


def test_an_arm_without_a_sound_copy_keeps_its_counts_and_learns_anew(run: RunDir) -> None:
    body = json.loads(run.state.read_bytes())
    before = dict(body["payload"]["bandit"]["arms"]["alpha"])
    body["payload"]["bandit"]["arms"]["alpha"]["reward_sum"] = None
    done = salvage.mend(body["payload"], [], window=2)
    after = body["payload"]["bandit"]["arms"]["alpha"]
    assert (after["weight_sum"], after["mean"]) == (0.0, None)
    assert all(after[key] == before[key] for key in ("id", "cursor", "pulls", "windows", "served"))
    assert len(done) == 1
    assert "alpha" in done[0]


def test_a_torn_file_is_read_line_by_line(run: RunDir) -> None:
    data = run.state.read_bytes()
    lines = data.split(b"\n")
    at = next(number for number, line in enumerate(lines) if b'"beta": {' in line)
    lines[at + 2] = b"\xff\xfe torn"
    loose = salvage.read(b"\n".join(lines))
    assert loose is not None
    assert loose.payload is not None
    assert list(salvage.bad_arms(loose.payload)) == ["beta"]
    expected = json.loads(data)["payload"]["bandit"]["arms"]
    arms = loose.payload["bandit"]["arms"]
    assert all(arms[name] == expected[name] for name in ("alpha", "gamma"))


def test_only_some_findings(run: RunDir) -> None:
    leftovers(run)
    CASES["loss middle"][1](run)
    torn = run.loss.read_bytes()
    made = repair.plan(run, only={"F0015"})
    repair.apply(made)
    assert [one.id for one in made.left] == ["F0016"]
    assert run.loss.read_bytes() == torn
    assert {one.id for one in check.check(run)} == {"F0016"}
    with pytest.raises(FirehoseError, match="F0099"):
        repair.select("F0003,F0099")


@pytest.mark.parametrize("id", ["F0001", "F0003", "F0008", "F0013", "F0015", "F0016"])
def test_what_is_left_is_what_a_check_then_finds(id: str, run: RunDir) -> None:
    """State, arms and marks of rows are repaired together, and what was asked for alone is not said to be left."""
    for name in ("no data", "nan", "loss middle", "version", "old one", "history"):
        CASES[name][1](run)
    made = repair.plan(run, only={id})
    repair.apply(made)
    left = [one.id for one in made.left]
    assert id not in left
    assert left == [one.id for one in check.check(run) if one.severity != "info"]


def test_what_is_repaired_with_it_is_part_of_the_plan(run: RunDir) -> None:
    for name in ("no data", "nan", "loss middle"):
        CASES[name][1](run)
    found = check.check(run)
    code, out = invoke("repair", run.root, "--only", "F0003")
    assert "will: F0008 and F0016 are repaired with it" in out
    assert (code, "left:" in out) == (Exit.OK, False)
    journal.undo(run, None, now=NOW)
    assert check.check(run) == found  # the state that was taken back is not judged


BOUND_EDITS = ((arm("alpha", cap=0.6), "alpha.cap=0.6"), (arm("beta", floor=0.1), "beta.floor=0.1"))


@pytest.mark.parametrize(("change", "said"), BOUND_EDITS)
def test_an_edited_bound_is_sent_to_the_config(change: Callable[..., Any], said: str, run: RunDir) -> None:
    by_hand(change)(run)
    (found,) = check.check(run)
    assert f"firehose polish set {said} --run {run.root}" in str(found.fix)
    assert f"firehose state repair {run.root} goes back" in str(found.fix)
    assert "--accept-edit" not in str(found.fix)
    with pytest.raises(FirehoseError, match="come from the config") as caught:
        repair.plan(run, accept_edit=True)
    assert caught.value.exit_code is Exit.REFUSED
    assert said in str(caught.value.next)


def test_an_accepted_edit_leaves_bounds_out(run: RunDir) -> None:
    by_hand(lambda body: arm("alpha", cap=0.6, mean=0.9)(body))(run)
    (found,) = check.check(run)
    assert "takes the edit but for the bounds" in str(found.fix)
    made = repair.plan(run, accept_edit=True)
    told = " ".join(action.what for action in made.actions)
    assert "left out: alpha.cap; bounds come from the config: firehose polish set alpha.cap=0.6" in told
    assert "F0007" not in told
    repair.apply(made)
    state = StateStore(run.state).read()[0]
    assert state is not None
    assert (state.payload["bandit"]["arms"]["alpha"]["cap"], check.check(run)) == (0.8, [])
    (change,) = state.payload["edits"][-1]["args"]["changes"]
    assert change["path"][-1] == "mean"


def test_an_edit_that_would_be_refused_is_not_recommended(run: RunDir) -> None:
    by_hand(arm("alpha", pulls=1))(run)
    found = check.check(run)
    assert {one.id for one in found} == {"F0002", "F0009"}
    assert all("--accept-edit" not in str(one.fix) for one in found)


def test_rows_of_steps_given_up_are_no_alarm(run: RunDir) -> None:
    for path, rows in ((run.loss, b",\n[25,4.0],\n[26,4.0]"), (run.samples, b',\n{"step":30}')):
        path.write_bytes(path.read_bytes().removesuffix(TAIL) + rows + TAIL)
    code, out = invoke("check", run.root)
    assert (code, "torn" in out) == (Exit.OK, False)
    said = "3 rows of steps after 24 (loss, samples) will be moved to the archive by the next launch"
    assert out.split("  next:")[0].split() == ["info", "F0016", *said.split()]


def test_findings_fit_the_screen() -> None:
    from state.findings import finding
    from state.repair import cli

    lines = cli.told(finding("F0002", "a word " * 60, fix="do this; " * 40)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(" " * 9 + "word") or lines[1].startswith(" " * 9 + "a")


def test_what_no_repair_can_clear_is_left_and_said(run: RunDir) -> None:
    shutil.rmtree(run.checkpoints)
    made = repair.plan(run)
    assert made.actions == []
    assert [one.id for one in made.left] == ["F0013"]
    assert "--name OTHER" in str(made.left[0].fix)


def test_infeasible_bounds_of_the_config_name_arm_and_keys(run: RunDir) -> None:
    run.config.write_text(run.config.read_text().replace("floor = 0.3", "floor = 0.3\nmin_share = 2.0"))
    found = [one for one in check.check(run) if one.severity != "info"]
    assert [one.id for one in found] == ["F0010"]
    assert "beta" in found[0].message
    assert "min_share" in found[0].message
    assert repair.plan(run).actions == []


def test_a_newer_schema_is_refused_untouched(run: RunDir) -> None:
    CASES["newer"][1](run)
    before = whole(run)
    with pytest.raises(FirehoseError) as caught:
        repair.plan(run)
    assert caught.value.exit_code is Exit.NEWER_SCHEMA
    assert whole(run) == before


def test_a_version_of_a_newer_schema_stays_where_it_is(run: RunDir) -> None:
    later = [(b'"version": 2', b'"version": 9'), (b'"step": 10', b'"step": 11')]
    for old, new in later:
        text(f"{STATE}.d/2.json", lambda data, old=old, new=new: data.replace(old, new))(run)
    made = repair.plan(run)
    assert (made.actions, [one.id for one in made.left]) == ([], ["F0012"])
    made = repair.plan(run, discard_newer=True)
    assert (len(made.actions), made.left) == (1, [])


def test_an_edit_that_no_launch_could_take_is_refused(run: RunDir) -> None:
    by_hand(lambda body: body["payload"]["bandit"].update(next_ticket=1))(run)
    with pytest.raises(FirehoseError, match="could not go on") as caught:
        repair.plan(run, accept_edit=True)
    assert caught.value.exit_code is Exit.REFUSED


def test_read_data_finds_a_changed_byte(run: RunDir) -> None:
    path = data_of("beta")(run)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert check.check(run) == []
    found = check.check(run, read_data=True)
    assert [(one.id, one.arm) for one in found] == [("F0005", "beta")]


def test_a_run_without_its_data_is_checked_as_far_as_it_goes(world: Path, run: RunDir) -> None:
    shutil.rmtree(world / "data")
    nan("mean")(run)
    assert {one.id for one in check.check(run)} == {"F0004", "F0008"}
    repair.apply(repair.plan(run))
    assert {one.id for one in check.check(run)} == {"F0004"}


def test_a_run_at_work_gives_no_false_findings(run: RunDir) -> None:
    process = {**msgspec.to_builtins(this_process(time.time())), "end": None}
    run.process.write_text(json.dumps(process))
    with run.loss.open("ab") as file:
        file.write(b",\n[25,3.0]")
    (run.checkpoints / f"step_30.tmp-{os.getpid()}").mkdir()
    shutil.rmtree(run.checkpoints / "step_24")  # as retention might, after the state was read
    assert check.check(run) == []


def test_a_sound_run_has_no_finding_at_any_commit(run: RunDir) -> None:
    from state.story import read_config

    paths = [run.state, *(path for _, path in StateStore(run.state).versions())]
    found = [envelope.open_envelope(path.read_bytes(), path) for path in paths]
    assert {one.step for one in found} == {0, 10, 20, LAST}
    for one in found:
        assert problems(one.payload, step=one.step, config=read_config(run)) == []
    assert check.check(run, read_data=True) == []


def test_random_damage_is_found_and_repaired(run: RunDir) -> None:
    """Any few bytes of the state file: found or without effect, repaired, and never silently different."""
    draw, data = random.Random(5), run.state.read_bytes()
    sound = envelope.open_envelope(data, run.state)
    for path in (run.versions / "1.json", run.versions / "2.json"):  # fewer to read each time
        path.unlink()
    shutil.rmtree(run.checkpoints / "step_20")
    keep = {path: path.read_bytes() for path in run.versions.iterdir()}
    silent = 0
    for number in range(200):
        hurt = bytearray(data)
        at = draw.randrange(len(hurt))
        kind = draw.choice(("flip", "cut", "drop", "digit", "block"))
        if kind == "flip":
            hurt[at] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del hurt[at:]
        elif kind == "drop":
            del hurt[at : at + draw.randrange(1, 400)]
        elif kind == "digit":
            digits = [place for place, byte in enumerate(hurt) if byte in b"0123456789"]
            hurt[draw.choice(digits)] = draw.choice(b"0123456789")
        else:
            hurt[at : at + 64] = b"\0" * 64
        run.state.unlink()
        run.state.write_bytes(hurt)
        found = check.check(run)
        if not found:  # white space, or the very bytes
            silent += 1
            assert envelope.open_envelope(bytes(hurt), run.state).payload == sound.payload
            continue
        assert {one.id for one in found} <= {"F0001", "F0002", "F0008", "F0009", "F0010", "F0011", "F0012"}
        if number % 4:
            continue
        repair.apply(repair.plan(run, discard_newer=True, now=lambda: NOW))
        assert check.check(run) == []
        state = StateStore(run.state).read()[0]
        assert state is not None
        assert (state.payload, state.step) == (sound.payload, sound.step)
        shutil.rmtree(run.archive)
        for path in run.versions.iterdir():
            path.unlink()
        for path, old in keep.items():
            path.write_bytes(old)
    assert silent < 60


# The command line.


def invoke(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(state_app, [str(word) for word in words])
    return result.exit_code, result.stdout


def test_the_commands(run: RunDir) -> None:
    assert invoke("check", run.root)[0] == Exit.OK
    CASES["nan"][1](run)
    code, out = invoke("check", run.root, "--json")
    body = json.loads(out)
    assert (code, body["schema"]) == (Exit.DAMAGED, "state-check/1")
    assert set(body["findings"][0]) == {"id", "severity", "arm", "message", "fix"}
    assert body["findings"][0]["id"] == "F0008"
    code, out = invoke("repair", run.root, "--dry-run", "--json")
    dry = json.loads(out)
    assert (code, dry["undo"]) == (Exit.OK, None)
    code, out = invoke("repair", run.root, "--json")
    done = json.loads(out)
    assert code == Exit.OK
    assert done["actions"] == dry["actions"]
    assert invoke("check", run.root)[0] == Exit.OK
    assert "nothing to do" in invoke("repair", run.root)[1]
    assert invoke("restore", *done["undo"].split()[3:])[0] == Exit.OK
    assert invoke("check", run.root)[0] == Exit.DAMAGED
    assert invoke("check", run.state)[0] == Exit.DAMAGED
    assert invoke("check", run.versions / "2.json")[0] == Exit.OK
    assert invoke("check", run.checkpoints / "step_24")[0] == Exit.OK


def test_a_run_in_use_is_not_repaired(run: RunDir) -> None:
    with RunLock(run.lock):
        code, out = invoke("repair", run.root, "--json")
    assert code == Exit.LOCKED
    assert json.loads(out)["error"]["next"] == f"firehose stop {run.root}"
    assert TEMPORARY.fullmatch(DEAD)
