"""Plans of a polish: what they show, what they refuse, and when they no longer fit their run."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state import journal, requests
from state.polish import adopt, apply, editor, outlook, polish
from state.polish import view as polish_view
from state.polish.cli import polish_app
from state.process import this_process
from state.run_dir import RunDir
from state.store import StateStore
from tests.curriculum.test_configs import ROWS, bounds
from tests.fixtures import unlit, v3

NAME = "andrea-120m"
STEP = 60
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both configs, the data, and a run of the base stopped at step 60; tests work on copies."""
    folder = tmp_path_factory.mktemp("v3")
    unlit.stopped(v3.make(folder), folder / "runs" / NAME, STEP)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def run(folder: Path) -> RunDir:
    return RunDir(folder / "runs" / NAME)


def prepared(run: RunDir, live: bool = False) -> tuple[dict[str, Any], polish.Plan]:
    """The plan to take the polish's config over."""
    file = run.root.parents[1] / v3.POLISH
    body, plan = outlook.prepare(run, file.read_text(), file, file, live=live, now=NOW)
    assert plan is not None
    return body, plan


def replan(run: RunDir, *assignments: str, live: bool = False) -> tuple[dict[str, Any], polish.Plan | None]:
    """The plan of assignments to the run's own config."""
    polish.discard_draft(run)
    polish.set_draft(run, list(assignments))
    text = polish.draft_text(run)
    return outlook.prepare(run, text, polish.draft(run), polish.origin(run), live=live, now=NOW)


def bytes_of(run: RunDir) -> dict[str, bytes]:
    """Every file of the run that a plan must not touch."""
    return {
        str(path.relative_to(run.root)): path.read_bytes()
        for path in sorted(run.root.rglob("*"))
        if path.is_file() and "polish" not in path.relative_to(run.root).parts[:1]
    }


# What a plan shows.


def test_the_published_pivot_is_shown_cell_for_cell(run: RunDir) -> None:
    before = bytes_of(run)
    body, plan = prepared(run)
    expected = set()
    for name, base, after in ROWS:
        for field, old, new in zip(("cap", "floor", "excluded"), bounds(base), bounds(after), strict=True):
            if old != new:
                expected.add((name, field, old, new))
    shown = {(c["arm"], c["field"], c["old"], c["new"]) for c in body["changes"] if c["arm"]}
    assert shown == expected
    others = {c["field"]: (c["old"], c["new"]) for c in body["changes"] if not c["arm"]}
    assert others.pop("curriculum.curriculum_warmup_steps") == (v3.WARMUP, 0)
    old, new = others.pop("curriculum.goal_sources")
    assert set(new) - set(old) == {"dolly"}  # its floor makes it a goal
    assert others == {}
    assert (body["to_change"], body["to_add"], body["to_disable"], body["other_keys"]) == (14, 0, 1, 1)
    assert plan.disables == body["confirm"] == ["repo-docs"]
    assert (body["stop_at"], body["eta_s"], body["stale"], body["drift"]) == (STEP, None, False, [])
    assert bytes_of(run) == before


def test_shares_are_those_of_the_last_rows_and_lie_within_the_new_bounds(run: RunDir) -> None:
    body, _ = prepared(run)
    arms = {arm["name"]: arm for arm in body["arms"]}
    pulls = [arm for row in json.loads(run.pulls.read_text()) for arm, _ in row["pulls"]]
    ids = polish.current_state(run).payload["bandit"]["arms"]
    for name, record in ids.items():
        assert arms[name]["share_now"] == pulls.count(record["id"]) / len(pulls), name
    assert sum(arm["share_after"] for arm in arms.values()) == pytest.approx(1)
    for name, arm in arms.items():
        assert arm["share_low"] - 0.01 <= arm["share_after"] <= arm["share_high"] + 0.01, name
    assert arms["repo-docs"]["share_high"] == arms["repo-docs"]["share_after"] == 0


