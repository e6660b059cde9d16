"""The folder of a run: names, history, and a condition that is derived, not stored."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from curriculum.errors import Exit, FirehoseError
from state import process
from state.findings import FindingError
from state.process import Process
from state.run_dir import HEARTBEAT_LIMIT, RunDir, find, list_runs, record_id

NOW = 1_800_000_000.0


def test_the_names(run: RunDir) -> None:
    names = {path.name for path in vars(run).values() if isinstance(path, Path)}
    assert names >= {
        "demo.state.json",
        "demo.loss.json",
        "demo.samples.json",
        "demo.pulls.json",
        "demo.live.json",
        "demo.lock",
        "config.toml",
        "effective.json",
        "history.jsonl",
        "run.log",
    }
    assert run.checkpoints.is_dir() and run.archive.is_dir() and run.name == "demo"
    assert RunDir(run.root / "..").name == "runs", "a path with dots still has a name"


def test_runs_are_found_by_name_or_path_and_near_misses_are_offered(run: RunDir) -> None:
    root = run.root.parent
    (root / "not-a-run").mkdir()
    assert [found.name for found in list_runs(root)] == ["demo"]
    assert find("demo", root).root == run.root and find(str(run.root), root / "x").root == run.root
    with pytest.raises(FirehoseError, match="did you mean 'demo'") as caught:
        find("dmeo", root)
    assert caught.value.exit_code is Exit.NOT_FOUND
    assert list_runs(root / "nowhere") == []


def test_history_keeps_what_was_acknowledged_and_drops_a_torn_end(run: RunDir) -> None:
    assert run.events() == []
    events: list[dict[str, Any]] = [{"event": "prune", "arm": "Ж", "step": 1}, {"event": "halt", "step": 2}]
    run.record(events[0])
    with run.history.open("ab") as file:
        file.write(b'{"event": "ha' + b"l" * 100)
    assert run.events() == events[:1]
    run.record(events[1])
    assert run.events() == events and b"lll" not in run.history.read_bytes()
    run.history.write_bytes(b"x\n" + run.history.read_bytes())
    with pytest.raises(FindingError) as caught:
        run.events()
    assert caught.value.path == f"{run.history}:1"


def test_history_that_cannot_be_written(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FirehoseError) as caught:
        run.record({"event": "halt"})
    assert caught.value.exit_code is Exit.WRITE_FAILED


def test_live_is_replaced_whole_and_nan_becomes_null(run: RunDir) -> None:
    assert run.read_live() is None
    run.write_live({"step": 1, "loss": float("nan")})
    assert run.read_live() == {"step": 1, "loss": None}
    run.live.write_text("[1]")
    assert run.read_live() is None
    assert list(run.root.glob(".*")) == []


def state(run: RunDir, now: float = NOW) -> str:
    return run.condition(now).state


def edit(run: RunDir, **fields: Any) -> None:
    record = json.loads(run.process.read_text())
    run.process.write_text(json.dumps({**record, **fields}))


def test_a_living_process_starts_runs_and_stops(run: RunDir) -> None:
    assert state(run) == "stopped"
    run.write_live({"pid": os.getpid(), "time": NOW - 50})  # of an earlier process with the same pid
    run.begin(NOW - 30)
    assert state(run) == "starting"
    run.write_live({"pid": os.getpid(), "time": NOW - 5})
    condition = run.condition(NOW)
    assert (condition.state, condition.alive, condition.heartbeat_age) == ("running", True, 5.0)
    run.write_live({"pid": os.getpid(), "time": NOW - 5, "stopping": True})
    assert state(run) == "stopping"
    assert run.condition(NOW).process == process.this_process(NOW - 30)


def test_a_stop_request_shows_only_for_the_process_it_was_sent_to(run: RunDir) -> None:
    run.begin(NOW - 30)
    run.write_live({"pid": os.getpid(), "time": NOW})
    me = run.condition(NOW).process
    assert me is not None
    for kind, target, expected in (
        ("stop", record_id(me), "stopping"),
        ("stop-now", record_id(me), "stopping"),
        ("checkpoint", record_id(me), "running"),
        ("stop", [me.pid, me.start + 1], "running"),
    ):
        run.request.write_text(json.dumps({"kind": kind, "target": target}))
        assert state(run) == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [("finished", "finished"), ("stopped", "stopped"), ("halted", "halted"), ("failed", "crashed")],
)
def test_a_clean_end_is_what_the_trainer_said(run: RunDir, how: str, expected: str) -> None:
    run.begin(NOW - 30)
    run.end(how, exit_code=0, step=5, now=NOW)
    assert state(run) == expected and not run.condition(NOW).alive
    for left in (run.request, run.answer):
        left.touch()
    run.begin(NOW)
    assert state(run) == "starting"
    assert not run.request.exists() and not run.answer.exists(), "those were for the process before"


def test_a_process_that_is_gone_without_a_word_has_crashed(run: RunDir) -> None:
    run.begin(NOW - 30)
    run.write_live({"pid": os.getpid(), "time": NOW})
    record = json.loads(run.process.read_text())
    edit(run, start=record["start"] + 1)  # the pid is in use again, by another process
    assert state(run) == "crashed"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    edit(run, pid=child, start=process.start_time(child))
    assert state(run) == "starting"
    os.write(writer, b"x")
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead and not yet waited for: a zombie
    assert state(run) == "crashed"
    os.waitpid(child, 0)
    assert state(run) == "crashed"
    os.close(reader)
    os.close(writer)


def test_a_process_out_of_sight_is_judged_by_its_heartbeat(run: RunDir) -> None:
    run.begin(NOW - 1000)
    edit(run, machine="another boot pid:[1]")
    assert state(run) == "crashed"
    run.write_live({"pid": os.getpid(), "time": NOW})
    assert state(run, NOW + HEARTBEAT_LIMIT - 1) == "running"
    assert state(run, NOW + HEARTBEAT_LIMIT + 1) == "crashed"


def test_signal_bits_and_start_times_are_read_from_proc() -> None:
    me = process.this_process(NOW)
    assert me.start > 0 and me.alive() and process.start_time(2**22 + 1) is None
    assert Process(**{**msgspec.to_builtins(me), "start": me.start + 1}).alive() is False
    assert process.catches(os.getpid(), 2) and not process.catches(os.getpid(), 12)
    assert str(me.pid) in me.describe()


def test_a_disk_that_claims_more_than_it_wrote_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = RunDir(tmp_path), os.pwrite
    run.record({"event": "launch"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda d, data, at: whole(d, data[: len(data) // 2], at) and len(data))
        with pytest.raises(FirehoseError, match="do not read back"):
            run.record({"event": "pivot"})
    assert run.events() == [{"event": "launch"}]
    run.record({"event": "end"})
    assert run.events() == [{"event": "launch"}, {"event": "end"}]


def test_a_hole_in_the_last_event_is_what_a_power_cut_left_of_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.record({"event": "launch"})
    run.history.write_bytes(run.history.read_bytes() + bytes(10) + b'pivot"}\n')
    assert run.events() == [{"event": "launch"}]
    run.record({"event": "end"})
    assert run.events() == [{"event": "launch"}, {"event": "end"}]


def test_an_id_in_a_torn_last_line_is_not_told(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    event = {"event": "pivot", "id": "0001", "text": "cut after the id"}
    run.record(event)
    run.history.write_bytes(run.history.read_bytes()[:-5])
    run.record_once([event])
    run.record_once([event])
    assert run.events() == [event]
