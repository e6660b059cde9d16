"""The transaction of a pivot and of a rollback, without torch: what it carries over, what it begins anew, and cuts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandit.scheduler import Scheduler
from curriculum import config as configs
from curriculum.arms import scheduler_config
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import Gate
from curriculum.sources import open_corpus, specs
from state import checkpoints, journal
from state.checkpoints import Keep
from state.envelope import open_envelope
from state.polish import apply, generations, outlook, polish
from state.polish import view as polish_view
from state.recover import look
from state.rows import EMPTY
from state.run_dir import RunDir
from state.store import StateStore
from tests.fixtures import unlit, v3

NAME = "andrea-120m"
STEP = 60
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs, data, a run of the base stopped at step 60, and a plan to polish it."""
    folder = tmp_path_factory.mktemp("v3")
    run = unlit.stopped(v3.make(folder), folder / "runs" / NAME, STEP)
    text = (folder / v3.POLISH).read_text()
    # As relative to the run as it is everywhere, so that copies of the folder agree to the byte.
    _, plan = outlook.prepare(run, text, folder / v3.POLISH, folder / v3.POLISH, live=False, now=NOW)
    assert plan is not None
    polish.save(run, plan, None)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    return copied(made, tmp_path / "copy", monkeypatch)


def copied(made: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    shutil.copytree(made, to)
    monkeypatch.setattr(apply, "utc_now", lambda: "2026-05-01T10:00:00Z")
    return RunDir(to / "runs" / NAME)


def newest(run: RunDir) -> tuple[Path, polish.Plan]:
    path = polish.plans(run)[-1]
    return path, polish.load(path)


def pivot(run: RunDir, *, yes: bool = True) -> dict[str, Any]:
    """Apply the run's newest plan; the run stays stopped."""
    path, plan = newest(run)
    return apply.apply(run, plan, path, yes=yes, resume=False, say=lambda words: None)


def roll_back(run: RunDir, to: int | None = None, *, keep_weights: bool = False) -> dict[str, Any]:
    """Plan to go back, and apply that."""
    body, plan = generations.rollback(run, to, keep_weights=keep_weights, now=NOW)
    assert plan is not None
    polish.save(run, plan, None)
    pivot(run)
    return body


def further(run: RunDir, step: int) -> None:
    """Make as if the run had been trained to a later step and stopped there with a checkpoint."""
    state = polish.current_state(run)
    config = configs.load(run.config)
    unlit.commit(run, config, {**state.payload, "checkpoint": step}, step, lineage=state.lineage)


def files(run: RunDir) -> dict[str, bytes]:
    """The run's files but plans and lock."""
    return {
        str(path.relative_to(run.root)): path.read_bytes()
        for path in sorted(run.root.rglob("*"))
        if path.is_file() and "polish" not in path.parts[-2:] and ".lock" not in path.name
    }


# What a pivot keeps and what it begins anew.


def test_a_pivot_keeps_what_was_read_and_forgets_what_was_learned(run: RunDir) -> None:
    old, before = polish.current_state(run), files(run)
    untrained = [ticket for ticket in old.payload["bandit"]["tickets"] if ticket["step"] > STEP]
    assert untrained
    outcome = pivot(run)
    assert (outcome["step"], outcome["pid"]) == (STEP, None)
    new = polish.current_state(run)
    assert new.parent is not None
    assert (new.parent.lineage, new.parent.serial, new.parent.step) == (old.lineage, old.serial, STEP)
    assert (new.lineage, new.step, new.serial) == (newest(run)[1].lineage, STEP, old.serial + 1)

    arms = new.payload["bandit"]["arms"]
    assert set(arms) == set(old.payload["bandit"]["arms"]) - {"repo-docs"}
    back = 0
    for name, record in arms.items():
        known = old.payload["bandit"]["arms"][name]
        own = [ticket["window"] for ticket in untrained if ticket["arm"] == known["id"]]
        assert record["id"] == known["id"]
        assert record["cursor"] == min([known["cursor"], *own])
        assert record["pulls"] == known["pulls"] - len(own)
        assert (record["mean"], record["weight_sum"], record["served"]) == (None, 0.0, 0)
        back += len(own)
    assert 0 < back <= len(untrained)
    assert new.payload["bandit"]["tickets"] == []
    assert new.payload["bandit"]["next_ticket"] == old.payload["bandit"]["next_ticket"]
    assert new.payload["pruned"]["repo-docs"]["reason"] == "it is excluded"
    assert new.payload["reward"] != old.payload["reward"]
    assert new.payload["gate"] == Gate().snapshot() != old.payload["gate"]

    loop = new.payload["loop"]
    assert loop["loss_ema"] == old.payload["loop"]["loss_ema"]
    assert {step: r["losses"] for step, r in loop["uncredited"].items()} == {
        step: r["losses"] for step, r in old.payload["loop"]["uncredited"].items()
    }
    assert {r["goal"] for r in loop["uncredited"].values()} == {None}
    marks, known = new.payload["files"], old.payload["files"]
    assert {k: v for k, v in marks.items() if k != "samples"} == {
        k: v for k, v in known.items() if k != "samples"
    }
    assert marks["samples"] == EMPTY.as_dict()

    after = files(run)
    for name in ("loss", "pulls", "heldout"):
        assert after[f"{NAME}.{name}.json"] == before[f"{NAME}.{name}.json"]
    for name in (f"{NAME}.state.json", f"{NAME}.samples.json", "config.toml", "effective.json"):
        assert after[f"archive/0001-polish/before/{name}"] == before[name]
    assert after[f"{NAME}.state.json.d/1.json"] == before[f"{NAME}.state.json"]
    assert json.loads(after[f"{NAME}.samples.json"]) == []
    assert after["config.toml"].decode() == newest(run)[1].config


def test_a_pivots_state_that_is_damaged_at_once_does_not_bring_the_old_one_back(run: RunDir) -> None:
    pivot(run)
    new = polish.current_state(run)
    run.state.write_bytes(run.state.read_bytes()[:-100])
    found, passed = StateStore(run.state).read()
    assert found == new
    assert [finding.id for finding in passed] == ["F0001"]


def test_the_next_launch_goes_on_from_it_with_the_new_bounds(run: RunDir) -> None:
    pivot(run)
    found = look(run, StateStore(run.state))
    assert found.pivoted
    assert found.settled.source == "state"
    assert found.checkpoint is not None and found.checkpoint.step == STEP
    config = configs.load(run.config)
    assert configs.digest(config) == configs.digest(configs.load(run.root.parents[1] / v3.POLISH))
    assert json.loads(run.effective.read_text())["sha256"] == configs.digest(config)
    corpus, payload = open_corpus(config), found.settled.payload
    assert payload is not None
    ids = {name: record["id"] for name, record in payload["bandit"]["arms"].items()}
    scheduler = Scheduler.restore(scheduler_config(config), specs(config, corpus, ids), payload["bandit"])
    seen: dict[int, int] = {}
    for step in range(STEP + 1, STEP + 401):
        for _ in range(config.train.grad_accum):
            ticket = scheduler.pick(step)
            seen.setdefault(ticket.arm, ticket.window)
            scheduler.credit(ticket.id, 0.5)
    for name, arm_id in ids.items():  # goes on reading where the base stopped
        assert seen[arm_id] == payload["bandit"]["arms"][name]["cursor"]
    event = run.events()[-1]
    assert (event["event"], event["step"], event["archive"]) == ("pivot", STEP, "0001-polish")
    assert event["lineage"] == newest(run)[1].lineage
    assert event["parent"]["lineage"] == unlit.LINEAGE
    assert event["plan"] == newest(run)[1].sha256
    assert {"arm": "dictionary", "field": "cap", "old": 0.5, "new": 0.25} in event["changes"]


def test_a_halt_is_cleared_by_a_pivot(run: RunDir) -> None:
    state = polish.current_state(run)
    store = StateStore(run.state)
    store.read()
    halt = {"step": STEP, "reason": "low"}
    store.commit({**state.payload, "halt": halt}, step=STEP, config_sha256=state.config_sha256)
    file = run.root.parents[1] / v3.POLISH
    body, plan = outlook.prepare(run, file.read_text(), file, file, live=False, now=NOW)
    assert plan is not None and body["halt"] == halt
    assert body["state"] == "halted"
    polish.save(run, plan, None)
    pivot(run)
    assert polish.current_state(run).payload["halt"] is None


def test_a_plan_is_applied_once(run: RunDir) -> None:
    pivot(run)
    before = files(run)
    assert pivot(run)["archive"].endswith("0001-polish")  # the same command again: all is done already
    assert files(run) == before
    further(run, STEP + 10)
    store = StateStore(run.state)
    store.read()
    run.begin(NOW)
    run.end("stopped", exit_code=75, step=STEP + 10, now=NOW)
    before = files(run)
    with pytest.raises(FirehoseError, match="applied already") as caught:
        pivot(run)
    assert caught.value.exit_code is Exit.STALE_PLAN
    assert files(run) == before


def test_a_plan_whose_pivot_was_undone_is_used_up(run: RunDir) -> None:
    pivot(run)
    journal.undo(run, None, now="2026-05-02T00:00:00Z")
    assert polish.current_state(run).lineage == unlit.LINEAGE
    before = files(run)
    with pytest.raises(FirehoseError, match="applied already"):
        pivot(run)
    assert files(run) == before
    assert [row["kind"] for row in generations.history(run)] == ["begin"]


def test_two_pivots_in_a_row_begin_on_the_same_weights(run: RunDir) -> None:
    pivot(run)
    polish.set_draft(run, ["chat.cap=0.9"])
    text = polish.draft_text(run)
    _, plan = outlook.prepare(run, text, polish.draft(run), polish.origin(run), live=False, now=NOW)
    assert plan is not None
    polish.save(run, plan, None)
    pivot(run)
    found = look(run, StateStore(run.state))
    assert found.pivoted and found.settled.lineage == plan.lineage
    assert found.settled.payload is not None
    assert found.settled.payload["protected"] == [STEP]
    assert not polish.draft(run).exists()
    rows = generations.history(run)
    assert [(row["generation"], row["kind"], row["current"]) for row in rows] == [
        (0, "begin", False),
        (1, "pivot", False),
        (2, "pivot", True),
    ]


def test_a_run_that_crashed_before_its_first_checkpoint_may_be_polished(run: RunDir) -> None:
    shutil.rmtree(run.checkpoints / f"step_{STEP}")
    state = polish.current_state(run)
    store = StateStore(run.state)
    store.read()
    store.commit({**state.payload, "checkpoint": None}, step=20, config_sha256=state.config_sha256)
    file = run.root.parents[1] / v3.POLISH
    _, plan = outlook.prepare(run, file.read_text(), file, file, live=False, now=NOW)
    assert plan is not None
    polish.save(run, plan, None)
    pivot(run)
    found = look(run, StateStore(run.state))
    assert (found.settled.source, found.settled.step, found.weights) == ("state", 0, None)
    assert found.settled.payload is not None
    assert found.settled.payload["files"]["loss"] == EMPTY.as_dict()
    assert all(record["cursor"] == 0 for record in found.settled.payload["bandit"]["arms"].values())


# Cuts.


class Cut(BaseException):
    """What ends the process in a test."""


OPERATIONS = 8  # of the pivot: keep, four files and a version, the prune and the pivot in the history


@pytest.fixture(scope="module")
def uncut(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file after the pivot was left alone."""
    with pytest.MonkeyPatch.context() as patch:
        run = copied(made, tmp_path_factory.mktemp("uncut") / "copy", patch)
        pivot(run)
        assert len(journal.entries(run)[0].operations) == OPERATIONS
        return files(run)


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int, *, after: bool) -> None:
    """End the process at the number-th call of a function, before or after it."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = []

    def cut(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number and not after:
            raise Cut
        result = real(*args, **kwargs)
        if len(calls) == number:
            raise Cut
        return result

    monkeypatch.setattr(owner, name, cut)


@pytest.mark.parametrize(
    ("name", "number", "after"),
    [
        *(("_operate", number, False) for number in range(1, OPERATIONS + 1)),
        ("_operate", OPERATIONS, True),
        ("_do", 1, False),
        *(("sync_folder", number, True) for number in (1, 4, 7)),
        *(("write_atomic", number, False) for number in (1, 5, 7)),
    ],
)
def test_a_pivot_cut_anywhere_ends_as_one_that_was_not(
    run: RunDir, uncut: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str, number: int, after: bool
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, journal, name, number, after=after)
        with pytest.raises(Cut):
            pivot(run)
    if not run.journal.exists() and not journal.entries(run):
        assert polish.current_state(run).lineage == unlit.LINEAGE  # nothing has happened
    if number % 2 and run.journal.exists():
        journal.redo(run)  # as a launch does
    pivot(run)
    assert files(run) == uncut


def test_a_cut_in_the_transaction_is_shown(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, journal, "_operate", 3, after=False)
        with pytest.raises(Cut):
            pivot(run)
    body = generations.status(run, NOW)
    assert body["unfinished"]["name"] == "0001-polish"
    assert "begun and not finished: polish at step 60" in "\n".join(polish_view.status(body))
    pivot(run)
    body = generations.status(run, NOW)
    assert body["unfinished"] is None
    assert body["last"]["lineage"] == newest(run)[1].lineage
    assert [plan["why"] for plan in body["plans"]] == ["applied as 0001-polish"]


# Back.


def test_a_rollback_puts_back_state_config_and_checkpoint(run: RunDir) -> None:
    old, before = polish.current_state(run), files(run)
    pivot(run)
    further(run, STEP + 10)
    further(run, STEP + 20)
    body, plan = generations.rollback(run, None, keep_weights=False, now=NOW)
    assert plan is not None
    assert (body["to_step"], body["given_up"]) == (STEP, 20)
    screen = "\n".join(polish_view.plan(body, "p"))
    assert "0001-polish: 20 steps of training are given up" in " ".join(screen.split())
    nothing = "\n".join(polish_view.plan({**body, "given_up": 0}, "p"))
    assert "0001-polish: no training is given up" in " ".join(nothing.split())
    polish.save(run, plan, None)
    pivot(run)

    found = look(run, StateStore(run.state))
    assert found.checkpoint is not None and found.checkpoint.step == STEP
    assert found.settled.payload is not None and found.settled.lineage == plan.lineage
    for part in ("bandit", "reward", "gate", "loop", "files", "pruned", "data"):
        assert found.settled.payload[part] == old.payload[part], part
    after = files(run)
    for name in ("config.toml", "effective.json", f"{NAME}.samples.json", f"{NAME}.loss.json"):
        assert after[name] == before[name], name
    assert [path.name for path in checkpoints.folders(run.checkpoints)] == [f"step_{STEP}"]
    moved = run.archive / "0002-polish/before/checkpoints"
    assert sorted(path.name for path in moved.iterdir()) == [f"step_{STEP + 10}", f"step_{STEP + 20}"]
    event = run.events()[-1]
    assert (event["event"], event["given_up"], event["undoes"]) == ("rollback", 20, "0001-polish")
    assert [(r["generation"], r["current"], r["taken_back"]) for r in generations.history(run)] == [
        (0, True, False),
        (1, False, True),
        (2, False, False),
    ]
    with pytest.raises(FirehoseError, match="no pivot to go back from"):
        generations.rollback(run, None, keep_weights=False, now=NOW)


def test_keeping_the_weights_is_a_pivot_forward_with_the_old_config(run: RunDir) -> None:
    before = files(run)
    pivot(run)
    further(run, STEP + 10)
    body = roll_back(run, keep_weights=True)
    assert (body["kind"], body["adds"]) == ("pivot", ["repo-docs"])
    state = polish.current_state(run)
    assert (state.step, state.payload["protected"]) == (STEP + 10, [STEP, STEP + 10])
    assert run.config.read_bytes() == before["config.toml"]
    assert "repo-docs" in state.payload["bandit"]["arms"]  # back, with what was read of it
    pruned = open_envelope((run.archive / "0001-polish/after" / run.state.name).read_bytes(), run.state)
    record = pruned.payload["pruned"]["repo-docs"]["record"]
    assert state.payload["bandit"]["arms"]["repo-docs"]["cursor"] == record["cursor"] > 0


def test_a_rollback_goes_to_a_generation_by_number(run: RunDir) -> None:
    old = polish.current_state(run)
    pivot(run)
    further(run, STEP + 10)
    polish.set_draft(run, ["chat.cap=0.9"])
    text = polish.draft_text(run)
    _, plan = outlook.prepare(run, text, polish.draft(run), polish.origin(run), live=False, now=NOW)
    assert plan is not None
    polish.save(run, plan, None)
    pivot(run)
    with pytest.raises(FirehoseError, match=r"generation 2 is not one to go back to \(there are 0, 1\)"):
        generations.rollback(run, 2, keep_weights=False, now=NOW)
    roll_back(run, 0)
    state = polish.current_state(run)
    assert (state.step, state.payload["bandit"]) == (STEP, old.payload["bandit"])
    assert [row["generation"] for row in generations.history(run) if row["current"]] == [0]


def test_a_rollback_needs_its_checkpoint(run: RunDir) -> None:
    pivot(run)
    further(run, STEP + 10)
    shutil.rmtree(run.checkpoints / f"step_{STEP}")
    with pytest.raises(FirehoseError, match="which the pivot began from, is not there") as caught:
        generations.rollback(run, None, keep_weights=False, now=NOW)
    assert caught.value.exit_code is Exit.NOT_FOUND
    assert "--keep-weights" in str(caught.value.next)


def test_retention_keeps_what_a_pivot_began_from(run: RunDir) -> None:
    pivot(run)
    for step in range(STEP + 10, STEP + 60, 10):
        further(run, step)
    protect = set(polish.current_state(run).payload["protected"])
    removed = checkpoints.retain(run.checkpoints, Keep(last=1), protect=protect)
    assert removed == [70, 80, 90, 100]
    assert [c.step for c in checkpoints.complete(run.checkpoints)] == [STEP, STEP + 50]