def test_the_screen_fits_and_ends_with_what_to_type(run: RunDir) -> None:
    body, _ = prepared(run)
    lines = polish_view.plan(body, "runs/andrea-120m/polish/0001.plan.json")
    assert max(len(line) for line in lines[:-2]) <= 80
    assert lines[-3:] == [
        "Plan: 14 to change, 0 to add, 1 to disable, 1 other key.",
        "Saved: runs/andrea-120m/polish/0001.plan.json",
        "Apply: firehose polish apply runs/andrea-120m/polish/0001.plan.json --confirm repo-docs",
    ]
    text = "\n".join(lines)
    for said in (
        "share: of the last 60 steps; firehose status: since shares last began anew",
        "after: if every pull were worth the same",
        "apply starts the run again; --no-resume leaves it stopped",
    ):
        assert said in lines
    assert "- repo-docs            0.3 -> 0" in text
    assert "curriculum.goal_sources: +dolly" in text
    assert "andrea-120m.samples.json" in text


def test_nothing_to_do_is_said_and_no_plan_is_made(run: RunDir) -> None:
    text = run.config.read_text()
    body, plan = outlook.prepare(run, text, run.config, polish.origin(run), live=False, now=NOW)
    assert (plan, body["changes"]) == (None, [])
    assert polish_view.plan(body, None)[-1].startswith("Nothing to do")


def test_where_a_living_run_stops_and_when(run: RunDir) -> None:
    alive(run)
    run.write_live({"pid": this_process(0).pid, "time": NOW, "step": 63, "steps_per_s": 2.0})
    body, plan = prepared(run)
    assert (body["stop_at"], body["eta_s"], body["pid"]) == (70, 3.5, this_process(0).pid)
    assert plan.pins.alive


def test_sources_that_come_and_go_are_told_apart(run: RunDir, folder: Path) -> None:
    text = run.config.read_text()
    at = text.index("[sources.repo-commits]")
    body, plan = outlook.prepare(run, text[:at], run.config, polish.origin(run), live=False, now=NOW)
    assert plan is not None
    assert (body["to_add"], body["confirm"]) == (0, ["repo-commits"])
    new = text + '\n[sources.news]\npath = "text/news.jsonl"\n'
    with pytest.raises(FirehoseError, match=r"no token files for news") as caught:
        outlook.prepare(run, new, run.config, polish.origin(run), live=False, now=NOW)
    assert caught.value.exit_code is Exit.NOT_FOUND


def test_drift_that_a_launch_would_act_on_is_shown_unless_the_plan_ends_it(run: RunDir, folder: Path) -> None:
    (folder / "data/dolly.btok").unlink()
    body, _ = replan(run, "chat.cap=0.9")
    assert [(item["id"], item["arm"]) for item in body["drift"]] == [("F0003", "dolly"), ("F0004", "dolly")]
    first = body["drift"][0]
    assert first["message"].startswith("'dolly' will be put aside: ")
    assert first["fix"].startswith("apply does it; its record is kept")
    body, _ = replan(run, "chat.cap=0.9", live=True)
    assert body["drift"][0]["fix"].startswith("the next launch does it; its record is kept")
    body, plan = replan(run, "chat.cap=0.9", "dolly.exclude=on")
    assert body["drift"] == []
    assert plan is not None and plan.disables == ["dolly"]


def plan_file(run: RunDir, file: Path, live: bool = False) -> tuple[dict[str, Any], polish.Plan | None]:
    """As `polish plan --config FILE` does."""
    text, original = adopt.adopted(run, file.read_text(), file)
    return outlook.prepare(run, text, file, original, live=live, now=NOW)


@pytest.mark.parametrize("place", [".", "elsewhere"])
@pytest.mark.parametrize("live", [False, True])
def test_a_copy_under_another_name_is_of_the_same_run(
    place: str, live: bool, run: RunDir, folder: Path
) -> None:
    """What a file does not set of name and data folder follows its own name, and in a polish the run's."""
    text = run.config.read_text()
    named = [line for line in text.splitlines(True) if line.startswith(("name =", "dir ="))]
    for line in named:
        text = text.replace(line, "")
    file = folder / place / "new.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert named == [f'name = "{NAME}"\n', 'dir = "data"\n']
    body, plan = plan_file(run, file, live)
    assert (plan, body["changes"], body["alarms"]) == (None, [], [])
    file.write_text(text.replace("cap = 0.3", "cap = 0.31"))
    body, plan = plan_file(run, file, live)
    assert plan is not None
    assert {change["field"] for change in body["changes"]} == {"cap"}
    config = polish.check(plan.config, run.config, Path(plan.config_file))
    assert config.name == NAME
    assert config.resolve(config.data.dir).resolve() == (folder / "data").resolve()


def test_a_file_with_other_places_for_its_text_keeps_its_own_folder(run: RunDir, folder: Path) -> None:
    text = run.config.read_text().replace('dir = "data"\n', "").replace('"text/', '"../text/')
    (folder / "elsewhere").mkdir()
    file = folder / "elsewhere/new.toml"
    file.write_text(text)
    body, plan = plan_file(run, file)
    assert plan is not None
    assert Path(plan.config_file).parent == file.parent
    assert body["alarms"] == []  # the data is the same
    assert {change["field"] for change in body["changes"]} == {"path", "data.dir"}


def invoke(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(polish_app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_an_identical_plan_is_not_saved_twice(run: RunDir) -> None:
    assert "\nSaved: " in invoke("set", "chat.cap=0.9", "--run", run.root)[1]
    _, out, _ = invoke("plan", run.root)
    assert f"\nSaved before: {run.root}/polish/0001.plan.json\n" in out
    assert [path.name for path in polish.plans(run)] == ["0001.plan.json"]
    assert "\nSaved: " in invoke("set", "chat.cap=0.8", "--run", run.root)[1]
    moved_serial(run)
    assert "\nSaved: " in invoke("plan", run.root)[1]  # the one before it is stale
    _, out, _ = invoke("status", run.root)
    assert "older plans: 2, stale or applied: 2" in out.splitlines()
    assert "0001.plan" not in out
    code, _, said = invoke("apply", "--run", run.root, "--dry-run")
    assert code == Exit.OK
    assert "apply starts the run again; --no-resume leaves it stopped" in said


# What a plan refuses.


def test_what_a_run_keeps_for_life_is_refused_by_name(run: RunDir) -> None:
    with pytest.raises(FirehoseError, match=r"keeps these for life: seed, .*train\.lr") as caught:
        replan(run, "train.lr=1e-4", "seed=5", "chat.cap=0.9", "train.sample_every=20")
    assert caught.value.exit_code is Exit.REFUSED
    assert "chat" not in caught.value.message
    assert "sample_every" not in caught.value.message
    assert not polish.draft(run).exists()


def test_bounds_that_cannot_hold_are_the_configs_own_error(run: RunDir) -> None:
    with pytest.raises(FirehoseError, match=r"chat: floor 0\.4 is over cap 0\.3") as caught:
        polish.set_draft(run, ["chat.cap=0.3"])
    assert caught.value.exit_code is Exit.REFUSED
    assert caught.value.path == "as set by chat.cap=0.3"  # no line of a draft that was never saved
    with pytest.raises(FirehoseError, match=r"dolly: floor 7") as caught:
        polish.set_draft(run, ["chat.cap=0.9", "dolly.floor=7"])
    assert caught.value.path == "as set by dolly.floor=7"
    assert not polish.draft(run).exists()


def test_a_finished_run_has_nothing_to_polish(folder: Path) -> None:
    config = configs.load(folder / v3.BASE)
    run = unlit.stopped(config, folder / "runs/done", config.train.steps)
    with pytest.raises(FirehoseError, match="nothing is left to polish"):
        prepared(run)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("chat.exclude=on", r"sources\.chat\.excluded"),
        ("curriculum.background=0.2", r"curriculum\.background"),
        ("dolly.floor=0.2", r"curriculum\.goal_sources \(the floors decide it"),
        ("repo-docs.cap=0", r"sources\.repo-docs\.cap 0\.3 -> 0"),
    ],
)
def test_a_run_that_runs_takes_bounds_only(run: RunDir, assignment: str, said: str) -> None:
    with pytest.raises(FirehoseError, match=said) as caught:
        replan(run, assignment, live=True)
    assert caught.value.exit_code is Exit.REFUSED
    assert "--live" in str(caught.value.next)


def test_new_bounds_may_be_taken_live(run: RunDir) -> None:
    body, plan = replan(run, "chat.cap=0.9", live=True)
    assert plan is not None and plan.kind == "live"
    assert body["archive"] == []


# When a plan is stale.


def alive(run: RunDir) -> None:
    """Make this process the run's."""
    run.begin(NOW)


def moved_serial(run: RunDir) -> None:
    store = StateStore(run.state)
    state, _ = store.read()
    assert state is not None
    store.commit(state.payload, step=state.step, config_sha256=state.config_sha256)


def edited(run: RunDir) -> None:
    store = StateStore(run.state)
    state, _ = store.read()
    assert state is not None
    payload = {**state.payload, "edits": [{"serial": 1, "what": "rm x", "changes": []}]}
    store.commit(payload, step=state.step, config_sha256=state.config_sha256)


def halted(run: RunDir) -> None:
    store = StateStore(run.state)
    state, _ = store.read()
    assert state is not None
    payload = {**state.payload, "halt": {"step": STEP, "reason": "low"}}
    store.commit(payload, step=state.step, config_sha256=state.config_sha256)


def other_lineage(run: RunDir) -> None:
    state = polish.current_state(run)
    run.state.unlink()
    shutil.rmtree(run.versions, ignore_errors=True)
    StateStore(run.state).create(state.payload, step=STEP, config_sha256=state.config_sha256)


def changed_bytes(run: RunDir) -> None:
    run.config.write_text(run.config.read_text() + "\n# a word\n")


def other_effective(run: RunDir) -> None:
    body = json.loads(run.effective.read_text())
    run.effective.write_text(json.dumps({**body, "sha256": "0" * 64}))


def a_change(run: RunDir) -> None:
    tx = journal.Transaction(run, "repair", "something", now="2026-01-02T00:00:00Z")
    tx.put(run.root / "x", b"1")
    tx.commit()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (moved_serial, "serial moved 1 -> 2"),
        (edited, "edited by an operator"),
        (other_lineage, "the state's lineage is .*, no longer 11111111"),
        (changed_bytes, "config.toml was changed"),
        (other_effective, "goes by another config"),
        (alive, "has another process: pid"),
        (a_change, "change 0001 is in its archive"),
    ],
)
def test_a_plan_is_refused_once_its_run_is_another(
    run: RunDir, change: Callable[[RunDir], None], said: str
) -> None:
    _, plan = prepared(run)
    path = polish.save(run, plan, None)
    assert polish.why_stale(run, plan, NOW) is None
    change(run)
    before = bytes_of(run)
    with pytest.raises(FirehoseError, match=f"the plan is stale: .*{said}.*; nothing was changed") as caught:
        apply.apply(run, plan, path, yes=True, resume=False, say=list)
    assert caught.value.exit_code is Exit.STALE_PLAN
    assert "firehose polish plan" in str(caught.value.next)
    assert bytes_of(run) == before


def test_a_living_runs_serial_may_move_and_its_process_may_not(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive(run)
    _, plan = prepared(run)
    moved_serial(run)
    assert polish.why_stale(run, plan, NOW) is None
    run.end("stopped", exit_code=75, step=STEP, now=NOW)  # as an apply that was interrupted leaves it
    assert polish.why_stale(run, plan, NOW) is None
    halted(run)
    assert polish.why_stale(run, plan, NOW) == "the gate halted the run"
    body = json.loads(run.process.read_text())
    run.process.write_text(json.dumps({**body, "start": body["start"] + 1}))
    assert "has another process" in str(polish.why_stale(run, plan, NOW))


def test_a_plan_of_another_program_is_stale(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = prepared(run)
    monkeypatch.setattr(polish, "tool", lambda: "firehose 9")
    assert "it was made by firehose" in str(polish.why_stale(run, plan, NOW))


def test_an_edited_plan_and_one_of_a_later_version_are_refused(run: RunDir) -> None:
    _, plan = prepared(run)
    path = polish.save(run, plan, None)
    assert polish.load(path) == plan
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "disables": []}))
    with pytest.raises(FirehoseError, match="cannot be edited") as caught:
        polish.load(path)
    assert caught.value.exit_code is Exit.REFUSED
    path.write_text(json.dumps({**body, "version": 2}))
    with pytest.raises(FirehoseError) as caught:
        polish.load(path)
    assert caught.value.exit_code is Exit.NEWER_SCHEMA
    path.write_text("{")
    with pytest.raises(FirehoseError, match="cannot be edited"):
        polish.load(path)


def test_a_disabled_source_is_to_be_confirmed_by_name(run: RunDir) -> None:
    _, plan = prepared(run)
    with pytest.raises(FirehoseError, match="takes every pull from repo-docs") as caught:
        apply.confirm(plan, Path("p"), ["chat"], yes=False)
    assert caught.value.exit_code is Exit.REFUSED
    assert "--confirm repo-docs" in str(caught.value.next)
    apply.confirm(plan, Path("p"), ["repo-docs"], yes=False)
    apply.confirm(plan, Path("p"), [], yes=True)


# The draft and the editor.


def test_the_draft_is_a_copy_that_ends_where_it_began(run: RunDir) -> None:
    polish.set_draft(run, ["chat.cap=0.9"])
    polish.set_draft(run, ["dolly.floor=0.1"])
    draft = polish.draft(run).read_text()
    assert draft.replace("cap = 0.9\n", "").replace("floor = 0.1\n", "") == run.config.read_text()
    polish.set_draft(run, ["chat.cap=off", "dolly.floor=off"])
    assert not polish.draft(run).exists()


def test_a_plan_that_nobody_named_must_be_that_of_the_draft(run: RunDir) -> None:
    _, plan = replan(run, "chat.cap=0.9")
    assert plan is not None
    path = polish.save(run, plan, None)
    polish.refuse_older_than_draft(run, path)
    polish.set_draft(run, ["chat.cap=0.8"])
    with pytest.raises(FirehoseError, match="not of the draft as it is now") as caught:
        polish.refuse_older_than_draft(run, path)
    assert caught.value.exit_code is Exit.STALE_PLAN
    polish.discard_draft(run)
    polish.refuse_older_than_draft(run, path)


def test_a_refused_text_comes_back_with_the_reason_at_its_line(run: RunDir, tmp_path: Path) -> None:
    """The editor is a script: it breaks the file at its first call and mends it at the second."""
    script = tmp_path / "edit.py"
    script.write_text(
        "import pathlib, sys\n"
        f"seen = pathlib.Path({str(tmp_path / 'seen.txt')!r})\n"
        "path = pathlib.Path(sys.argv[1]); text = path.read_text()\n"
        "if not seen.exists():\n"
        "    seen.write_text(''); path.write_text(text.replace('cap = 0.8', 'cap = 0.1'))\n"
        "else:\n"
        "    seen.write_text(text); path.write_text(text.replace('cap = 0.1', 'cap = 0.7'))\n"
    )
    import sys

    environment = {"EDITOR": f"{sys.executable} {script}"}
    text = polish.draft_text(run)
    done = editor.edit(text, lambda text: polish.save_draft(run, text), environment)
    assert done == text.replace("cap = 0.8", "cap = 0.7")
    assert polish.draft(run).read_text() == done
    lines = (tmp_path / "seen.txt").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("#! "))
    assert "gutenberg: floor 0.3 is over cap 0.1" in lines[at]
    assert lines[at + 2] == "floor = 0.3"


def test_a_text_saved_again_as_refused_ends_the_editing(run: RunDir) -> None:
    text = polish.draft_text(run)
    environment = {"VISUAL": "sed -i s/cap.=.0.8/cap=0.1/"}
    with pytest.raises(FirehoseError, match="is over cap"):
        editor.edit(text, lambda text: polish.save_draft(run, text), environment)
    assert editor.edit(text, lambda text: None, {"EDITOR": "true"}) == text
    with pytest.raises(FirehoseError, match="the editor ended with 1"):
        editor.edit(text, lambda text: None, {"EDITOR": "false"})
    with pytest.raises(FirehoseError, match="cannot be started"):
        editor.edit(text, lambda text: None, {"EDITOR": "no-such-editor"})


# Withdrawal.


def test_a_stop_that_waits_is_withdrawn_by_a_request_to_go_on(run: RunDir) -> None:
    alive(run)
    with pytest.raises(FirehoseError, match="no polish waits"):
        apply.cancel(run, time.time())
    record = msgspec.json.decode(run.process.read_bytes())
    target = [record["pid"], record["start"]]
    request = requests.Request(id="a", kind="stop", target=target, time=NOW)
    run.request.write_bytes(msgspec.json.encode(request))
    with pytest.raises(FirehoseError, match="no polish waits"):
        apply.cancel(run, time.time())  # an operator's own stop is not ours to withdraw
    apply.asked(run).parent.mkdir()
    apply.asked(run).write_text(json.dumps({"request": "a"}))
    apply.cancel(run, time.time())
    waiting = requests.pending(run)
    assert waiting is not None
    assert waiting.kind == "checkpoint"
    with pytest.raises(FirehoseError, match="withdrawn before its boundary"):
        apply._wait(run, request, 5.0, time.time)
